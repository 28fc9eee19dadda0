//! The list of flows for people: a table that fits the terminal, or, of very many flows, plain
//! lines that are written as they are made.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use sg_common::verdict::Direction;
use sg_policy::policy::{Endpoint, Protocol, protocol_name, titled};
use sg_userspace::observe::flows::{Flow, FlowState, Opened};

use super::listed::{Listed, Tables};
use crate::cli::failure::Failure;
use crate::cli::health::warnings;
use crate::cli::screen::{Paint, Screen, clip};
use crate::cli::table::{Column, Table};
use crate::cli::units::{clean, count, nearly, span, thousands};
use crate::cli::words::{SEEDED, in_netns, position_of, short_direction};

/// From so many flows on they are plain lines: a table is built whole before it is printed.
const MANY: usize = 1000;

/// How many bytes are written at once.
const CHUNK: usize = 1 << 16;

/// Prints the flows of all attachments.
pub(super) fn print(screen: &Screen, listed: &[Listed]) -> Result<(), Failure> {
    if listed.iter().all(|one| one.flows.len() <= MANY) {
        return screen.say(&text(screen, listed));
    }
    for (i, one) in listed.iter().enumerate() {
        let gap = if i > 0 { "\n" } else { "" };
        screen.say(&format!("{gap}{}", heading(screen, one)))?;
        lines(screen, &one.flows)?;
        screen.say(&closing(screen, one))?;
    }
    Ok(())
}

pub(super) fn text(screen: &Screen, listed: &[Listed]) -> String {
    let mut out = String::new();
    for (i, one) in listed.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        out.push_str(&heading(screen, one));
        if one.flows.is_empty() {
            continue;
        }
        let tables = [
            (Words::Long, false),
            (Words::Short, false),
            (Words::Short, true),
        ];
        let mut tables = tables.into_iter().map(|(words, is_close)| {
            let mut table = table(screen, &one.flows, words);
            if is_close {
                table.close_up();
            }
            table
        });
        match tables.find(Table::has_all_columns) {
            Some(table) => out.push_str(&table.render()),
            None => one
                .flows
                .iter()
                .for_each(|flow| block(screen, &mut out, flow)),
        }
        out.push_str(&closing(screen, one));
    }
    out
}

/// How much room words take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    Long,
    /// Directions are short, a state is without its protocol, and a rule is its number and name.
    Short,
}

/// A row for each flow. Of the columns only that of the rule is shortened.
fn table(screen: &Screen, flows: &[Flow], words: Words) -> Table {
    let columns = [
        Column::Text("PROTO"),
        Column::Text("LOCAL"),
        Column::Text("REMOTE"),
        Column::Text(match words {
            Words::Long => "OPENED",
            Words::Short => "DIR",
        }),
        Column::Text("STATE"),
        Column::Number("AGE"),
        Column::Number("IDLE"),
        Column::Number("LEFT"),
        Column::Flexible("RULE"),
    ];
    let mut table = Table::new(screen, &columns);
    for flow in flows {
        table.row(cells(flow, words));
    }
    table
}

/// The interfaces and how many flows there are, with what is wrong.
fn heading(screen: &Screen, one: &Listed) -> String {
    let mut names = vec![one.standing.interface.as_str()];
    names.extend(one.shared_with.iter().map(String::as_str));
    let place = in_netns(one.standing.netns.as_deref());
    let flows = match one.matching == one.total {
        true => count(one.total, "flow"),
        false => format!(
            "{} of {}",
            thousands(one.matching as u64),
            count(one.total, "flow")
        ),
    };
    let warnings = one.interfaces.iter().map(|it| warnings(screen, it));
    format!(
        "{}{}  {flows}{}\n{}",
        screen.paint(Paint::Bold, clean(&names.join(", "))),
        clean(&place),
        evicted(&one.tables),
        warnings.collect::<String>()
    )
}

/// How many flows are not shown.
fn closing(screen: &Screen, one: &Listed) -> String {
    match one.matching - one.flows.len() {
        0 => String::new(),
        more => {
            let line = format!("and {} more; --limit 0 prints all", thousands(more as u64));
            format!("{}\n", screen.paint(Paint::Dim, line))
        }
    }
}

/// Says so if flows were evicted, since the tables are too small then.
fn evicted(tables: &Tables) -> String {
    let (half_open, established) = (tables.half_open.evicted, tables.established.evicted);
    if half_open + established == 0 {
        return String::new();
    }
    format!(
        ", and so far {} established and {} half-open evicted by a full table",
        thousands(established),
        thousands(half_open)
    )
}

/// The rule that admitted the flow, with its position.
fn rule_of(flow: &Flow) -> String {
    let rule = flow.rule.as_ref().map(|rule| {
        let title = titled(rule.name.as_deref(), &rule.summary);
        format!("{}  {title}", position_of(rule.position))
    });
    let rule = match flow.is_seeded {
        true => Some(SEEDED.to_owned()),
        false => rule,
    };
    rule.unwrap_or_else(|| "-".into())
}

/// The same in short: `3 ssh`, or without a name what it matches.
fn short_rule_of(flow: &Flow) -> String {
    let Some(rule) = flow.rule.as_ref().filter(|_| !flow.is_seeded) else {
        return if flow.is_seeded { "seeded" } else { "-" }.to_owned();
    };
    let name = rule.name.as_ref().unwrap_or(&rule.summary);
    format!("{} {name}", position_of(rule.position))
}

/// A flow on several lines, for a terminal that is too narrow for a row.
fn block(screen: &Screen, out: &mut String, flow: &Flow) {
    let local = format!(
        "{} {}",
        protocol_name(Protocol::Number(flow.protocol)),
        endpoint(flow.local, flow.local_port, flow.icmp_id)
    );
    let remote = format!("with {}", endpoint(flow.remote, flow.remote_port, None));
    // An end is not broken.
    let room = screen.width.unwrap_or(usize::MAX);
    let gap = match local.len() + 1 + remote.len() <= room {
        true => " ",
        false => "\n  ",
    };
    let _ = writeln!(out, "{local}{gap}{remote}");
    let parts = [
        format!("opened {}", flow.opened.name()),
        flow.state.name().to_owned(),
        format!("age {}", span(flow.age_seconds)),
        format!("idle {}", span(flow.idle_seconds)),
        format!("{} left", nearly(flow.seconds_left)),
        format!("rule {}", rule_of(flow)),
    ];
    // Nor is a number broken off from its unit: each of these stays whole, with its comma.
    const AROUND: usize = "  ".len() + ", ".len() + ",".len();
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.len() + part.len() + AROUND <= room => {
                let _ = write!(line, ", {part}");
            }
            _ => lines.push(part),
        }
    }
    for line in lines {
        let _ = writeln!(out, "{}", screen.paint(Paint::Dim, format!("  {line}")));
    }
}

fn cells(flow: &Flow, words: Words) -> Vec<(String, Option<Paint>)> {
    let paint = (flow.state == FlowState::Cut).then_some(Paint::Red);
    let (opened, state) = (flow.opened.name(), flow.state.name());
    let (opened, state, rule) = match words {
        Words::Long => (opened, state, rule_of(flow)),
        Words::Short => (
            match flow.opened {
                Opened::Inbound => short_direction(Direction::Inbound),
                Opened::Outbound => short_direction(Direction::Outbound),
                Opened::Unknown => "?",
            },
            flow.state.short(),
            short_rule_of(flow),
        ),
    };
    vec![
        (protocol_name(Protocol::Number(flow.protocol)), None),
        (endpoint(flow.local, flow.local_port, flow.icmp_id), None),
        (endpoint(flow.remote, flow.remote_port, None), None),
        (opened.to_owned(), None),
        (state.to_owned(), paint),
        (span(flow.age_seconds), None),
        (span(flow.idle_seconds), None),
        (nearly(flow.seconds_left), None),
        (rule, Some(Paint::Dim)),
    ]
}

fn endpoint(address: IpAddr, port: Option<u16>, icmp_id: Option<u16>) -> String {
    let mut out = String::new();
    let _ = write_end(&mut out, address, port, icmp_id);
    out
}

fn write_end(
    out: &mut impl fmt::Write,
    address: IpAddr,
    port: Option<u16>,
    icmp_id: Option<u16>,
) -> fmt::Result {
    write!(out, "{}", Endpoint::new(address, port))?;
    match (port, icmp_id) {
        (None, Some(id)) => write!(out, " id {id}"),
        _ => Ok(()),
    }
}

/// Counts what is written.
#[derive(Default)]
struct Length(usize);

impl fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// The flows as plain lines. The columns are as wide as their widest value, which takes a look at
/// all flows first, and no memory.
fn lines(screen: &Screen, flows: &[Flow]) -> Result<(), Failure> {
    const HEADINGS: [&str; 9] = [
        "PROTO", "LOCAL", "REMOTE", "OPENED", "STATE", "AGE", "IDLE", "LEFT", "RULE",
    ];
    let mut widths = HEADINGS.map(str::len);
    for flow in flows {
        let ends = [
            (1, flow.local, flow.local_port, flow.icmp_id),
            (2, flow.remote, flow.remote_port, None),
        ];
        for (column, address, port, id) in ends {
            let mut length = Length::default();
            let _ = write_end(&mut length, address, port, id);
            widths[column] = widths[column].max(length.0);
        }
        widths[3] = widths[3].max(flow.opened.name().len());
        widths[4] = widths[4].max(flow.state.name().len());
    }
    // The longest are `icmpv6` and `119 min`.
    widths[0] = widths[0].max(6);
    for width in &mut widths[5..8] {
        *width = (*width).max(7);
    }
    let mut out = String::with_capacity(CHUNK + CHUNK / 8);
    for (column, (heading, width)) in HEADINGS.iter().zip(widths).enumerate() {
        let is_number = (5..8).contains(&column);
        pad(&mut out, width, is_number, |out| out.push_str(heading));
    }
    end_line(&mut out);
    for flow in flows {
        let begin = out.len();
        row(&mut out, flow, &widths);
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

fn row(out: &mut String, flow: &Flow, widths: &[usize; 9]) {
    let [proto, local, remote, opened, state, age, idle, left, _] = *widths;
    pad(out, proto, false, |out| match flow.protocol {
        6 => out.push_str("tcp"),
        17 => out.push_str("udp"),
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

fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

#[cfg(test)]
mod tests;
