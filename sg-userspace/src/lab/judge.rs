//! Compares what happened with what the policy says: each attempt, each counter, each total.

use std::collections::BTreeMap;

use sg_common::verdict::{Action, Direction};

use super::nic::NicCounts;
use super::plan::Try;
use super::report::{AnswerBy, Attempt, InterfaceCount};
use super::traffic::Outcome;
use crate::observe::counters::Counters;
use crate::observe::explain::explain_policy;
use crate::policy::Policy;

/// Puts an attempt beside the policy's word on it.
pub(super) fn attempt(policy: &Policy, tried: &Try, outcome: &Outcome) -> Attempt {
    let said = explain_policy(policy, &tried.question());
    let accepts = said.verdict == Action::Accept.name();
    let (got, own_port, note) = match outcome {
        Outcome::Answered(port) => (Action::Accept, *port, None),
        Outcome::Silence => (Action::Drop, None, None),
        Outcome::Odd(note) => (Action::Drop, None, Some(note.clone())),
    };
    let answer = (accepts && got == Action::Accept).then(|| {
        match explain_policy(policy, &tried.answer(own_port)).verdict == Action::Accept.name() {
            true => AnswerBy::Rules,
            false => AnswerBy::FlowTable,
        }
    });
    let (from, from_address) = tried.from();
    let (to, to_address) = tried.to();
    Attempt {
        from,
        from_address: from_address.to_string(),
        to,
        to_address: to_address.to_string(),
        direction: tried.direction.name(),
        transport: tried.transport(),
        port: tried.port(),
        expected: said.verdict,
        got: got.name(),
        rule: said.rule,
        reason: said.reason,
        answer,
        as_policy_says: got.name() == said.verdict && note.is_none(),
        note,
    }
}

/// The attempts that went otherwise.
pub(super) fn differing_attempts(attempts: &[Attempt]) -> impl Iterator<Item = String> {
    attempts.iter().filter(|a| !a.as_policy_says).map(|a| {
        let port = a.port.map(|port| format!(" {port}")).unwrap_or_default();
        let by = match &a.rule {
            Some(rule) => format!("rule {} `{}`", rule.position, rule.summary),
            None => a.reason.to_owned(),
        };
        let seen = match (&a.note, a.got) {
            (Some(note), _) => note.clone(),
            (None, "accept") => "it got through".to_owned(),
            (None, _) => "nothing came back".to_owned(),
        };
        format!(
            "{} {} to {} {}, {}{port}: {seen}, but the policy says {} ({} {by})",
            a.from, a.from_address, a.to, a.to_address, a.transport, a.expected, a.direction,
        )
    })
}

/// Every rule and reason must have counted at least the packets that the attempts sent it.
pub(super) fn differing_counts(attempts: &[Attempt], counters: &Counters) -> Vec<String> {
    let mut decided: BTreeMap<(&str, Option<u32>, &str), u64> = BTreeMap::new();
    let mut answered: BTreeMap<(&str, Option<u32>), u64> = BTreeMap::new();
    for a in attempts.iter().filter(|a| a.as_policy_says) {
        let position = a.rule.as_ref().map(|rule| rule.position);
        *decided
            .entry((a.direction, position, a.reason))
            .or_default() += 1;
        if a.answer == Some(AnswerBy::FlowTable) {
            *answered.entry((a.direction, position)).or_default() += 1;
        }
    }
    let rule = |direction: &str, position: Option<u32>| {
        let mut rules = counters.rules.iter();
        rules.find(|r| r.direction == direction && position.is_some() && r.position == position)
    };
    let mut differences = Vec::new();
    for ((direction, position, reason), least) in decided {
        let counted = match position {
            Some(_) => rule(direction, position).map(|r| r.packets),
            None => counters
                .reasons
                .iter()
                .find(|r| r.direction == direction && r.reason == reason)
                .map(|r| r.packets),
        };
        let name = match position {
            Some(position) => format!("rule {position}"),
            None => reason.to_owned(),
        };
        if counted.is_none_or(|counted| counted < least) {
            differences.push(format!(
                "{direction} {name} decided {least} attempts but counted {} packets",
                counted.unwrap_or(0),
            ));
        }
    }
    for ((direction, position), least) in answered {
        let counted = rule(direction, position).map_or(0, |r| r.reply_packets);
        if counted < least {
            let name = position.map_or_else(|| "essential".into(), |p| format!("rule {p}"));
            differences.push(format!(
                "{direction} {name} admitted {least} flows that were answered but counted \
                 {counted} replies",
            ));
        }
    }
    differences
}

/// SPEC A2, summed up here from the rows alone.
pub(super) fn differing_sums(counters: &Counters) -> Vec<String> {
    let mut differences = Vec::new();
    for total in &counters.totals {
        let rules = counters
            .rules
            .iter()
            .map(|r| match r.direction == total.direction {
                true => r.packets,
                false => r.reply_packets,
            });
        let reasons = counters.reasons.iter();
        let reasons = reasons
            .filter(|r| r.direction == total.direction)
            .map(|r| r.packets);
        let sum: u64 = rules.chain(reasons).sum();
        if sum != total.packets || sum != total.accepted + total.dropped {
            differences.push(format!(
                "{}: rules, replies and reasons add up to {sum} packets, the total is {} \
                 ({} accepted, {} dropped)",
                total.direction, total.packets, total.accepted, total.dropped,
            ));
        }
    }
    differences
}

/// What the interface counted from before and from after the enforcer was attached until `end`.
pub(super) fn interface_counts(
    counters: &Counters,
    before: NicCounts,
    after: NicCounts,
    end: NicCounts,
) -> Vec<InterfaceCount> {
    let total = |direction: Direction| {
        let mut totals = counters.totals.iter();
        totals.find(|t| t.direction == direction.name())
    };
    let count = |direction: Direction, of: fn(NicCounts) -> u64, counted| InterfaceCount {
        direction: direction.name(),
        packets: of(end).saturating_sub(of(before)),
        uncertain: of(after).saturating_sub(of(before)),
        counted,
    };
    // The interface counts what arrives before XDP drops it, and what leaves after tc has.
    let arrived = total(Direction::Inbound).map_or(0, |t| t.packets);
    let left = total(Direction::Outbound).map_or(0, |t| t.accepted);
    vec![
        count(Direction::Inbound, |nic| nic.received, arrived),
        count(Direction::Outbound, |nic| nic.sent, left),
    ]
}

pub(super) fn differing_interface(counts: &[InterfaceCount]) -> impl Iterator<Item = String> {
    let differ = |c: &&InterfaceCount| {
        let least = c.packets.saturating_sub(c.uncertain);
        !(least..=c.packets).contains(&c.counted)
    };
    counts.iter().filter(differ).map(|c| {
        let packets = match c.uncertain {
            0 => c.packets.to_string(),
            n => format!("{} to {}", c.packets.saturating_sub(n), c.packets),
        };
        format!(
            "{}: the interface counted {packets} packets, the enforcer {}",
            c.direction, c.counted
        )
    })
}
