//! What a class of addresses decides: for each direction and kind of protocol, which rule is the
//! first that matches a number.

use sg_common::{protocol::Kind, verdict::Direction};

/// How many lists of steps a class has: one for each direction and kind.
pub(super) const SERVICES: usize = 2 * Kind::ALL.len();

/// The place of a direction's and kind's list among them.
pub(super) const fn service(direction: Direction, kind: Kind) -> usize {
    direction as usize * Kind::ALL.len() + kind as usize
}

/// From this number on, up to the next step's or 65535, one rule decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The lowest number, of the meaning that [`Kind`] gives it: a destination port, an ICMP type
    /// and code, or a protocol.
    pub first: u16,
    /// The rule, as an index into [`Policy::rules`](crate::policy::Policy::rules); `None` where no
    /// rule matches.
    pub rule: Option<u32>,
}

/// Which rule decides a packet, for all packets from and to one class of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decisions {
    pub(super) steps: [Vec<Step>; SERVICES],
}

impl Decisions {
    /// The steps of one direction and kind: sorted by number, the first at 0, and of two
    /// neighbours never the same rule.
    pub fn steps(&self, direction: Direction, kind: Kind) -> &[Step] {
        &self.steps[service(direction, kind)]
    }

    /// The rule that decides one number; see [`Step::rule`].
    pub fn rule(&self, direction: Direction, kind: Kind, number: u16) -> Option<u32> {
        let steps = self.steps(direction, kind);
        let after = steps.partition_point(|step| step.first <= number);
        steps.get(after.checked_sub(1)?)?.rule
    }
}
