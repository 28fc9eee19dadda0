//! What is said of a change before it is made: what it does to this machine (SPEC C5), and whether
//! it would lock the operator out (C6).

use std::fmt::Write as _;

use sg_common::verdict::Direction;
use sg_policy::policy::{Endpoint, Protocol, protocol_name};
use sg_userspace::kernel::impact::{
    CutConnection, Dropped, Impact, OpenedListener, OwnConnection, Process,
};

use super::screen::{Paint, Screen};
use super::units::{count, span, thousands};

/// How many rows are printed; all are in the JSON.
const ROWS: usize = 10;

/// Whether what is said is done now or would be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Does,
    Would,
}

impl Mood {
    /// `cuts`, or `would cut`.
    fn verb(self, verb: &str) -> String {
        match self {
            Mood::Does => format!("{verb}s"),
            Mood::Would => format!("would {verb}"),
        }
    }
}

/// Everything about a change, in lines that are indented.
pub(super) fn text(screen: &Screen, impact: &Impact, mood: Mood, is_off: bool) -> String {
    let mut out = String::new();
    cut(&mut out, screen, impact, mood);
    opened(&mut out, impact, mood);
    if mood == Mood::Would {
        for unseen in &impact.unseen {
            let _ = writeln!(out, "  could not see {}", unseen.message);
        }
    }
    for line in guard(screen, impact, is_off) {
        let _ = writeln!(out, "  {line}");
    }
    out
}

fn cut(out: &mut String, screen: &Screen, impact: &Impact, mood: Mood) {
    let cut = mood.verb("cut");
    if let Some(reason) = &impact.blind {
        let _ = writeln!(out, "  which connections it {cut} is not known: {reason}");
        return;
    }
    if impact.cut.is_empty() {
        let why = match (impact.is_first, impact.cuts_existing) {
            (true, false) => ": at a first attachment those that exist go on",
            // `--dry-run` names the kinds that could not.
            _ if !impact.unseen.is_empty() => " that could be seen",
            _ => "",
        };
        let kept = match impact.kept {
            0 => String::new(),
            n => format!(" ({} that no rule admits)", thousands(n as u64)),
        };
        let _ = writeln!(out, "  {cut} no connection{why}{kept}");
        return;
    }
    let what = format!("{cut} {}", count(impact.cut.len(), "connection"));
    let _ = writeln!(out, "  {}:", screen.paint(Paint::Red, what));
    for one in impact.cut.iter().take(ROWS) {
        connection(out, one);
    }
    more(out, impact.cut.len());
}

fn more(out: &mut String, all: usize) {
    if let more @ 1.. = all.saturating_sub(ROWS) {
        let _ = writeln!(
            out,
            "    and {} more: --json has all",
            thousands(more as u64)
        );
    }
}

fn connection(out: &mut String, one: &CutConnection) {
    let arrow = match one.opened {
        "inbound" => "<-",
        "outbound" => "->",
        _ => "--",
    };
    let mut about = processes(&one.processes);
    if let Some(seconds) = one.age_seconds {
        let more = if one.is_older { "over " } else { "" };
        about.push(format!("{more}{} old", span(seconds)));
    }
    if one.state != "tcp-established" && one.state != "udp-stream" {
        about.push(one.state.to_owned());
    }
    let _ = writeln!(
        out,
        "    {} {} {arrow} {}{}{}",
        protocol_name(Protocol::Number(one.protocol)),
        Endpoint::new(one.local, one.local_port),
        Endpoint::new(one.remote, one.remote_port),
        if about.is_empty() { "" } else { "  " },
        about.join(", "),
    );
    let now = match (&one.now.rule, one.now.reason) {
        (Some(rule), _) => format!("now by {}; ", rule.title()),
        (None, "seeded") => "now as one that was there before; ".to_owned(),
        (None, "no-policy") => String::new(),
        (None, "audit") => "now since all is audited; ".to_owned(),
        (None, _) => "now by a rule that is not known any more; ".to_owned(),
    };
    let _ = writeln!(out, "      {now}then {}", dropped(&one.then));
}

/// `dropped by tke inbound 7, all from 0.0.0.0/0`.
fn dropped(then: &Dropped) -> String {
    match (&then.rule, then.reason) {
        (Some(rule), _) => format!("dropped by {}", rule.title()),
        (None, "flush") => "flushed (`established: flush`)".to_owned(),
        (None, "cut-existing") => "cut (--cut-existing)".to_owned(),
        (None, _) => format!("no {} rule accepts it", then.direction.name()),
    }
}

fn opened(out: &mut String, impact: &Impact, mood: Mood) {
    let all = &impact.opened;
    if !all.is_empty() {
        let verb = mood.verb("open");
        let _ = writeln!(out, "  {verb} {}:", count(all.len(), "listening socket"));
    }
    for OpenedListener {
        protocol: number,
        local,
        port,
        processes: of,
        from,
    } in all.iter().take(ROWS)
    {
        let of = processes(of).join(", ");
        let gap = if of.is_empty() { "" } else { "  " };
        let at = Endpoint::new(*local, Some(*port));
        let _ = writeln!(
            out,
            "    {} {at}{gap}{of}",
            protocol_name(Protocol::Number(*number))
        );
        for from in from {
            let more = match from.more {
                0 => String::new(),
                n => format!(" and {} more", thousands(n as u64)),
            };
            let prefixes = from.prefixes.join(", ");
            let _ = writeln!(out, "      from {prefixes}{more}, by {}", from.rule.title());
        }
    }
    more(out, all.len());
    if !impact.opened_is_complete {
        let _ = writeln!(
            out,
            "  more sockets may become reachable: not all that passes could be compared"
        );
    }
}

/// What the lock-out guard has to say.
fn guard(screen: &Screen, impact: &Impact, is_off: bool) -> Vec<String> {
    let unseen = impact.session.unseen.iter();
    let mut lines: Vec<String> = unseen
        .map(|what| format!("lock-out guard: could not see everything: {what}"))
        .collect();
    let own: Vec<&OwnConnection> = crossing(impact).collect();
    for one in &own {
        if !one.is_lost() {
            lines.push(format!("lock-out guard: {} goes on", named(one)));
        } else if is_off {
            let off = screen.paint(Paint::Yellow, "lock-out guard: off");
            lines.push(format!("{off}, although {}", loss(one)));
        }
    }
    if own.is_empty() {
        lines.push(format!(
            "lock-out guard: nothing to say, no connection of this session comes in by {}",
            impact.interfaces.join(", ")
        ));
    }
    lines
}

/// The connections through which the operator works that cross one of the interfaces.
pub(super) fn crossing(impact: &Impact) -> impl Iterator<Item = &OwnConnection> {
    impact.session.connections.iter().filter(|one| one.crosses)
}

/// `your connection from 203.0.113.9 (tcp 22, sshd 812)`.
fn named(one: &OwnConnection) -> String {
    let by = match &one.process {
        Some(process) => format!(", {} {}", process.name, process.pid),
        None => String::new(),
    };
    let (what, preposition) = match one.opened {
        Direction::Inbound => ("your connection", "from"),
        Direction::Outbound => ("your connection", "to"),
    };
    format!(
        "{what} {preposition} {} (tcp {}{by})",
        one.remote,
        one.port()
    )
}

/// What would happen to it, in a clause.
pub(super) fn loss(one: &OwnConnection) -> String {
    let own = named(one);
    match (&one.cut, &one.new) {
        (Some(cut), None) => format!("{own} would be cut: {}", dropped(cut)),
        (Some(_), Some(new)) => {
            format!(
                "{own} would be cut, and a new one would be dropped: {}",
                dropped(new)
            )
        }
        (None, Some(new)) => {
            format!(
                "{own} would go on, but a new one would be dropped: {}",
                dropped(new)
            )
        }
        (None, None) => format!("{own} goes on"),
    }
}

/// The change in a few words, for a journal. `None` if there is nothing to be said.
pub(super) fn short(impact: &Impact, is_off: bool) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(reason) = &impact.blind {
        parts.push(format!("which connections are cut is not known: {reason}"));
    }
    let first = impact.cut.first();
    if let Some(one) = first {
        let all = impact.cut.len();
        let from = Endpoint::new(one.remote, one.remote_port);
        let others = if all > 1 { ", and others" } else { "" };
        let cut = count(all, "connection");
        parts.push(format!(
            "cuts {cut} ({} {from}{others})",
            protocol_name(Protocol::Number(one.protocol))
        ));
    }
    if let Some(one) = impact.opened.first() {
        let all = impact.opened.len();
        let others = if all > 1 { ", and others" } else { "" };
        let sockets = count(all, "listening socket");
        let at = Endpoint::new(one.local, Some(one.port));
        parts.push(format!(
            "opens {sockets} ({} {at}{others})",
            protocol_name(Protocol::Number(one.protocol))
        ));
    }
    let unseen = impact.session.unseen.iter();
    parts.extend(unseen.map(|what| format!("the lock-out guard could not see everything: {what}")));
    if is_off && crossing(impact).any(OwnConnection::is_lost) {
        parts.push("the lock-out guard is off".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn processes(of: &[Process]) -> Vec<String> {
    let mut names: Vec<String> = of
        .iter()
        .take(3)
        .map(|process| format!("{} {}", process.name, process.pid))
        .collect();
    if let more @ 1.. = of.len().saturating_sub(3) {
        names.push(format!("{more} more processes"));
    }
    names
}
