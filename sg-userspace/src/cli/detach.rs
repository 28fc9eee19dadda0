//! `sgctl detach`: removes all that the enforcer has put on an interface, or on the machine. A
//! damaged record does not stop it, and neither does another interface that cannot be detached.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use sg_userspace::kernel::hold::HeldInterface;
use sg_userspace::kernel::{self, KernelError};
use sg_userspace::observe::attached::{Attached, Scope, other_layouts};
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
struct Gone {
    interface: String,
    netns: Option<String>,
    policy: Option<String>,
}

/// What was done, also in words, and what has failed.
#[derive(Default)]
struct Done {
    gone: Vec<Gone>,
    text: String,
    failures: Vec<Failure>,
}

impl Detach {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(unit) = &self.unless_enabled {
            match end_of(unit) {
                End::Stays(why) => {
                    return context.out.say(&format!("left as it is: {why}\n"));
                }
                End::Over(why) => context.out.say(&format!("enforcement ends: {why}\n"))?,
            }
        }
        let scope = context.everywhere(&self.ifaces);
        let found = self.find(context, &scope)?;
        let (is_empty, is_attached) = (found.is_empty(), !found.attached.is_empty());
        // Listed before our own are removed, because the name of an interface leads to both.
        let others = other_layouts(&context.bpffs, &scope)?;
        let mut done = Done::default();
        done.detach(context, found.attached)?;
        done.remove_left(context, &found.left);
        let errors = found.unknown.into_iter().chain(others);
        done.failures.extend(errors.map(Failure::from));
        let Done {
            gone,
            mut text,
            failures,
        } = done;
        if !is_attached && failures.is_empty() {
            kernel::tidy_up(&context.bpffs)?;
        }
        if is_empty && failures.is_empty() {
            text.push_str("nothing is attached\n");
        }
        let printed = match self.json.json {
            true => context.out.json(&gone),
            false => context.out.say(&text),
        };
        for failure in &failures {
            failure.report(&context.err);
        }
        match failures.iter().map(Failure::exit_code).max() {
            None => printed.map_err(Failure::after_all),
            Some(code) => Err(Failure::Told(code)),
        }
    }

    /// What is to be removed.
    fn find(&self, context: &Context, scope: &Scope) -> Result<Found, KernelError> {
        match attached_or_left(&context.bpffs, scope) {
            // The unit may have waited for its interfaces.
            Err(KernelError::NotAttached { .. } | KernelError::NoInterface { .. })
                if self.unless_enabled.is_some() =>
            {
                Ok(Found::default())
            }
            found => found,
        }
    }
}

impl Done {
    /// Detaches all of these interfaces that can be.
    fn detach(&mut self, context: &Context, all: Vec<Attached>) -> Result<(), KernelError> {
        // The names are read first, because they are gone after detaching.
        let named = all.into_iter().map(|one| (whereabouts(&one), one));
        let mut named: Vec<_> = named.collect();
        named.sort_by_cached_key(|((_, place), one)| by_place(one, place.clone()));
        let pins: Vec<_> = named.iter().map(|(_, one)| &one.pins).collect();
        let removed = kernel::detach_each(&context.bpffs, &pins, |_| true)?;
        for (((interface, netns), one), removed) in named.iter().zip(removed) {
            match removed {
                Ok(_) => {
                    self.gone.push(Gone {
                        interface: interface.clone(),
                        netns: netns.clone(),
                        policy: policy_of(one),
                    });
                    let _ = writeln!(
                        self.text,
                        "{} {}",
                        context.out.paint(Paint::Green, "detached"),
                        sentence(one, interface, netns.as_deref())
                    );
                }
                Err(error) => self.failures.push(error.into()),
            }
        }
        Ok(())
    }

    /// Removes what `run` has left where nothing is attached.
    fn remove_left(&mut self, context: &Context, left: &[HeldInterface]) {
        for one in left {
            match one.remove() {
                Ok(()) => {
                    self.gone.push(Gone {
                        interface: one.interface.clone(),
                        netns: one.netns.clone(),
                        policy: None,
                    });
                    let place = in_namespace(one.netns.as_deref());
                    let _ = writeln!(
                        self.text,
                        "{} what a `sgctl run` that was killed has left on {}{place}",
                        context.out.paint(Paint::Green, "removed"),
                        one.interface
                    );
                }
                Err(error) => self.failures.push(error.into()),
            }
        }
    }
}

fn policy_of(one: &Attached) -> Option<String> {
    let state = one.state.as_ref().ok()?;
    Some(state.policy.name.clone())
}

/// What was detached from where.
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
