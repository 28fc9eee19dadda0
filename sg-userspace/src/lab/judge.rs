//! Compares what happened with what the policy says, for each attempt, each counter and each total.

use std::collections::BTreeMap;

use sg_common::verdict::{Action, Direction};

use super::nic::NicCounts;
use super::plan::Try;
use super::report::{AnswerBy, Attempt, InterfaceCount};
use super::traffic::Outcome;
use sg_policy::policy::{Policy, titled};
use sg_userspace::observe::counters::Counters;
use sg_userspace::observe::explain::explain_policy;

/// Combines an attempt with the policy's verdict.
pub(super) fn attempt(policy: &Policy, tried: &Try, outcome: &Outcome) -> Attempt {
    let said = explain_policy(policy, &tried.question());
    let accepts = said.verdict.passes();
    let (got, own_port, note) = match outcome {
        Outcome::Answered(port) => (Action::Accept, *port, None),
        Outcome::Silence => (Action::Drop, None, None),
        Outcome::Odd(note) => (Action::Drop, None, Some(note.clone())),
    };
    let answer = (accepts && got == Action::Accept).then(|| {
        let answer = explain_policy(policy, &tried.answer(own_port)).verdict;
        // Answers to what is only watched belong to its flow, whatever the rules say.
        match said.verdict == Action::Accept && answer == Action::Accept {
            true => AnswerBy::Rules,
            false => AnswerBy::FlowTable,
        }
    });
    let (from, from_address) = tried.from();
    let (to, to_address) = tried.to();
    Attempt {
        from: from.to_owned(),
        from_address: from_address.to_string(),
        to: to.to_owned(),
        to_address: to_address.to_string(),
        direction: tried.direction,
        transport: tried.transport(),
        port: tried.port(),
        expected: said.verdict,
        got,
        rule: said.rule,
        reason: said.reason,
        answer,
        as_policy_says: got.passes() == accepts && note.is_none(),
        note,
    }
}

/// Describes the attempts whose result is not the policy's verdict.
pub(super) fn differing_attempts(attempts: &[Attempt]) -> impl Iterator<Item = String> {
    attempts.iter().filter(|a| !a.as_policy_says).map(|a| {
        let port = a.port.map(|port| format!(" {port}")).unwrap_or_default();
        let by = match &a.rule {
            Some(rule) => format!(
                "rule {} `{}`",
                rule.position,
                titled(rule.name.as_deref(), &rule.summary)
            ),
            None => a.reason.to_string(),
        };
        let seen = match (&a.note, a.got) {
            (Some(note), _) => note.clone(),
            (None, Action::Accept | Action::Audit) => "it got through".to_owned(),
            (None, Action::Drop) => "nothing came back".to_owned(),
        };
        format!(
            "{} {} to {} {}, {}{port}: {seen}, but the policy says {} ({} {by})",
            a.from, a.from_address, a.to, a.to_address, a.transport, a.expected, a.direction,
        )
    })
}

/// Describes the counters that are too low: every rule and reason must have counted at least the
/// packets of its attempts.
pub(super) fn differing_counts(attempts: &[Attempt], counters: &Counters) -> Vec<String> {
    let mut decided: BTreeMap<(Direction, Option<u32>, &str), u64> = BTreeMap::new();
    let mut answered: BTreeMap<(Direction, Option<u32>), u64> = BTreeMap::new();
    for a in attempts.iter().filter(|a| a.as_policy_says) {
        let position = a.rule.as_ref().map(|rule| rule.position);
        *decided
            .entry((a.direction, position, a.reason.name()))
            .or_default() += 1;
        if a.answer == Some(AnswerBy::FlowTable) {
            *answered.entry((a.direction, position)).or_default() += 1;
        }
    }
    let rule = |direction: Direction, position: Option<u32>| {
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
                .find(|r| r.direction == direction && r.reason.name() == reason)
                .map(|r| r.packets),
        };
        let name = match position {
            Some(position) => format!("rule {position}"),
            None => reason.to_owned(),
        };
        if counted.is_none_or(|counted| counted < least) {
            differences.push(format!(
                "{direction} {name} decided {} but counted {}",
                number(least, "attempt"),
                number(counted.unwrap_or(0), "packet"),
            ));
        }
    }
    for ((direction, position), least) in answered {
        let counted = rule(direction, position).map_or(0, |r| r.reply_packets);
        if counted < least {
            let name = position.map_or_else(|| "essential".into(), |p| format!("rule {p}"));
            differences.push(format!(
                "{direction} {name} admitted {} that answers came to but counted {}",
                number(least, "flow"),
                number(counted, "reply packet"),
            ));
        }
    }
    differences
}

fn number(count: u64, of: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {of}{plural}")
}

/// A2: describes the totals that are not the sums of their rows.
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

/// Compares the interface's own counts with the totals. `before` was read before the enforcer was
/// attached, `after` once it was, and `end` at the end of the lab.
pub(super) fn interface_counts(
    counters: &Counters,
    before: NicCounts,
    after: NicCounts,
    end: NicCounts,
) -> Vec<InterfaceCount> {
    let total = |direction: Direction| {
        let mut totals = counters.totals.iter();
        totals.find(|t| t.direction == direction)
    };
    let count = |direction: Direction, of: fn(NicCounts) -> u64, counted| InterfaceCount {
        direction,
        packets: of(end).saturating_sub(of(before)),
        uncertain: of(after).saturating_sub(of(before)),
        counted,
    };
    // The interface counts inbound packets before XDP drops any, and outbound packets after tc has
    // dropped some.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use sg_common::verdict::Reason;
    use sg_policy::policy::rules_from_lines;
    use sg_userspace::observe::counters::{ReasonCounters, RuleCounters};

    /// The counters of an outbound rule with 5 packets and 4 replies, and of one dropped inbound
    /// packet.
    fn counters() -> Counters {
        Counters {
            rules: vec![RuleCounters {
                direction: Direction::Outbound,
                position: Some(1),
                group: "lines".into(),
                action: Action::Accept,
                name: None,
                summary: String::new(),
                description: None,
                packets: 5,
                bytes: 0,
                reply_packets: 4,
                reply_bytes: 0,
            }],
            reasons: vec![ReasonCounters {
                direction: Direction::Inbound,
                reason: Reason::NoMatch,
                action: Action::Drop,
                packets: 1,
                bytes: 0,
            }],
            totals: vec![
                fixtures::totals(Direction::Inbound, 4, 1),
                fixtures::totals(Direction::Outbound, 5, 0),
            ],
            ..fixtures::counters("eth0")
        }
    }

    /// Proves A2: the lab reports sums that do not add up.
    #[test]
    fn sums_that_do_not_add_up_are_reported() {
        let mut counters = counters();
        assert!(differing_sums(&counters).is_empty());
        counters.rules[0].reply_packets = 3;
        assert_eq!(
            differing_sums(&counters),
            [
                "inbound: rules, replies and reasons add up to 4 packets, the total is 5 \
                 (4 accepted, 1 dropped)"
            ]
        );
    }

    #[test]
    fn counts_of_the_interface_that_differ_are_reported() {
        let nic = |received, sent| NicCounts { received, sent };
        let told = |before, after, end| {
            let counts = interface_counts(&counters(), before, after, end);
            differing_interface(&counts).collect::<Vec<_>>()
        };
        assert!(told(nic(10, 10), nic(10, 10), nic(15, 15)).is_empty());
        assert!(told(nic(10, 10), nic(11, 11), nic(15, 16)).is_empty());
        assert_eq!(
            told(nic(10, 10), nic(10, 11), nic(16, 17)),
            [
                "inbound: the interface counted 6 packets, the enforcer 5",
                "outbound: the interface counted 6 to 7 packets, the enforcer 5",
            ]
        );
    }

    #[test]
    fn an_answer_that_needs_the_flow_table_must_be_counted_as_one() {
        let policy = rules_from_lines("out all to any accept");
        let tries = super::super::plan::Plan::of(&policy, true).tries;
        let is_outbound = |t: &&Try| t.direction == Direction::Outbound;
        let tried = tries.iter().find(is_outbound).unwrap();
        let answered = attempt(&policy, tried, &Outcome::Answered(Some(40000)));
        assert!(answered.as_policy_says);
        assert_eq!(answered.answer, Some(AnswerBy::FlowTable));
        let mut counters = counters();
        let attempts = [answered];
        assert!(differing_counts(&attempts, &counters).is_empty());
        counters.rules[0].reply_packets = 0;
        counters.rules[0].packets = 0;
        assert_eq!(
            differing_counts(&attempts, &counters),
            [
                "outbound rule 1 decided 1 attempt but counted 0 packets",
                "outbound rule 1 admitted 1 flow that answers came to but counted 0 reply packets",
            ]
        );

        let silent = attempt(&policy, tried, &Outcome::Silence);
        assert!(!silent.as_policy_says && silent.answer.is_none());
        let odd = attempt(
            &rules_from_lines(""),
            tried,
            &Outcome::Odd("refused".into()),
        );
        assert!(!odd.as_policy_says, "a refusal is not silence");
    }
}
