//! What `sgctl apply --json` prints.

use std::path::Path;

use serde::Serialize;
use sg_policy::compile::TableSizes;
use sg_policy::policy::Finding;
use sg_userspace::kernel::impact::Impact;
use sg_userspace::kernel::self_check::SelfCheck;
use sg_userspace::kernel::state::PolicyRecord;
use sg_userspace::kernel::{
    self, Applied, AppliedTo, Cut, EndedCandidate, Outcome, Preview, Seeded,
};
use sg_userspace::observe::status::Unconfirmed;

use crate::cli::confirm;
use crate::cli::failure::Failure;
use crate::cli::guarded::Previewed;
use crate::cli::screen::Screen;

/// `apply --dry-run --json`, and the same of `promote`.
#[derive(Serialize)]
pub(in crate::cli) struct DryRun<'a> {
    /// The first interface, as the user named it.
    interface: Option<&'a str>,
    dry_run: bool,
    /// Whether the policy is in force already, so that nothing would be done.
    unchanged: bool,
    /// Whether another policy would be replaced.
    replaced: bool,
    generation: u32,
    /// Null if nothing would be done.
    impact: Option<&'a Impact>,
    /// Why it would be refused. Empty if it would not.
    refusals: &'a [Finding],
    findings: &'a [Finding],
    errors: [Finding; 0],
}

impl<'a> DryRun<'a> {
    pub(in crate::cli) fn of(
        interfaces: &'a [String],
        findings: &'a [Finding],
        seen: &'a Previewed,
    ) -> DryRun<'a> {
        let (unchanged, replaced, generation) = match &seen.preview {
            Preview::Unchanged(applied) => (true, false, applied.first.state.policy.generation),
            Preview::Change {
                generation,
                is_first,
            } => (false, !is_first, *generation),
        };
        DryRun {
            interface: interfaces.first().map(String::as_str),
            dry_run: true,
            unchanged,
            replaced,
            generation,
            impact: seen.impact.as_ref(),
            refusals: &seen.refusals,
            findings,
            errors: [],
        }
    }
}

/// Prints the report of an `apply` that could not begin. Returns the failure that is still to be
/// printed.
pub(in crate::cli) fn refuse(screen: &Screen, failure: Failure) -> Failure {
    let printed = screen.json(&Report::Failed {
        interface: None,
        impact: None,
        findings: [],
        errors: failure.findings(),
    });
    failure.once(printed)
}

/// How a command ends that has printed what was done, or why not, in one report.
pub(in crate::cli) fn reported(
    done: Result<(), Failure>,
    printed: Result<(), Failure>,
) -> Result<(), Failure> {
    match done {
        Ok(()) => printed.map_err(Failure::after_all),
        Err(failure) => Err(failure.once(printed)),
    }
}

/// `apply --json`: what was done, the findings of `check`, and the errors. If there are no errors,
/// the policy is in force.
#[derive(Serialize)]
#[serde(untagged)]
pub(in crate::cli) enum Report<'a> {
    Done {
        #[serde(flatten)]
        done: Box<Done<'a>>,
        /// What it did to connections and listening sockets. Null if nothing was done.
        impact: Option<&'a Impact>,
        findings: &'a [Finding],
        errors: [Finding; 0],
    },
    Failed {
        /// The first interface, as the user named it. `None` if the command line could not be
        /// read.
        interface: Option<&'a str>,
        /// What it would have done. Null if that was not found out.
        impact: Option<&'a Impact>,
        findings: [Finding; 0],
        errors: Vec<Finding>,
    },
}

impl<'a> Report<'a> {
    pub(in crate::cli) fn of(
        interfaces: &'a [String],
        done: Result<&'a Applied, &'a Failure>,
        findings: &'a [Finding],
        impact: Option<&'a Impact>,
    ) -> Report<'a> {
        match done {
            Ok(applied) => Report::Done {
                done: Box::new(Done::from(applied)),
                impact,
                findings,
                errors: [],
            },
            Err(failure) => Report::Failed {
                interface: interfaces.first().map(String::as_str),
                impact,
                findings: [],
                errors: failure.findings(),
            },
        }
    }
}

/// What was done, for scripts. The policy has the same form as in `status` and `counters`.
#[derive(Serialize)]
pub(in crate::cli) struct Done<'a> {
    interface: &'a str,
    netns: Option<String>,
    /// Whether another policy was replaced.
    replaced: bool,
    /// Whether the same policy was in force already, so that nothing was done.
    unchanged: bool,
    xdp_mode: kernel::XdpMode,
    egress_hook: kernel::EgressHook,
    policy: &'a PolicyRecord,
    rules: usize,
    tables: TableSizes,
    /// What was done with existing flows. `None` unless this was the first policy, and with
    /// --cut-existing.
    seeded: Option<&'a Seeded>,
    /// What was done with existing connections with --cut-existing.
    cut: Option<Cut>,
    /// Until when the policy waits to be confirmed, and what returns then. Null if it does not.
    unconfirmed: Option<Unconfirmed>,
    /// What has become of an earlier policy that waited to be confirmed, where this has tidied up
    /// after it. Left out if there was none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    decided: Vec<confirm::Row<'a>>,
    /// What is evaluated beside the policy. Null if nothing is.
    candidate: Option<Beside<'a>>,
    /// The candidate that had to be given up. Null if none had to.
    ended_candidate: Option<&'a EndedCandidate>,
    /// Whether a clsact qdisc was added, in which case the kernel may have dropped some frames.
    added_clsact: bool,
    /// What was done to the other interfaces, which share the flows of the first. Left out if
    /// there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<DoneTo<'a>>,
    /// Whether the lock-out guard was off (--force).
    forced: bool,
    /// What the self-check has tried. `None` without one.
    self_check: Option<SelfCheck>,
    compile_seconds: f64,
    load_seconds: f64,
    /// Where a BPF file system was mounted, if that was necessary.
    mounted: Option<&'a Path>,
}

/// The candidate beside a policy.
#[derive(Serialize)]
struct Beside<'a> {
    name: &'a str,
    digest: &'a str,
    /// Since when it is evaluated on the first interface (RFC 3339).
    since: &'a str,
    /// How many pairs of rules can have another outcome.
    pairs: usize,
    logs: bool,
}

/// What was done to one of several interfaces.
#[derive(Serialize)]
struct DoneTo<'a> {
    interface: &'a str,
    replaced: bool,
    unchanged: bool,
    xdp_mode: kernel::XdpMode,
    egress_hook: kernel::EgressHook,
    added_clsact: bool,
}

impl<'a> From<&'a AppliedTo> for DoneTo<'a> {
    fn from(one: &'a AppliedTo) -> Self {
        DoneTo {
            interface: &one.state.interface,
            replaced: one.outcome == Outcome::Replaced,
            unchanged: one.outcome == Outcome::Unchanged,
            xdp_mode: one.state.xdp_mode,
            egress_hook: one.state.egress_hook,
            added_clsact: one.added_clsact,
        }
    }
}

impl<'a> From<&'a Applied> for Done<'a> {
    fn from(applied: &'a Applied) -> Self {
        let AppliedTo {
            outcome,
            state,
            added_clsact,
        } = &applied.first;
        let netns = state.netns_name();
        Done {
            interface: &state.interface,
            netns: netns.clone(),
            unchanged: *outcome == Outcome::Unchanged,
            replaced: *outcome == Outcome::Replaced,
            xdp_mode: state.xdp_mode,
            egress_hook: state.egress_hook,
            policy: &state.policy,
            rules: state.rules.len(),
            tables: applied.sizes,
            seeded: applied.seeded.as_ref(),
            cut: applied.cut,
            unconfirmed: Unconfirmed::of(state),
            decided: confirm::rows(&applied.decided, netns),
            candidate: state.candidate.as_ref().map(|candidate| Beside {
                name: &candidate.name,
                digest: &candidate.digest,
                since: &candidate.since,
                pairs: state.pairs.len(),
                logs: candidate.logs,
            }),
            ended_candidate: applied.ended_candidate.as_ref(),
            added_clsact: *added_clsact,
            others: applied.others.iter().map(DoneTo::from).collect(),
            forced: state.forced,
            self_check: applied.self_check,
            compile_seconds: applied.compile_time.as_secs_f64(),
            load_seconds: applied.load_time.as_secs_f64(),
            mounted: applied.mounted.as_deref(),
        }
    }
}
