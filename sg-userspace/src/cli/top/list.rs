//! Which rules are listed, and in which order.

use std::cmp::Ordering;

use sg_userspace::observe::counters::RuleCounters;

use super::track::Row;
use crate::cli::words::position_of;

/// The order of the list, the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Rate,
    BitRate,
    Packets,
    Bytes,
    /// As in the policy.
    Position,
}

impl Sort {
    pub(super) const ALL: [Sort; 5] = [
        Sort::Rate,
        Sort::BitRate,
        Sort::Packets,
        Sort::Bytes,
        Sort::Position,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Rate => "rate",
            Sort::BitRate => "bit rate",
            Sort::Packets => "packets",
            Sort::Bytes => "bytes",
            Sort::Position => "position",
        }
    }

    /// The one after it, or before it.
    pub(super) fn step(self, forward: bool) -> Sort {
        let count = Sort::ALL.len();
        let at = Sort::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        let next = at + if forward { 1 } else { count - 1 };
        Sort::ALL[next % count]
    }
}

/// What the user chose.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    pub(super) hides_zero: bool,
    /// Words, all of which a listed rule has.
    pub(super) filter: String,
}

/// The indices of the rows that are listed, in their order.
pub(super) fn listed(rows: &[Row<RuleCounters>], choice: &Choice) -> Vec<usize> {
    let words: Vec<String> = choice
        .filter
        .split_whitespace()
        .map(str::to_lowercase)
        .collect();
    let is_listed = |row: &Row<RuleCounters>| {
        (!choice.hides_zero || !is_zero(&row.what)) && has_all(&row.what, &words)
    };
    let mut found: Vec<usize> = (0..rows.len()).filter(|at| is_listed(&rows[*at])).collect();
    found.sort_by(|a, b| {
        let order = greater_first(choice.sort, &rows[*a], &rows[*b]);
        // What is equal stays in the order of the policy, in any case.
        match choice.is_reversed {
            true => order.reverse(),
            false => order,
        }
        .then(a.cmp(b))
    });
    found
}

fn greater_first(sort: Sort, a: &Row<RuleCounters>, b: &Row<RuleCounters>) -> Ordering {
    let of = |row: &Row<RuleCounters>| (row.track.rate, row.what.packets, row.what.bytes);
    let ((a_rate, a_packets, a_bytes), (b_rate, b_packets, b_bytes)) = (of(a), of(b));
    let by_packets = b_packets.cmp(&a_packets);
    match sort {
        Sort::Rate => b_rate.packets.total_cmp(&a_rate.packets).then(by_packets),
        Sort::BitRate => b_rate.bytes.total_cmp(&a_rate.bytes).then(by_packets),
        Sort::Packets => by_packets,
        Sort::Bytes => b_bytes.cmp(&a_bytes),
        Sort::Position => {
            let place = |row: &Row<RuleCounters>| {
                let position = row.what.position.unwrap_or(u32::MAX);
                (row.what.direction as u8, position)
            };
            place(a).cmp(&place(b))
        }
    }
}

/// Whether a rule has decided nothing so far.
pub(super) fn is_zero(rule: &RuleCounters) -> bool {
    rule.packets == 0 && rule.reply_packets == 0
}

/// Whether all words are in what is known about a rule. Each may be in another part of it.
fn has_all(rule: &RuleCounters, words: &[String]) -> bool {
    if words.is_empty() {
        return true;
    }
    let mark = if rule.position.is_some() { "#" } else { "" };
    let position = format!("{mark}{}", position_of(rule.position));
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    let all = format!(
        "{} {position} {} {} {} {} {}",
        rule.direction,
        rule.action,
        rule.group,
        optional(&rule.name),
        rule.summary,
        optional(&rule.description)
    );
    let all = all.to_lowercase();
    words.iter().all(|word| all.contains(word.as_str()))
}
