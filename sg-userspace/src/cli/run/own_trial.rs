//! What `run` knows of a policy that it has put in force with `--confirm-within`. What it does with
//! it is in `trial`.

use sg_userspace::kernel::Applied;
use sg_userspace::kernel::state::PolicyRecord;

/// A policy of this process that waits to be confirmed.
#[derive(Clone)]
pub(super) struct OwnTrial {
    pub(super) policy: PolicyRecord,
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) deadline: u64,
}

impl OwnTrial {
    /// `None` if the policy waits for nothing.
    pub(super) fn of(applied: &Applied) -> Option<OwnTrial> {
        applied.interfaces().find_map(|one| {
            Some(OwnTrial {
                policy: one.state.policy.clone(),
                deadline: one.state.open_trial()?.deadline,
            })
        })
    }
}

/// How a trial ended of which the reloader does not know yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Confirmed,
    Undone,
}
