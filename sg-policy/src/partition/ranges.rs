//! Ranges of numbers that the rules of a class claim, and what both ways to their steps need: the
//! numbers at which anything can change, and the next number that still has room for a rule.

use super::claims::Claims;
use super::decisions::SERVICES;

/// First number, last number, rule; in the order of the rules.
pub(super) type Range = (u16, u16, u32);

/// With more ranges than this it is quicker to look at every number than to sort.
pub(super) const MANY_RANGES: usize = 256;

/// How many numbers there are.
pub(super) const NUMBERS: u32 = 1 << 16;

/// The rule of a number that nobody claims.
pub(super) const NONE: u32 = u32::MAX;

/// The ranges of a class by service; memory that is used again for the next class.
#[derive(Default)]
pub(super) struct Ranges([Vec<Range>; SERVICES]);

impl Ranges {
    /// What `rules` claim, given by number in ascending order.
    pub(super) fn of(&mut self, rules: &[u32], claims: &Claims) -> &[Vec<Range>; SERVICES] {
        self.0.iter_mut().for_each(Vec::clear);
        for &rule in rules {
            for claim in claims.of(rule) {
                self.0[usize::from(claim.service)].push((claim.first, claim.last, rule));
            }
        }
        &self.0
    }
}

/// The indices of the ranges in the order in which they begin.
pub(super) fn by_beginning(ranges: &[Range]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| ranges[i].0);
    order
}

/// The numbers at which a range begins, or the first behind its end; zero is one of them.
pub(super) fn boundaries(ranges: &[Range]) -> Vec<u16> {
    let mut boundaries: Vec<u16> = ranges
        .iter()
        .flat_map(|&(first, last, _)| [Some(first), last.checked_add(1)])
        .chain([Some(0)])
        .flatten()
        .collect();
    boundaries.sort_unstable();
    boundaries.dedup();
    boundaries
}

/// The numbers that still have room for a rule.
#[derive(Default)]
pub(super) struct Room {
    /// For each number, and one more: a number from which the search for the next one with room
    /// goes on. Numbers with room have themselves.
    next: Vec<u32>,
}

impl Room {
    /// All numbers have room.
    pub(super) fn fill(&mut self) {
        self.next.clear();
        self.next.extend(0..=NUMBERS);
    }

    /// The number has no room any more.
    pub(super) fn take(&mut self, number: u32) {
        self.next[number as usize] = number + 1;
    }

    /// The next number from `number` on with room. Shortens the search for the next time.
    pub(super) fn from(&mut self, number: u32) -> u32 {
        let mut number = number;
        loop {
            let next = self.next[number as usize];
            if next == number {
                return number;
            }
            let further = self.next[next as usize];
            self.next[number as usize] = further;
            number = further;
        }
    }
}
