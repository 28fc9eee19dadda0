//! `sgctl apply`: compiles a policy, attaches it or replaces the one in force, and returns. If it
//! fails, nothing has changed.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use sg_policy::compile::TableSizes;
use sg_policy::policy::{Finding, Loaded, Severity};
use sg_userspace::kernel::impact::{Change, Impact};
use sg_userspace::kernel::self_check::SelfCheck;
use sg_userspace::kernel::state::PolicyRecord;
use sg_userspace::kernel::trial::left_until;
use sg_userspace::kernel::{self, Applied, AppliedTo, ApplyOptions, Cut, Outcome, Preview, Seeded};

use super::confirm;
use super::context::{Context, Json};
use super::failure::Failure;
use super::health;
use super::impact::{self, Mood};
use super::patience::Patience;
use super::policy_args::{Attach, Policies};
use super::screen::{Paint, Screen};
use super::units::{bytes, count, left, short_digest, thousands};
use sg_userspace::observe::attached::Unconfirmed;

/// Attach a policy to interfaces, or replace the one that is attached, and return
#[derive(Args)]
#[command(after_help = "\
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

Where tcx is missing (before Linux 6.6), or with --egress-hook clsact, the outbound program needs a
clsact qdisc. Where the interface has none, adding it makes the kernel drop some frames that are sent
at that moment, as `tc qdisc add dev IF clsact` does: senders repeat them. What adds one says so.

Before anything changes it says which connections would be cut, with the rule that admits each now and
what drops it then, and which listening sockets would become reachable. --dry-run stops there. It
refuses to cut the connection through which you work, or to drop a new one made the same way, and it
refuses a policy that drops what its own `guard` names, unless --confirm-within or --force is given.

Examples:
  sgctl apply builtin:tke --iface eth0
  sgctl apply policy.yaml --iface eth0 --dry-run
  sgctl apply base.yaml team.yaml --iface eth0 --set admin=198.51.100.7
  sgctl apply policy.yaml --iface eth0 --iface eth1
  sgctl apply policy.yaml --iface 'eth*'
  sgctl apply policy.yaml --iface eth0 --confirm-within 60s
  sgctl apply policy.yaml --iface eth0 --audit    # counts what it would drop
  sgctl --netns node1 apply policy.yaml --iface eth0

Exit codes: 0 done, 1 the policy, the interface or the state is wrong, 2 usage, 3 not permitted or
the kernel refused. On an error nothing has changed.")]
pub(super) struct Apply {
    #[command(flatten)]
    policies: Policies,
    #[command(flatten)]
    attach: Attach,
    /// Undo the policy after this time, from 1s to 24h, unless `sgctl confirm` comes before
    #[arg(long, value_name = "TIME", value_parser = window)]
    confirm_within: Option<Duration>,
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
            let report = Report::of(&self.attach.ifaces, &done, impact);
            context.out.json(&report)?;
        }
        let (loaded, applied) = done?;
        if self.json.json {
            return Ok(());
        }
        let mut out = text(&context.out, &applied);
        if applied.outcome == Outcome::Unchanged && self.confirm_within.is_some() {
            out.push_str("  it was in force already: nothing waits to be confirmed\n");
        }
        out.push_str(&findings(&loaded.findings, &self.policies));
        context.out.say(&out)
    }

    fn apply(
        &self,
        context: &Context,
        seen: &mut Option<Impact>,
    ) -> Result<(Loaded, Applied), Failure> {
        let _patience = Patience::with("reading and applying the policy");
        let loaded = self.policies.load()?;
        let options = self.options(context)?;
        let is_off = impact::is_off(&options);
        if !is_off {
            impact::guarded(&loaded.policy)?;
        }
        let mut review = |change: &Change<'_>| {
            let found = change.impact()?;
            let refusal = impact::lock_out(&found, Some(&self.policies), &loaded.policy);
            let refusal = refusal.filter(|_| !is_off);
            if !self.json.json {
                let (mood, verb) = match refusal {
                    None => (Mood::Does, "applying"),
                    Some(_) => (Mood::Would, "not applied:"),
                };
                let name = context.out.paint(Paint::Bold, &loaded.policy.name);
                let interfaces = found.interfaces.join(", ");
                let mut out = format!("{verb} {name} to {interfaces}\n");
                out.push_str(&impact::text(&context.out, &found, mood, is_off));
                // Whoever does not read it may still want the policy.
                let _ = context.out.say(&out);
            }
            *seen = Some(found);
            refusal.map_or(Ok(()), Err)
        };
        let applied = kernel::apply_reviewed(&loaded.policy, &options, &mut review)?;
        Ok((loaded, applied))
    }

    fn options(&self, context: &Context) -> Result<ApplyOptions, Failure> {
        Ok(ApplyOptions {
            confirm_within: self.confirm_within,
            ..self.attach.options(context)?
        })
    }

    /// `--dry-run`.
    fn preview(&self, context: &Context) -> Result<(), Failure> {
        let mut impact = None;
        let found = self.look(context, &mut impact);
        if self.json.json {
            let failure = found.as_ref().err();
            let report = Previewed::of(&self.attach.ifaces, &found, impact.as_ref());
            match failure {
                None => context.out.json(&report)?,
                Some(failure) => refuse(&context.out, failure)?,
            }
        }
        let (loaded, preview, refusals) = found?;
        if self.json.json {
            return Ok(());
        }
        let name = context.out.paint(Paint::Bold, &loaded.policy.name);
        let options = self.options(context)?;
        let names = options.interfaces.join(", ");
        let mut out = match &preview {
            Preview::Unchanged(_) => format!("dry run: {name} is in force on {names} already\n"),
            Preview::Change {
                generation,
                is_first: true,
            } => format!("dry run: would attach {name} to {names}, generation {generation}\n"),
            Preview::Change { generation, .. } => format!(
                "dry run: would replace the policy of {names} by {name}, generation {generation}\n"
            ),
        };
        if let Some(impact) = &impact {
            let is_off = impact::is_off(&options);
            out.push_str(&impact::text(&context.out, impact, Mood::Would, is_off));
        }
        for refusal in &refusals {
            let _ = writeln!(
                out,
                "  {}: {}",
                context.out.paint(Paint::Red, "would be refused"),
                refusal.message
            );
            if let Some(help) = &refusal.help {
                let _ = writeln!(out, "    help: {help}");
            }
        }
        out.push_str(&findings(&loaded.findings, &self.policies));
        context.out.say(&out)
    }

    /// What an apply would do, and for what it would be refused.
    fn look(
        &self,
        context: &Context,
        seen: &mut Option<Impact>,
    ) -> Result<(Loaded, Preview, Vec<Finding>), Failure> {
        let _patience = Patience::with("reading the policy and looking at connections");
        let loaded = self.policies.load()?;
        let options = self.options(context)?;
        let mut refusals = Vec::new();
        if let Err(failure) = impact::guarded(&loaded.policy) {
            refusals.extend(failure.findings());
        }
        let mut review = |change: &Change<'_>| {
            let found = change.impact()?;
            let refusal = impact::lock_out(&found, Some(&self.policies), &loaded.policy);
            refusals.extend(
                refusal
                    .into_iter()
                    .flat_map(|it| Failure::from(it).findings()),
            );
            *seen = Some(found);
            Ok(())
        };
        let preview = kernel::preview(&loaded.policy, &options, &mut review)?;
        if impact::is_off(&options) {
            refusals.clear();
        }
        Ok((loaded, preview, refusals))
    }
}

/// `apply --dry-run --json`.
#[derive(Serialize)]
struct Previewed<'a> {
    /// The first interface, as the user named it.
    interface: Option<&'a str>,
    dry_run: bool,
    /// Whether the policy is in force already, so that nothing would be done.
    unchanged: bool,
    /// Whether another policy would be replaced.
    replaced: bool,
    generation: Option<u32>,
    /// Null if nothing would be done.
    impact: Option<&'a Impact>,
    /// For what it would be refused.
    refusals: &'a [Finding],
    findings: &'a [Finding],
    errors: [Finding; 0],
}

impl<'a> Previewed<'a> {
    fn of(
        interfaces: &'a [String],
        found: &'a Result<(Loaded, Preview, Vec<Finding>), Failure>,
        impact: Option<&'a Impact>,
    ) -> Option<Previewed<'a>> {
        let (loaded, preview, refusals) = found.as_ref().ok()?;
        let (unchanged, replaced, generation) = match preview {
            Preview::Unchanged(applied) => (true, false, applied.first.state.policy.generation),
            Preview::Change {
                generation,
                is_first,
            } => (false, !is_first, *generation),
        };
        Some(Previewed {
            interface: interfaces.first().map(String::as_str),
            dry_run: true,
            unchanged,
            replaced,
            generation: Some(generation),
            impact,
            refusals,
            findings: &loaded.findings,
            errors: [],
        })
    }
}

/// Prints the report of an `apply` that could not begin.
pub(super) fn refuse(screen: &Screen, failure: &Failure) -> Result<(), Failure> {
    screen.json(&Report::Failed {
        interface: None,
        impact: None,
        findings: [],
        errors: failure.findings(),
    })
}

/// `apply --json`: what was done, the findings of `check`, and the errors. If there are no errors,
/// the policy is in force.
#[derive(Serialize)]
#[serde(untagged)]
enum Report<'a> {
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
    fn of(
        interfaces: &'a [String],
        done: &'a Result<(Loaded, Applied), Failure>,
        impact: Option<&'a Impact>,
    ) -> Report<'a> {
        match done {
            Ok((loaded, applied)) => Report::Done {
                done: Box::new(Done::from(applied)),
                impact,
                findings: &loaded.findings,
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
pub(super) struct Done<'a> {
    interface: &'a str,
    netns: Option<&'a str>,
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
        Done {
            interface: &state.interface,
            netns: state.netns.as_deref(),
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
            decided: confirm::rows(&applied.decided, state.netns.as_deref()),
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

pub(super) fn text(screen: &Screen, applied: &Applied) -> String {
    let mut out = String::new();
    for decided in &applied.decided {
        let _ = writeln!(out, "{}", confirm::sentence(screen, decided));
    }
    if let Some(path) = &applied.mounted {
        let _ = writeln!(out, "mounted a BPF file system at {}", path.display());
    }
    let state = &applied.first.state;
    let (word, paint) = match applied.outcome {
        Outcome::Unchanged => ("unchanged", Paint::Dim),
        Outcome::Attached | Outcome::Replaced => ("applied", Paint::Green),
    };
    let _ = writeln!(
        out,
        "{} {}  {}",
        screen.paint(paint, word),
        summary(screen, applied),
        screen.paint(
            Paint::Dim,
            format!("sha256:{}", short_digest(&state.policy.digest))
        ),
    );
    for one in applied.interfaces() {
        let AppliedTo { outcome, state, .. } = one;
        let _ = write!(out, "  ");
        if !applied.others.is_empty() {
            let _ = write!(out, "{}: ", state.interface);
        }
        let _ = write!(
            out,
            "{} XDP inbound, {} outbound",
            state.xdp_mode.name(),
            state.egress_hook.name()
        );
        let _ = match outcome {
            _ if *outcome == applied.outcome => writeln!(out),
            Outcome::Unchanged => writeln!(out, ", unchanged"),
            Outcome::Attached => writeln!(out, ", attached"),
            Outcome::Replaced => writeln!(out, ", replaced"),
        };
    }
    if applied.outcome == Outcome::Unchanged {
        if let Some(auditing) = health::auditing(state.policy.audit, state.audited_rules()) {
            let _ = writeln!(out, "  {auditing}");
        }
        return out;
    }
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let _ = writeln!(
        out,
        "  {} in {} of lookup tables, compiled in {:.1} ms, loaded in {:.1} ms",
        count(state.rules.len(), "rule"),
        bytes(applied.sizes.bytes as u64),
        milliseconds(applied.compile_time),
        milliseconds(applied.load_time),
    );
    if let Some(checked) = &applied.self_check {
        let _ = writeln!(out, "  {}", self_check(checked));
    }
    for note in notes(applied) {
        let _ = writeln!(out, "  {note}");
    }
    out
}

/// `self-check: 12,345 packets agree (0.31 s)`, and how much of what there is to try that was.
fn self_check(checked: &SelfCheck) -> String {
    let mut out = format!(
        "self-check: {} agree ({:.2} s)",
        count(checked.packets, "packet"),
        checked.seconds
    );
    if !checked.is_whole() {
        let _ = write!(
            out,
            ", of {} at the edges of ",
            thousands(checked.edges as u64)
        );
        let _ = match checked.classes == checked.all_classes {
            true => write!(out, "the rules"),
            false => write!(
                out,
                "{} of {} address classes",
                thousands(checked.classes as u64),
                thousands(checked.all_classes as u64)
            ),
        };
    }
    out
}

/// What was done besides putting the policy in force, one sentence each.
pub(super) fn notes(applied: &Applied) -> Vec<String> {
    let state = &applied.first.state;
    let auditing = health::auditing(state.policy.audit, state.audited_rules());
    let mut notes: Vec<String> = auditing.into_iter().collect();
    notes.extend(unconfirmed(applied));
    notes.extend(seeded(applied));
    if applied.first.state.forced && applied.outcome != Outcome::Unchanged {
        notes.push("the lock-out guard was off (--force)".to_owned());
    }
    notes.extend(applied.cut.map(cut));
    if applied.has_added_clsact() {
        notes.push(
            "added a clsact qdisc: the kernel may have dropped frames that were sent at that moment"
                .to_owned(),
        );
    }
    notes.extend(unseen(applied));
    notes
}

/// Until when the policy waits to be confirmed, and what returns then; or that one which has waited
/// is replaced for good.
fn unconfirmed(applied: &Applied) -> Vec<String> {
    let trials = applied.interfaces().filter_map(|it| it.state.open_trial());
    let Some(trial) = trials.max_by_key(|trial| trial.returns_to.is_some()) else {
        let ended = applied.replaced.as_ref();
        let ended = ended.filter(|_| applied.has_ended_trial);
        let line = |before: &PolicyRecord| {
            format!(
                "generation {}, which waited to be confirmed, is replaced: nothing will be undone",
                before.generation
            )
        };
        return ended.map(line).into_iter().collect();
    };
    let left = left(left_until(trial.deadline).as_secs_f64());
    let returns = match &trial.returns_to {
        Some(before) => format!(
            "then {}, generation {}, comes back",
            before.policy.name, before.policy.generation
        ),
        None => "then nothing is in force, as before".to_owned(),
    };
    vec![
        format!("not confirmed: undone in {left} unless `sgctl confirm` comes before"),
        returns,
    ]
}

/// `cut 3 TCP connections that were there`.
fn cut(cut: Cut) -> String {
    let mut out = match cut.connections {
        None => {
            "kept no connection that was there; how many were cut cannot be said, for the kernel \
                 would not list them"
                .to_owned()
        }
        Some(0) => "cut no TCP connection: there was none that the rules do not pass".to_owned(),
        Some(1) => "cut 1 TCP connection that was there".to_owned(),
        Some(n) => format!("cut {} that were there", count(n, "TCP connection")),
    };
    if cut.left_out > 0 {
        let _ = write!(
            out,
            "; the table (--max-flows) had no room for {} more, which their ends may take up again",
            thousands(cut.left_out as u64)
        );
    }
    out
}

/// `kept 12 flows that were there (3 that no rule admits)`, if any were kept.
fn seeded(applied: &Applied) -> Option<String> {
    let Seeded {
        entered,
        without_rule,
        left_out,
        ..
    } = *applied.seeded.as_ref()?;
    if entered + left_out == 0 {
        return None;
    }
    let were = if entered == 1 { "was" } else { "were" };
    let mut out = format!("kept {} that {were} there", count(entered, "flow"));
    if without_rule > 0 {
        let without_rule = thousands(without_rule as u64);
        let _ = write!(out, " ({without_rule} that no rule admits)");
    }
    if left_out > 0 {
        let left_out = thousands(left_out as u64);
        let _ = write!(
            out,
            "; the table (--max-flows) had no room for {left_out} more"
        );
    }
    Some(out)
}

/// `could not see …`, for each kind of connections that may exist and cannot be seen, and what
/// happens to them.
fn unseen(applied: &Applied) -> Vec<String> {
    let unseen = applied.seeded.iter().flat_map(|seeded| &seeded.unseen);
    let mut lines: Vec<String> = unseen
        .map(|unseen| format!("could not see {}", unseen.message))
        .collect();
    if !lines.is_empty() {
        lines.push("what was not seen goes on only as far as the rules pass it".into());
    }
    lines
}

/// `tke on eth0, generation 3, in place of generation 2`.
pub(super) fn summary(screen: &Screen, applied: &Applied) -> String {
    let state = &applied.first.state;
    let generation = state.policy.generation;
    let names = applied.interfaces().map(|one| one.state.interface.as_str());
    let mut out = format!(
        "{} on {}, generation {generation}",
        screen.paint(Paint::Bold, &state.policy.name),
        screen.paint(Paint::Bold, names.collect::<Vec<_>>().join(", ")),
    );
    if let Some(before) = &applied.replaced {
        let _ = write!(out, ", in place of generation {}", before.generation);
    }
    out
}

/// Lists the warnings. They do not stop the policy from being applied, but should not be
/// overlooked.
pub(super) fn findings(findings: &[Finding], policies: &Policies) -> String {
    let warnings = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Warning)
        .count();
    match warnings {
        0 => String::new(),
        n => format!(
            "  {}: see `sgctl check {}`\n",
            count(n, "warning"),
            policies.spelled()
        ),
    }
}
