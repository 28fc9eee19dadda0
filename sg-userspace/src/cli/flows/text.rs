//! The list of flows for people: a table that fits the terminal, or, of very many flows, plain
//! lines (`lines`).

use std::fmt::Write as _;

use sg_common::verdict::Direction;
use sg_policy::policy::{Protocol, protocol_name};
use sg_userspace::observe::flows::{Flow, FlowState, Opened};

use super::cells::{HEADINGS, NUMBERS, OPENED, RULE, endpoint, rule_of};
use super::lines;
use super::listed::{Listed, Tables};
use crate::cli::failure::Failure;
use crate::cli::health::warnings;
use crate::cli::screen::{Paint, Screen};
use crate::cli::table::{Column, Table};
use crate::cli::units::{clean, count, nearly, span, thousands};
use crate::cli::words::{in_netns, position_of, short_direction};

/// From so many flows on they are plain lines: a table is built whole before it is printed.
const MANY: usize = 1000;

/// Prints the flows of all attachments.
pub(super) fn print(screen: &Screen, listed: &[Listed]) -> Result<(), Failure> {
    if listed.iter().all(|one| one.flows.len() <= MANY) {
        return screen.say(&text(screen, listed));
    }
    for (i, one) in listed.iter().enumerate() {
        let gap = if i > 0 { "\n" } else { "" };
        screen.say(&format!("{gap}{}", heading(screen, one)))?;
        lines::print(screen, &one.flows)?;
        screen.say(&closing(screen, one))?;
    }
    Ok(())
}

/// The flows of each attachment as a table, or each flow on several lines where the terminal is too
/// narrow for a row.
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
    let mut headings = HEADINGS;
    if words == Words::Short {
        headings[OPENED] = "DIR";
    }
    let column = |(at, heading)| match at {
        RULE => Column::Flexible(heading),
        at if NUMBERS.contains(&at) => Column::Number(heading),
        _ => Column::Text(heading),
    };
    let columns: Vec<Column> = headings.into_iter().enumerate().map(column).collect();
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

/// As [`rule_of`], in short: `3 ssh`, or without a name what it matches.
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

/// The cells of a flow's row.
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

#[cfg(test)]
mod tests;
