//! What a rule's number becomes in the packet path.

use sg_common::verdict::{Action, Direction, Verdict};

use super::candidate::Pair;
use crate::policy::Policy;

/// The verdict of each rule of a policy, and of packets that no rule matches.
#[derive(Clone, Debug)]
pub struct Verdicts {
    /// Behind those of rules are those of pairs.
    rules: Vec<Verdict>,
    /// By direction.
    no_match: [Verdict; 2],
    audits: bool,
}

impl Verdicts {
    /// The verdicts of `policy`, whose rule `i` is counted in counter slot `slots[i]`. Rules may
    /// share a slot: those of the same identity do.
    ///
    /// # Panics
    /// If there is not one slot for each rule.
    pub fn new(policy: &Policy, slots: &[u32]) -> Self {
        assert_eq!(policy.rules.len(), slots.len(), "one slot for each rule");
        let rules = policy.rules.iter().zip(slots);
        Verdicts {
            rules: rules
                .map(|(rule, &slot)| Verdict::new(rule.action, slot, rule.log))
                .collect(),
            no_match: Direction::BOTH.map(|direction| match policy.no_match() {
                Action::Audit => Verdict::no_match_audited(direction),
                _ => Verdict::no_match(direction).logged(policy.log_no_match[direction as usize]),
            }),
            audits: policy.audits(),
        }
    }

    /// The verdicts of `policy` with a candidate beside it: those of [`Verdicts::new`], and the
    /// same for packets that a pair of rules decides, but counted in the pair's slot. Pair `i`
    /// is counted in counter slot `pair_slots[i]`.
    ///
    /// # Panics
    /// If there is not one slot for each rule and each pair.
    pub fn beside(policy: &Policy, slots: &[u32], pairs: &[Pair], pair_slots: &[u32]) -> Self {
        assert_eq!(pairs.len(), pair_slots.len(), "one slot for each pair");
        let mut verdicts = Verdicts::new(policy, slots);
        let of_pairs = pairs.iter().zip(pair_slots).map(|(pair, &slot)| {
            let enforced = verdicts.of(pair.direction, pair.enforced);
            Verdict(enforced.0 & !Verdict::SLOT_MASK | slot & Verdict::SLOT_MASK)
        });
        let of_pairs: Vec<Verdict> = of_pairs.collect();
        verdicts.rules.extend(of_pairs);
        verdicts
    }

    /// These verdicts, with an event for each packet that a pair decides.
    #[must_use]
    pub fn logging_pairs(mut self, policy: &Policy) -> Self {
        let pairs = self.rules.iter_mut().skip(policy.rules.len());
        pairs.for_each(|verdict| *verdict = verdict.logged(true));
        self
    }

    /// Whether some verdict lets pass what would be dropped (SPEC C9).
    pub fn audits(&self) -> bool {
        self.audits
    }

    /// The verdict of a packet in `direction` that `rule`, an index into the policy's rules,
    /// decides, or that no rule matches. A number that no rule has is no match.
    pub fn of(&self, direction: Direction, rule: Option<u32>) -> Verdict {
        rule.and_then(|rule| self.rules.get(rule as usize))
            .copied()
            .unwrap_or(self.no_match[direction as usize])
    }
}
