//! Which rows of the counters are shown, and in which order. Tables, JSON and CSV ask here.

use std::cmp::Ordering;

use clap::{Args, ValueEnum};
use sg_userspace::observe::counters::{Counters, ReasonCounters, RuleCounters};

use crate::cli::rates::{Rate, Rates};

/// What rows are sorted by, the highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Key {
    /// Inbound first, in the order in which rules are asked
    Position,
    Packets,
    Bytes,
    /// Packets a second
    Rate,
    /// Bits a second
    BitRate,
    /// Packets of the other direction that a rule has let pass
    Replies,
}

impl Key {
    fn is_rate(self) -> bool {
        matches!(self, Key::Rate | Key::BitRate)
    }
}

/// The rows to show: all of the policy in force, in its order, if nothing is said.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(in crate::cli) struct Choice {
    /// Show reasons that have counted nothing too, and each removed rule in a row of its own
    #[arg(long, conflicts_with = "nonzero")]
    pub(super) all: bool,
    /// Leave out what has counted nothing
    #[arg(long)]
    pub(super) nonzero: bool,
    /// Show the highest first, the totals behind them
    #[arg(long, value_name = "BY", value_enum)]
    pub(super) sort: Option<Key>,
    /// Show the N highest only: by packets, with --watch by rate, unless --sort says otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) top: Option<u32>,
}

/// The numbers of one row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) replies: u64,
    pub(super) rate: Rate,
}

impl Numbers {
    pub(super) fn of_rule(one: &Counters, rule: &RuleCounters, rates: Option<&Rates>) -> Numbers {
        Numbers {
            packets: rule.packets,
            bytes: rule.bytes,
            replies: rule.reply_packets,
            rate: rates.map_or_else(Rate::default, |rates| rates.of_rule(one, rule)),
        }
    }

    pub(super) fn of_reason(
        one: &Counters,
        reason: &ReasonCounters,
        rates: Option<&Rates>,
    ) -> Numbers {
        Numbers {
            packets: reason.packets,
            bytes: reason.bytes,
            replies: 0,
            rate: rates.map_or_else(Rate::default, |rates| rates.of_reason(one, reason)),
        }
    }

    /// All that it counts, in both directions.
    pub(super) fn packets_and_replies(&self) -> u64 {
        self.packets + self.replies
    }

    pub(super) fn is_zero(&self) -> bool {
        self.packets_and_replies() == 0
    }

    fn by(&self, key: Key) -> f64 {
        match key {
            Key::Position => 0.0,
            Key::Packets => self.packets as f64,
            Key::Bytes => self.bytes as f64,
            Key::Rate => self.rate.packets,
            Key::BitRate => self.rate.bytes,
            Key::Replies => self.replies as f64,
        }
    }

    /// The order of two rows: the higher one first. Of rows that are equal the one with more
    /// packets comes first; those that are equal in that too keep their order in a stable sort.
    pub(super) fn highest_first(&self, other: &Numbers, key: Key) -> Ordering {
        let by_key = other.by(key).total_cmp(&self.by(key));
        let packets = Numbers::packets_and_replies;
        by_key.then(packets(other).cmp(&packets(self)))
    }
}

/// The rows that are shown, by their index, and how many are not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Picked {
    pub(super) rows: Vec<usize>,
    /// Left out for they are zero.
    pub(super) zeros: usize,
    /// Left out for they are not among the highest.
    pub(super) lower: usize,
}

impl Choice {
    /// Whether rates are needed, for which the counters have to be read twice.
    pub(super) fn needs_rates(&self) -> bool {
        self.sort.is_some_and(Key::is_rate)
    }

    /// What rows are sorted by. `None` if they keep their order.
    fn key(&self, has_rates: bool) -> Option<Key> {
        match (self.sort, self.top) {
            (Some(Key::Position), _) | (None, None) => None,
            (Some(key), _) => Some(key),
            (None, Some(_)) if has_rates => Some(Key::Rate),
            (None, Some(_)) => Some(Key::Packets),
        }
    }

    /// Whether the rows of both directions are one list.
    pub(super) fn is_sorted(&self, has_rates: bool) -> bool {
        self.key(has_rates).is_some()
    }

    pub(super) fn pick(&self, rows: &[Numbers], has_rates: bool) -> Picked {
        let mut shown: Vec<usize> = (0..rows.len())
            .filter(|i| !self.nonzero || !rows[*i].is_zero())
            .collect();
        let zeros = rows.len() - shown.len();
        if let Some(key) = self.key(has_rates) {
            shown.sort_by(|a, b| rows[*a].highest_first(&rows[*b], key));
        }
        let top = self.top.map_or(shown.len(), |top| top as usize);
        let lower = shown.len().saturating_sub(top);
        shown.truncate(top);
        Picked {
            rows: shown,
            zeros,
            lower,
        }
    }

    /// The counters with the chosen rules and reasons only. Totals are of all packets in any case.
    pub(super) fn apply(&self, one: Counters, rates: Option<&Rates>) -> Counters {
        let rules = one
            .rules
            .iter()
            .map(|rule| Numbers::of_rule(&one, rule, rates));
        let reasons = one
            .reasons
            .iter()
            .map(|reason| Numbers::of_reason(&one, reason, rates));
        let numbers: Vec<Numbers> = rules.chain(reasons).collect();
        let picked = self.pick(&numbers, rates.is_some());
        let count = one.rules.len();
        let (rules, reasons): (Vec<usize>, Vec<usize>) =
            picked.rows.into_iter().partition(|i| *i < count);
        Counters {
            rules: rules.into_iter().map(|i| one.rules[i].clone()).collect(),
            reasons: reasons
                .into_iter()
                .map(|i| one.reasons[i - count].clone())
                .collect(),
            ..one
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(packets: u64, bytes: u64, replies: u64, rate: f64) -> Numbers {
        Numbers {
            packets,
            bytes,
            replies,
            rate: Rate {
                packets: rate,
                bytes: rate * 10.0,
            },
        }
    }

    #[test]
    fn rows_are_chosen_and_sorted_as_asked_and_the_rest_is_counted() {
        let rows = [
            numbers(5, 500, 0, 0.0),
            numbers(0, 0, 0, 0.0),
            numbers(9, 90, 0, 1.0),
            numbers(0, 0, 7, 0.0),
            numbers(9, 95, 1, 2.0),
        ];
        let pick = |choice: Choice, has_rates| {
            let picked = choice.pick(&rows, has_rates);
            (picked.rows, picked.zeros, picked.lower)
        };
        let all = Choice::default();
        assert_eq!(pick(all, true), (vec![0, 1, 2, 3, 4], 0, 0));
        let nonzero = Choice {
            nonzero: true,
            ..all
        };
        // A rule whose flows only have replies is not at zero.
        assert_eq!(pick(nonzero, false), (vec![0, 2, 3, 4], 1, 0));
        let by = |key, top| Choice {
            sort: Some(key),
            top,
            ..all
        };
        for (key, order) in [
            (Key::Position, [0, 1, 2, 3, 4]),
            (Key::Packets, [4, 2, 0, 3, 1]),
            (Key::Bytes, [0, 4, 2, 3, 1]),
            // Of rows without a rate the one that has counted more comes first.
            (Key::Rate, [4, 2, 3, 0, 1]),
            (Key::BitRate, [4, 2, 3, 0, 1]),
            (Key::Replies, [3, 4, 2, 0, 1]),
        ] {
            assert_eq!(pick(by(key, None), true), (order.to_vec(), 0, 0), "{key:?}");
            let three = order[..3].to_vec();
            assert_eq!(pick(by(key, Some(3)), true), (three, 0, 2), "{key:?}");
        }
        let top = Choice {
            top: Some(2),
            ..nonzero
        };
        assert_eq!(pick(top, false), (vec![4, 2], 1, 2), "by packets");
        assert_eq!(pick(top, true), (vec![4, 2], 1, 2), "by rate");
        assert!(!all.is_sorted(true) && top.is_sorted(true) && top.is_sorted(false));
        assert!(by(Key::Rate, None).needs_rates() && !by(Key::Bytes, None).needs_rates());
    }
}
