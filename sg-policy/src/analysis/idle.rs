//! Rules that do nothing: those that never match, because the rules before them take all their
//! packets, and those that change nothing, because without them the rest of the policy does the
//! same.
//!
//! *Changes nothing* is said of a rule that decides packets, where all of these would have the same
//! verdict if this one rule were removed, and would be logged as now. It is said of each rule
//! alone: of two rules that do the same, each may be dispensable and not both. A rule that logs
//! what is not logged without it, or keeps from the log what would be logged, changes something.
//! Counters are not looked at: without the rule its packets are counted elsewhere.
//!
//! A rule that no packet at all matches, because its sets are empty, is neither.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use crate::oracle::Packet;
use crate::partition::{AddressRange, Beside, Family, PairCell, Pairs, places};
use crate::policy::{Cover, Policy, Protocol, Rule};

use super::effects::Effects;
use super::witness::{choose, may_be_essential};

/// A rule that does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// The rule, as an index into [`Policy::rules`].
    pub rule: u32,
    /// Why it does nothing.
    pub why: Why,
    /// A packet that shows it. The rule matches it; the first of the rules that [`Why`] names
    /// decides it, of a rule that changes nothing after its removal.
    pub witness: Packet,
}

/// Why a rule does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It decides no packet.
    NeverMatches {
        /// What decides the packets that it matches: one rule, where one covers it alone, or those
        /// that cover it together, ascending.
        covered_by: Vec<u32>,
    },
    /// The packets that it decides would be decided alike without it.
    ChangesNothing {
        /// What would decide them, ascending; `None` first, where no rule would match.
        instead: Vec<Option<u32>>,
    },
}

/// What is known of a rule so far.
#[derive(Clone, Default)]
struct Known {
    /// It decides a packet.
    decides: bool,
    /// A packet is decided differently for it.
    matters: bool,
    /// Who decides its packets instead. Not kept of rules that matter.
    others: Others,
    witnesses: Vec<(Option<u32>, Packet)>,
}

impl Known {
    /// Notes that `other` decides, or would decide, the packets of a cell, whose addresses are
    /// those of a class with some at `place`.
    fn note(&mut self, other: Option<u32>, place: &AddressRange, cell: &PairCell) {
        if self.others.add(other) {
            // The lowest number of all is named first, and a packet that only it decides shows it.
            let numbers = (cell.first, cell.last);
            let found = choose(cell.direction, place.example(), cell.kind, numbers);
            self.witnesses.extend(found.map(|packet| (other, packet)));
        }
    }

    /// A packet for which `other` stands, or if that can be one that only rules decide.
    fn witness(&self, is_named: impl Fn(Option<u32>) -> bool) -> Option<Packet> {
        let named = || self.witnesses.iter().filter(|(other, _)| is_named(*other));
        let best = named().find(|(_, packet)| !may_be_essential(packet));
        best.or_else(|| named().next()).map(|(_, packet)| *packet)
    }
}

/// A set of rules that is asked for the same ones again and again.
#[derive(Clone, Default)]
struct Others {
    last: Option<Option<u32>>,
    all: BTreeSet<Option<u32>>,
}

impl Others {
    /// Whether it is a new one.
    fn add(&mut self, other: Option<u32>) -> bool {
        self.last.replace(other) != Some(other) && self.all.insert(other)
    }
}

/// All rules of `policy` that do nothing, in their order.
///
/// ```
/// use sg_policy::analysis::{Why, idle};
/// use sg_policy::policy::load_text;
///
/// let text = "
/// inbound:
///   - {protocol: tcp, ports: 22, from: 192.0.2.0/25, action: accept}
///   - {protocol: tcp, ports: 22, from: 192.0.2.128/25, action: accept}
///   - {protocol: tcp, ports: 22, from: 192.0.2.0/24, action: drop}
///   - {protocol: udp, from: any, action: drop}
/// ";
/// let policy = load_text("policy.yaml", text, None, &[]).unwrap().policy;
/// let found = idle(&policy);
/// assert_eq!((found[0].rule, found[1].rule), (2, 3));
/// assert_eq!(found[0].why, Why::NeverMatches { covered_by: vec![0, 1] });
/// assert_eq!(found[1].why, Why::ChangesNothing { instead: vec![None] });
/// ```
pub fn idle(policy: &Policy) -> Vec<Idle> {
    let mut known = vec![Known::default(); policy.rules.len()];
    decided(policy, &mut known);
    let dead: Vec<u32> = (0..)
        .zip(policy.rules.iter().zip(&known))
        .filter(|(_, (rule, known))| !known.decides && has_addresses(rule))
        .map(|(index, _)| index)
        .collect();
    if !dead.is_empty() {
        Beside::new(policy, &dead).each_decided(|rule, place, cell| {
            known[rule as usize].note(cell.rules[0], &place, &cell);
        });
    }
    let mut covers = Covers::default();
    let all = (0..).zip(&known);
    all.filter_map(|(rule, known)| {
        let others = known.others.all.iter();
        let (why, witness) = match (known.decides, known.matters) {
            (true, true) => return None,
            (true, false) => {
                let instead: Vec<Option<u32>> = others.copied().collect();
                let first = *instead.first()?;
                let witness = known.witness(|other| other == first)?;
                (Why::ChangesNothing { instead }, witness)
            }
            (false, _) => {
                let mut covered_by: Vec<u32> = others.copied().flatten().collect();
                let alone = covered_by
                    .iter()
                    .find(|by| covers.covers(policy, **by, rule));
                if let Some(alone) = alone.copied() {
                    covered_by = vec![alone];
                }
                let first = *covered_by.first()?;
                let witness = known.witness(|other| other == Some(first))?;
                (Why::NeverMatches { covered_by }, witness)
            }
        };
        Some(Idle { rule, why, witness })
    })
    .collect()
}

fn has_addresses(rule: &Rule) -> bool {
    !(rule.remote.v4.is_empty() && rule.remote.v6.is_empty())
}

/// Finds which rules decide something, and for which of those that matters.
fn decided(policy: &Policy, known: &mut [Known]) {
    let effects = Effects::of(policy);
    let pairs = Pairs::first_two(policy);
    for family in Family::BOTH {
        let places = places(pairs.ranges(family));
        pairs.each_class(family, |class, steps| {
            let Some(Some(place)) = places.get(class.index()) else {
                return;
            };
            for cell in steps.cells(family) {
                let [first, second] = cell.rules;
                let Some(first) = first else { continue };
                let Some(rule) = known.get_mut(first as usize) else {
                    continue;
                };
                rule.decides = true;
                if rule.matters {
                    continue;
                }
                let effect = |rule| effects.rule(cell.direction, rule);
                match effect(Some(first)) == effect(second) {
                    true => rule.note(second, place, &cell),
                    false => {
                        *rule = Known {
                            decides: true,
                            matters: true,
                            ..Known::default()
                        }
                    }
                }
            }
        });
    }
}

/// Whether one rule covers another alone. Address lists are compared once.
#[derive(Default)]
struct Covers {
    lists: HashMap<usize, Rc<Cover>>,
    compared: HashMap<(usize, usize), bool>,
}

impl Covers {
    /// Whether rule `by` matches every packet that `rule` matches. Both are of one direction.
    fn covers(&mut self, policy: &Policy, by: u32, rule: u32) -> bool {
        let rules = policy
            .rules
            .get(by as usize)
            .zip(policy.rules.get(rule as usize));
        rules.is_some_and(|(by, rule)| matches_all(by, rule) && self.has_addresses(by, rule))
    }

    fn has_addresses(&mut self, by: &Rule, rule: &Rule) -> bool {
        let [outer, inner] = [by, rule].map(|rule| Arc::as_ptr(&rule.remote) as usize);
        if outer == inner {
            return true;
        }
        if let Some(known) = self.compared.get(&(outer, inner)) {
            return *known;
        }
        let mut list = |pointer, rule: &Rule| {
            let list = self.lists.entry(pointer);
            list.or_insert_with(|| Rc::new(Cover::of(&rule.remote)))
                .clone()
        };
        let covers = list(outer, by).covers(&list(inner, rule));
        self.compared.insert((outer, inner), covers);
        covers
    }
}

/// Whether `by` has every protocol, port and ICMP message of `rule`.
fn matches_all(by: &Rule, rule: &Rule) -> bool {
    if by.protocol == Protocol::All {
        return true;
    }
    let has_ports = |ports: &[(u16, u16)]| match &by.ports {
        None => true,
        Some(theirs) => ports.iter().all(|(first, last)| {
            let mut around = theirs
                .iter()
                .filter(|(from, to)| from <= first && last <= to);
            around.next().is_some()
        }),
    };
    let has_icmp = match (by.icmp, rule.icmp) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(by), Some(rule)) => {
            by.kind == rule.kind && (by.code.is_none() || by.code == rule.code)
        }
    };
    let all = [(0, u16::MAX)];
    by.protocol == rule.protocol && has_icmp && has_ports(rule.ports.as_deref().unwrap_or(&all))
}
