//! What became of a policy that was to be applied.

use std::path::PathBuf;
use std::time::Duration;

use super::seed::{Cut, Seeded};
use super::state::State;
use sg_policy::compile::TableSizes;

/// What became of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none before.
    Attached,
    /// In place of another one, or of the same one where something was wrong with the attachment.
    Replaced,
    /// The very same is in force, so that nothing was done.
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
    /// Set when the BPF file system had to be mounted.
    pub mounted: Option<PathBuf>,
}

impl Applied {
    /// No policy was in force before.
    pub fn is_first(&self) -> bool {
        self.outcome == Outcome::Attached
    }
}
