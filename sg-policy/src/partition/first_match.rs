//! Ranges of numbers that rules claim → steps: each number goes to the first rule that claims it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::claims::Claims;
use super::decisions::{Decisions, SERVICES, Step};

/// First number, last number, rule; in the order of the rules.
type Range = (u16, u16, u32);

/// With more ranges than this it is quicker to look at every number than to sort.
const MANY_RANGES: usize = 256;

/// Finds decisions; what it holds is memory that is used again for the next class.
#[derive(Default)]
pub(super) struct FirstMatch {
    ranges: [Vec<Range>; SERVICES],
    painting: Painting,
}

impl FirstMatch {
    /// What `rules` decide, given as indices into the policy in ascending order.
    pub(super) fn decide(&mut self, rules: &[u32], claims: &Claims) -> Decisions {
        self.ranges.iter_mut().for_each(Vec::clear);
        for &rule in rules {
            for claim in claims.of(rule) {
                self.ranges[usize::from(claim.service)].push((claim.first, claim.last, rule));
            }
        }
        let mut decisions = Decisions::default();
        for (steps, ranges) in decisions.steps.iter_mut().zip(&self.ranges) {
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
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| ranges[i].0);
    let mut boundaries: Vec<u16> = ranges
        .iter()
        .flat_map(|&(first, last, _)| [Some(first), last.checked_add(1)])
        .chain([Some(0)])
        .flatten()
        .collect();
    boundaries.sort_unstable();
    boundaries.dedup();

    let mut steps: Vec<Step> = Vec::new();
    let mut open: BinaryHeap<Reverse<usize>> = BinaryHeap::new();
    let mut order = order.into_iter().peekable();
    for first in boundaries {
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
    /// For each number, and one more: a number from which the search for the next unclaimed one
    /// goes on. Unclaimed numbers have themselves.
    unclaimed: Vec<u32>,
}

impl Painting {
    const NUMBERS: u32 = 1 << 16;
    /// The rule of a number that nobody claims.
    const NONE: u32 = u32::MAX;

    /// What [`sweep`] returns.
    fn steps(&mut self, ranges: &[Range]) -> Vec<Step> {
        self.rules.clear();
        self.rules.resize(Self::NUMBERS as usize, Self::NONE);
        self.unclaimed.clear();
        self.unclaimed.extend(0..=Self::NUMBERS);
        for &(first, last, rule) in ranges {
            let mut number = self.next_unclaimed(first.into());
            while number <= last.into() {
                self.rules[number as usize] = rule;
                self.unclaimed[number as usize] = number + 1;
                number = self.next_unclaimed(number + 1);
            }
        }
        let mut first = 0;
        let runs = self.rules.chunk_by(|a, b| a == b);
        runs.map(|run| {
            let step = Step {
                first: first as u16,
                rule: (run[0] != Self::NONE).then_some(run[0]),
            };
            first += run.len();
            step
        })
        .collect()
    }

    /// The next number from `number` on that no range has claimed. Shortens the search for the
    /// next time.
    fn next_unclaimed(&mut self, number: u32) -> u32 {
        let mut number = number;
        loop {
            let next = self.unclaimed[number as usize];
            if next == number {
                return number;
            }
            let further = self.unclaimed[next as usize];
            self.unclaimed[number as usize] = further;
            number = further;
        }
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
