//! Partitions whose cells have a pair of rules: what two policies decide, or what one decides and
//! what it would decide without the rule that does.

use super::cell::{AddressRange, is_possible, places, ranges};
use super::claims::Claims;
use super::class::{Class, Family};
use super::coverage::{Coverage, Layer, Matches};
use super::decisions::Step;
use super::first_match::FirstMatch;
use super::first_two::FirstTwo;
use super::pair_steps::{PairCell, PairSteps};
use super::space::Space;
use crate::policy::{Policy, Rule};

/// The packets that there can be, cut so that each cell has one pair of rules.
///
/// ```
/// use sg_common::{protocol::Kind, verdict::Direction};
/// use sg_policy::partition::{Family, Pairs};
/// use sg_policy::policy::load_text;
///
/// let policy = |ports| {
///     let text = format!("inbound: [{{protocol: tcp, ports: {ports}, from: any, action: accept}}]");
///     load_text("policy.yaml", &text, None, &[]).unwrap().policy
/// };
/// let (old, new) = (policy("22-23"), policy("23-24"));
/// let mut ports = Vec::new();
/// Pairs::of_policies(&old, &new).each_class(Family::V4, |_, steps| {
///     let steps = steps.steps(Direction::Inbound, Kind::Tcp);
///     ports.extend(steps.iter().map(|step| (step.first, step.rules)));
/// });
/// let none = [None, None];
/// let both = [Some(0), Some(0)];
/// assert_eq!(ports, [
///     (0, none), (22, [Some(0), None]), (23, both), (24, [None, Some(0)]), (25, none),
/// ]);
/// ```
pub struct Pairs {
    coverage: Coverage,
    v4: Space<u32>,
    v6: Space<u128>,
    source: Source,
}

/// Where the two rules of a pair come from; claims are by family.
enum Source {
    Policies([[Claims; 2]; 2]),
    FirstTwo([Claims; 2]),
}

impl Pairs {
    /// The rules of two policies, each of which is the first that matches in its policy.
    pub fn of_policies(old: &Policy, new: &Policy) -> Self {
        let claims =
            |policy: &Policy| Family::BOTH.map(|family| Claims::new(&policy.rules, family));
        Pairs::new(
            &[
                Layer::of(old, Matches::First),
                Layer::of(new, Matches::First),
            ],
            Source::Policies([claims(old), claims(new)]),
        )
    }

    /// The first two rules of one policy that match: the one that decides, and the one that would
    /// decide if that one were removed.
    pub fn first_two(policy: &Policy) -> Self {
        let claims = Family::BOTH.map(|family| Claims::new(&policy.rules, family));
        let layers = [Layer::of(policy, Matches::FirstTwo)];
        Pairs::new(&layers, Source::FirstTwo(claims))
    }

    fn new(layers: &[Layer<'_>], source: Source) -> Self {
        let mut coverage = Coverage::new(layers);
        Pairs {
            v4: Space::new(&mut coverage),
            v6: Space::new(&mut coverage),
            coverage,
            source,
        }
    }

    /// Visits the classes of one family in their order, with their pairs. Of one whose prefix is
    /// divided among longer ones no address may be left.
    pub fn each_class(&self, family: Family, mut visit: impl FnMut(Class, &PairSteps)) {
        for (class, pairs) in self.all(family) {
            visit(class, &pairs);
        }
    }

    /// The classes of one family in their order, with their pairs.
    pub(super) fn all(&self, family: Family) -> impl Iterator<Item = (Class, PairSteps)> {
        let f = family as usize;
        let mut first_two = FirstTwo::default();
        let mut first_match = FirstMatch::default();
        let begin = self.coverage.second_layer();
        classes(family, &self.coverage, &self.v4, &self.v6).map(move |(class, mut rules)| {
            let pairs = match &self.source {
                Source::FirstTwo(claims) => first_two.decide(&rules, &claims[f]),
                Source::Policies([old, new]) => {
                    let second = rules.partition_point(|rule| *rule < begin);
                    let (ours, theirs) = rules.split_at_mut(second);
                    theirs.iter_mut().for_each(|rule| *rule -= begin);
                    let old = first_match.decide(ours, &old[f]);
                    PairSteps::of(&old, &first_match.decide(theirs, &new[f]))
                }
            };
            (class, pairs)
        })
    }

    /// All addresses of one family with their classes, from the lowest on. Neighbouring ranges
    /// have different classes.
    pub fn ranges(&self, family: Family) -> impl Iterator<Item = AddressRange> {
        ranges(family, &self.v4, &self.v6)
    }

    /// The IPv4 addresses.
    pub(super) fn v4(&self) -> &Space<u32> {
        &self.v4
    }

    /// The IPv6 addresses.
    pub(super) fn v6(&self) -> &Space<u128> {
        &self.v6
    }
}

/// A policy's rules, and beside them for every class some rules, by index into the policy, that
/// match packets there, whichever rules are before them.
pub(crate) struct Beside<'p> {
    coverage: Coverage,
    v4: Space<u32>,
    v6: Space<u128>,
    /// By family: of the policy, and of the rules beside it.
    claims: [[Claims; 2]; 2],
    beside: &'p [u32],
}

impl<'p> Beside<'p> {
    /// `beside` are indices of rules of `policy`, ascending.
    pub(crate) fn new(policy: &Policy, beside: &'p [u32]) -> Self {
        let rules: Vec<&Rule> = beside
            .iter()
            .filter_map(|rule| policy.rules.get(*rule as usize))
            .collect();
        let mut coverage = Coverage::new(&[
            Layer::of(policy, Matches::First),
            Layer::new(rules.iter().copied(), Matches::All),
        ]);
        Beside {
            v4: Space::new(&mut coverage),
            v6: Space::new(&mut coverage),
            coverage,
            claims: Family::BOTH.map(|family| {
                [
                    Claims::new(&policy.rules, family),
                    Claims::new(rules.iter().copied(), family),
                ]
            }),
            beside,
        }
    }

    /// Visits what decides the packets that rules beside the policy match, each time in part of
    /// the packets: which of these rules, of which class, direction, kind and numbers, and the
    /// rule of the policy that decides.
    pub(crate) fn each_decided(&self, mut visit: impl FnMut(u32, AddressRange, PairCell)) {
        for family in Family::BOTH {
            let [of_policy, of_beside] = &self.claims[family as usize];
            let places = places(ranges(family, &self.v4, &self.v6));
            let mut first_match = FirstMatch::default();
            let begin = self.coverage.second_layer();
            for (class, rules) in classes(family, &self.coverage, &self.v4, &self.v6) {
                let second = rules.partition_point(|rule| *rule < begin);
                let (of_class, beside) = rules.split_at(second);
                let Some(Some(place)) = places.get(class.index as usize) else {
                    continue;
                };
                if beside.is_empty() {
                    continue;
                }
                let decisions = first_match.decide(of_class, of_policy);
                for number in beside.iter().map(|rule| rule - begin) {
                    for claim in of_beside.of(number) {
                        let (direction, kind) = claim.service();
                        let numbers = (claim.first, claim.last);
                        for (first, last, decides) in
                            parts(decisions.steps(direction, kind), numbers)
                        {
                            if !is_possible(family, kind, &(first..=last)) {
                                continue;
                            }
                            let rule = self.beside[number as usize];
                            let cell = PairCell {
                                direction,
                                kind,
                                first,
                                last,
                                rules: [decides, Some(rule)],
                            };
                            visit(rule, *place, cell);
                        }
                    }
                }
            }
        }
    }
}

/// The parts of a range of numbers, first and last, that have one step each, with its rule.
fn parts(
    steps: &[Step],
    (first, last): (u16, u16),
) -> impl Iterator<Item = (u16, u16, Option<u32>)> {
    let after = steps.partition_point(|step| step.first <= first);
    let steps = &steps[after.saturating_sub(1)..];
    let within = steps.iter().take_while(move |step| step.first <= last);
    within.enumerate().map(move |(i, step)| {
        let end = steps
            .get(i + 1)
            .map_or(last, |next| last.min(next.first - 1));
        (step.first.max(first), end, step.rule)
    })
}

/// The classes of one family, with the rules of each by number.
fn classes<'a>(
    family: Family,
    coverage: &'a Coverage,
    v4: &'a Space<u32>,
    v6: &'a Space<u128>,
) -> impl Iterator<Item = (Class, Vec<u32>)> + 'a {
    let count = match family {
        Family::V4 => v4.classes(),
        Family::V6 => v6.classes(),
    };
    (0..count).map(move |index| {
        let set = match family {
            Family::V4 => v4.set(index),
            Family::V6 => v6.set(index),
        };
        (Class { family, index }, coverage.rules(set))
    })
}
