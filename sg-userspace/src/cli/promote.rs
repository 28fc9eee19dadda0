//! `sgctl promote`: enforces the candidate that is beside the policy in force (SPEC C10).

use std::time::Duration;

use clap::Args;
use sg_policy::policy::Policy;
use sg_userspace::kernel::history::candidate;
use sg_userspace::kernel::impact::Impact;
use sg_userspace::kernel::state::State;
use sg_userspace::kernel::{Applied, ApplyOptions, CandidateOption, KernelError};
use sg_userspace::observe::attached::Attached;

use super::apply::{self, DryRun, Report, window};
use super::attachment::{names_of, one_attachment};
use super::candidate::none_on;
use super::context::{Context, Ifaces, Json};
use super::failure::Failure;
use super::guarded::Proposal;
use super::patience::Patience;
use super::policy_args::TableMemory;

/// Enforce the candidate beside the policy in force
#[derive(Args)]
#[command(after_help = "\
The candidate becomes the policy in force, and nothing is evaluated beside it any more. It needs no
file: its text is kept since `sgctl apply --candidate`. As `apply` does, it says before what it does to
connections, and refuses to lock you out. With --confirm-within the policy before comes back, and the
candidate beside it, unless `sgctl confirm` comes in time.

What the candidate would do is shown by `sgctl counters --candidate`, and as a policy file by
`sgctl show --candidate`.

--dry-run says what it would do to connections, and whether it would be refused, and changes nothing.

Examples:
  sgctl promote --dry-run
  sgctl promote
  sgctl promote --iface eth0 --confirm-within 60s

Exit codes: 0 done, 1 there is no candidate or the state is wrong, 2 usage, 3 not permitted or the
kernel refused.")]
pub(super) struct Promote {
    #[command(flatten)]
    ifaces: Ifaces,
    /// Undo it after this time, from 1s to 24h, unless `sgctl confirm` comes before
    #[arg(long, value_name = "TIME", value_parser = window)]
    confirm_within: Option<Duration>,
    /// Enforce it also where that cuts the connection through which you work, or where it drops
    /// what its own `guard` names
    #[arg(long)]
    force: bool,
    /// Before anything changes, let the new programs judge packets at each edge of each rule, and
    /// refuse them if they differ from the rules
    #[arg(long)]
    self_check: bool,
    /// Say what it would do, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    memory: TableMemory,
    #[command(flatten)]
    json: Json,
}

impl Promote {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.dry_run {
            return self.preview(context);
        }
        let mut seen = None;
        let done = self.apply(context, &mut seen);
        if self.json.json {
            let report = Report::of(&self.ifaces.names, done.as_ref(), &[], seen.as_ref());
            let printed = context.out.json(&report);
            return apply::reported(done.map(drop), printed);
        }
        let text = apply::text(&context.out, &done?);
        context.out.say(&text).map_err(Failure::after_all)
    }

    fn apply(&self, context: &Context, seen: &mut Option<Impact>) -> Result<Applied, Failure> {
        let _patience = Patience::with("applying the candidate");
        let (policy, options) = self.plan(context)?;
        let screen = (!self.json.json).then_some(&context.out);
        Proposal::kept(&policy, &options).apply_aloud(screen, seen)
    }

    /// `--dry-run`.
    fn preview(&self, context: &Context) -> Result<(), Failure> {
        let looked = {
            let _patience = Patience::with("looking at connections");
            self.plan(context).and_then(|(policy, options)| {
                let seen = Proposal::kept(&policy, &options).preview()?;
                Ok((policy, options, seen))
            })
        };
        if self.json.json {
            return match looked {
                Ok((_, _, seen)) => {
                    let report = DryRun::of(&self.ifaces.names, &[], &seen);
                    context.out.json(&report)
                }
                Err(failure) => {
                    let report = Report::of(&self.ifaces.names, Err(&failure), &[], None);
                    let printed = context.out.json(&report);
                    Err(failure.once(printed))
                }
            };
        }
        let (policy, options, seen) = looked?;
        let text = apply::preview::text(&context.out, &policy.name, &options, &seen);
        context.out.say(&text)
    }

    /// The candidate, and how it is put in force.
    fn plan(&self, context: &Context) -> Result<(Policy, ApplyOptions), Failure> {
        let (first, interfaces) = one_attachment::<Promote>(context, "promote", &self.ifaces)?;
        let state = first.state()?;
        let names = names_of(&interfaces)?;
        let policy = self.candidate(state, &names, &first)?;
        let options = ApplyOptions {
            interfaces: names,
            netns: context.netns.clone(),
            bpffs: context.bpffs.clone(),
            budget: self.memory.budget(),
            confirm_within: self.confirm_within,
            forced: self.force,
            self_check: self.self_check,
            log_level: state.log_level,
            candidate: CandidateOption::Remove,
            only_over: Some(state.policy.generation),
            ..ApplyOptions::on(&[])
        };
        Ok((policy, options))
    }

    /// The candidate beside the policy of this record.
    fn candidate(
        &self,
        state: &State,
        names: &[String],
        one: &Attached,
    ) -> Result<Policy, Failure> {
        let Some(record) = &state.candidate else {
            return Err(none_on(&names.join(", ")).into());
        };
        if let Some(trial) = state.open_trial() {
            return Err(KernelError::Fixed {
                what: format!("promoting {}", record.name),
                reason: format!(
                    "{}, generation {}, waits to be confirmed until {}",
                    state.policy.name, state.policy.generation, trial.until
                ),
                help: "decide first: `sgctl confirm` keeps it, `sgctl rollback` undoes it".into(),
            }
            .into());
        }
        Ok(candidate(&one.pins, record)?)
    }
}
