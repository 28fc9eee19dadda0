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

/// What `apply` did.
#[derive(Clone, Debug)]
pub struct Applied {
    pub outcome: Outcome,
    pub state: State,
    pub sizes: TableSizes,
    /// What became of flows that were there; `None` unless this was a first attachment that asked.
    pub seeded: Option<Seeded>,
    /// How many TCP connections were cut; `None` unless this was a first attachment that asked
    /// for it.
    pub cut: Option<Cut>,
    /// The interface had no clsact qdisc, and has got one.
    pub added_clsact: bool,
    pub compile_time: Duration,
    pub load_time: Duration,
    /// Where the BPF file system was mounted, if that was necessary.
    pub mounted: Option<PathBuf>,
}

impl Applied {
    /// No policy was in force before.
    pub fn is_first(&self) -> bool {
        self.outcome == Outcome::Attached
    }
}
