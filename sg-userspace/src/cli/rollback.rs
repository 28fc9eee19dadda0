//! `sgctl rollback`: returns to a policy that was in force before. One that waits to be confirmed
//! is undone; otherwise an earlier policy is applied again, from the text that is kept of it.

use std::time::Duration;

use clap::Args;
use sg_userspace::kernel::history::{Entry, How, history, kept};
use sg_userspace::kernel::{self, ApplyOptions, Decided, KernelError, Outcome};

use super::apply::{self, window};
use super::attachment::{names_of, one_attachment};
use super::confirm::{fail, report, waiting};
use super::context::{Context, Ifaces, Json};
use super::failure::Failure;
use super::guarded::Proposal;
use super::policy_args::TableMemory;

/// Return to the policy that was in force before
#[derive(Args)]
#[command(after_help = "\
A policy that waits to be confirmed is undone at once, as it would be at its deadline: what was in force
before it comes back on all interfaces, or nothing if there was nothing. Without --iface all policies that
wait in this network namespace are undone.

Where none waits, and with --to, an earlier policy is applied again from its text, as a new
generation. It is the last one before the one in force, or the one that `sgctl history` lists under
that number. If the last one was undone, what was before it is in force already, and only --to goes
further back. It audits what it audited then. What it does to connections is said before, and it is
refused as by `apply` where it would lock you out.

Examples:
  sgctl rollback
  sgctl rollback --iface eth0
  sgctl rollback --iface eth0 --to 3
  sgctl rollback --iface eth0 --to 3 --confirm-within 60s

Exit codes: 0 done, 1 there is nothing to return to or the state is wrong, 2 usage, 3 not permitted or
the kernel refused.")]
pub(super) struct Rollback {
    #[command(flatten)]
    ifaces: Ifaces,
    /// Return to this generation
    #[arg(long, value_name = "GENERATION")]
    to: Option<u32>,
    /// Undo an earlier policy that is applied again after this time, unless `sgctl confirm` comes
    /// before
    #[arg(long, value_name = "TIME", value_parser = window)]
    confirm_within: Option<Duration>,
    /// Apply an earlier policy also where that cuts the connection through which you work, or
    /// where it drops what its own `guard` names
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    memory: TableMemory,
    #[command(flatten)]
    json: Json,
}

/// The policy before the one in force.
///
/// # Errors
/// If none is kept, and if the last one that came out of force was undone: then what was before it
/// is in force already. A second `rollback`, or one after the deadline, would apply the undone one.
fn before(entries: &[Entry]) -> Result<&Entry, KernelError> {
    let no_way = |reason: String, help: &str| KernelError::Fixed {
        what: "returning to the policy before".into(),
        reason,
        help: help.into(),
    };
    let [in_force, before, ..] = entries else {
        return Err(no_way(
            "no policy before the one in force is kept".into(),
            "`sgctl history` shows what is; `sgctl detach` ends enforcement",
        ));
    };
    // Each policy that is applied, an earlier one too, has a later generation than all before it.
    if before.generation > in_force.generation {
        return Err(no_way(
            format!(
                "{}, generation {}, was undone, and {}, generation {}, is in force again",
                before.name, before.generation, in_force.name, in_force.generation
            ),
            "`sgctl history` shows the policies that are kept; `sgctl rollback --to GENERATION` \
             returns to one of them",
        ));
    }
    Ok(before)
}

impl Rollback {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (mut decided, mut failures) = (Vec::new(), Vec::new());
        if self.to.is_none() {
            for one in waiting(context, &self.ifaces)? {
                match kernel::undo(&context.bpffs, &one.pins) {
                    Ok(done) => decided.extend(done),
                    Err(error) => failures.push(Failure::from(error)),
                }
            }
        }
        if decided.is_empty() && failures.is_empty() {
            return self.apply_again(context);
        }
        let printed = report(context, self.json.json, &decided);
        fail(context, &failures).and(printed.map_err(Failure::after_all))
    }

    /// Applies an earlier policy again.
    fn apply_again(&self, context: &Context) -> Result<(), Failure> {
        let (first, interfaces) = one_attachment::<Rollback>(context, "rollback", &self.ifaces)?;
        let generation = match self.to {
            Some(generation) => generation,
            None => before(&history(&first.pins)?)?.generation,
        };
        let (entry, policy) = kept(&first.pins, generation)?;
        let options = ApplyOptions {
            interfaces: names_of(&interfaces)?,
            netns: context.netns.clone(),
            bpffs: context.bpffs.clone(),
            budget: self.memory.budget(),
            confirm_within: self.confirm_within,
            forced: self.force,
            audit: entry.audit.unwrap_or_default(),
            how: How::RolledBack,
            ..ApplyOptions::on(&[])
        };
        let screen = (!self.json.json).then_some(&context.out);
        let applied = Proposal::kept(&policy, &options).apply_aloud(screen, &mut None)?;
        if !self.json.json {
            let text = apply::text(&context.out, &applied);
            return context.out.say(&text).map_err(Failure::after_all);
        }
        let now = applied.first.state.policy.clone();
        let rolled_back = applied.replaced.clone().map(|before| Decided {
            interfaces: options.interfaces.clone(),
            policy: before,
            until: String::new(),
            deadline: 0,
            is_confirmed: false,
            returned_to: Some(now),
        });
        debug_assert!(rolled_back.is_some() || applied.outcome == Outcome::Unchanged);
        report(context, true, rolled_back.as_slice()).map_err(Failure::after_all)
    }
}
