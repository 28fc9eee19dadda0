//! A set of rules → a row: what happens to every protocol and port, in both directions.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use sg_common::{
    lookup::{COLUMNS, LINE_WORDS, column_index},
    protocol::{
        IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, Kind, icmp_number,
        other_number,
    },
    verdict::{Direction, Verdict},
};

use super::{
    TooLarge,
    addresses::{Family, RuleSets, SetId},
    arena::{Arena, Built},
};
use crate::policy::{Policy, Protocol, Rule};

/// What an address class decides: an entry for each column.
pub(super) type Row = [u32; COLUMNS];

/// The distinct rows so far; a row's index is an address class.
pub(super) struct Rows {
    verdicts: Vec<Verdict>,
    rows: Vec<Row>,
    classes: HashMap<Row, u32>,
    of_set: HashMap<(Family, SetId), u32>,
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
            rows: Vec::new(),
            classes: HashMap::new(),
            of_set: HashMap::new(),
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

    /// The class of addresses covered by exactly the rules of `set`.
    pub(super) fn class_of(
        &mut self,
        policy: &Policy,
        sets: &RuleSets,
        set: SetId,
        arena: &mut Arena,
    ) -> Result<u32, TooLarge> {
        if let Some(&class) = self.of_set.get(&(sets.family, set)) {
            return Ok(class);
        }
        let row = self.row(policy, &sets.rules(set), sets.family, arena)?;
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
        policy: &Policy,
        rules: &[u32],
        family: Family,
        arena: &mut Arena,
    ) -> Result<Row, TooLarge> {
        let mut row = Row::default();
        for direction in Direction::BOTH {
            for kind in Kind::ALL {
                let mut claims = Claims::default();
                for &index in rules {
                    let rule = &policy.rules[index as usize];
                    if rule.direction == direction {
                        claims.add(rule, kind, family, self.verdicts[index as usize]);
                    }
                }
                let steps = claims.into_steps(Verdict::no_match(direction));
                row[column_index(direction, kind as u8)] = arena.ports(&steps, &mut self.built)?;
            }
        }
        Ok(row)
    }
}

/// Ranges of a kind's numbers that rules claim, in the order of the rules.
#[derive(Default)]
struct Claims {
    /// First number, last number, verdict; the index is the priority.
    ranges: Vec<(u16, u16, Verdict)>,
}

impl Claims {
    fn add(&mut self, rule: &Rule, kind: Kind, family: Family, verdict: Verdict) {
        let mut claim = |first, last| self.ranges.push((first, last, verdict));
        let number = match rule.protocol {
            Protocol::All => return claim(0, u16::MAX),
            Protocol::Number(n) => n,
        };
        let icmp = match family {
            Family::V4 => IPPROTO_ICMP,
            Family::V6 => IPPROTO_ICMPV6,
        };
        let is_kind = match kind {
            Kind::Tcp => number == IPPROTO_TCP,
            Kind::Udp => number == IPPROTO_UDP,
            Kind::Sctp => number == IPPROTO_SCTP,
            Kind::Icmp => number == icmp,
            Kind::Other => {
                !matches!(number, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP) && number != icmp
            }
        };
        if !is_kind {
            return;
        }
        match kind {
            Kind::Other => claim(other_number(number), other_number(number) | 0xff),
            Kind::Icmp => match rule.icmp {
                None => claim(0, u16::MAX),
                Some(m) => match m.code {
                    None => claim(icmp_number(m.kind, 0), icmp_number(m.kind, u8::MAX)),
                    Some(code) => claim(icmp_number(m.kind, code), icmp_number(m.kind, code)),
                },
            },
            _ => match &rule.ports {
                None => claim(0, u16::MAX),
                Some(ranges) => ranges.iter().for_each(|&(a, b)| claim(a, b)),
            },
        }
    }

    /// The function that gives each number the verdict of the first claim on it.
    fn into_steps(self, default: Verdict) -> Vec<(u32, u32)> {
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
