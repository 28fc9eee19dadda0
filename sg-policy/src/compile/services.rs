//! A set of rules → a row: what happens to every protocol and port, in both directions.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use sg_common::{
    lookup::{COLUMNS, LINE_WORDS, POINTER, column_index},
    protocol::{
        IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, Kind, icmp_number,
        other_number,
    },
    verdict::{Direction, Verdict},
};

use super::{
    arena::{Arena, Built},
    budget::TooLarge,
    row::Row,
    rule_sets::{Family, RuleSets, SetId},
};
use crate::policy::{Policy, Protocol, Rule};

/// The distinct rows so far; a row's index is an address class.
pub(super) struct Rows {
    verdicts: Vec<Verdict>,
    /// Where no rule matches, by direction.
    no_match: [Verdict; 2],
    /// By family.
    claims: [RuleClaims; 2],
    rows: Vec<Row>,
    classes: HashMap<Row, u32>,
    of_set: HashMap<(Family, SetId), u32>,
    painting: Painting,
    pub(super) built: Built,
}

impl Rows {
    pub(super) fn new(policy: &Policy, slots: &[u32]) -> Self {
        Rows {
            verdicts: policy
                .rules
                .iter()
                .zip(slots)
                .map(|(rule, &slot)| Verdict::new(rule.action, slot, rule.log))
                .collect(),
            no_match: Direction::BOTH.map(|direction| {
                Verdict::no_match(direction).logged(policy.log_no_match[direction as usize])
            }),
            claims: [Family::V4, Family::V6].map(|family| RuleClaims::new(policy, family)),
            rows: Vec::new(),
            classes: HashMap::new(),
            of_set: HashMap::new(),
            painting: Painting::default(),
            built: Built::default(),
        }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Stores the rows column by column, equal ones once: a packet's direction and kind have all
    /// their entries side by side. Returns the word at which each column begins.
    pub(super) fn store(&self, arena: &mut Arena) -> Result<[u32; COLUMNS], TooLarge> {
        let mut begins = [0; COLUMNS];
        let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
        for (index, begin) in begins.iter_mut().enumerate() {
            let column: Vec<u32> = self.rows.iter().map(|row| row[index]).collect();
            if let Some(stored) = known.get(&column) {
                *begin = *stored;
                continue;
            }
            let line = arena.take_lines(column.len().div_ceil(LINE_WORDS))?;
            for (word, entry) in arena.words_mut(line).zip(&column) {
                *word = *entry;
            }
            *begin = line * LINE_WORDS as u32;
            known.insert(column, *begin);
        }
        Ok(begins)
    }

    /// The class of addresses covered by exactly the rules of `set`. Where they are of a prefix
    /// that is alone, its node will lie beside a table of ports.
    pub(super) fn class_of(
        &mut self,
        sets: &RuleSets,
        set: SetId,
        is_alone: bool,
        arena: &mut Arena,
    ) -> Result<u32, TooLarge> {
        if let Some(&class) = self.of_set.get(&(sets.family, set)) {
            return Ok(class);
        }
        let row = self.row(&sets.rules(set), sets.family, is_alone, arena)?;
        let next = self.rows.len() as u32;
        let class = *self.classes.entry(row).or_insert(next);
        if class == next {
            self.rows.push(row);
        }
        self.of_set.insert((sets.family, set), class);
        Ok(class)
    }

    fn row(
        &mut self,
        rules: &[u32],
        family: Family,
        is_alone: bool,
        arena: &mut Arena,
    ) -> Result<Row, TooLarge> {
        let mut claims: [Claims; COLUMNS] = Default::default();
        let all = &self.claims[family as usize];
        for &index in rules {
            let verdict = self.verdicts[index as usize];
            for &(column, first, last) in all.of(index) {
                claims[usize::from(column)]
                    .ranges
                    .push((first, last, verdict));
            }
        }
        let mut row = Row::default();
        for direction in Direction::BOTH {
            for kind in Kind::ALL {
                let column = column_index(direction, kind as u8);
                let claims = std::mem::take(&mut claims[column]);
                let steps =
                    claims.into_steps(self.no_match[direction as usize], &mut self.painting);
                // One of them is enough: the node is one.
                let is_first = row.iter().all(|entry| entry & POINTER == 0);
                let with_place = is_alone && is_first;
                row[column] = arena.ports(column, &steps, with_place, &mut self.built)?;
            }
        }
        Ok(row)
    }
}

/// How the numbers of a protocol are told apart.
fn kind_of(number: u8, family: Family) -> Kind {
    let icmp = match family {
        Family::V4 => IPPROTO_ICMP,
        Family::V6 => IPPROTO_ICMPV6,
    };
    match number {
        IPPROTO_TCP => Kind::Tcp,
        IPPROTO_UDP => Kind::Udp,
        IPPROTO_SCTP => Kind::Sctp,
        number if number == icmp => Kind::Icmp,
        _ => Kind::Other,
    }
}

/// What every rule of a policy claims in one family: columns, and the first and last numbers
/// there. In one list, since it is gone through for each class.
struct RuleClaims {
    claims: Vec<(u8, u16, u16)>,
    /// Where the claims of each rule end.
    ends: Vec<u32>,
}

impl RuleClaims {
    fn new(policy: &Policy, family: Family) -> Self {
        let mut claims = Vec::new();
        let mut ends = Vec::new();
        for rule in &policy.rules {
            match rule.protocol {
                Protocol::All => {
                    let columns = Kind::ALL.map(|kind| column_index(rule.direction, kind as u8));
                    claims.extend(columns.map(|column| (column as u8, 0, u16::MAX)));
                }
                Protocol::Number(number) => {
                    let kind = kind_of(number, family);
                    let column = column_index(rule.direction, kind as u8) as u8;
                    each_range(rule, number, kind, |first, last| {
                        claims.push((column, first, last));
                    });
                }
            }
            ends.push(claims.len() as u32);
        }
        RuleClaims { claims, ends }
    }

    fn of(&self, rule: u32) -> &[(u8, u16, u16)] {
        let first = match rule {
            0 => 0,
            _ => self.ends[rule as usize - 1],
        };
        &self.claims[first as usize..self.ends[rule as usize] as usize]
    }
}

/// Visits the numbers that a rule of protocol `number`, which is of `kind`, claims.
fn each_range(rule: &Rule, number: u8, kind: Kind, mut visit: impl FnMut(u16, u16)) {
    match kind {
        Kind::Other => visit(other_number(number), other_number(number) | 0xff),
        Kind::Icmp => match rule.icmp {
            None => visit(0, u16::MAX),
            Some(m) => match m.code {
                None => visit(icmp_number(m.kind, 0), icmp_number(m.kind, u8::MAX)),
                Some(code) => visit(icmp_number(m.kind, code), icmp_number(m.kind, code)),
            },
        },
        _ => match &rule.ports {
            None => visit(0, u16::MAX),
            Some(ranges) => ranges.iter().for_each(|&(first, last)| visit(first, last)),
        },
    }
}

/// Ranges of a kind's numbers that rules claim, in the order of the rules.
#[derive(Default)]
struct Claims {
    /// First number, last number, verdict; the index is the priority.
    ranges: Vec<(u16, u16, Verdict)>,
}

/// With more ranges than this it is quicker to look at every number than to sort.
const MANY_RANGES: usize = 256;

impl Claims {
    /// The function that gives each number the verdict of the first claim on it.
    fn into_steps(self, default: Verdict, painting: &mut Painting) -> Vec<(u32, u32)> {
        if self.ranges.len() > MANY_RANGES {
            return painting.steps(&self.ranges, default);
        }
        let mut order: Vec<usize> = (0..self.ranges.len()).collect();
        order.sort_by_key(|&i| self.ranges[i].0);
        let mut boundaries: Vec<u32> = self
            .ranges
            .iter()
            .flat_map(|&(first, last, _)| [u32::from(first), u32::from(last) + 1])
            .chain([0])
            .filter(|&b| b <= u32::from(u16::MAX))
            .collect();
        boundaries.sort_unstable();
        boundaries.dedup();

        let mut steps: Vec<(u32, u32)> = Vec::new();
        let mut open: BinaryHeap<Reverse<usize>> = BinaryHeap::new();
        let mut order = order.into_iter().peekable();
        for at in boundaries {
            while let Some(i) = order.next_if(|&i| u32::from(self.ranges[i].0) <= at) {
                open.push(Reverse(i));
            }
            // The earliest rule that still covers this number decides it.
            while open
                .peek()
                .is_some_and(|Reverse(i)| u32::from(self.ranges[*i].1) < at)
            {
                open.pop();
            }
            let verdict = open.peek().map_or(default, |Reverse(i)| self.ranges[*i].2);
            if steps.last().is_none_or(|(_, last)| *last != verdict.0) {
                steps.push((at, verdict.0));
            }
        }
        steps
    }
}

/// The verdict of every number, for claims in great numbers.
#[derive(Default)]
struct Painting {
    verdicts: Vec<u32>,
    /// For each number, and one more, one that is not below the next which nobody has claimed yet.
    unclaimed: Vec<u32>,
}

impl Painting {
    const NUMBERS: u32 = 1 << 16;

    /// What [`Claims::into_steps`] returns.
    fn steps(&mut self, ranges: &[(u16, u16, Verdict)], default: Verdict) -> Vec<(u32, u32)> {
        self.verdicts.clear();
        self.verdicts.resize(Self::NUMBERS as usize, default.0);
        self.unclaimed.clear();
        self.unclaimed.extend(0..=Self::NUMBERS);
        for &(first, last, verdict) in ranges {
            let mut number = self.next_unclaimed(first.into());
            while number <= last.into() {
                self.verdicts[number as usize] = verdict.0;
                self.unclaimed[number as usize] = number + 1;
                number = self.next_unclaimed(number + 1);
            }
        }
        let mut start = 0;
        let runs = self.verdicts.chunk_by(|a, b| a == b);
        runs.map(|run| {
            let step = (start, run[0]);
            start += run.len() as u32;
            step
        })
        .collect()
    }

    /// The next number from `number` on that nobody has claimed; shortens the way there for the
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
    use sg_common::verdict::{Action, FIRST_RULE_SLOT};

    /// Both ways to steps are the same function.
    #[test]
    fn painting_gives_the_steps_that_sorting_gives() {
        let mut rng = Rng::with_seed(1);
        let mut painting = Painting::default();
        for round in 0..200 {
            let ranges: Vec<_> = (0..rng.u32(1..=MANY_RANGES as u32))
                .map(|i| {
                    let (a, b) = (rng.u16(..), rng.u16(..));
                    let last = if rng.bool() { a } else { a.max(b) };
                    // Few verdicts, so that neighbours are often equal.
                    let slot = FIRST_RULE_SLOT + if rng.bool() { i } else { round % 3 };
                    (a, last, Verdict::new(Action::Accept, slot, false))
                })
                .collect();
            let default = Verdict::no_match(Direction::Inbound);
            let painted = painting.steps(&ranges, default);
            let sorted = Claims { ranges }.into_steps(default, &mut painting);
            assert_eq!(painted, sorted);
        }
    }
}
