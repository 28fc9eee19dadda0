//! Packets and bytes per second of each row, from two readings of the counters. Rows are matched by
//! the rule's identity (SPEC A3), because its position and its name may change in a reload.

use std::collections::HashMap;
use std::time::Instant;

use sg_userspace::observe::counters::{Counters, ReasonCounters, RuleCounters, Totals};

/// The counters of one row at one reading.
#[derive(Clone, Copy, Default)]
struct Seen {
    packets: u64,
    bytes: u64,
}

/// What is counted in a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    pub(super) packets: f64,
    pub(super) bytes: f64,
}

impl Rate {
    pub(super) fn bits(self) -> f64 {
        self.bytes * 8.0
    }
}

/// A reading, with which the next one is compared.
pub(super) struct Reading {
    at: Instant,
    rows: HashMap<String, Seen>,
}

/// The rates between two readings.
pub(super) struct Rates {
    before: Option<Reading>,
    seconds: f64,
}

impl Reading {
    pub(super) fn of(all: &[Counters]) -> Self {
        let mut rows = HashMap::new();
        for one in all {
            for (key, packets, bytes) in rows_of(one) {
                // Rules with the same identity share one sum.
                let seen: &mut Seen = rows.entry(key).or_default();
                seen.packets += packets;
                seen.bytes += bytes;
            }
        }
        Reading {
            at: Instant::now(),
            rows,
        }
    }
}

impl Rates {
    pub(super) fn since(before: Option<Reading>) -> Self {
        let seconds = before
            .as_ref()
            .map_or(0.0, |reading| reading.at.elapsed().as_secs_f64());
        Rates { before, seconds }
    }

    /// Whether there is a reading before: without one all rates are zero.
    pub(super) fn are_known(&self) -> bool {
        self.before.is_some()
    }

    fn rate(&self, key: &str, packets: u64, bytes: u64) -> Rate {
        let Some(before) = &self.before else {
            return Rate::default();
        };
        if self.seconds <= 0.0 {
            return Rate::default();
        }
        // A new row begins at zero. If a row counts less than before, it was reset.
        let seen = before.rows.get(key).copied().unwrap_or_default();
        Rate {
            packets: packets.saturating_sub(seen.packets) as f64 / self.seconds,
            bytes: bytes.saturating_sub(seen.bytes) as f64 / self.seconds,
        }
    }

    pub(super) fn of_rule(&self, one: &Counters, rule: &RuleCounters) -> Rate {
        self.rate(&rule_key(one, rule), rule.packets, rule.bytes)
    }

    pub(super) fn of_reason(&self, one: &Counters, reason: &ReasonCounters) -> Rate {
        self.rate(&reason_key(one, reason), reason.packets, reason.bytes)
    }

    pub(super) fn of_total(&self, one: &Counters, total: &Totals) -> Rate {
        self.rate(&total_key(one, total), total.packets, total.bytes)
    }
}

fn rows_of(one: &Counters) -> impl Iterator<Item = (String, u64, u64)> {
    let rules = one
        .rules
        .iter()
        .map(move |r| (rule_key(one, r), r.packets, r.bytes));
    let reasons = one
        .reasons
        .iter()
        .map(move |r| (reason_key(one, r), r.packets, r.bytes));
    let totals = one
        .totals
        .iter()
        .map(move |t| (total_key(one, t), t.packets, t.bytes));
    rules.chain(reasons).chain(totals)
}

fn rule_key(one: &Counters, rule: &RuleCounters) -> String {
    format!("{}\0rule\0{}", place(one), rule.identity())
}

fn reason_key(one: &Counters, reason: &ReasonCounters) -> String {
    format!(
        "{}\0reason\0{}\0{}",
        place(one),
        reason.direction,
        reason.reason
    )
}

fn total_key(one: &Counters, total: &Totals) -> String {
    format!("{}\0total\0{}", place(one), total.direction)
}

fn place(one: &Counters) -> String {
    format!(
        "{}\0{}",
        one.standing.netns.as_deref().unwrap_or_default(),
        one.standing.interface
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sg_common::verdict::{Action, Direction};

    use super::*;
    use crate::fixtures;

    fn counters(name: &str, position: u32, packets: u64) -> Counters {
        Counters {
            rules: vec![RuleCounters {
                direction: Direction::Inbound,
                position: Some(position),
                group: "web".into(),
                action: Action::Accept,
                name: Some(name.into()),
                summary: "tcp 80 from any".into(),
                description: None,
                packets,
                bytes: packets * 100,
                reply_packets: 0,
                reply_bytes: 0,
            }],
            ..fixtures::counters("eth0")
        }
    }

    /// A reload may move and rename a rule. Its rate is not all that it has ever counted.
    #[test]
    fn a_rule_that_is_renamed_keeps_its_rate() {
        let before = Reading::of(&[counters("a", 1, 1_000_000)]);
        std::thread::sleep(Duration::from_millis(10));
        let rates = Rates::since(Some(before));
        for (packets, is_idle) in [(1_000_000, true), (1_000_001, false)] {
            let after = counters("b", 2, packets);
            let rate = rates.of_rule(&after, &after.rules[0]);
            assert_eq!(rate.packets == 0.0, is_idle, "{rate:?}");
            assert!(rate.packets <= 100.0, "{rate:?}");
        }
    }
}
