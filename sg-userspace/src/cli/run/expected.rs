//! The interfaces that `run` was given, and what `run --wait` does until the first of them exists.
//! One that appears is held at once (see `kernel::hold`), and released when the policy is in force
//! there. `wait` is about those that appear later.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use sg_userspace::kernel::hold::Hold;
use sg_userspace::kernel::run_lock::RunLock;
use sg_userspace::kernel::{EgressHook, interfaces};

use super::change::Change;
use super::events::{Event, Events};
use super::log::Log;
use super::notify::Manager;
use super::terminal::{Hangup, Terminal};
use crate::cli::failure::Failure;
use crate::cli::policy_args::{Attach, Policies, Trust};

/// The interfaces that --iface names, whether or not they exist.
pub(super) struct Expected {
    /// Names and patterns, as they were given.
    pub(super) named: Vec<String>,
    /// The outbound hook of the policy that they get.
    pub(super) hook: EgressHook,
    /// Whether to wait for those that do not exist.
    pub(super) waits: bool,
    /// Those that somebody else has detached. They stay as they are.
    pub(super) given_up: BTreeSet<String>,
    /// Those on which the policy could not be put in force when they appeared. It is tried again,
    /// without a hold: they were released, and connections through them go on meanwhile.
    pub(super) failed: BTreeSet<String>,
    /// Whether it was said that new ones get no policy, because somebody else's is in force.
    pub(super) is_told: bool,
    /// The locks (`RunLock`) of those that are waited for by name, and of those that were attached
    /// later.
    pub(super) locks: Vec<RunLock>,
}

impl Expected {
    /// Takes the locks of those that are waited for by name. So no other `run` can wait for them,
    /// and `status --ready` names them as not ready.
    pub(super) fn new(attach: &Attach, waits: bool, bpffs: &Path) -> Result<Expected, Failure> {
        let mut expected = Expected {
            named: attach.ifaces.clone(),
            hook: attach.hook(),
            waits,
            given_up: BTreeSet::new(),
            failed: BTreeSet::new(),
            is_told: false,
            locks: Vec::new(),
        };
        if waits {
            let missing = expected.missing().map(str::to_owned);
            let mut missing: BTreeSet<String> = missing.collect();
            missing.retain(|name| !interfaces::is_pattern(name));
            for name in &missing {
                expected.locks.push(RunLock::take_early(bpffs, name)?);
            }
        }
        Ok(expected)
    }

    /// Whether the lock of this interface was taken before it existed, or when it was attached
    /// later.
    pub(super) fn has_lock(&self, name: &str) -> bool {
        self.locks.iter().any(|lock| lock.interface == name)
    }

    /// Those that exist now.
    pub(super) fn present(&self) -> Vec<String> {
        let there = interfaces::names();
        let of = |named: &String| {
            let found = interfaces::expand(std::slice::from_ref(named)).unwrap_or_default();
            found.into_iter().filter(|name| there.contains(name))
        };
        let mut seen = BTreeSet::new();
        let all = self.named.iter().flat_map(of);
        all.filter(|name| seen.insert(name.clone())).collect()
    }

    /// The names that no interface has. A pattern counts as missing where nothing matches it.
    pub(super) fn missing(&self) -> impl Iterator<Item = &str> {
        let there = interfaces::names();
        let is_there = move |named: &&String| {
            there.contains(named)
                || interfaces::expand(std::slice::from_ref(*named)).is_ok()
                    && interfaces::is_pattern(named)
        };
        let missing = self.named.iter().filter(move |named| !is_there(named));
        missing.map(String::as_str)
    }

    /// These arguments with the interfaces that exist, where the others are waited for.
    pub(super) fn attach(&self, attach: &Attach) -> Attach {
        let mut attach = attach.clone();
        if self.waits {
            attach.ifaces = self.present();
        }
        attach
    }

    /// The interfaces of which metrics are served: all that are named, or those that were `found`.
    pub(super) fn served<'a>(&'a self, found: &'a [String]) -> &'a [String] {
        match self.waits {
            true => &self.named,
            false => found,
        }
    }

    /// Holds those of the interfaces that are `new`, and says that they have appeared.
    pub(super) fn hold(&self, names: Vec<String>, new: &[String], log: &mut Log) -> Appeared {
        let at = Instant::now();
        // One that cannot be held is not said to be. The policy comes into force there without.
        let hold = |name: &String| {
            let index = interfaces::index_of(name).ok()?;
            Some((name.clone(), Hold::place(index, self.hook).ok()?))
        };
        let holds: Vec<(String, Hold)> = new.iter().filter_map(hold).collect();
        let is_held = holds.len() == new.len();
        if let Some(first) = new.first() {
            let until = match is_held {
                true => ", and nothing passes until the policy is in force there",
                false => "",
            };
            let line = format!("{} has appeared{until}", new.join(", "));
            let details = json!({"interfaces": new, "held": is_held});
            log.event_on(first, Change::Appeared, &line, details);
        }
        Appeared { names, at, holds }
    }

    pub(super) fn give_up(&mut self, names: &[String]) {
        self.given_up.extend(names.iter().cloned());
    }

    /// Says which of them are waited for.
    pub(super) fn tell_missing(&self, log: &mut Log) {
        let missing: Vec<&str> = self.missing().collect();
        let (Some(first), true) = (missing.first(), self.waits) else {
            return;
        };
        let do_not = match missing.len() {
            1 => "does not",
            _ => "do not",
        };
        let line = format!(
            "waiting for {}, which {do_not} exist yet",
            missing.join(", ")
        );
        let details = json!({"interfaces": missing});
        log.event_on(first, Change::WaitingFor, &line, details);
    }

    /// Waits until one of the interfaces exists, and holds those that do. Returns also the log, if
    /// there was something to wait for. `None` if the command was told to end meanwhile.
    pub(super) fn first(
        &self,
        events: &mut Events,
        terminal: &mut Terminal,
        manager: &mut Manager,
        (policies, trust): (&Policies, Trust),
        log: impl FnOnce() -> Result<Log, Failure>,
    ) -> Result<Option<(Appeared, Option<Log>)>, Failure> {
        if !self.waits || !self.present().is_empty() {
            return Ok(Some((Appeared::none(), None)));
        }
        // A mistake in the policy is said now, and not when the interface appears. It is read again
        // then, since its files may have changed.
        if !policies.are_from_stdin() {
            policies.load_to_enforce(trust)?;
        }
        let mut log = log()?;
        let names = self.named.join(", ");
        self.tell_missing(&mut log);
        manager.ready(&format!("waiting for {names}"));
        let why = loop {
            manager.beat();
            self.locks.iter().for_each(RunLock::beat);
            match events.next() {
                Event::Stop(why) => break why,
                Event::Hangup if terminal.hangup() == Hangup::Lost => {
                    break "the terminal has gone";
                }
                Event::LinksChanged | Event::Look => {
                    let present = self.present();
                    if !present.is_empty() {
                        let appeared = self.hold(present.clone(), &present, &mut log);
                        return Ok(Some((appeared, Some(log))));
                    }
                    if let Some(why) = terminal.end() {
                        break why;
                    }
                }
                _ => {}
            }
        };
        manager.stopping();
        let line = format!("nothing was put in force: {names} did not appear ({why})");
        log.event(Change::Left, &line, json!({"why": why}));
        log.finish();
        Ok(None)
    }
}

/// Interfaces that have appeared.
pub(super) struct Appeared {
    names: Vec<String>,
    at: Instant,
    holds: Vec<(String, Hold)>,
}

impl Appeared {
    fn none() -> Appeared {
        Appeared {
            names: Vec::new(),
            at: Instant::now(),
            holds: Vec::new(),
        }
    }

    /// Those that are held.
    pub(super) fn held(&self) -> Vec<String> {
        self.holds.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Lets everything pass: the policy is in force, or could not be put in force. The holds
    /// themselves go with this.
    pub(super) fn release(&self) {
        self.holds.iter().for_each(|(_, hold)| hold.let_pass());
    }

    /// Says that the policy is in force on them.
    pub(super) fn tell(&self, log: &mut Log) {
        let Some(first) = self.names.first() else {
            return;
        };
        let milliseconds = self.at.elapsed().as_secs_f64() * 1e3;
        let names = self.names.join(", ");
        let line = format!("in force on {names} {milliseconds:.1} ms after it was known to exist");
        let details = json!({"interfaces": self.names, "milliseconds": milliseconds});
        log.event_on(first, Change::Attached, &line, details);
    }
}
