//! What `run` knows between its first apply and its end: the interfaces that it looks after, the
//! programs that are its own, and what is wrong at the moment. What it does is in the files beside
//! this one: `attend` waits for events, `pins`, `link` and `repair` look at what others change, and
//! `end` puts back what was in force before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use sg_common::flow::TIMEOUTS;
use sg_userspace::kernel::attempted::Attempted;
use sg_userspace::kernel::held::{Held, InForce};
use sg_userspace::kernel::pins::{InterfacePins, PinTree};
use sg_userspace::kernel::run_lock::RunLock;
use sg_userspace::kernel::state::{PolicyRecord, State};
use sg_userspace::kernel::{Applied, KernelError};
use sg_userspace::observe::attached::{Attached, attached_to};
use sg_userspace::observe::events::Events as PacketLog;
use sg_userspace::observe::metrics::EventCounts;
use sg_userspace::observe::trace::PacketTrace;

use super::change::Change;
use super::check::Checks;
use super::events::Events;
use super::expected::Expected;
use super::log::Log;
use super::notify::Manager;
use super::own_trial::{Ended, OwnTrial};
use super::reload::Begun;
use super::terminal::Terminal;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::policy_args::Policies;

/// A policy that this process has put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ours {
    pub(super) generation: u32,
    /// Of each interface, inbound first.
    pub(super) programs: BTreeSet<[u32; 2]>,
}

impl Ours {
    pub(super) fn of<'a>(states: impl Iterator<Item = &'a State>) -> Ours {
        let attempted: Vec<Attempted> = states.map(State::attempted).collect();
        Ours::attempted(&attempted)
    }

    pub(super) fn attempted(what: &[Attempted]) -> Ours {
        let generations = what.iter().map(|one| one.generation);
        Ours {
            generation: generations.max().unwrap_or_default(),
            programs: what.iter().map(|one| one.programs).collect(),
        }
    }

    /// Everything that `other` runs is of this one.
    pub(super) fn includes(&self, other: &Ours) -> bool {
        other.programs.is_subset(&self.programs)
    }
}

/// An interface that the session looks after.
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) pins: InterfacePins,
    /// What was in force before this process, to return to.
    pub(super) before: InForce,
    /// What is in force now, whoever has put it there, to be attached if the interface is made
    /// anew.
    pub(super) current: Option<Box<Held>>,
    /// Whether the interface does not exist at the moment.
    pub(super) is_gone: bool,
}

impl Watched {
    pub(super) fn new(name: &str, pins: InterfacePins, before: InForce) -> Watched {
        Watched {
            name: name.to_owned(),
            pins,
            before,
            current: None,
            is_gone: false,
        }
    }

    /// Whether the interface still runs what it ran before this process.
    pub(super) fn is_as_before(&self) -> bool {
        match &self.before {
            InForce::Nothing => !self.pins.exists(),
            InForce::Policy(held) => {
                let found = State::read(&self.pins).ok().flatten();
                found.is_some_and(|state| state.attempted() == held.state().attempted())
            }
            InForce::Damaged => false,
        }
    }
}

/// What a session begins with; see [`Session`] for each.
pub(super) struct Parts<'a> {
    pub(super) context: &'a Context,
    pub(super) policies: &'a Policies,
    pub(super) checks: Checks,
    pub(super) traces: bool,
    pub(super) timeouts: [u32; TIMEOUTS],
    pub(super) interfaces: Vec<Watched>,
    pub(super) locks: Vec<RunLock>,
    pub(super) log: Log,
    pub(super) terminal: Terminal,
    pub(super) manager: Manager,
    pub(super) expected: Expected,
}

pub(super) struct Session<'a> {
    pub(super) context: &'a Context,
    pub(super) policies: &'a Policies,
    /// That it looks after the interfaces, besides those of `expected`.
    locks: Vec<RunLock>,
    /// At least one, in the order in which they were named.
    pub(super) interfaces: Vec<Watched>,
    pub(super) log: Log,
    pub(super) ours: Ours,
    /// The policy of `ours`, and the number of the watch of its candidate, if it has one.
    pub(super) policy: Option<(PolicyRecord, Option<u32>)>,
    /// The policy of this process that waits to be confirmed.
    pub(super) on_trial: Option<OwnTrial>,
    /// What lets this process confirm its own policies.
    pub(super) checks: Checks,
    /// The generation of the last policy of this process that was confirmed, or had not to be.
    /// With checks also the one that was in force before this process.
    pub(super) kept: Option<u32>,
    /// How the last trial ended, until the reloader knows.
    pub(super) ended: Option<Ended>,
    /// The policy that another process has put in force since, so that it is reported only once.
    pub(super) theirs: Option<Ours>,
    /// That policy, if it is undone unless somebody confirms it.
    pub(super) theirs_on_trial: Option<PolicyRecord>,
    /// Generations that this process has failed to put in force or to replace completely. A hook
    /// may still run them.
    pub(super) tried: Vec<Ours>,
    /// The timeouts of the policy in force.
    pub(super) timeouts: [u32; TIMEOUTS],
    pub(super) terminal: Terminal,
    /// What fails at the moment, by the line that says so, and its last error: each is reported
    /// only once.
    pub(super) troubles: BTreeMap<String, String>,
    pub(super) manager: Manager,
    /// The interfaces that were named, and which of them are waited for.
    pub(super) expected: Expected,
    /// The faults of the hooks at the last check.
    pub(super) damage: Option<Damage>,
    /// The reader of logged packets.
    pub(super) packets: Option<PacketLog>,
    /// What became of what it has read, for metrics.
    pub(super) read: Arc<EventCounts>,
    /// The readers of the packet path's log of the generation in force, with `--trace`.
    pub(super) trace: Vec<PacketTrace>,
    pub(super) traces: bool,
}

/// Faults that keep the policy from being enforced.
pub(super) struct Damage {
    pub(super) text: String,
    pub(super) since: Instant,
    /// When a repair was last tried. `None` until the damage was reported.
    pub(super) tried: Option<Instant>,
    /// Whether something of it was said, and not that it is over.
    pub(super) is_told: bool,
}

impl<'a> Session<'a> {
    /// `attempted` may be in force. `begun` is what was put in force, if that did not fail.
    pub(super) fn new(
        parts: Parts<'a>,
        attempted: &[Attempted],
        begun: Option<&Begun>,
    ) -> Session<'a> {
        Session {
            context: parts.context,
            policies: parts.policies,
            checks: parts.checks,
            traces: parts.traces,
            timeouts: parts.timeouts,
            interfaces: parts.interfaces,
            locks: parts.locks,
            log: parts.log,
            terminal: parts.terminal,
            manager: parts.manager,
            expected: parts.expected,
            ours: Ours::attempted(attempted),
            on_trial: begun.and_then(Begun::on_trial),
            kept: begun.and_then(Begun::kept),
            policy: None,
            ended: None,
            theirs: None,
            theirs_on_trial: None,
            tried: Vec::new(),
            troubles: BTreeMap::new(),
            damage: None,
            packets: None,
            read: Arc::default(),
            trace: Vec::new(),
        }
    }
}

impl Session<'_> {
    /// Goes on with `found` as what this process has in force; what it had is one that it has
    /// tried.
    pub(super) fn give_way(&mut self, found: Ours) {
        self.tried.push(std::mem::replace(&mut self.ours, found));
    }

    /// Leaves word that it is at work.
    pub(super) fn beat(&self) {
        self.all_locks().for_each(RunLock::beat);
    }

    pub(super) fn all_locks(&self) -> impl Iterator<Item = &RunLock> {
        self.expected.locks.iter().chain(&self.locks)
    }

    /// The interfaces that exist.
    pub(super) fn present(&self) -> impl Iterator<Item = &Watched> {
        self.interfaces.iter().filter(|one| !one.is_gone)
    }

    pub(super) fn names(&self) -> String {
        let names = self.interfaces.iter().map(|one| one.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    /// Watches the pins of all interfaces.
    pub(super) fn watch_pins(&self, events: &mut Events) {
        let dirs = self.interfaces.iter().map(|one| &*one.pins.dir);
        events.watch_pins(&dirs.collect::<Vec<_>>());
    }

    /// Keeps the policy in force open. If that fails, it can still be loaded again later.
    pub(super) fn hold(&mut self) {
        for one in self.interfaces.iter_mut().filter(|one| !one.is_gone) {
            one.current = match InForce::find(&self.context.bpffs, &one.pins) {
                Ok(InForce::Policy(held)) => Some(held),
                Ok(InForce::Nothing | InForce::Damaged) | Err(_) => None,
            };
        }
    }

    /// Records what was just put in force.
    pub(super) fn applied(&mut self, applied: &Applied) {
        let tree = PinTree::new(&self.context.bpffs);
        let find = |state: &State| tree.interface(state.netns_cookie, state.ifindex);
        for one in &mut self.interfaces {
            let states = applied.interfaces().map(|it| &it.state);
            let mut states = states.filter(|state| state.interface == one.name);
            // One that was made anew has its pins elsewhere. Where they cannot be found now, the
            // next look at the pins says so.
            if let Some(Ok(pins)) = states.next().map(find) {
                one.pins = pins;
            }
        }
        self.hold();
        self.ours = Ours::of(applied.interfaces().map(|it| &it.state));
        self.policy = Some(Session::policy_of(&applied.first.state));
        self.theirs = None;
        self.tried.clear();
        self.timeouts = applied.first.state.timeouts;
        self.on_trial = OwnTrial::of(applied);
        if self.on_trial.is_none() {
            self.kept = Some(self.ours.generation);
        }
    }

    /// The policy of a record, and the number of the watch of its candidate.
    pub(super) fn policy_of(state: &State) -> (PolicyRecord, Option<u32>) {
        let watch = state.candidate.as_ref().map(|candidate| candidate.watch);
        (state.policy.clone(), watch)
    }

    /// Records what may be in force after a failure.
    pub(super) fn failed(&mut self, failure: &Failure) {
        if !failure.attempted().is_empty() {
            self.tried.push(Ours::attempted(failure.attempted()));
        }
    }

    pub(super) fn attached(&self, name: &str) -> Result<Attached, KernelError> {
        attached_to(&self.context.bpffs, name)
    }

    /// Reports the error, unless it is the same as last time.
    pub(super) fn say_once(&mut self, line: &str, error: KernelError) {
        let text = error.to_string();
        let before = self.troubles.insert(line.to_owned(), text.clone());
        if before.as_ref() != Some(&text) {
            self.log
                .trouble(Change::Error, line, json!({}), &error.into());
        }
    }

    /// Reports that what `line` says does not fail any more, if it did.
    pub(super) fn say_over(&mut self, line: &str, over: &str) {
        if let Some(error) = self.troubles.remove(line) {
            self.log
                .event(Change::ErrorOver, over, json!({"error": error}));
        }
    }
}

/// The policy in force on an interface, with its maps and programs kept open.
pub(super) fn find_before(context: &Context, iface: &str) -> Result<InForce, Failure> {
    match attached_to(&context.bpffs, iface) {
        Ok(one) => Ok(InForce::find(&context.bpffs, &one.pins)?),
        Err(KernelError::NotAttached { .. }) => Ok(InForce::Nothing),
        Err(error) => Err(error.into()),
    }
}
