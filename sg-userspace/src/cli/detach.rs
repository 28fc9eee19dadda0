//! `sgctl detach`: removes all that the enforcer has put on an interface, or on the machine. A
//! damaged record does not stop it, and neither does another interface that cannot be detached.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use sg_userspace::kernel::{self, KernelError};
use sg_userspace::observe::attached::{Attached, other_layouts};
use sg_userspace::observe::left::{Found, attached_or_left};

use super::context::{Context, Ifaces, Json};
use super::failure::Failure;
use super::screen::Paint;
use super::status::{by_place, whereabouts};
use super::unit::{End, end_of};
use super::units::ago;

/// End enforcement and remove every trace of it
#[derive(Args)]
#[command(after_help = "\
Without --iface everything goes: in the namespace that --netns names, else on the whole machine.
Other interfaces under the same policy stay as they are, and keep the flows that they share.

Examples:
  sgctl detach
  sgctl detach --iface eth0
  sgctl detach --iface 'eth*'
  sgctl --netns node1 detach

Exit codes: 0 done (nothing was attached included), 1 the named interface is not attached or the
state is wrong, 2 usage, 3 not permitted or the kernel refused.")]
pub(super) struct Detach {
    #[command(flatten)]
    ifaces: Ifaces,
    #[command(flatten)]
    json: Json,
    /// Only if this unit of systemd, which has stopped, is not enabled any more
    #[arg(long, value_name = "UNIT", hide = true)]
    unless_enabled: Option<String>,
}

/// An interface that was detached.
#[derive(Serialize)]
struct Gone<'a> {
    interface: String,
    netns: Option<String>,
    policy: Option<&'a str>,
}

impl Detach {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let scope = context.everywhere(&self.ifaces);
        if let Some(unit) = &self.unless_enabled {
            match end_of(unit) {
                End::Stays(why) => {
                    return context.out.say(&format!("left as it is: {why}\n"));
                }
                End::Over(why) => context.out.say(&format!("enforcement ends: {why}\n"))?,
            }
        }
        let found = match attached_or_left(&context.bpffs, &scope) {
            // The unit may have waited for its interfaces.
            Err(KernelError::NotAttached { .. } | KernelError::NoInterface { .. })
                if self.unless_enabled.is_some() =>
            {
                Found::default()
            }
            found => found?,
        };
        let is_empty = found.is_empty();
        let Found {
            attached,
            left,
            unknown,
        } = found;
        // The names are read first, because they are gone after detaching.
        let named = attached.into_iter().map(|one| (whereabouts(&one), one));
        let mut found: Vec<_> = named.collect();
        found.sort_by_cached_key(|((_, place), one)| by_place(one, place.clone()));
        // Listed before our own are removed, because the name of an interface leads to both.
        let others = other_layouts(&context.bpffs, &scope)?;
        let mut out = String::new();
        let mut gone = Vec::new();
        let mut failures = Vec::new();
        let places: Vec<_> = found.iter().map(|(_, one)| &one.pins).collect();
        let removed = kernel::detach_each(&context.bpffs, &places, |_| true)?;
        for (((name, place), one), removed) in found.iter().zip(removed) {
            match removed {
                Ok(_) => {
                    gone.push(Gone {
                        interface: name.clone(),
                        netns: place.clone(),
                        policy: policy_of(one),
                    });
                    let _ = writeln!(
                        out,
                        "{} {}",
                        context.out.paint(Paint::Green, "detached"),
                        sentence(one, name, place.as_deref())
                    );
                }
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        for one in &left {
            match one.remove() {
                Ok(()) => {
                    gone.push(Gone {
                        interface: one.interface.clone(),
                        netns: one.netns.clone(),
                        policy: None,
                    });
                    let place = in_namespace(one.netns.as_deref());
                    let _ = writeln!(
                        out,
                        "{} what a `sgctl run` that was killed has left on {}{place}",
                        context.out.paint(Paint::Green, "removed"),
                        one.interface
                    );
                }
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        failures.extend(unknown.into_iter().chain(others).map(Failure::from));
        if found.is_empty() && failures.is_empty() {
            kernel::tidy_up(&context.bpffs)?;
        }
        if is_empty && failures.is_empty() {
            out.push_str("nothing is attached\n");
        }
        let printed = match self.json.json {
            true => context.out.json(&gone),
            false => context.out.say(&out),
        };
        for failure in &failures {
            failure.report(&context.err);
        }
        match failures.iter().map(Failure::exit_code).max() {
            None => printed.map_err(Failure::after_all),
            Some(code) => Err(Failure::Told(code)),
        }
    }
}

fn policy_of(one: &Attached) -> Option<&str> {
    one.state
        .as_ref()
        .ok()
        .map(|state| state.policy.name.as_str())
}

fn sentence(one: &Attached, name: &str, place: Option<&str>) -> String {
    let place = in_namespace(place);
    match &one.state {
        Ok(state) if state.has_ended() => format!(
            "what is left of {}, which was not confirmed, from {name}{place}",
            state.policy.name
        ),
        Ok(state) => format!(
            "{} from {name}{place}, attached {}",
            state.policy.name,
            ago(&state.attached_at)
        ),
        Err(_) => format!("a damaged attachment from {name}{place}"),
    }
}

fn in_namespace(name: Option<&str>) -> String {
    name.map(|name| format!(" in namespace {name}"))
        .unwrap_or_default()
}
