//! The result of applying a policy.

use std::path::PathBuf;
use std::time::Duration;

use super::seed::{Cut, Seeded};
use super::state::State;
use sg_policy::compile::TableSizes;

/// What happened to the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was no policy before.
    Attached,
    /// It has replaced another policy, or the same one because its attachment had a fault.
    Replaced,
    /// The same policy was in force, so nothing was done.
    Unchanged,
}

/// What `apply` did to one interface.
#[derive(Clone, Debug)]
pub struct AppliedTo {
    pub outcome: Outcome,
    pub state: State,
    /// The interface had no clsact qdisc, and has got one.
    pub added_clsact: bool,
}

/// What `apply` did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// `Unchanged` where nothing was done, `Replaced` where a policy was in force on some
    /// interface and another generation is now.
    pub outcome: Outcome,
    /// What was done to the interface that was named first.
    pub first: AppliedTo,
    /// And to the others, in the order in which they were named.
    pub others: Vec<AppliedTo>,
    pub sizes: TableSizes,
    /// What became of flows that were there; `None` unless this was a first attachment that asked.
    pub seeded: Option<Seeded>,
    /// How many TCP connections were cut; `None` unless this was a first attachment that asked
    /// for it.
    pub cut: Option<Cut>,
    pub compile_time: Duration,
    pub load_time: Duration,
    /// Where the BPF file system was mounted, if that was necessary.
    pub mounted: Option<PathBuf>,
}

impl AppliedTo {
    pub(super) fn unchanged(state: State) -> AppliedTo {
        AppliedTo {
            outcome: Outcome::Unchanged,
            state,
            added_clsact: false,
        }
    }
}

impl Applied {
    /// A clsact qdisc was added to some interface.
    pub fn has_added_clsact(&self) -> bool {
        self.interfaces().any(|one| one.added_clsact)
    }

    /// What was done to each interface, in the order in which they were named.
    pub fn interfaces(&self) -> impl Iterator<Item = &AppliedTo> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// No policy was in force before.
    pub fn is_first(&self) -> bool {
        self.outcome == Outcome::Attached
    }
}
