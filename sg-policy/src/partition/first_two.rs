//! Ranges of numbers that rules claim → the first two rules that claim each number: the one that
//! decides, and the one that would decide without it.

use std::collections::BTreeSet;

use super::claims::Claims;
use super::pair_steps::{PairStep, PairSteps, push};
use super::ranges::{MANY_RANGES, NONE, NUMBERS, Range, Ranges, Room, boundaries, by_beginning};

/// Finds pairs. Its fields are memory that is used again for the next class.
#[derive(Default)]
pub(super) struct FirstTwo {
    ranges: Ranges,
    painting: Painting,
}

impl FirstTwo {
    /// The first two of `rules` for every number, given by number in ascending order. No two ranges
    /// of one rule overlap.
    pub(super) fn decide(&mut self, rules: &[u32], claims: &Claims) -> PairSteps {
        let mut found = PairSteps::default();
        let ranges = self.ranges.of(rules, claims);
        for (steps, ranges) in found.steps.iter_mut().zip(ranges) {
            *steps = match ranges.len() > MANY_RANGES {
                true => self.painting.steps(ranges),
                false => sweep(ranges),
            };
        }
        found
    }
}

/// Goes through the numbers at which a range begins or ends, with the ranges that are open there.
fn sweep(ranges: &[Range]) -> Vec<PairStep> {
    let mut steps: Vec<PairStep> = Vec::new();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let mut order = by_beginning(ranges).into_iter().peekable();
    for first in boundaries(ranges) {
        while let Some(i) = order.next_if(|&i| ranges[i].0 <= first) {
            open.insert(i);
        }
        // Those that are over are removed as they come first.
        let mut rules = [None; 2];
        let mut found = 0;
        let mut over = Vec::new();
        for &i in &open {
            let (_, last, rule) = ranges[i];
            if last < first {
                over.push(i);
                continue;
            }
            rules[found] = Some(rule);
            found += 1;
            if found == rules.len() {
                break;
            }
        }
        for i in over {
            open.remove(&i);
        }
        push(&mut steps, PairStep { first, rules });
    }
    steps
}

/// The rules of every number, for ranges in great numbers: each is painted over the numbers that
/// not yet two ranges before it have.
#[derive(Default)]
struct Painting {
    first: Vec<u32>,
    second: Vec<u32>,
    room: Room,
}

impl Painting {
    /// What [`sweep`] returns.
    fn steps(&mut self, ranges: &[Range]) -> Vec<PairStep> {
        for rules in [&mut self.first, &mut self.second] {
            rules.clear();
            rules.resize(NUMBERS as usize, NONE);
        }
        self.room.fill();
        for &(first, last, rule) in ranges {
            let mut number = self.room.from(first.into());
            // Each number is met twice at most: it takes a rule each time.
            while number <= last.into() {
                match &mut self.first[number as usize] {
                    free @ &mut NONE => *free = rule,
                    _ => {
                        self.second[number as usize] = rule;
                        self.room.take(number);
                    }
                }
                number = self.room.from(number + 1);
            }
        }
        let rule = |rule: u32| (rule != NONE).then_some(rule);
        let mut steps = Vec::new();
        let mut before = None;
        for (number, (&first, &second)) in self.first.iter().zip(&self.second).enumerate() {
            if before != Some((first, second)) {
                before = Some((first, second));
                steps.push(PairStep {
                    first: number as u16,
                    rules: [rule(first), rule(second)],
                });
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    /// Both ways to steps are the same function, and the obvious one.
    #[test]
    fn painting_gives_the_steps_that_sweeping_gives() {
        let mut rng = Rng::with_seed(2);
        let mut painting = Painting::default();
        for _ in 0..100 {
            let ranges: Vec<Range> = (0..rng.u32(1..=MANY_RANGES as u32))
                .map(|i| {
                    let (a, b) = (rng.u16(..), rng.u16(..));
                    (a, if rng.bool() { a } else { a.max(b) }, i)
                })
                .collect();
            let steps = sweep(&ranges);
            assert_eq!(painting.steps(&ranges), steps);
            for _ in 0..100 {
                let number = rng.u16(..);
                let has = |(first, last, _): &&Range| (*first..=*last).contains(&number);
                let mut rules = ranges.iter().filter(has).map(|range| range.2);
                let step = &steps[steps.partition_point(|step| step.first <= number) - 1];
                assert_eq!(step.rules, [rules.next(), rules.next()]);
            }
        }
    }
}
