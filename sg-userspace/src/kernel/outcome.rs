//! The results of applying a policy, and of its trial.

use std::path::PathBuf;
use std::time::Duration;

use super::seed::{Cut, Seeded};
use super::self_check::SelfCheck;
use super::state::{CandidateRecord, PolicyRecord, State};
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
    /// Whether the interface had no clsact qdisc and has got one.
    pub added_clsact: bool,
}

/// What `apply` did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// `Unchanged` if nothing was done. `Replaced` if there was a policy on some interface, and
    /// another generation is in force now.
    pub outcome: Outcome,
    /// The policy that was replaced. `None` if there was none, or nothing was done.
    pub replaced: Option<PolicyRecord>,
    /// Whether that one waited to be confirmed.
    pub has_ended_trial: bool,
    /// What was done to the first interface.
    pub first: AppliedTo,
    /// What was done to the others, in the order of the options.
    pub others: Vec<AppliedTo>,
    pub sizes: TableSizes,
    /// What was done with existing flows. `None` unless it was a first attachment that keeps them.
    pub seeded: Option<Seeded>,
    /// How many TCP connections were cut. `None` unless it was a first attachment that cuts them.
    pub cut: Option<Cut>,
    /// The candidate that was beside the policy before, if it had to be given up.
    pub ended_candidate: Option<EndedCandidate>,
    /// What the self-check has tried. `None` without one.
    pub self_check: Option<SelfCheck>,
    pub compile_time: Duration,
    pub load_time: Duration,
    /// The trials of earlier policies that were over, and that this has tidied up after.
    pub decided: Vec<Decided>,
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
    /// Whether a clsact qdisc was added to some interface.
    pub fn has_added_clsact(&self) -> bool {
        self.interfaces().any(|one| one.added_clsact)
    }

    /// What was done to each interface, in the order of the options.
    pub fn interfaces(&self) -> impl Iterator<Item = &AppliedTo> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Whether no policy was in force before.
    pub fn is_first(&self) -> bool {
        self.outcome == Outcome::Attached
    }
}

/// A candidate that is not evaluated any more, because it cannot be evaluated beside the policy
/// that was applied.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct EndedCandidate {
    pub name: String,
    pub digest: String,
    pub reason: String,
}

impl EndedCandidate {
    pub(super) fn of(candidate: &CandidateRecord, reason: String) -> EndedCandidate {
        EndedCandidate {
            name: candidate.name.clone(),
            digest: candidate.digest.clone(),
            reason,
        }
    }
}

/// A trial that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The interfaces that the policy was put on.
    pub interfaces: Vec<String>,
    /// The policy that was on trial.
    pub policy: PolicyRecord,
    /// Its deadline, RFC 3339, by the clock of the machine when it began.
    pub until: String,
    /// The deadline in nanoseconds of `CLOCK_BOOTTIME`.
    pub deadline: u64,
    pub is_confirmed: bool,
    /// The policy that decides if that one was undone. `None` if none was in force before.
    pub returned_to: Option<PolicyRecord>,
}
