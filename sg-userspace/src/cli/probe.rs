//! `status --ready` and `status --live`: one line for each interface and an exit code, for probes.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use sg_policy::policy::{Finding, PolicyInput, SetOverride};
use sg_userspace::kernel::run_lock::looked_after;
use sg_userspace::kernel::{KernelError, interfaces};
use sg_userspace::observe::readiness::{not_live, not_ready};

use super::context::Context;
use super::failure::Failure;
use super::placed::placed;
use super::policy_args::Policies;
use super::screen::Paint;
use super::units::clean;

#[derive(Args)]
pub(super) struct Probe {
    /// For a readiness probe: fail unless each interface enforces this policy, and it is
    /// confirmed; several are given as often as to `run`. Without --iface it is about those
    /// that a `run` looks after
    #[arg(long, value_name = "POLICY")]
    ready: Vec<PolicyInput>,
    /// Replace the contents of a named set of that policy
    #[arg(long = "set", value_name = "NAME=VALUE[,VALUE...]", requires = "ready")]
    sets: Vec<SetOverride>,
    /// For a liveness probe: fail unless a `run` is at work on each interface, and was within the
    /// last minute
    #[arg(long)]
    live: bool,
}

/// What a probe found of an interface.
#[derive(Serialize)]
struct Row {
    interface: String,
    netns: Option<String>,
    /// Left out if that was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<bool>,
    /// Why it is not.
    errors: Vec<Finding>,
}

impl Probe {
    pub(super) fn is_asked_for(&self) -> bool {
        self.live || !self.ready.is_empty()
    }

    /// Looks at the interfaces of these names and patterns, where one that matches a pattern and
    /// has no policy is not ready; or else at those that a `run` looks after.
    pub(super) fn run(
        self,
        context: &Context,
        names: &[String],
        is_json: bool,
    ) -> Result<(), Failure> {
        let wanted = match self.ready.is_empty() {
            true => None,
            false => Some(Policies::of(self.ready, self.sets).load()?.policy),
        };
        let names = match names.is_empty() {
            true => looked_after(&context.bpffs)?,
            false => interfaces::expand(names)?,
        };
        if names.is_empty() {
            let place = context.place();
            return Err(KernelError::Fixed {
                what: "probing".into(),
                reason: format!("no `sgctl run` looks after an interface of {place}"),
                help: "`sgctl run POLICY --iface IF` does; --iface IF asks about an interface that has \
                       none"
                    .into(),
            }
            .into());
        }
        let netns = context.netns_name();
        let mut rows = Vec::new();
        for interface in names {
            let (mut ready, mut live, mut errors) = (None, None, Vec::new());
            if let Some(wanted) = &wanted {
                errors = not_ready(&context.bpffs, &interface, wanted)?;
                ready = Some(errors.is_empty());
            }
            if self.live {
                let dead = not_live(&context.bpffs, &interface)?;
                live = Some(dead.is_none());
                errors.extend(dead);
            }
            for error in &mut errors {
                error.help = error.help.as_deref().map(|help| placed(help).into_owned());
            }
            rows.push(Row {
                interface,
                netns: netns.clone(),
                ready,
                live,
                errors,
            });
        }
        match is_json {
            true => context.out.json(&rows)?,
            false => context.out.say(&text(context, &rows))?,
        }
        match rows.iter().all(|row| row.errors.is_empty()) {
            true => Ok(()),
            false => Err(Failure::Told(1)),
        }
    }
}

fn text(context: &Context, rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        let words = [(row.ready, "ready"), (row.live, "live")];
        let words = words.into_iter().filter_map(|(asked, word)| {
            Some(match asked? {
                true => context.out.paint(Paint::Green, word),
                false => context.out.paint(Paint::Red, format!("not {word}")),
            })
        });
        let words = words.collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "{}: {words}", clean(&row.interface));
        for error in &row.errors {
            let help = error.help.as_deref().unwrap_or_default();
            let _ = writeln!(out, "  {}; {}", clean(&error.message), clean(help));
        }
    }
    out
}
