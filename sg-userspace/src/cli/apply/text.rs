//! What `sgctl apply` says that it has done, of which `run` and `rollback` say the same.

use std::fmt::Write as _;

use sg_policy::analysis::access;
use sg_policy::policy::{Finding, Severity};
use sg_userspace::kernel::self_check::SelfCheck;
use sg_userspace::kernel::state::PolicyRecord;
use sg_userspace::kernel::trial::left_until;
use sg_userspace::kernel::{Applied, AppliedTo, Cut, EndedCandidate, Outcome, Seeded};

use crate::cli::confirm;
use crate::cli::health;
use crate::cli::policy_args::Policies;
use crate::cli::screen::{Paint, Screen};
use crate::cli::units::{bytes, count, left, short_digest, thousands};

/// What was done.
pub(in crate::cli) fn text(screen: &Screen, applied: &Applied) -> String {
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
        for note in candidate(applied) {
            let _ = writeln!(out, "  {note}");
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
pub(in crate::cli) fn notes(applied: &Applied) -> Vec<String> {
    let state = &applied.first.state;
    let auditing = health::auditing(state.policy.audit, state.audited_rules());
    let mut notes: Vec<String> = auditing.into_iter().collect();
    notes.extend(candidate(applied));
    notes.extend(unconfirmed(applied));
    notes.extend(seeded(applied));
    if applied.first.state.forced && applied.outcome != Outcome::Unchanged {
        notes.push("the lock-out guard was off (--force)".to_owned());
    }
    notes.extend(applied.cut.map(|it| cut(it, applied)));
    if applied.has_added_clsact() {
        notes.push(
            "added a clsact qdisc: the kernel may have dropped frames that were sent at that moment"
                .to_owned(),
        );
    }
    notes.extend(unseen(applied));
    notes
}

/// What is evaluated beside the policy, or is not any more.
fn candidate(applied: &Applied) -> Vec<String> {
    let state = &applied.first.state;
    let mut lines = Vec::new();
    if let Some(candidate) = &state.candidate {
        let outcome = match state.pairs.len() {
            0 => "no packet can have another outcome under it".to_owned(),
            1 => {
                "1 pair of rules can have another outcome: `sgctl counters --candidate`".to_owned()
            }
            n => format!(
                "{} pairs of rules can have another outcome: `sgctl counters --candidate`",
                thousands(n as u64)
            ),
        };
        lines.push(format!(
            "candidate {} ({}) is evaluated beside it",
            candidate.name,
            short_digest(&candidate.digest)
        ));
        lines.push(outcome);
    }
    if let Some(ended) = &applied.ended_candidate {
        let EndedCandidate { name, reason, .. } = ended;
        lines.push(format!(
            "candidate {name} is not evaluated any more: {reason}"
        ));
    }
    lines
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

/// `cut 3 TCP connections that the node had, as far as they go by eth0`.
fn cut(cut: Cut, applied: &Applied) -> String {
    let mut out = match cut.connections {
        None => {
            "kept no connection that was there; how many were cut cannot be said, for the kernel \
                 would not list them"
                .to_owned()
        }
        Some(0) => "cut no TCP connection: there was none that the rules do not pass".to_owned(),
        Some(n) => {
            let connections = count(n, "TCP connection");
            format!("cut {connections} that the node had{}", by(applied))
        }
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

/// `, as far as they go by eth0`: the node's connections are known, and not by which of its
/// interfaces they go.
fn by(applied: &Applied) -> String {
    let names = applied.interfaces().map(|one| one.state.interface.as_str());
    let names: Vec<&str> = names.collect();
    format!(", as far as they go by {}", names.join(", "))
}

/// `kept 12 flows that the node had, as far as they go by eth0 (3 that no rule admits)`, if any
/// were kept.
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
    let flows = count(entered, "flow");
    let mut out = format!("kept {flows} that the node had{}", by(applied));
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
pub(in crate::cli) fn summary(screen: &Screen, applied: &Applied) -> String {
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

/// What the policy's own guard names and would be dropped if it were not audited, in lines.
pub(in crate::cli) fn watched(findings: &[Finding]) -> Vec<String> {
    let of_guard = findings.iter().filter(|it| it.code == access::CODE);
    of_guard.map(|it| it.message.clone()).collect()
}

/// Lists the warnings. They do not stop the policy from being applied, but should not be
/// overlooked.
pub(in crate::cli) fn findings(findings: &[Finding], policies: &Policies) -> String {
    let warnings = findings
        .iter()
        .filter(|it| it.severity == Severity::Warning && it.code != access::CODE)
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
