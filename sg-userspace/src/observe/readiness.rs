//! Whether an interface enforces the policy that it is meant to enforce, for the probes of who
//! starts and stops nodes. `status` says what is there; this compares it with what should be.

use std::path::Path;
use std::time::Duration;

use sg_policy::policy::{Finding, Policy};

use super::attached::attached_to;
use crate::kernel::history::just_undone;
use crate::kernel::run_lock::last_beat;
use crate::kernel::{Fault, KernelError};

/// A `run` that has not said for so long that it is at work hangs. It says so every two seconds,
/// but not while it reads and applies a large policy.
pub const HANGS_AFTER: Duration = Duration::from_secs(60);

/// Why an interface of the current network namespace is not ready: it does not enforce, what it
/// enforces is another policy than `wanted`, or that one is not confirmed. Empty if it is ready.
/// What a policy only audits, by its own text or by an option, does not keep it from being ready.
///
/// # Errors
/// If the state cannot be looked at.
pub fn not_ready(
    bpffs: &Path,
    interface: &str,
    wanted: &Policy,
) -> Result<Vec<Finding>, KernelError> {
    let one = match attached_to(bpffs, interface) {
        Ok(one) => one,
        Err(
            error @ (KernelError::NotAttached { .. }
            | KernelError::NoInterface { .. }
            | KernelError::OtherLayout { .. }),
        ) => return Ok(vec![of_error(&error)]),
        Err(error) => return Err(error),
    };
    let status = match one.status() {
        Ok(status) => status,
        Err(error @ (KernelError::DamagedState { .. } | KernelError::CutShort { .. })) => {
            return Ok(vec![of_error(&error)]);
        }
        Err(error) => return Err(error),
    };
    let faults = status.faults.into_iter();
    let mut reasons: Vec<Finding> = faults
        .map(|Fault { message, help, .. }| Finding::error("not-enforcing", message).help(help))
        .collect();
    let now = format!(
        "{}, generation {}",
        status.policy.name, status.policy.generation
    );
    if status.policy.digest != wanted.digest {
        let name = &wanted.name;
        reasons.push(match just_undone(&one.pins, &wanted.digest)? {
            Some(undone) => Finding::error(
                "undone",
                format!(
                    "{name}, generation {}, was not confirmed and is undone: {now}, is in force",
                    undone.generation
                ),
            )
            .help("change the policy, or put it in force by `sgctl apply`"),
            None => Finding::error(
                "other-policy",
                format!("{now}, is in force, and not {name} as its files are now"),
            )
            .help("`sgctl diff` says what differs; `sgctl apply` or `sgctl run` puts it in force"),
        });
    } else if let Some(waits) = status.unconfirmed {
        let left = waits.seconds_left;
        let message = format!("{now}, waits to be confirmed, {left:.0} s left");
        reasons.push(Finding::error("unconfirmed", message).help("`sgctl confirm` keeps it"));
    }
    Ok(reasons)
}

/// Why no `run` is at work on an interface of the current network namespace. `None` if one is.
///
/// # Errors
/// If the BPF file system cannot be looked at.
pub fn not_live(bpffs: &Path, interface: &str) -> Result<Option<Finding>, KernelError> {
    let dead = |message: String, help: String| {
        let finding = Finding::error("not-live", message);
        Ok(Some(finding.help(help)))
    };
    match last_beat(bpffs, interface)? {
        Some(ago) if ago < HANGS_AFTER => return Ok(None),
        Some(ago) => {
            return dead(
                format!(
                    "the `sgctl run` that looks after it has not been heard of for {} s",
                    ago.as_secs()
                ),
                "end it and start it again; what is in force stays in force without it".into(),
            );
        }
        None => {}
    }
    let run = format!("`sgctl run POLICY --iface {interface}");
    match attached_to(bpffs, interface) {
        Ok(_) => dead(
            "no `sgctl run` looks after it".into(),
            format!("{run}` does; what is in force stays in force without it"),
        ),
        Err(KernelError::NotAttached { .. }) => dead(
            "no policy is in force there, and no `sgctl run` looks after it".into(),
            format!("{run}` puts one in force and looks after it"),
        ),
        Err(KernelError::NoInterface { .. }) => dead(
            "there is no such interface, and no `sgctl run` waits for it".into(),
            format!("`ip link` lists those that there are; {run} --wait` waits for it"),
        ),
        Err(_) => dead(
            "no `sgctl run` looks after it".into(),
            format!("{run}` does; `sgctl status` says what is in force"),
        ),
    }
}

fn of_error(error: &KernelError) -> Finding {
    let finding = Finding::error(error.code_name(), error.to_string());
    match miette::Diagnostic::help(error) {
        Some(help) => finding.help(help.to_string()),
        None => finding,
    }
}
