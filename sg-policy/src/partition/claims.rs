//! The numbers that each rule claims: its ports, ICMP messages or protocols, as ranges.

use sg_common::{
    protocol::{Kind, icmp_number, kind_of, other_number},
    verdict::Direction,
};

use super::class::Family;
use super::decisions::service;
use crate::policy::{Protocol, Rule};

/// A range of numbers that a rule matches, whatever the address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// See [`service`].
    pub(super) service: u8,
    pub(super) first: u16,
    /// Inclusive.
    pub(super) last: u16,
}

impl Claim {
    /// The direction and kind of its packets.
    pub(super) fn service(self) -> (Direction, Kind) {
        let (direction, kind) = (
            self.service / Kind::ALL.len() as u8,
            self.service % Kind::ALL.len() as u8,
        );
        (
            Direction::BOTH[usize::from(direction)],
            Kind::ALL[usize::from(kind)],
        )
    }
}

/// What every rule of a list claims in one family, in one list, because each class goes through it.
pub(super) struct Claims {
    claims: Vec<Claim>,
    /// Where the claims of each rule end.
    ends: Vec<u32>,
}

impl Claims {
    pub(super) fn new<'p>(rules: impl IntoIterator<Item = &'p Rule>, family: Family) -> Self {
        let mut claims = Vec::new();
        let mut ends = Vec::new();
        for rule in rules {
            match rule.protocol {
                Protocol::All => {
                    let all = Kind::ALL.map(|kind| claim(rule.direction, kind, 0, u16::MAX));
                    claims.extend(all);
                }
                Protocol::Number(number) => {
                    let kind = kind_of(number, family == Family::V6);
                    each_range(rule, number, kind, |first, last| {
                        claims.push(claim(rule.direction, kind, first, last));
                    });
                }
            }
            ends.push(claims.len() as u32);
        }
        Claims { claims, ends }
    }

    /// The claims of the rule with this index in the list.
    pub(super) fn of(&self, rule: u32) -> &[Claim] {
        let first = match rule {
            0 => 0,
            _ => self.ends[rule as usize - 1],
        };
        &self.claims[first as usize..self.ends[rule as usize] as usize]
    }
}

fn claim(direction: Direction, kind: Kind, first: u16, last: u16) -> Claim {
    Claim {
        service: service(direction, kind) as u8,
        first,
        last,
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
