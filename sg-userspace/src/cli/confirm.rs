//! `sgctl confirm`: keeps a policy that was applied with `--confirm-within`.

use clap::Args;
use serde::Serialize;
use sg_userspace::kernel::state::PolicyRecord;
use sg_userspace::kernel::{self, Decided, KernelError};
use sg_userspace::observe::attached::{Attached, found};

use super::context::{Context, Ifaces, Json};
use super::failure::Failure;
use super::screen::{Paint, Screen};

/// Keep a policy that was applied with --confirm-within
#[derive(Args)]
#[command(after_help = "\
Without this the kernel undoes the policy at its deadline: what was in force before comes back. It may be
given in any session, and confirms the policy on all interfaces that it was put on. Without --iface it
confirms what waits in this network namespace.

Examples:
  sgctl confirm
  sgctl confirm --iface eth0
  sgctl --netns node1 confirm

Exit codes: 0 confirmed, 1 nothing waits to be confirmed or it is too late, 2 usage, 3 not permitted or
the kernel refused.")]
pub(super) struct Confirm {
    #[command(flatten)]
    ifaces: Ifaces,
    #[command(flatten)]
    json: Json,
}

impl Confirm {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (mut decided, mut failures) = (Vec::new(), Vec::new());
        let waiting = waiting(context, &self.ifaces)?;
        for one in &waiting {
            match kernel::confirm(&context.bpffs, &one.pins) {
                Ok(done) => decided.push(done),
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        if waiting.is_empty() {
            failures.push(nothing_waits(context));
        }
        let printed = report(context, self.json.json, &decided);
        fail(context, &failures).and(printed.map_err(Failure::after_all))
    }
}

/// An interface of each attachment that is named, or else of each whose policy waits to be
/// confirmed, or has waited.
pub(super) fn waiting(context: &Context, ifaces: &Ifaces) -> Result<Vec<Attached>, Failure> {
    let mut chosen: Vec<Attached> = Vec::new();
    for one in found(&context.bpffs, &context.here(ifaces))? {
        let is_known = chosen.iter().any(|it| it.pins.shares_with(&one.pins));
        if !is_known && (!ifaces.names.is_empty() || one.has_trial()) {
            chosen.push(one);
        }
    }
    Ok(chosen)
}

fn nothing_waits(context: &Context) -> Failure {
    Failure::from(KernelError::NothingToConfirm {
        scope: context.any_interface(),
    })
}

/// Prints the failures. Fails with the highest of their exit codes, if there are any.
pub(super) fn fail(context: &Context, failures: &[Failure]) -> Result<(), Failure> {
    for failure in failures {
        failure.report(&context.err);
    }
    match failures.iter().map(Failure::exit_code).max() {
        None => Ok(()),
        Some(code) => Err(Failure::Told(code)),
    }
}

/// What has become of a policy on one interface.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    interface: &'a str,
    netns: Option<String>,
    /// The policy that waited to be confirmed.
    policy: &'a PolicyRecord,
    confirmed: bool,
    /// The policy that is in force again, if that one was not confirmed. Null if there was none.
    returned_to: Option<&'a PolicyRecord>,
}

pub(super) fn report(context: &Context, is_json: bool, all: &[Decided]) -> Result<(), Failure> {
    if !is_json {
        let lines = all
            .iter()
            .map(|decided| format!("{}\n", sentence(&context.out, decided)));
        return context.out.say(&lines.collect::<String>());
    }
    context.out.json(&rows(all, context.netns_name()))
}

pub(super) fn rows<'a>(all: &'a [Decided], netns: Option<String>) -> Vec<Row<'a>> {
    let netns = &netns;
    let of_one = |decided: &'a Decided| {
        let returned_to = decided.returned_to.as_ref();
        decided.interfaces.iter().map(move |interface| Row {
            interface,
            netns: netns.clone(),
            policy: &decided.policy,
            confirmed: decided.is_confirmed,
            returned_to: returned_to.filter(|_| !decided.is_confirmed),
        })
    };
    all.iter().flat_map(of_one).collect()
}

/// `confirmed web on eth0, generation 8`, and what is in force where a policy was not confirmed.
pub(super) fn sentence(screen: &Screen, decided: &Decided) -> String {
    let PolicyRecord {
        name, generation, ..
    } = &decided.policy;
    let on = screen.paint(Paint::Bold, decided.interfaces.join(", "));
    let name = screen.paint(Paint::Bold, name);
    if decided.is_confirmed {
        let word = screen.paint(Paint::Green, "confirmed");
        return format!("{word} {name} on {on}, generation {generation}");
    }
    let word = screen.paint(Paint::Yellow, "undone");
    let now = match &decided.returned_to {
        Some(before) => format!(
            "{}, generation {}, is in force again",
            before.name, before.generation
        ),
        None => "nothing is in force, as before it".to_owned(),
    };
    format!("{word} {name} on {on}, generation {generation}\n  {now}")
}
