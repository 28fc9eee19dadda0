//! The sum of several interfaces: rules that are the same on them are one row.

use std::collections::HashMap;

use sg_common::verdict::Direction;
use sg_userspace::observe::counters::{Counters, ReasonCounters, RuleCounters, Totals};

use super::track::Counted;

/// The rows of all of them together, in the order of the first that has them.
pub(super) struct Sum {
    pub(super) rules: Vec<RuleCounters>,
    pub(super) reasons: Vec<ReasonCounters>,
    pub(super) totals: Vec<Totals>,
}

pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Counters> + Clone) -> Sum {
    let rules = merge(all.clone().map(|one| &one.rules), |sum, one| {
        sum.packets += one.packets;
        sum.bytes += one.bytes;
        sum.reply_packets += one.reply_packets;
        sum.reply_bytes += one.reply_bytes;
        // Another interface may have it still.
        sum.position = sum.position.or(one.position);
    });
    let reasons = merge(all.map(|one| &one.reasons), |sum, one| {
        sum.packets += one.packets;
        sum.bytes += one.bytes;
    });
    let totals = Direction::BOTH.map(|it| Totals::of(it, &rules, &reasons));
    Sum {
        rules,
        reasons,
        totals: totals.into(),
    }
}

/// Adds each row to the same one of the interfaces before.
fn merge<'a, T: Counted + Clone + 'a>(
    all: impl Iterator<Item = &'a Vec<T>>,
    add: impl Fn(&mut T, &T),
) -> Vec<T> {
    let mut sums: Vec<T> = Vec::new();
    for rows in all {
        if sums.is_empty() {
            sums.clone_from(rows);
            continue;
        }
        // Interfaces of one attachment have the same rows but for those of removed rules.
        let same = sums
            .iter()
            .zip(rows)
            .take_while(|(sum, row)| sum.is_same(row));
        let same = same.count();
        let (front, others) = sums.split_at_mut(same);
        front
            .iter_mut()
            .zip(rows)
            .for_each(|(sum, row)| add(sum, row));
        let mut known: HashMap<String, Vec<&mut T>> = HashMap::new();
        for sum in others.iter_mut().rev() {
            known.entry(sum.key()).or_default().push(sum);
        }
        let mut more = Vec::new();
        for row in &rows[same..] {
            match known.get_mut(&row.key()).and_then(Vec::pop) {
                Some(sum) => add(sum, row),
                None => more.push(row.clone()),
            }
        }
        sums.extend(more);
    }
    sums
}
