//! Ranges of numbers that rules claim → the first two rules that claim each number: the one that
//! decides, and the one that would decide without it.

use std::collections::BTreeSet;

use super::claims::Claims;
use super::decisions::SERVICES;
use super::pair_steps::{PairStep, PairSteps, push};

/// First number, last number, rule; in the order of the rules. No two ranges of one rule overlap.
type Range = (u16, u16, u32);

/// With more ranges than this it is quicker to look at every number than to sort.
const MANY_RANGES: usize = 256;

/// Finds pairs; what it holds is memory that is used again for the next class.
#[derive(Default)]
pub(super) struct FirstTwo {
    ranges: [Vec<Range>; SERVICES],
    painting: Painting,
}

impl FirstTwo {
    /// The first two of `rules` for every number, given by number in ascending order.
    pub(super) fn decide(&mut self, rules: &[u32], claims: &Claims) -> PairSteps {
        self.ranges.iter_mut().for_each(Vec::clear);
        for &rule in rules {
            for claim in claims.of(rule) {
                self.ranges[usize::from(claim.service)].push((claim.first, claim.last, rule));
            }
        }
        let mut found = PairSteps::default();
        for (steps, ranges) in found.steps.iter_mut().zip(&self.ranges) {
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

    let mut steps: Vec<PairStep> = Vec::new();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let mut order = order.into_iter().peekable();
    for first in boundaries {
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
    /// For each number, and one more: a number from which the search for the next one with room
    /// goes on. Numbers with room have themselves.
    room: Vec<u32>,
}

impl Painting {
    const NUMBERS: u32 = 1 << 16;
    /// The rule of a number that nobody claims.
    const NONE: u32 = u32::MAX;

    /// What [`sweep`] returns.
    fn steps(&mut self, ranges: &[Range]) -> Vec<PairStep> {
        for rules in [&mut self.first, &mut self.second] {
            rules.clear();
            rules.resize(Self::NUMBERS as usize, Self::NONE);
        }
        self.room.clear();
        self.room.extend(0..=Self::NUMBERS);
        for &(first, last, rule) in ranges {
            let mut number = self.next_with_room(first.into());
            // Each number is met twice at most: it takes a rule each time.
            while number <= last.into() {
                match &mut self.first[number as usize] {
                    free @ &mut Self::NONE => *free = rule,
                    _ => {
                        self.second[number as usize] = rule;
                        self.room[number as usize] = number + 1;
                    }
                }
                number = self.next_with_room(number + 1);
            }
        }
        let rule = |rule: u32| (rule != Self::NONE).then_some(rule);
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

    /// The next number from `number` on with room for a rule. Shortens the search for the next
    /// time.
    fn next_with_room(&mut self, number: u32) -> u32 {
        let mut number = number;
        loop {
            let next = self.room[number as usize];
            if next == number {
                return number;
            }
            let further = self.room[next as usize];
            self.room[number as usize] = further;
            number = further;
        }
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
