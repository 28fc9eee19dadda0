//! Values that the tests of several commands and of the lab begin with.

use sg_common::verdict::Direction;
use sg_userspace::kernel::Fault;
use sg_userspace::observe::counters::{Counters, Totals};
use sg_userspace::observe::status::{Health, PolicyStatus, Standing};

/// A policy as `status` shows it.
pub(crate) fn policy(name: &str) -> PolicyStatus {
    PolicyStatus {
        name: name.into(),
        digest: format!("sha256:{}", "0".repeat(64)),
        generation: 1,
        applied_at: "2026-01-31T10:00:00Z".into(),
        audit: None,
    }
}

/// An interface in its own place.
pub(crate) fn standing(interface: &str, health: Health, faults: Vec<Fault>) -> Standing {
    Standing {
        interface: interface.into(),
        netns: None,
        health,
        faults,
        elsewhere: None,
    }
}

/// The counters of an interface whose policy `p` is in force and has no rules.
pub(crate) fn counters(interface: &str) -> Counters {
    Counters {
        standing: standing(interface, Health::Enforcing, Vec::new()),
        sampled_at: "2026-01-31T10:20:30Z".into(),
        since: "2026-01-31T10:00:00Z".into(),
        reset_at: None,
        policy: policy("p"),
        rules: Vec::new(),
        reasons: Vec::new(),
        totals: Vec::new(),
    }
}

/// The sums of a direction in which so many packets were accepted and dropped, without bytes.
pub(crate) fn totals(direction: Direction, accepted: u64, dropped: u64) -> Totals {
    Totals {
        direction,
        packets: accepted + dropped,
        bytes: 0,
        accepted,
        dropped,
        audited: 0,
    }
}
