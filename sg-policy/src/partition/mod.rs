//! Rules → partition: which rule decides which packet, for every packet there can be. Exact, and
//! without any memory layout; tables are made of it.
//!
//! Rules look at four things of a packet: its direction, the remote address, the kind of protocol,
//! and one 16-bit number, which is a port, an ICMP type and code, or a protocol ([`Kind`] says
//! which). A partition cuts the addresses of each family into *classes*, and for each class,
//! direction and kind the numbers into steps. One rule decides all packets of a step, the first
//! that matches them, or none does.
//!
//! Each prefix that a rule names carries the address lists that cover it, its own and those of the
//! prefixes around it. Equal sets of lists are one class: a list of a million addresses that one
//! rule names adds one class. A longer prefix changes nothing about the order of the rules, since
//! what is kept for it is all rules that cover it, and not one of them.
//!
//! Classes and addresses are stored. The steps of a class are found when they are asked for, since
//! there can be as many as rules for each of as many classes.

mod candidate;
mod cell;
mod claims;
mod class;
mod coverage;
mod decisions;
mod first_match;
mod first_two;
mod pair_steps;
mod pairs;
mod ranges;
mod space;
mod steps;
mod verdicts;

use std::net::IpAddr;

use sg_common::{protocol::Kind, verdict::Direction};

use crate::policy::Policy;
pub(crate) use crate::policy::Prefix;
use cell::ranges;
use claims::Claims;
use coverage::{Coverage, Layer, Matches};
use first_match::FirstMatch;

pub use candidate::{Candidate, PAIRS, Pair, TooManyPairs};
pub use cell::{AddressRange, Cell};
pub(crate) use cell::{example_of, is_of_a_host, places};
pub use class::{Class, Family};
pub use decisions::{Decisions, Step};
pub use pair_steps::{PairCell, PairStep, PairSteps};
pub(crate) use pairs::Beside;
pub use pairs::Pairs;
pub(crate) use space::{Address, Space, steps_of};
pub(crate) use steps::set;
pub use verdicts::Verdicts;

/// The packets that there can be, cut by the rules of a policy.
///
/// ```
/// use sg_common::{protocol::Kind, verdict::Direction};
/// use sg_policy::{partition::Partition, policy::load_text};
///
/// let text = "
/// inbound:
///   - {protocol: tcp, ports: 22, from: 192.0.2.7, action: drop}
///   - {protocol: tcp, ports: 20-30, from: 192.0.2.0/24, action: accept}
/// ";
/// let policy = load_text("policy.yaml", text, None, &[]).unwrap().policy;
/// let partition = Partition::new(&policy);
///
/// // The address, the network around it, all other addresses of IPv4; and IPv6.
/// assert_eq!(partition.classes().count(), 3 + 1);
/// let class = partition.class_of("192.0.2.7".parse().unwrap());
/// let rule = |port| partition.rule(class, Direction::Inbound, Kind::Tcp, port);
/// assert_eq!(rule(22), Some(0));
/// assert_eq!(rule(23), Some(1));
/// assert_eq!(rule(31), None);
///
/// // Rule 1 decides two ranges of ports of that address, and one of the network.
/// let cells = partition.cells().filter(|cell| cell.rule == Some(1));
/// let ports: Vec<_> = cells.map(|cell| cell.numbers).collect();
/// assert_eq!(ports, [20..=30, 20..=21, 23..=30]);
/// ```
pub struct Partition {
    coverage: Coverage,
    v4: Space<u32>,
    v6: Space<u128>,
    /// By family.
    claims: [Claims; 2],
}

impl Partition {
    /// Cuts the packets that there can be by the rules of `policy`. Rules are known by their index
    /// in [`Policy::rules`] from then on.
    pub fn new(policy: &Policy) -> Self {
        let mut coverage = Coverage::new(&[Layer::of(policy, Matches::First)]);
        Partition {
            v4: Space::new(&mut coverage),
            v6: Space::new(&mut coverage),
            claims: Family::BOTH.map(|family| Claims::new(&policy.rules, family)),
            coverage,
        }
    }

    /// All classes, those of IPv4 first. Of one whose prefix is divided among longer ones no
    /// address may be left.
    pub fn classes(&self) -> impl Iterator<Item = Class> {
        Family::BOTH.into_iter().flat_map(|family| {
            let count = match family {
                Family::V4 => self.v4.classes(),
                Family::V6 => self.v6.classes(),
            };
            (0..count).map(move |index| Class { family, index })
        })
    }

    /// The class of a remote address. Takes a binary search among the prefixes that rules name.
    pub fn class_of(&self, remote: IpAddr) -> Class {
        let index = match remote {
            IpAddr::V4(address) => self.v4.class_of(address.into()),
            IpAddr::V6(address) => self.v6.class_of(address.into()),
        };
        Class {
            family: Family::of(remote),
            index,
        }
    }

    /// The rule that decides packets of one direction, kind and number from or to addresses of
    /// `class`, as an index into [`Policy::rules`]; `None` if no rule matches them. Looks at the
    /// rules that cover the class one by one.
    pub fn rule(&self, class: Class, direction: Direction, kind: Kind, number: u16) -> Option<u32> {
        let service = decisions::service(direction, kind) as u8;
        let claims = &self.claims[class.family as usize];
        self.rules(class).into_iter().find(|rule| {
            claims.of(*rule).iter().any(|claim| {
                claim.service == service && (claim.first..=claim.last).contains(&number)
            })
        })
    }

    /// Everything that a class decides.
    pub fn decisions(&self, class: Class) -> Decisions {
        let claims = &self.claims[class.family as usize];
        FirstMatch::default().decide(&self.rules(class), claims)
    }

    /// The rules that cover a class, as far as a rule before them does not match every packet.
    fn rules(&self, class: Class) -> Vec<u32> {
        self.coverage.rules(match class.family {
            Family::V4 => self.v4.set(class.index),
            Family::V6 => self.v6.set(class.index),
        })
    }

    /// What the classes of one family decide, in the order of the classes.
    pub(crate) fn all_decisions(&self, family: Family) -> impl Iterator<Item = Decisions> {
        let claims = &self.claims[family as usize];
        let mut first_match = FirstMatch::default();
        self.classes()
            .filter(move |class| class.family == family)
            .map(move |class| first_match.decide(&self.rules(class), claims))
    }

    /// The IPv4 addresses.
    pub(crate) fn v4(&self) -> &Space<u32> {
        &self.v4
    }

    /// The IPv6 addresses.
    pub(crate) fn v6(&self) -> &Space<u128> {
        &self.v6
    }

    /// All addresses of one family with their classes, from the lowest on. Neighbouring ranges
    /// have different classes.
    pub fn ranges(&self, family: Family) -> impl Iterator<Item = AddressRange> {
        ranges(family, &self.v4, &self.v6)
    }

    /// All cells: classes of IPv4 first, for each of them inbound before outbound, and there the
    /// kinds and their numbers in order. What no packet has is left out: classes of which no
    /// address is left, and numbers that are looked up under another kind.
    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        Family::BOTH.into_iter().flat_map(|family| {
            let mut lowest: Vec<Option<IpAddr>> = Vec::new();
            for range in self.ranges(family) {
                let index = range.class.index as usize;
                lowest.resize(lowest.len().max(index + 1), None);
                lowest[index].get_or_insert(range.first);
            }
            let classes = (0..).zip(self.all_decisions(family)).zip(lowest);
            classes.flat_map(move |((index, decisions), lowest)| {
                let class = Class { family, index };
                let cells = lowest.map(|remote| cells(class, remote, &decisions));
                cells.into_iter().flatten()
            })
        })
    }
}

/// The cells of one class, of which `remote` is an address.
fn cells(class: Class, remote: IpAddr, decisions: &Decisions) -> Vec<Cell> {
    let mut cells = Vec::new();
    for direction in Direction::BOTH {
        for kind in Kind::ALL {
            let steps = decisions.steps(direction, kind);
            let lasts = steps.iter().skip(1).map(|step| step.first - 1);
            for (step, last) in steps.iter().zip(lasts.chain([u16::MAX])) {
                let numbers = step.first..=last;
                if cell::is_possible(class.family, kind, &numbers) {
                    cells.push(Cell {
                        class,
                        remote,
                        direction,
                        kind,
                        numbers,
                        rule: step.rule,
                    });
                }
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests;
