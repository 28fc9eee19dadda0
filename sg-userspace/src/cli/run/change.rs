//! What can change while `run` runs: the name of each change in JSON, which is never renamed (A4),
//! and how much it matters.

use tracing::Level;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The first policy is in force.
    Applied,
    /// Another one is, since the files have changed or a signal has asked for it.
    Reloaded,
    /// What somebody has taken off the hooks is there again.
    Repaired,
    /// The files have changed, and mean the same.
    Unchanged,
    /// A file is being written.
    Waiting,
    NotReloaded,
    ReloadFailed,
    RepairFailed,
    /// The policy drops what its own guard names, and is audited.
    Guard,
    /// What a policy does to connections and listening sockets.
    Impact,
    /// Metrics are served.
    Metrics,
    Confirmed,
    /// A policy was not confirmed.
    Undone,
    /// A policy on trial is not confirmed yet, since not everything can be reached under it.
    Unreachable,
    /// The policy of the files was undone before, and is not tried again.
    NotTried,
    /// Somebody else has put another policy in force.
    Replaced,
    /// Somebody else has changed the candidate.
    Candidate,
    /// An interface does not exist any more.
    Gone,
    /// An interface that was moved away is here again.
    Back,
    /// The policy is attached to an interface that was made anew.
    Reattached,
    /// An interface does not exist yet.
    WaitingFor,
    /// One that was waited for exists.
    Appeared,
    /// The policy is in force on it.
    Attached,
    /// It could not be put in force there.
    NotAttached,
    /// A hook does not run what it should.
    Damaged,
    /// It does again, and not by a repair.
    Recovered,
    /// Something cannot be read, or not be done.
    Error,
    /// It can again.
    ErrorOver,
    /// The session ends.
    Failed,
    /// At the end: what was in force before is in force again.
    Returned,
    /// At the end: nothing is in force, as before.
    Detached,
    /// Somebody else has detached an interface.
    DetachedByOther,
    /// At the end: everything stays as it is.
    Left,
    /// At the end: everything stays as it is, which was not wanted.
    LeftUnwillingly,
    /// The last step has failed and is tried again.
    Retrying,
}

impl Change {
    pub(super) fn name(self) -> &'static str {
        match self {
            Change::Applied => "applied",
            Change::Reloaded => "reloaded",
            Change::Repaired => "repaired",
            Change::Unchanged => "unchanged",
            Change::Waiting => "waiting",
            Change::NotReloaded => "not_reloaded",
            Change::ReloadFailed => "reload_failed",
            Change::RepairFailed => "repair_failed",
            Change::Guard => "guard",
            Change::Impact => "impact",
            Change::Metrics => "metrics",
            Change::Confirmed => "confirmed",
            Change::Undone => "undone",
            Change::Unreachable => "unreachable",
            Change::NotTried => "not_tried",
            Change::Replaced => "replaced",
            Change::Candidate => "candidate",
            Change::Gone => "gone",
            Change::Back => "back",
            Change::Reattached => "reattached",
            Change::WaitingFor => "waiting_for",
            Change::Appeared => "appeared",
            Change::Attached => "attached",
            Change::NotAttached => "not_attached",
            Change::Damaged => "damaged",
            Change::Recovered => "recovered",
            Change::Error => "error",
            Change::ErrorOver => "error_over",
            Change::Failed => "failed",
            Change::Returned => "returned",
            Change::Detached | Change::DetachedByOther => "detached",
            Change::Left | Change::LeftUnwillingly => "left",
            Change::Retrying => "retrying",
        }
    }

    /// An error is what leaves the node other than its files say until somebody acts; a warning is
    /// what others have done, or what passes.
    pub(super) fn level(self) -> Level {
        match self {
            Change::Damaged
            | Change::Error
            | Change::Failed
            | Change::LeftUnwillingly
            | Change::NotAttached
            | Change::ReloadFailed
            | Change::RepairFailed => Level::ERROR,
            Change::DetachedByOther
            | Change::Gone
            | Change::Guard
            | Change::NotReloaded
            | Change::Replaced
            | Change::Retrying
            | Change::Undone
            | Change::Unreachable
            | Change::NotTried
            | Change::Waiting
            | Change::WaitingFor => Level::WARN,
            Change::Applied
            | Change::Reloaded
            | Change::Repaired
            | Change::Unchanged
            | Change::Impact
            | Change::Metrics
            | Change::Confirmed
            | Change::Candidate
            | Change::Appeared
            | Change::Attached
            | Change::Back
            | Change::Reattached
            | Change::Recovered
            | Change::ErrorOver
            | Change::Returned
            | Change::Detached
            | Change::Left => Level::INFO,
        }
    }
}
