//! The steps of numbers that have a pair of rules, and the cells that they make.

use sg_common::{protocol::Kind, verdict::Direction};

use super::cell::is_possible;
use super::class::Family;
use super::decisions::{Decisions, SERVICES, Step, service};

/// From this number on, up to the next step's or 65535, one pair of rules decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairStep {
    /// The lowest number, of the meaning that [`Kind`] gives it.
    pub first: u16,
    /// The rules, as indices into the policies' rules; `None` where no rule matches.
    pub rules: [Option<u32>; 2],
}

/// The pairs of all packets from and to one class of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PairSteps {
    pub(super) steps: [Vec<PairStep>; SERVICES],
}

/// Packets that one pair of rules decides: those of one direction and kind of protocol, with the
/// numbers from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairCell {
    /// Where the packets go.
    pub direction: Direction,
    /// What the numbers mean.
    pub kind: Kind,
    /// The lowest number.
    pub first: u16,
    /// The highest.
    pub last: u16,
    /// See [`PairStep::rules`].
    pub rules: [Option<u32>; 2],
}

impl PairSteps {
    /// The steps of one direction and kind: sorted by number, the first at 0, and of two
    /// neighbours never the same pair.
    pub fn steps(&self, direction: Direction, kind: Kind) -> &[PairStep] {
        &self.steps[service(direction, kind)]
    }

    /// All cells of a class of `family` that packets can be in.
    pub fn cells(&self, family: Family) -> impl Iterator<Item = PairCell> {
        let services = Direction::BOTH
            .into_iter()
            .flat_map(|direction| Kind::ALL.map(|kind| (direction, kind)));
        services.flat_map(move |(direction, kind)| {
            let steps = self.steps(direction, kind);
            let lasts = steps.iter().skip(1).map(|step| step.first - 1);
            let cells = steps.iter().zip(lasts.chain([u16::MAX]));
            cells
                .filter(move |(step, last)| is_possible(family, kind, &(step.first..=*last)))
                .map(move |(step, last)| PairCell {
                    direction,
                    kind,
                    first: step.first,
                    last,
                    rules: step.rules,
                })
        })
    }

    /// Both decisions of every number.
    pub(super) fn of(first: &Decisions, second: &Decisions) -> Self {
        let mut pairs = PairSteps::default();
        for (to, (a, b)) in pairs
            .steps
            .iter_mut()
            .zip(first.steps.iter().zip(&second.steps))
        {
            *to = zip(a, b);
        }
        pairs
    }
}

fn zip(mut a: &[Step], mut b: &[Step]) -> Vec<PairStep> {
    let mut steps = Vec::with_capacity(a.len().max(b.len()));
    let mut rules = [None; 2];
    loop {
        // A list that has no step left has none at a lower number.
        let [next_a, next_b] = [a, b].map(|s| s.first().map_or(1 << 16, |s| u32::from(s.first)));
        let next = next_a.min(next_b);
        if next >= 1 << 16 {
            return steps;
        }
        if next_a == next
            && let [step, rest @ ..] = a
        {
            (rules[0], a) = (step.rule, rest);
        }
        if next_b == next
            && let [step, rest @ ..] = b
        {
            (rules[1], b) = (step.rule, rest);
        }
        let first = next as u16;
        push(&mut steps, PairStep { first, rules });
    }
}

/// Appends a step, unless the one before it goes on.
pub(super) fn push(steps: &mut Vec<PairStep>, step: PairStep) {
    if steps.last().is_none_or(|last| last.rules != step.rules) {
        steps.push(step);
    }
}
