//! What `apply` and `run` say of a change before it is made: what it does to this machine (SPEC
//! C5), and whether it would lock the operator out (C6).

use std::fmt::Write as _;
use std::net::IpAddr;

use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP};
use sg_common::verdict::{Action, Direction};
use sg_policy::analysis::access;
use sg_policy::oracle::Packet;
use sg_policy::policy::{AuditScope, Finding, Loaded, Policy, Protocol, SetOverride, Severity};
use sg_userspace::kernel::impact::{
    Change, CutConnection, Dropped, Impact, OpenedListener, OwnConnection, Process,
};
use sg_userspace::kernel::{self, Applied, ApplyOptions, KernelError, Preview};

use super::failure::Failure;
use super::policy_args::Policies;
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
        protocol(one.protocol),
        end(one.local, one.local_port),
        end(one.remote, one.remote_port),
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
        let at = end(*local, Some(*port));
        let _ = writeln!(out, "    {} {at}{gap}{of}", protocol(*number));
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

fn crossing(impact: &Impact) -> impl Iterator<Item = &OwnConnection> {
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
fn loss(one: &OwnConnection) -> String {
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

/// The refusal of a change that would lock the operator out.
fn lock_out(impact: &Impact, policies: Option<&Policies>, policy: &Policy) -> Option<KernelError> {
    let one = crossing(impact).find(|one| one.is_lost())?;
    // A policy that was kept cannot be changed.
    let remedy = policies.and_then(|policies| remedy(policies, policy, one));
    let mut help: Vec<String> = remedy.into_iter().collect();
    help.push(OFF.to_owned());
    Some(KernelError::Guarded {
        code: "lock-out",
        message: format!("refused, for it would lock you out: {}", loss(one)),
        help: help.join("; "),
    })
}

/// Applies a policy, unless a guard refuses it; `policies` are what it was read from. Before
/// anything changes `say` gets what it does to this machine, and whether it is refused.
pub(super) fn apply(
    policies: Option<&Policies>,
    policy: &Policy,
    options: &ApplyOptions,
    mut say: impl FnMut(Impact, bool),
) -> Result<Applied, Failure> {
    let is_off = is_off(options);
    if !is_off {
        guarded(policy, options)?;
    }
    let mut review = |change: &Change<'_>| {
        let found = change.impact()?;
        let refusal = lock_out(&found, policies, policy).filter(|_| !is_off);
        say(found, refusal.is_some());
        refusal.map_or(Ok(()), Err)
    };
    Ok(kernel::apply_reviewed(policy, options, &mut review)?)
}

/// The same for a person: what it does is printed on `screen`, if there is one, and kept in `seen`.
pub(super) fn apply_aloud(
    screen: Option<&Screen>,
    policies: Option<&Policies>,
    policy: &Policy,
    options: &ApplyOptions,
    seen: &mut Option<Impact>,
) -> Result<Applied, Failure> {
    let is_off = is_off(options);
    apply(policies, policy, options, |found, is_refused| {
        if let Some(screen) = screen {
            announce(screen, &policy.name, &found, is_refused, is_off);
        }
        *seen = Some(found);
    })
}

/// What an apply would do.
pub(super) struct Previewed {
    pub(super) preview: Preview,
    /// What it would do to this machine. `None` if nothing would change.
    pub(super) impact: Option<Impact>,
    /// For what it would be refused.
    pub(super) refusals: Vec<Finding>,
}

/// Finds out what an apply would do, and changes nothing.
pub(super) fn preview(
    policies: Option<&Policies>,
    policy: &Policy,
    options: &ApplyOptions,
) -> Result<Previewed, Failure> {
    let mut refusals = breaches(policy, options, Severity::Error);
    let mut impact = None;
    let mut review = |change: &Change<'_>| {
        let found = change.impact()?;
        let refusal = lock_out(&found, policies, policy);
        refusals.extend(
            refusal
                .into_iter()
                .flat_map(|it| Failure::from(it).findings()),
        );
        impact = Some(found);
        Ok(())
    };
    let preview = kernel::preview(policy, options, &mut review)?;
    if is_off(options) {
        refusals.clear();
    }
    Ok(Previewed {
        preview,
        impact,
        refusals,
    })
}

/// Prints what is about to be applied and what that does, or what it would have done if it is
/// refused.
fn announce(screen: &Screen, name: &str, impact: &Impact, is_refused: bool, is_off: bool) {
    let (mood, verb) = match is_refused {
        false => (Mood::Does, "applying"),
        true => (Mood::Would, "not applied:"),
    };
    let name = screen.paint(Paint::Bold, name);
    let mut out = format!("{verb} {name} to {}\n", impact.interfaces.join(", "));
    out.push_str(&text(screen, impact, mood, is_off));
    // If the output is closed, the policy is applied nevertheless.
    let _ = screen.say(&out);
}

/// Whether the guard refuses nothing.
pub(super) fn is_off(options: &ApplyOptions) -> bool {
    options.forced || options.confirm_within.is_some()
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
        let from = end(one.remote, one.remote_port);
        let others = if all > 1 { ", and others" } else { "" };
        let cut = count(all, "connection");
        parts.push(format!(
            "cuts {cut} ({} {from}{others})",
            protocol(one.protocol)
        ));
    }
    if let Some(one) = impact.opened.first() {
        let all = impact.opened.len();
        let others = if all > 1 { ", and others" } else { "" };
        let sockets = count(all, "listening socket");
        let at = end(one.local, Some(one.port));
        parts.push(format!(
            "opens {sockets} ({} {at}{others})",
            protocol(one.protocol)
        ));
    }
    let unseen = impact.session.unseen.iter();
    parts.extend(unseen.map(|what| format!("the lock-out guard could not see everything: {what}")));
    if is_off && crossing(impact).any(OwnConnection::is_lost) {
        parts.push("the lock-out guard is off".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// What turns a guard off.
pub(super) const OFF: &str =
    "with `--confirm-within 60s` it undoes itself, with --force it is applied all the same";

/// What a policy drops of what its own guard names, as it is applied: an error, or a warning where
/// it passes all the same because it is audited.
fn breaches(policy: &Policy, options: &ApplyOptions, severity: Severity) -> Vec<Finding> {
    let mut findings = match options.audit {
        AuditScope::Rules => access::findings(policy),
        scope => access::findings(&policy.clone().audited(scope)),
    };
    findings.retain(|finding| finding.severity == severity);
    findings
}

/// What a policy's own guard names and would be dropped if it were not audited.
pub(super) fn watched(policy: &Policy, options: &ApplyOptions) -> Vec<Finding> {
    breaches(policy, options, Severity::Warning)
}

/// Refuses a policy that drops what its own guard names.
pub(super) fn guarded(policy: &Policy, options: &ApplyOptions) -> Result<(), Failure> {
    let findings = breaches(policy, options, Severity::Error);
    match findings.is_empty() {
        true => Ok(()),
        false => Err(Failure::Guard(findings)),
    }
}

/// The least that keeps a connection: what it opens is one port for one address.
fn remedy(policies: &Policies, policy: &Policy, one: &OwnConnection) -> Option<String> {
    if one.new.is_none() {
        return match one.cut.as_ref()?.reason {
            "flush" => Some("`established: revalidate` in the policy keeps it".to_owned()),
            "cut-existing" => Some("without --cut-existing it goes on".to_owned()),
            _ => None,
        };
    }
    let packet = Packet {
        direction: one.opened,
        remote: one.remote,
        protocol: IPPROTO_TCP,
        port: one.port(),
        icmp: (0, 0),
    };
    if let Some(set) = set_for(policies, policy, &packet) {
        return Some(format!("{set} admits a new one, and nothing else"));
    }
    let (list, key) = match one.opened {
        Direction::Inbound => ("inbound", "from"),
        Direction::Outbound => ("outbound", "to"),
    };
    let line = format!(
        "{{protocol: tcp, ports: {}, {key}: {}, action: accept}}",
        packet.port,
        yaml(one.remote)
    );
    Some(format!(
        "`- {line}` as the first rule of `{list}` admits a new one, and nothing else"
    ))
}

/// An address as YAML has it in braces: a colon needs quotes.
fn yaml(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"{address}\""),
    }
}

/// `--set NAME=…` with the address added, if a set of the policy is there for exactly this port, so
/// that nothing else is admitted.
fn set_for(policies: &Policies, policy: &Policy, packet: &Packet) -> Option<String> {
    /// A set with more members than this belongs into its file.
    const MEMBERS: usize = 8;
    if policies.are_from_stdin() {
        return None;
    }
    let is_for_it = |rule: &&sg_policy::policy::Rule| {
        let has_port = |ports: &Vec<(u16, u16)>| ports.contains(&(packet.port, packet.port));
        rule.direction == packet.direction
            && rule.action == Action::Accept
            && rule.protocol == Protocol::Number(packet.protocol)
            && rule.ports.as_ref().is_some_and(has_port)
    };
    let sets = || policy.groups.iter().flat_map(|group| &group.sets.addresses);
    for rule in policy.rules.iter().filter(is_for_it) {
        for name in rule.written.remote.split(',') {
            let Some(set) = sets().find(|set| set.name == name) else {
                continue;
            };
            let members = set.entries.split(',').filter(|member| !member.is_empty());
            let members: Vec<&str> = members.collect();
            let address = packet.remote.to_string();
            let with: Vec<&str> = members.iter().copied().chain([&*address]).collect();
            let argument = format!("{name}={}", with.join(","));
            let Ok(set) = argument.parse::<SetOverride>() else {
                continue;
            };
            let with = policies.with_set(set);
            let is_least = |with: &Loaded| access::is_wider_only_by(policy, &with.policy, packet);
            let is_short = members.len() <= MEMBERS;
            if is_short && with.load().is_ok_and(|with| is_least(&with)) {
                return Some(format!("`--set {argument}`"));
            }
        }
    }
    None
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

fn end(address: IpAddr, port: Option<u16>) -> String {
    match (address, port) {
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        (address, Some(port)) => format!("{address}:{port}"),
        (address, None) => address.to_string(),
    }
}

fn protocol(number: u8) -> String {
    match number {
        IPPROTO_TCP => "tcp".to_owned(),
        IPPROTO_UDP => "udp".to_owned(),
        number => sg_policy::policy::protocol_name(Protocol::Number(number)),
    }
}
