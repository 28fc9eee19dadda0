//! `sgctl counters --candidate`: what would have had another outcome under the candidate beside the
//! policy, by pair of rules.

use std::fmt::Write as _;
use std::time::Duration;

use sg_policy::policy::titled;
use sg_userspace::kernel::KernelError;
use sg_userspace::observe::attached::Attached;
use sg_userspace::observe::candidate::{Candidate, Decision, PairCounters, candidate};
use sg_userspace::observe::status::Standing;

use super::context::Context;
use super::failure::Failure;
use super::health;
use super::interrupt::Interrupt;
use super::screen::{Frame, Paint, Screen, paint_of, wrapped};
use super::table::{Column, Table};
use super::units::{ago, bytes, clean, count, short_digest, thousands};
use super::words::in_netns;

/// Prints it for those of the interfaces that have a candidate.
pub(super) fn print(context: &Context, found: &[Attached], json: bool) -> Result<(), Failure> {
    let all = read(found)?;
    match json {
        true => context.out.json(&all),
        false => context.out.say(&texts(&context.out, &all)),
    }
}

/// Prints it again and again for the interfaces that are found then, until none has a candidate any
/// more.
pub(super) fn watch(
    context: &Context,
    find: impl Fn() -> Result<Vec<Attached>, Failure>,
    interval: Duration,
    json: bool,
) -> Result<(), Failure> {
    let mut frame = Frame::new(context.out);
    let interrupt = Interrupt::of(&context.out)?;
    loop {
        let all = read(&find()?)?;
        if json {
            for one in &all {
                context.out.json_line(one)?;
            }
        } else if context.out.terminal {
            let (screen, _) = frame.screen();
            let text = texts(&screen, &all);
            // Lines that the terminal breaks could not be drawn over.
            frame.draw(&match screen.width {
                Some(width) => wrapped(&text, width),
                None => text,
            })?;
        } else {
            context.out.say(&(texts(&context.out, &all) + "\n"))?;
        }
        interrupt.sleep(interval)?;
    }
}

fn read(found: &[Attached]) -> Result<Vec<Candidate>, Failure> {
    let mut all = Vec::new();
    for one in found {
        all.extend(candidate(one)?);
    }
    if all.is_empty() {
        let names = found.iter().filter_map(|one| one.state.as_ref().ok());
        let names: Vec<&str> = names.map(|state| state.interface.as_str()).collect();
        return Err(none_on(&names.join(", ")).into());
    }
    Ok(all)
}

fn texts(screen: &Screen, all: &[Candidate]) -> String {
    let texts = all.iter().map(|one| text(screen, one));
    texts.collect::<Vec<_>>().join("\n")
}

/// The error where a command needs a candidate.
pub(super) fn none_on(names: &str) -> KernelError {
    KernelError::NoCandidate {
        scope: names.to_owned(),
    }
}

fn text(screen: &Screen, one: &Candidate) -> String {
    let watched = &one.candidate;
    let Standing {
        interface, netns, ..
    } = &one.standing;
    let mut out = format!(
        "{}{}  {}, generation {}\n  candidate {}  {}\n",
        screen.paint(Paint::Bold, clean(interface)),
        clean(&in_netns(netns.as_deref())),
        screen.paint(Paint::Bold, clean(&one.policy.name)),
        one.policy.generation,
        screen.paint(Paint::Bold, clean(&watched.name)),
        screen.paint(
            Paint::Dim,
            format!(
                "sha256:{}, {}",
                short_digest(&watched.digest),
                evaluated(&watched.since)
            )
        ),
    );
    for total in &one.totals {
        let compared = compared(total.packets, total.evaluated);
        let _ = writeln!(out, "  {}: {compared}", total.direction);
    }
    out.push_str(&health::warnings(screen, &one.standing));
    let counted = one.pairs.iter();
    let counted = counted.filter(|pair| pair.packets > 0 || pair.reply_packets > 0);
    let counted: Vec<_> = counted.collect();
    let idle = one.pairs.len() - counted.len();
    if !counted.is_empty() {
        out.push_str(&table(screen, &counted));
    }
    if idle > 0 {
        let more = if counted.is_empty() { "" } else { "more " };
        let line = format!(
            "{} of rules can have another outcome, and no such packet has come",
            count(idle, &format!("{more}pair"))
        );
        let _ = writeln!(out, "{}", screen.paint(Paint::Dim, line));
    }
    out
}

fn table(screen: &Screen, pairs: &[&PairCounters]) -> String {
    let columns = [
        Column::Text("DIR"),
        Column::Long("IN FORCE"),
        Column::Long("CANDIDATE"),
        Column::Number("PACKETS"),
        Column::Spare("BYTES", 1),
        Column::Spare("REPLIES", 2),
    ];
    let mut table = Table::new(screen, &columns);
    // Rules give way to numbers.
    table.shorten_to(18);
    for pair in pairs {
        let would = pair.candidate.as_ref();
        let paint = would.map(|would| paint_of(would.verdict));
        table.row(vec![
            (pair.direction.to_string(), None),
            (decision(&pair.enforced), None),
            (
                would.map_or_else(|| "pairs that are gone".to_owned(), decision),
                paint,
            ),
            (thousands(pair.packets), None),
            (bytes(pair.bytes), None),
            (thousands(pair.reply_packets), None),
        ]);
    }
    table.render()
}

/// `accept 2, tcp 22 from admin`, or `drop, no rule matches`.
fn decision(of: &Decision) -> String {
    match &of.rule {
        None => format!("{}, no rule matches", of.verdict),
        Some(rule) => {
            let title = titled(rule.name.as_deref(), &rule.summary);
            match rule.position {
                Some(position) => format!("{} {position}, {title}", of.verdict),
                None => format!("{} (former), {title}", of.verdict),
            }
        }
    }
}

/// For how long it is evaluated: `evaluated for 3 min`.
pub(super) fn evaluated(since: &str) -> String {
    let ago = ago(since);
    match ago.strip_suffix(" ago") {
        Some(span) => format!("evaluated for {span}"),
        None => "evaluated from now on".to_owned(),
    }
}

/// How many packets have another outcome, and of how many. Where no packet was evaluated, it does
/// not say that there is no difference.
pub(super) fn compared(packets: u64, evaluated: Option<u64>) -> String {
    let differ = match packets {
        1 => "1 packet has another outcome".to_owned(),
        n => format!("{} packets have another outcome", thousands(n)),
    };
    match (packets, evaluated) {
        (_, None) => format!("{differ}; of how many is not known, since it was interrupted"),
        (0, Some(0)) => "no packet has been evaluated yet, which says nothing".to_owned(),
        (0, Some(n)) => format!("no difference in {}", count(n as usize, "packet")),
        (_, Some(n)) => format!("{differ}, of {}", thousands(n)),
    }
}
