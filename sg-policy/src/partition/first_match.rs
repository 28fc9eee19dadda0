//! Ranges of numbers that rules claim → steps: each number goes to the first rule that claims it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::claims::Claims;
use super::decisions::{Decisions, Step};
use super::ranges::{MANY_RANGES, NONE, NUMBERS, Range, Ranges, Room, boundaries, by_beginning};

/// Finds decisions; what it holds is memory that is used again for the next class.
#[derive(Default)]
pub(super) struct FirstMatch {
    ranges: Ranges,
    painting: Painting,
}

impl FirstMatch {
    /// What `rules` decide, given as indices into the policy in ascending order.
    pub(super) fn decide(&mut self, rules: &[u32], claims: &Claims) -> Decisions {
        let mut decisions = Decisions::default();
        let ranges = self.ranges.of(rules, claims);
        for (steps, ranges) in decisions.steps.iter_mut().zip(ranges) {
            *steps = match ranges.len() > MANY_RANGES {
                true => self.painting.steps(ranges),
                false => sweep(ranges),
            };
        }
        decisions
    }
}

/// Goes through the numbers at which a range begins or ends, with the ranges that are open there.
fn sweep(ranges: &[Range]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open: BinaryHeap<Reverse<usize>> = BinaryHeap::new();
    let mut order = by_beginning(ranges).into_iter().peekable();
    for first in boundaries(ranges) {
        while let Some(i) = order.next_if(|&i| ranges[i].0 <= first) {
            open.push(Reverse(i));
        }
        while open.peek().is_some_and(|Reverse(i)| ranges[*i].1 < first) {
            open.pop();
        }
        // The first rule among those that are open here.
        let rule = open.peek().map(|Reverse(i)| ranges[*i].2);
        if steps.last().is_none_or(|last| last.rule != rule) {
            steps.push(Step { first, rule });
        }
    }
    steps
}

/// The rule of every number, for ranges in great numbers: each is painted over the numbers that
/// no range before it has.
#[derive(Default)]
struct Painting {
    rules: Vec<u32>,
    unclaimed: Room,
}

impl Painting {
    /// What [`sweep`] returns.
    fn steps(&mut self, ranges: &[Range]) -> Vec<Step> {
        self.rules.clear();
        self.rules.resize(NUMBERS as usize, NONE);
        self.unclaimed.fill();
        for &(first, last, rule) in ranges {
            let mut number = self.unclaimed.from(first.into());
            while number <= last.into() {
                self.rules[number as usize] = rule;
                self.unclaimed.take(number);
                number = self.unclaimed.from(number + 1);
            }
        }
        let mut first = 0;
        let runs = self.rules.chunk_by(|a, b| a == b);
        runs.map(|run| {
            let step = Step {
                first: first as u16,
                rule: (run[0] != NONE).then_some(run[0]),
            };
            first += run.len();
            step
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    /// Both ways to steps are the same function.
    #[test]
    fn painting_gives_the_steps_that_sweeping_gives() {
        let mut rng = Rng::with_seed(1);
        let mut painting = Painting::default();
        for round in 0..200 {
            let ranges: Vec<Range> = (0..rng.u32(1..=MANY_RANGES as u32))
                .map(|i| {
                    let (a, b) = (rng.u16(..), rng.u16(..));
                    let last = if rng.bool() { a } else { a.max(b) };
                    // Few rules, so that neighbours are often equal.
                    (a, last, if rng.bool() { i } else { round % 3 })
                })
                .collect();
            assert_eq!(painting.steps(&ranges), sweep(&ranges));
        }
    }
}
