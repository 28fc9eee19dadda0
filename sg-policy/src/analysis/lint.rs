//! Findings about what a valid policy leaves open, and what it never lets through.

use super::reach;
use crate::policy::{Action, Direction, Finding, Lint, Policy, Protocol, Rule, is_whole_family};

/// The first and last port that Kubernetes gives to services by default.
const NODE_PORTS: (u16, u16) = (30000, 32767);
/// The first port that Linux gives to outgoing connections by default.
const EPHEMERAL: u16 = 32768;

/// What is open to everybody; of rules that `decides` something.
pub(super) fn opens(policy: &Policy, decides: impl Fn(usize) -> bool) -> Vec<Finding> {
    let rules = policy.rules.iter().enumerate();
    let deciding = rules.filter(|(index, _)| decides(*index));
    deciding
        .filter_map(|(_, rule)| Some(open(rule)?.at(&rule.source)))
        .collect()
}

/// What is never let through. `is_cluster` tells that the policy is for a node of a container
/// cluster.
pub(super) fn closes(policy: &Policy, is_cluster: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    denied(policy, &mut findings);
    audited(policy, &mut findings);
    findings.extend(reach::ssh(policy, is_cluster));
    findings.extend(reach::neighbours(policy));
    if is_cluster {
        reach::cluster(policy, &mut findings);
    }
    findings
}

/// What an inbound accept rule leaves open to everybody.
fn open(rule: &Rule) -> Option<Finding> {
    let everybody = rule.direction == Direction::Inbound
        && rule.action == Action::Accept
        && is_whole_family(&rule.remote);
    if !everybody {
        return None;
    }
    let who = match (rule.remote.v4.is_empty(), rule.remote.v6.is_empty()) {
        (false, true) => "every IPv4 address",
        (true, false) => "every IPv6 address",
        _ => "every address",
    };
    let includes = |port: u16| {
        let ports = rule.ports.as_deref();
        ports.is_none_or(|p| p.iter().any(|(a, b)| (*a..=*b).contains(&port)))
    };
    let is = |number: u8| rule.protocol == Protocol::Number(number);
    if rule.protocol == Protocol::All {
        let message = format!("everything is open to {who}, SSH included");
        return Some(
            Finding::warning(Lint::InboundOpen, message)
                .help("accept the protocols and ports that are needed"),
        );
    }
    if is(6) && includes(22) {
        let message = format!("SSH (tcp 22) is open to {who}");
        return Some(
            Finding::warning(Lint::SshOpen, message)
                .help("name the addresses that administer the node in `from`"),
        );
    }
    let overreach = |(first, last): &(u16, u16)| {
        *first <= NODE_PORTS.0 && *last >= EPHEMERAL && (*first, *last) != (0, u16::MAX)
    };
    let range = rule.ports.iter().flatten().find(|range| overreach(range));
    if let Some((first, last)) = range.filter(|_| is(6) || is(17)) {
        let message = format!(
            "`{}` opens {first}-{last}: {EPHEMERAL} lies outside Kubernetes' NodePort range {}-{} and inside Linux' ephemeral range 32768-60999",
            rule.title(),
            NODE_PORTS.0,
            NODE_PORTS.1
        );
        let help = format!("end the range at {}", NODE_PORTS.1);
        return Some(Finding::note(Lint::NodePortRange, message).help(help));
    }
    None
}

/// Rules whose drops are only watched: they enforce nothing.
fn audited(policy: &Policy, findings: &mut Vec<Finding>) {
    for rule in policy.audited_rules() {
        let message = format!(
            "`{}` is audited: what it would drop passes, and is counted and logged",
            rule.title()
        );
        let finding = Finding::warning(Lint::AuditedRule, message)
            .help("take `audit` out of the rule to enforce it")
            .at(&rule.source);
        findings.push(finding);
    }
}

/// What no accept rule lets through.
fn denied(policy: &Policy, findings: &mut Vec<Finding>) {
    let accepts = |direction: Direction| {
        policy.rules_of(direction).any(|rule| {
            rule.action == Action::Accept
                && !(rule.remote.v4.is_empty() && rule.remote.v6.is_empty())
        })
    };
    let family = |is_empty: fn(&Rule) -> bool| {
        let accepting = |rule: &&Rule| rule.action == Action::Accept;
        policy
            .rules
            .iter()
            .filter(accepting)
            .any(|rule| !is_empty(rule))
    };
    match (accepts(Direction::Inbound), accepts(Direction::Outbound)) {
        (false, false) => {
            let message = "no rule accepts anything: everything is denied in both directions";
            findings.push(
                Finding::warning(Lint::DeniesEverything, message)
                    .help("if that is not meant, name what is needed in rules with `action: accept`"),
            );
            return;
        }
        (true, false) => findings.push(
            Finding::warning(
                Lint::DeniesOutbound,
                "no outbound rule accepts anything: the node can open no connection, and only answers",
            )
            .help("if it needs more, name what it may open in outbound rules, such as tcp 443 to the addresses of its servers"),
        ),
        (false, true) => findings.push(
            Finding::note(
                Lint::DeniesInbound,
                "no inbound rule accepts anything: only answers to the node's own connections arrive",
            )
            .help("if others are to open connections to the node, name them and the ports in inbound rules"),
        ),
        (true, true) => {}
    }
    if !family(|rule| rule.remote.v4.is_empty()) {
        let message = "no rule accepts any IPv4 address: IPv4 is wholly denied";
        findings.push(
            Finding::warning(Lint::Ipv4Denied, message)
                .help("if the node uses IPv4, name the IPv4 addresses that it needs"),
        );
    }
    if !family(|rule| rule.remote.v6.is_empty()) {
        let message = "no rule accepts any IPv6 address: IPv6 is wholly denied";
        findings.push(
            Finding::warning(Lint::Ipv6Denied, message)
                .help("if the node uses IPv6, name the IPv6 addresses that it needs"),
        );
    }
}
