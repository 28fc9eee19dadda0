//! A candidate beside the policy that is enforced: both in one partition, whose cells are decided
//! by the enforced policy. Where the candidate would decide otherwise, the cell belongs to the pair
//! of rules instead of to the rule, so that it is counted apart.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use sg_common::{protocol::Kind, verdict::Action, verdict::Direction};

use super::cell::places;
use super::class::Family;
use super::decisions::{Decisions, Step, service};
use super::pair_steps::PairSteps;
use super::pairs::Pairs;
use super::space::Space;
use crate::policy::Policy;

/// Two rules by which some packet has another outcome: it passes by the one, and is dropped by the
/// other. What is only watched (`audit`) passes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pair {
    /// Where the packets go.
    pub direction: Direction,
    /// What decides them, as an index into the enforced policy's rules; `None` if no rule matches,
    /// which drops.
    pub enforced: Option<u32>,
    /// What the candidate would decide them by, as an index into its rules.
    pub candidate: Option<u32>,
}

/// The most pairs that are told apart: each takes a counter slot, of 32 bytes for each CPU.
pub const PAIRS: usize = 1 << 14;

/// More pairs of rules decide differently than are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyPairs;

impl fmt::Display for TooManyPairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the candidate differs from the enforced policy by more than {PAIRS} pairs of rules, \
             and each pair takes a counter"
        )
    }
}

impl std::error::Error for TooManyPairs {}

/// The packets that there can be, cut by the rules of the enforced policy and of a candidate.
///
/// ```
/// use sg_common::verdict::Direction;
/// use sg_policy::partition::{Candidate, Pair};
/// use sg_policy::policy::load_text;
///
/// let policy = |ports| {
///     let text = format!("inbound: [{{protocol: tcp, ports: {ports}, from: any, action: accept}}]");
///     load_text("policy.yaml", &text, None, &[]).unwrap().policy
/// };
/// let found = Candidate::new(&policy("[22, 80]"), &policy("80-81")).unwrap();
/// let direction = Direction::Inbound;
/// assert_eq!(found.pairs(), [
///     Pair { direction, enforced: None, candidate: Some(0) },
///     Pair { direction, enforced: Some(0), candidate: None },
/// ]);
/// ```
pub struct Candidate {
    cells: Pairs,
    /// Ascending.
    pairs: Vec<Pair>,
    numbers: HashMap<Pair, u32>,
    /// What each rule does, of the enforced policy and of the candidate.
    actions: [Vec<Action>; 2],
    /// What becomes of packets that no rule matches, under the enforced policy and under the
    /// candidate.
    no_match: [Action; 2],
}

impl Candidate {
    /// Compares the policies.
    ///
    /// # Errors
    /// [`TooManyPairs`] if more than [`PAIRS`] pairs of rules decide differently.
    pub fn new(enforced: &Policy, candidate: &Policy) -> Result<Self, TooManyPairs> {
        let actions = [enforced, candidate]
            .map(|policy| policy.rules.iter().map(|rule| rule.action).collect());
        let mut found = Candidate {
            cells: Pairs::of_policies(enforced, candidate),
            pairs: Vec::new(),
            numbers: HashMap::new(),
            actions,
            no_match: [enforced.no_match(), candidate.no_match()],
        };
        let mut pairs: BTreeSet<Pair> = BTreeSet::new();
        for family in Family::BOTH {
            let places = places(found.cells.ranges(family));
            for (class, steps) in found.cells.all(family) {
                if places.get(class.index()).is_none_or(Option::is_none) {
                    continue;
                }
                let cells = steps.cells(family);
                let differing = cells.filter_map(|cell| found.pair(cell.direction, cell.rules));
                pairs.extend(differing);
                if pairs.len() > PAIRS {
                    return Err(TooManyPairs);
                }
            }
        }
        found.pairs = pairs.into_iter().collect();
        found.numbers = found.pairs.iter().copied().zip(0..).collect();
        Ok(found)
    }

    /// The pairs of rules by which some packet has another outcome, ascending.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The two rules as a pair, if the outcome differs.
    fn pair(&self, direction: Direction, [enforced, candidate]: [Option<u32>; 2]) -> Option<Pair> {
        let action = |which: usize, rule: Option<u32>| {
            let action = rule.and_then(|rule| self.actions[which].get(rule as usize));
            action.copied().unwrap_or(self.no_match[which])
        };
        (action(0, enforced).passes() != action(1, candidate).passes()).then_some(Pair {
            direction,
            enforced,
            candidate,
        })
    }

    /// What the classes of one family decide, in the order of the classes: each number by a rule
    /// of the enforced policy, or by a pair, whose numbers are behind those of the rules.
    pub(crate) fn all_decisions(&self, family: Family) -> impl Iterator<Item = Decisions> {
        self.cells
            .all(family)
            .map(|(_, steps)| self.decisions(&steps))
    }

    fn decisions(&self, pairs: &PairSteps) -> Decisions {
        let mut decisions = Decisions::default();
        let rules = self.actions[0].len() as u32;
        for direction in Direction::BOTH {
            for kind in Kind::ALL {
                let mut steps: Vec<Step> = Vec::new();
                for step in pairs.steps(direction, kind) {
                    let pair = self.pair(direction, step.rules);
                    let number = pair.and_then(|pair| self.numbers.get(&pair));
                    let rule = match number {
                        Some(number) => Some(rules + number),
                        // What no packet has may differ and be no pair.
                        None => step.rules[0],
                    };
                    if steps.last().is_none_or(|last| last.rule != rule) {
                        let first = step.first;
                        steps.push(Step { first, rule });
                    }
                }
                decisions.steps[service(direction, kind)] = steps;
            }
        }
        decisions
    }

    /// The IPv4 addresses.
    pub(crate) fn v4(&self) -> &Space<u32> {
        self.cells.v4()
    }

    /// The IPv6 addresses.
    pub(crate) fn v6(&self) -> &Space<u128> {
        self.cells.v6()
    }
}
