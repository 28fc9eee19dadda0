//! What is in force when a `run` begins that confirms its own policies (`check`). It goes on if the
//! policy of the files is undone. A policy that was undone here before is not tried again: whoever
//! starts this process anew after each end must not put a policy in force that cuts the node off,
//! again and again.

use sg_policy::policy::Policy;
use sg_userspace::kernel::history::{self, Entry};
use sg_userspace::kernel::{self, Applied, ApplyOptions, KernelError};
use sg_userspace::observe::attached::attached_to;

use super::check::{Target, reach_before};
use crate::cli::failure::Failure;
use crate::cli::guarded::Proposal;

/// The policy that is confirmed on all interfaces of a `run` when it begins.
pub(super) struct Before {
    pub(super) generation: u32,
    pub(super) policy: Policy,
    /// What is known of it.
    entry: Entry,
    /// The policy of the files, if it is the one that was just undone.
    pub(super) undone: Option<Entry>,
}

impl Before {
    /// `None` where not all interfaces have one policy, or where its text is not kept.
    pub(super) fn find(
        options: &ApplyOptions,
        files: &Policy,
    ) -> Result<Option<Before>, KernelError> {
        let mut all = Vec::new();
        for name in &options.interfaces {
            match attached_to(&options.bpffs, name) {
                Ok(one) => all.push(one),
                Err(KernelError::NotAttached { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let Some((first, others)) = all.split_first() else {
            return Ok(None);
        };
        if others.iter().any(|one| !one.pins.shares_with(&first.pins)) {
            return Ok(None);
        }
        let state = first.state()?;
        // While one is on trial no `run` begins.
        let generation = state.policy.generation;
        let undone = history::just_undone(&first.pins, &files.digest)?;
        let (entry, policy) = match history::kept(&first.pins, generation) {
            Ok(kept) => kept,
            Err(
                KernelError::NotKept { .. }
                | KernelError::DamagedHistory { .. }
                | KernelError::NotAttached { .. },
            ) if undone.is_none() => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Before {
            generation,
            policy,
            entry,
            undone,
        }))
    }

    /// Applies it as it is in force, which changes nothing unless something of it was removed.
    pub(super) fn apply_again(&self, options: &ApplyOptions) -> Result<Applied, KernelError> {
        let options = ApplyOptions {
            confirm_within: None,
            audit: self.entry.audit.unwrap_or_default(),
            ..options.clone()
        };
        kernel::apply(&self.policy, &options)
    }
}

/// Fails if a policy that is to be confirmed without a person must not be tried: it drops what its
/// own guard names, or the targets cannot be reached before it. `deciding` is the digest of what is
/// in force.
pub(super) fn admit(
    proposal: &Proposal<'_>,
    deciding: Option<&str>,
    targets: &[Target],
) -> Result<(), Failure> {
    if targets.is_empty() {
        return Ok(());
    }
    if !proposal.options.forced {
        proposal.breaches.refuse()?;
    }
    match deciding == Some(&proposal.policy.digest) {
        true => Ok(()),
        false => reach_before(targets, &proposal.policy.name),
    }
}

/// As [`admit`], for a policy at the beginning of a `run`.
pub(super) fn admit_first(
    proposal: &Proposal<'_>,
    before: Option<&Before>,
    targets: &[Target],
) -> Result<(), Failure> {
    let deciding = before.map(|before| before.entry.digest.as_str());
    admit(proposal, deciding, targets)
}
