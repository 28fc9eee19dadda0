//! `sgctl apply`: compiles a policy, attaches it or replaces the one in force, and returns. If it
//! fails, nothing has changed.

mod beside;
pub(super) mod preview;
mod report;
mod text;

use std::time::Duration;

use clap::Args;
use sg_policy::policy::{Finding, Policy};
use sg_userspace::kernel::impact::Impact;
use sg_userspace::kernel::run_lock::last_beat;
use sg_userspace::kernel::{self, Applied, ApplyOptions, Outcome, Preview};

use super::context::{Context, Json};
use super::failure::Failure;
use super::guarded::{Previewed, Proposal};
use super::patience::Patience;
use super::policy_args::{Attach, Policies};
use super::screen::Paint;
use beside::{Beside, in_force};
pub(super) use report::{Done, DryRun, Report, refuse, reported};
pub(super) use text::{findings, notes, summary, text, watched};

/// Attach a policy to interfaces, or replace the one that is attached, and return
#[derive(Args)]
#[command(
    mut_arg("policies", |policies| {
        let none = ["candidate", "no_candidate"];
        policies.required(false).required_unless_present_any(none)
    }),
    after_help = "\
Enforcement outlives the process: everything is pinned under the BPF file system. A policy that is
attached already is replaced without a gap; counters and flows carry over. Where there is none yet,
connections that this host's sockets and its connection tracking know of go on even if no rule
admits them: they are counted as `seeded`, and end by themselves (or with --cut-existing at once).
What kinds of connections could not be seen, and so may be cut, is printed.

Interfaces that are named together are under one policy and share their flows: what enters by one may
be answered by another. Each has counters of its own. Naming one more adds it, and leaves the others
alone if the policy is the same; `sgctl detach --iface IF` takes one out.

With --confirm-within the policy is in force at once, and the kernel undoes it after that time unless
`sgctl confirm` comes before, from any session: a mistake that cuts you off undoes itself, with no
process alive. What was in force before comes back, and connections that were stopped go on. The same
command without --confirm-within keeps the policy for good.

With --candidate a second policy is evaluated beside the one in force, for every packet, and changes no
verdict: `sgctl counters --candidate` shows which packets would have had another outcome, by pair of
rules, and `sgctl promote` enforces it. Both need the same `essential`, `non-ip` and `timeouts`. It stays
beside whatever policy is applied next, until --no-candidate.

Where tcx is missing (before Linux 6.6), or with --egress-hook clsact, the outbound program needs a
clsact qdisc. Where the interface has none, adding it makes the kernel drop some frames that are sent
at that moment, as `tc qdisc add dev IF clsact` does: senders repeat them. What adds one says so.

Before anything changes it says which connections would be cut, with the rule that admits each now and
what drops it then, and which listening sockets would become reachable. --dry-run stops there. It
refuses to cut the connection through which you work, or to drop a new one made the same way, and it
refuses a policy that drops what its own `guard` names, unless --confirm-within or --force is given.

A policy or set file that others than root and the person who became root can write or replace is
refused: they would decide what passes. --trust-files reads it all the same.

Examples:
  sgctl apply builtin:tke --iface eth0
  sgctl apply policy.yaml --iface eth0 --dry-run
  sgctl apply base.yaml team.yaml --iface eth0 --set admin=198.51.100.7
  sgctl apply policy.yaml --iface eth0 --iface eth1
  sgctl apply policy.yaml --iface 'eth*'
  sgctl apply policy.yaml --iface eth0 --confirm-within 60s
  sgctl apply policy.yaml --iface eth0 --audit    # counts what it would drop
  sgctl apply --candidate next.yaml --iface eth0  # changes no verdict
  sgctl apply --no-candidate --iface eth0
  sgctl --netns node1 apply policy.yaml --iface eth0

Exit codes: 0 done, 1 the policy, the interface or the state is wrong, 2 usage, 3 not permitted or
the kernel refused. On an error nothing has changed, unless it says what is in force."
)]
pub(super) struct Apply {
    #[command(flatten)]
    policies: Policies,
    #[command(flatten)]
    attach: Attach,
    /// Undo the policy after this time, from 1s to 24h, unless `sgctl confirm` comes before
    #[arg(long, value_name = "TIME", value_parser = window)]
    confirm_within: Option<Duration>,
    #[command(flatten)]
    beside: Beside,
    /// Say what it would do, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    json: Json,
}

/// Parses the time of `--confirm-within`, which is written as the timeouts of a policy are.
pub(super) fn window(text: &str) -> Result<Duration, String> {
    const LONGEST: u32 = 24 * 3600;
    let seconds = sg_policy::policy::seconds_in(text);
    let seconds = seconds.filter(|seconds| (1..=LONGEST).contains(seconds));
    seconds
        .map(|seconds| Duration::from_secs(seconds.into()))
        .ok_or_else(|| "expected a time from 1s to 24h, such as 60s or 5m".to_owned())
}

/// Says of which interfaces that were left as they are a `run` may take the policy away at its end:
/// it does not hear of an `apply` that had nothing to do.
fn of_a_run(context: &Context, applied: &Applied) -> String {
    let unchanged = applied
        .interfaces()
        .filter(|one| one.outcome == Outcome::Unchanged);
    let names = unchanged.map(|one| one.state.interface.as_str());
    let is_under_run = |name: &&str| matches!(last_beat(&context.bpffs, name), Ok(Some(_)));
    let names: Vec<&str> = names.filter(is_under_run).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(
            "  `sgctl run` is at work on {}: what it has put in force ends with it, unless it\n  \
             was started with --persist\n",
            names.join(", ")
        ),
    }
}

impl Apply {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut impact = None;
        if self.dry_run {
            return self.preview(context);
        }
        let done = self.apply(context, &mut impact);
        if self.json.json {
            // The same report is printed for success and for failure.
            let impact = impact.as_ref();
            let found = done
                .as_ref()
                .map(|(found, _)| found.all().cloned().collect());
            let found: Vec<Finding> = found.unwrap_or_default();
            let applied = done.as_ref().map(|(_, applied)| applied);
            let report = Report::of(&self.attach.ifaces, applied, &found, impact);
            let printed = context.out.json(&report);
            return reported(done.map(drop), printed);
        }
        let (found, applied) = done?;
        let mut out = text(&context.out, &applied);
        if self.beside.is_removed() {
            out.push_str(match applied.outcome {
                Outcome::Unchanged => "  no candidate was beside it\n",
                _ => "  no candidate is evaluated beside it any more\n",
            });
        }
        if applied.outcome == Outcome::Unchanged && self.confirm_within.is_some() {
            out.push_str("  it was in force already: nothing waits to be confirmed\n");
        }
        out.push_str(&of_a_run(context, &applied));
        out.push_str(&self.warnings(context, &found));
        context.out.say(&out).map_err(Failure::after_all)
    }

    /// What is said at the end of the policies themselves.
    fn warnings(&self, context: &Context, found: &Found) -> String {
        let word = context.out.paint(Paint::Yellow, "guard");
        let watched = watched(&found.of_policy).into_iter();
        let mut out: String = watched.map(|line| format!("  {word}: {line}\n")).collect();
        out.push_str(&findings(&found.of_policy, &self.policies));
        if let Some(candidate) = self.beside.policies() {
            out.push_str(&findings(&found.of_candidate, &candidate));
        }
        out
    }

    /// The policy and the options, and what `check` says.
    fn load(&self, context: &Context) -> Result<(Policy, ApplyOptions, Found), Failure> {
        let of_candidate = self.beside.policies();
        let is_stdin = of_candidate.is_some_and(|it| it.are_from_stdin());
        if is_stdin && self.policies.are_from_stdin() {
            let message = "standard input can be read once: name a file for POLICY or --candidate";
            return Err(Failure::usage::<Apply>("apply", message));
        }
        if self.policies.is_empty() && !self.policies.sets.sets.is_empty() {
            let message = "--set is for POLICY: --candidate-set is for the candidate";
            return Err(Failure::usage::<Apply>("apply", message));
        }
        let mut of_policy = Vec::new();
        let (policy, options) = match self.policies.is_empty() {
            true => in_force::<Apply>(context, &self.attach)?,
            false => {
                let loaded = self.policies.load_to_enforce(self.attach.trust)?;
                of_policy = loaded.findings;
                (loaded.policy, self.attach.options(context)?)
            }
        };
        let (candidate, of_candidate) = self.beside.load(self.attach.trust)?;
        let options = ApplyOptions {
            confirm_within: self.confirm_within,
            candidate,
            ..options
        };
        let found = Found {
            of_policy,
            of_candidate,
        };
        Ok((policy, options, found))
    }

    fn apply(
        &self,
        context: &Context,
        seen: &mut Option<Impact>,
    ) -> Result<(Found, Applied), Failure> {
        let _patience = Patience::with("reading and applying the policy");
        let (policy, options, mut found) = self.load(context)?;
        let proposal = Proposal::read(&self.policies, &policy, &options);
        found.of_policy.extend(proposal.breaches.watched());
        if self.policies.is_empty() {
            // No verdict changes, so that nothing is to be said or refused.
            return Ok((found, kernel::apply(&policy, &options)?));
        }
        let screen = (!self.json.json).then_some(&context.out);
        let applied = proposal.apply_aloud(screen, seen)?;
        Ok((found, applied))
    }

    /// `--dry-run`.
    fn preview(&self, context: &Context) -> Result<(), Failure> {
        let found = self.look(context);
        if self.json.json {
            return match found {
                Ok(looked) => {
                    let found: Vec<Finding> = looked.found.all().cloned().collect();
                    let report = DryRun::of(&self.attach.ifaces, &found, &looked.seen);
                    context.out.json(&report)
                }
                Err(failure) => Err(refuse(&context.out, failure)),
            };
        }
        let Looked {
            name,
            options,
            found,
            seen,
        } = found?;
        let mut out = match &seen.preview {
            Preview::Change { .. } if self.policies.is_empty() => {
                let name = context.out.paint(Paint::Bold, &name);
                let names = options.interfaces.join(", ");
                format!("dry run: would change what is beside {name} on {names}, and no verdict\n")
            }
            _ => preview::text(&context.out, &name, &options, &seen),
        };
        out.push_str(&self.warnings(context, &found));
        context.out.say(&out)
    }

    fn look(&self, context: &Context) -> Result<Looked, Failure> {
        let _patience = Patience::with("reading the policy and looking at connections");
        let (policy, options, mut found) = self.load(context)?;
        let proposal = Proposal::read(&self.policies, &policy, &options);
        found.of_policy.extend(proposal.breaches.watched());
        let seen = match self.policies.is_empty() {
            true => Previewed {
                preview: kernel::preview(&policy, &options, &mut |_| Ok(()))?,
                impact: None,
                refusals: Vec::new(),
            },
            false => proposal.preview()?,
        };
        Ok(Looked {
            name: policy.name,
            options,
            found,
            seen,
        })
    }
}

/// What `check` says of what is applied.
#[derive(Default)]
pub(super) struct Found {
    of_policy: Vec<Finding>,
    of_candidate: Vec<Finding>,
}

impl Found {
    fn all(&self) -> impl Iterator<Item = &Finding> {
        self.of_policy.iter().chain(&self.of_candidate)
    }
}

/// What an apply would do.
struct Looked {
    name: String,
    options: ApplyOptions,
    found: Found,
    seen: Previewed,
}
