//! What `apply` puts beside a policy: a candidate, or nothing (SPEC C10).

use std::sync::Arc;

use clap::Args;
use sg_policy::policy::{Finding, Policy, PolicyInput, SetOverride};
use sg_userspace::kernel::history::kept;
use sg_userspace::kernel::{ApplyOptions, CandidateOption, KernelError};

use crate::cli::attachment::{names_of, one_attachment};
use crate::cli::context::{Context, Ifaces};
use crate::cli::failure::Failure;
use crate::cli::policy_args::{Attach, Policies, Trust};

#[derive(Args)]
pub(super) struct Beside {
    /// Evaluate this policy beside the one in force for every packet, and change no verdict;
    /// without POLICY, beside the policy that is in force now
    #[arg(long, value_name = "POLICY", conflicts_with_all = ["no_candidate", "confirm_within"])]
    candidate: Vec<PolicyInput>,

    /// Replace the contents of a named set of the candidate; `NAME=` empties it
    #[arg(long, value_name = "NAME=VALUE[,VALUE...]", requires = "candidate")]
    candidate_set: Vec<SetOverride>,

    /// Log packets that have another outcome under the candidate, as `log: true` does; they are
    /// judged more slowly then
    #[arg(long, requires = "candidate")]
    candidate_log: bool,

    /// Evaluate no candidate any more
    #[arg(long, conflicts_with = "confirm_within")]
    no_candidate: bool,
}

impl Beside {
    pub(super) fn is_removed(&self) -> bool {
        self.no_candidate
    }

    /// The candidate as arguments.
    pub(super) fn policies(&self) -> Option<Policies> {
        (!self.candidate.is_empty())
            .then(|| Policies::of(self.candidate.clone(), self.candidate_set.clone()))
    }

    /// What is to be beside the policy, and what `check` says of a candidate.
    pub(super) fn load(&self, trust: Trust) -> Result<(CandidateOption, Vec<Finding>), Failure> {
        let Some(policies) = self.policies() else {
            let option = match self.no_candidate {
                true => CandidateOption::Remove,
                false => CandidateOption::Keep,
            };
            return Ok((option, Vec::new()));
        };
        let loaded = policies.load_to_enforce(trust)?;
        let option = CandidateOption::Set {
            policy: Arc::new(loaded.policy),
            logs: self.candidate_log,
        };
        Ok((option, loaded.findings))
    }
}

/// The policy in force on the attachment of these interfaces, and the options to put it in force
/// again as it is.
/// `A` are the arguments of the command.
pub(super) fn in_force<A: Args>(
    context: &Context,
    attach: &Attach,
) -> Result<(Policy, ApplyOptions), Failure> {
    if let Some(option) = attach.of_a_policy() {
        return Err(Failure::usage::<A>(
            "apply",
            format!("{option} is for a policy: name the POLICY, or leave {option} out"),
        ));
    }
    let ifaces = Ifaces {
        names: attach.ifaces.clone(),
    };
    let (first, interfaces) = one_attachment::<A>(context, "apply", &ifaces)?;
    let state = first.state()?;
    let generation = state.policy.generation;
    if let Some(trial) = state.open_trial() {
        return Err(KernelError::Fixed {
            what: "changing the candidate".into(),
            reason: format!(
                "{}, generation {generation}, waits to be confirmed until {}, and would be kept for good",
                state.policy.name, trial.until
            ),
            help: "decide first: `sgctl confirm` keeps it, `sgctl rollback` undoes it".into(),
        }
        .into());
    }
    let (entry, policy) = kept(&first.pins, generation)?;
    let options = ApplyOptions {
        interfaces: names_of(&interfaces)?,
        audit: entry.audit.unwrap_or_default(),
        log_level: state.log_level,
        forced: state.forced,
        only_over: Some(generation),
        ..attach.options(context)?
    };
    Ok((policy, options))
}
