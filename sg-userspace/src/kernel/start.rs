//! What an `apply` begins with on an interface: nothing, remains, or a policy to be replaced.

use super::inspect::Inspection;
use super::pins::InterfacePins;
use super::state::State;

/// The state of an interface before the policy.
pub(super) enum Start {
    /// No policy is in force.
    First,
    /// There are remains of an attempt that was killed, or of an interface that is gone. They are
    /// removed first.
    Leftovers(Box<Inspection>),
    /// There is a policy to be replaced, or a part of one.
    Replace(Box<Replaced>),
}

/// The policy to be replaced.
pub(super) struct Replaced {
    pub(super) state: State,
    pub(super) inspection: Inspection,
    /// Where its pins are, if they have to be moved, because the interface was moved to another
    /// network namespace or created anew.
    pub(super) moved_from: Option<InterfacePins>,
}

impl Start {
    pub(super) fn inspection(&self) -> Option<&Inspection> {
        match self {
            Start::First => None,
            Start::Leftovers(inspection) => Some(inspection),
            Start::Replace(replaced) => Some(&replaced.inspection),
        }
    }

    pub(super) fn replaced(&self) -> Option<&Replaced> {
        match self {
            Start::Replace(replaced) => Some(replaced),
            Start::First | Start::Leftovers(_) => None,
        }
    }
}
