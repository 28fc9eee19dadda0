//! Very many flows as plain lines, which are written as they are made: a million of them take no
//! memory but that of a chunk, and text is made for as few of their cells as possible.

use std::fmt;
use std::net::IpAddr;

use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP};
use sg_policy::policy::{Protocol, protocol_name};
use sg_userspace::observe::flows::Flow;

use super::cells::{HEADINGS, NUMBERS, rule_of, write_end};
use crate::cli::failure::Failure;
use crate::cli::screen::{Screen, clip};
use crate::cli::units::{clean, nearly, span};

/// How many bytes are written at once.
const CHUNK: usize = 1 << 16;

/// How wide the columns are.
type Widths = [usize; HEADINGS.len()];

/// Prints the flows below the headings of their columns.
pub(super) fn print(screen: &Screen, flows: &[Flow]) -> Result<(), Failure> {
    let widths = widths_of(flows);
    let mut out = String::with_capacity(CHUNK + CHUNK / 8);
    for (column, (heading, width)) in HEADINGS.iter().zip(widths).enumerate() {
        let is_number = NUMBERS.contains(&column);
        pad(&mut out, width, is_number, |out| out.push_str(heading));
    }
    end_line(&mut out);
    for flow in flows {
        let begin = out.len();
        line(&mut out, flow, &widths);
        if screen.width.is_some() {
            let line = out.split_off(begin);
            out.push_str(&clip(line.trim_end(), screen.width));
            out.push('\n');
        }
        if out.len() >= CHUNK {
            screen.print(&screen.plain(&out))?;
            out.clear();
        }
    }
    screen.print(&screen.plain(&out))
}

/// The widths of the columns, by a look at all flows. Those of protocols and times are those of the
/// longest that there can be.
fn widths_of(flows: &[Flow]) -> Widths {
    const PROTOCOL: &str = "icmpv6";
    const TIME: &str = "119 min";
    let mut widths = HEADINGS.map(str::len);
    let [proto, local, remote, opened, state, age, idle, left, _] = &mut widths;
    let fit = |width: &mut usize, length: usize| *width = length.max(*width);
    fit(proto, PROTOCOL.len());
    for time in [age, idle, left] {
        fit(time, TIME.len());
    }
    for flow in flows {
        fit(local, length(flow.local, flow.local_port, flow.icmp_id));
        fit(remote, length(flow.remote, flow.remote_port, None));
        fit(opened, flow.opened.name().len());
        fit(state, flow.state.name().len());
    }
    widths
}

/// How long an end is as text, which is not made for that.
fn length(address: IpAddr, port: Option<u16>, icmp_id: Option<u16>) -> usize {
    struct Length(usize);
    impl fmt::Write for Length {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut length = Length(0);
    let _ = write_end(&mut length, address, port, icmp_id);
    length.0
}

fn line(out: &mut String, flow: &Flow, widths: &Widths) {
    let [proto, local, remote, opened, state, age, idle, left, _] = *widths;
    pad(out, proto, false, |out| match flow.protocol {
        // Nearly all are one of these, whose names are there already.
        IPPROTO_TCP => out.push_str("tcp"),
        IPPROTO_UDP => out.push_str("udp"),
        other => out.push_str(&protocol_name(Protocol::Number(other))),
    });
    pad(out, local, false, |out| {
        let _ = write_end(out, flow.local, flow.local_port, flow.icmp_id);
    });
    pad(out, remote, false, |out| {
        let _ = write_end(out, flow.remote, flow.remote_port, None);
    });
    pad(out, opened, false, |out| out.push_str(flow.opened.name()));
    pad(out, state, false, |out| out.push_str(flow.state.name()));
    for (width, text) in [
        (age, span(flow.age_seconds)),
        (idle, span(flow.idle_seconds)),
        (left, nearly(flow.seconds_left)),
    ] {
        pad(out, width, true, |out| out.push_str(&text));
    }
    out.push_str(&clean(&rule_of(flow)));
    end_line(out);
}

/// Writes a cell and the gap behind it.
fn pad(out: &mut String, width: usize, is_number: bool, write: impl FnOnce(&mut String)) {
    const SPACES: &str = "                                                                ";
    let begin = out.len();
    write(out);
    let missing = width.saturating_sub(out.len() - begin).min(SPACES.len());
    let spaces = &SPACES[..missing];
    match is_number {
        true => out.insert_str(begin, spaces),
        false => out.push_str(spaces),
    }
    out.push_str("  ");
}

/// Ends a line, without the spaces behind its last cell.
fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}
