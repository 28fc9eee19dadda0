//! What `status`, `history` and the candidate's counts say after an interruption is true.

use std::path::Path;

use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::history;
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::candidate::candidate;
use sg_userspace::observe::status::Health;

use super::scenario::Scenario;
use crate::probe::{A, Seen};

pub(super) fn health(bpffs: &Path) -> Option<Health> {
    let found = attached(bpffs, &Scope::Namespace).expect("the attachments can be listed");
    let one = found.first()?;
    Some(one.status().map_or(Health::Damaged, |status| status.health))
}

/// Checks `history`: first the policy in force, with its text; then only what was in force.
pub(super) fn history_is_true(bpffs: &Path, seen: [Seen; 2], scenario: Scenario, when: &str) {
    let found = attached(bpffs, &Scope::Namespace).expect("they can be listed");
    let Some(one) = found.first().filter(|_| seen[0] == seen[1]) else {
        return;
    };
    if !matches!(seen[0], Seen::A | Seen::B) {
        return;
    }
    let digest = rules_from_lines(A).digest;
    let named = |of: &str| if of == digest { Seen::A } else { Seen::B };
    let past = one.history().unwrap_or_else(|e| panic!("{when}: {e}"));
    let (first, ended) = past.policies.split_first().expect("one is in force");
    assert_eq!(named(&first.digest), seen[0], "{when}");
    let is_known = first.ended.is_none() && first.by.is_some();
    assert!(is_known, "{when}: {first:?}");
    let (_, policy) = one.policy(None).unwrap_or_else(|e| panic!("{when}: {e}"));
    assert_eq!(policy.digest, first.digest, "{when}");
    let is_ended = ended.iter().all(|it| it.ended.is_some());
    assert!(is_ended, "{when}: {ended:?}");
    let ended: Vec<Seen> = ended.iter().map(|it| named(&it.digest)).collect();
    let is_true = match (scenario, seen[0]) {
        (Scenario::First | Scenario::Begin | Scenario::Leave, Seen::B) => ended.is_empty(),
        (_, Seen::B) => ended == [Seen::A],
        // What comes back has had the other one in force in its place.
        (Scenario::Undo | Scenario::BeginOver | Scenario::Return, Seen::A) => {
            ended.is_empty() || ended == [Seen::B]
        }
        _ => ended.is_empty(),
    };
    assert!(is_true, "{when}: {ended:?} before {seen:?}");
}

/// Checks a candidate that the record names: its own text is there, and where it is said how
/// many packets were evaluated, those with another outcome are among them.
pub(super) fn candidate_is_true(bpffs: &Path, when: &str) {
    let found = attached(bpffs, &Scope::Namespace).expect("they can be listed");
    let Some(state) = found.first().and_then(|one| one.state.as_ref().ok()) else {
        return;
    };
    let Some(record) = &state.candidate else {
        return;
    };
    let text = history::candidate(&found[0].pins, record);
    text.unwrap_or_else(|e| panic!("{when}: {e}"));
    let seen = candidate(&found[0]).unwrap_or_else(|e| panic!("{when}: {e}"));
    let seen = seen.expect("it is there");
    for total in &seen.totals {
        let is_right = total
            .evaluated
            .is_none_or(|n| (total.packets..1000).contains(&n));
        assert!(is_right, "{when}: {total:?}");
    }
}

/// Checks `status`: it says "enforcing" if and only if both directions enforce the policy that
/// it names.
pub(super) fn status_is_true(bpffs: &Path, seen: [Seen; 2], when: &str) {
    let found = attached(bpffs, &Scope::Namespace).unwrap_or_else(|e| panic!("{when}: {e}"));
    let Some(one) = found.first() else {
        assert_eq!(seen, [Seen::Open; 2], "{when}: nothing is listed");
        return;
    };
    let Ok(status) = one.status() else {
        assert_eq!(seen, [Seen::Open; 2], "{when}: no record");
        return;
    };
    let named = match status.policy.digest == rules_from_lines(A).digest {
        true => Seen::A,
        false => Seen::B,
    };
    let is_enforcing = status.health == Health::Enforcing;
    assert!(
        !is_enforcing || seen == [named; 2],
        "{when}: {seen:?} and {status:?}"
    );
    assert_eq!(is_enforcing, status.faults.is_empty(), "{when}: {status:?}");
}
