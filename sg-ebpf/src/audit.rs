//! What would be dropped and passes all the same (SPEC C9). The tail-call targets exist in two
//! variants, and the loader takes those of the policy: one that audits nothing pays nothing.

/// A variant of the tail-call targets.
pub(crate) trait Auditing {
    /// Whether the policy audits anything.
    const ON: bool;
}

/// For policies that audit nothing.
pub(crate) struct Off;
/// For policies that audit something: what they audit is in the tables and in
/// [`Config::audits`](sg_common::program::Config::audits). All that they audit is logged, so that
/// it takes the slow path.
pub(crate) struct On;

impl Auditing for Off {
    const ON: bool = false;
}

impl Auditing for On {
    const ON: bool = true;
}
