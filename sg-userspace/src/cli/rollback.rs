//! `sgctl rollback`: returns to the policy that was in force before.

use clap::Args;
use sg_userspace::kernel;

use super::confirm::{fail, nothing_waits, report, waiting};
use super::context::{Context, Ifaces, Json};
use super::failure::Failure;

/// Undo a policy that waits to be confirmed, at once
#[derive(Args)]
#[command(after_help = "\
The policy before comes back on all interfaces at once, as it would at the deadline; where there was
none, everything passes again. Without --iface all policies that wait in this network namespace are
undone.

Examples:
  sgctl rollback
  sgctl rollback --iface eth0
  sgctl --netns node1 rollback --json

Exit codes: 0 undone, 1 nothing waits to be confirmed, 2 usage, 3 not permitted or the kernel refused.")]
pub(super) struct Rollback {
    #[command(flatten)]
    ifaces: Ifaces,
    #[command(flatten)]
    json: Json,
}

impl Rollback {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (mut decided, mut failures) = (Vec::new(), Vec::new());
        for one in waiting(context, &self.ifaces)? {
            match kernel::undo(&context.bpffs, &one.pins) {
                Ok(done) => decided.extend(done),
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        if decided.is_empty() && failures.is_empty() {
            failures.push(nothing_waits());
        }
        report(context, self.json.json, &decided)?;
        fail(context, &failures)
    }
}
