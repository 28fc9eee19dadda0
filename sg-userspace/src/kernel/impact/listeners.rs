//! The listening sockets that a change makes reachable, and from where.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sg_common::protocol::kind_of;
use sg_common::verdict::Direction;
use sg_policy::analysis::access;
use sg_policy::partition::{Family, Partition};
use sg_policy::policy::Policy;

use super::super::history;
use super::super::plan::Plan;
use super::super::seed::{Listener, View};
use super::report::{OpenedFrom, OpenedListener, RuleOf};
use super::terms::{Decides as _, Terms};

/// The most prefixes that are listed for one rule.
const SHOWN: usize = 8;

pub(super) struct Opened {
    pub(super) rows: Vec<Row>,
    /// See [`super::Impact::opened_is_complete`].
    pub(super) is_complete: bool,
}

pub(super) struct Row {
    pub(super) listener: OpenedListener,
    pub(super) inodes: Vec<u32>,
}

/// Addresses with the rule, as an index into the policy, that accepts them from now on.
type From = (IpAddr, IpAddr, u32);

/// The sockets that become reachable. None at a first attachment, since without a policy everybody
/// reaches all of them.
pub(super) fn opened(plan: &Plan, view: &View, terms: &Terms<'_>) -> Opened {
    let mut opened = Opened {
        rows: Vec::new(),
        is_complete: true,
    };
    let Some(before) = &terms.before else {
        return opened;
    };
    let listening = sockets(plan, view);
    if listening.is_empty() {
        return opened;
    }
    let after = &plan.policy;
    let partition = &plan.partition;
    let known = in_force(plan).map(|policy| (Partition::new(&policy), policy));
    // What no rule matches passes an audit, by no rule that could be named.
    opened.is_complete = known.is_some() && !after.no_match().passes();
    let mut by_port: BTreeMap<(u8, u16), Vec<From>> = BTreeMap::new();
    for ((protocol, local, port), inodes) in listening {
        let all = by_port.entry((protocol, port)).or_insert_with(|| {
            let kind = kind_of(protocol, false);
            match &known {
                Some((was, policy)) => {
                    let both = ((policy, was), (after, partition));
                    let found = access::opened(both.0, both.1, kind, port);
                    found
                        .iter()
                        .map(|it| (it.first, it.last, it.rule))
                        .collect()
                }
                None => at_ends(after, partition, kind, port, |remote| {
                    let verdict = before.rules(Direction::Inbound, remote, kind, port);
                    verdict.passes()
                }),
            }
        });
        let from = grouped(after, local, all);
        if from.is_empty() {
            continue;
        }
        opened.rows.push(Row {
            listener: OpenedListener {
                protocol,
                local,
                port,
                processes: Vec::new(),
                from,
            },
            inodes,
        });
    }
    opened
}

/// The policy in force, if its rules can be read back.
fn in_force(plan: &Plan) -> Option<Policy> {
    let (_, replaced) = plan.replaced().next()?;
    let generation = replaced.state.policy.generation;
    let policy = history::policy(&replaced.inspection.pins, generation).ok()?;
    Some(policy.audited(replaced.state.policy.audit.unwrap_or_default()))
}

/// Listeners that packets of the changed interfaces reach, with the inodes of their sockets:
/// several processes may share a port.
fn sockets(plan: &Plan, view: &View) -> BTreeMap<(u8, IpAddr, u16), Vec<u32>> {
    let replaced: Vec<u32> = plan.replaced().map(|(one, _)| one.pins.ifindex).collect();
    let mut sockets: BTreeMap<(u8, IpAddr, u16), Vec<u32>> = BTreeMap::new();
    for Listener {
        protocol,
        local,
        port,
        inode,
        device,
    } in &view.listeners
    {
        if *device == 0 || replaced.contains(device) {
            sockets
                .entry((*protocol, *local, *port))
                .or_default()
                .push(*inode);
        }
    }
    sockets
}

/// Where the rules in force cannot be read back: the ranges of the new rules at whose lowest or
/// highest address the tables in force do not accept.
fn at_ends(
    after: &Policy,
    partition: &Partition,
    kind: sg_common::protocol::Kind,
    port: u16,
    was_accepted: impl Fn(IpAddr) -> bool,
) -> Vec<From> {
    let mut found = Vec::new();
    for family in Family::BOTH {
        for range in partition.ranges(family) {
            let rule = partition.rule(range.class, Direction::Inbound, kind, port);
            let passes = |rule: &u32| {
                let rule = after.rules.get(*rule as usize);
                rule.is_some_and(|rule| rule.action.passes())
            };
            let Some(rule) = rule.filter(passes) else {
                continue;
            };
            if !was_accepted(range.first) || !was_accepted(range.last) {
                found.push((range.first, range.last, rule));
            }
        }
    }
    found
}

/// By rule, for a socket that is bound to `local`.
fn grouped(after: &Policy, local: IpAddr, all: &[From]) -> Vec<OpenedFrom> {
    let mut by_rule: BTreeMap<u32, OpenedFrom> = BTreeMap::new();
    for (first, last, rule) in all {
        // A socket of the unspecified IPv6 address takes IPv4 too.
        let takes = local.is_ipv4() == first.is_ipv4() || local == IpAddr::from([0u16; 8]);
        let Some(of) = after.rules.get(*rule as usize).filter(|_| takes) else {
            continue;
        };
        let from = by_rule.entry(*rule).or_insert_with(|| OpenedFrom {
            prefixes: Vec::new(),
            more: 0,
            rule: RuleOf {
                direction: of.direction,
                group: of.group.clone(),
                position: Some(of.position),
                name: of.name.clone(),
                summary: of.summary.clone(),
            },
        });
        for prefix in access::prefixes(*first, *last) {
            match from.prefixes.len() < SHOWN {
                true => from.prefixes.push(prefix),
                false => from.more += 1,
            }
        }
    }
    by_rule.into_values().collect()
}
