//! What a rule does to a packet.

use sg_common::verdict::{Direction, Verdict};

use crate::partition::Verdicts;
use crate::policy::Policy;

/// What each rule of a policy does to a packet, apart from counting it.
pub(super) struct Effects(Verdicts);

impl Effects {
    pub(super) fn of(policy: &Policy) -> Self {
        Effects(Verdicts::new(policy, &vec![0; policy.rules.len()]))
    }

    /// The verdict without its counter slot: whether the packet passes, and whether it is logged.
    pub(super) fn rule(&self, direction: Direction, rule: Option<u32>) -> Verdict {
        Verdict(self.0.of(direction, rule).0 & !Verdict::SLOT_MASK)
    }
}
