//! What `sgctl run` does between its first apply and its end. It handles events, reloads the
//! policy, reports what other processes change, repairs what they remove, and finally puts back
//! what was in force before.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use sg_common::flow::TIMEOUTS;
use sg_userspace::kernel::attempted::Attempted;
use sg_userspace::kernel::held::{Held, InForce, put_back};
use sg_userspace::kernel::pins::{InterfacePins, PinTree};
use sg_userspace::kernel::state::State;
use sg_userspace::kernel::{self, Applied, KernelError, flow_tables, interfaces};
use sg_userspace::observe::attached::{Attached, attached_to};
use sg_userspace::observe::counters::counters;
use sg_userspace::observe::events::Events as PacketLog;
use sg_userspace::observe::flows::monotonic_now;
use sg_userspace::observe::trace::PacketTrace;

use super::apply;
use super::context::Context;
use super::failure::Failure;
use super::policy_args::Policies;
use super::reload::{Outcome, Reloader};
use super::run_events::{Event, Events};
use super::run_log::Log;
use super::terminal::{Hangup, Terminal};

/// A policy that this process has put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ours {
    generation: u32,
    /// Of each interface, inbound first.
    programs: BTreeSet<[u32; 2]>,
}

impl Ours {
    fn of<'a>(states: impl Iterator<Item = &'a State>) -> Ours {
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
    fn includes(&self, other: &Ours) -> bool {
        other.programs.is_subset(&self.programs)
    }
}

/// An interface that the session looks after.
pub(super) struct Watched {
    name: String,
    pins: InterfacePins,
    /// What was in force before this process, to return to.
    before: InForce,
    /// What is in force now, whoever has put it there, to be attached if the interface is made
    /// anew.
    current: Option<Box<Held>>,
    /// Whether the interface does not exist at the moment.
    is_gone: bool,
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

    /// Whether what is in force there is what was before this process.
    fn is_as_before(&self) -> bool {
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

pub(super) struct Session<'a> {
    pub(super) context: &'a Context,
    pub(super) policies: &'a Policies,
    /// At least one, in the order in which they were named.
    pub(super) interfaces: Vec<Watched>,
    pub(super) log: Log,
    pub(super) ours: Ours,
    /// The policy that another process has put in force since, so that it is reported only once.
    pub(super) theirs: Option<Ours>,
    /// Generations that this process has failed to put in force or to replace completely. A hook
    /// may still run them.
    pub(super) tried: Vec<Ours>,
    /// The timeouts of the policy in force.
    pub(super) timeouts: [u32; TIMEOUTS],
    pub(super) terminal: Terminal,
    /// The last error in reading the counters, so that it is reported only once.
    pub(super) trouble: Option<String>,
    /// The faults of the hooks at the last check.
    pub(super) damage: Option<Damage>,
    /// The reader of logged packets.
    pub(super) packets: Option<PacketLog>,
    /// The readers of the packet path's log of the generation in force, with `--trace`.
    pub(super) trace: Vec<PacketTrace>,
    pub(super) traces: bool,
}

/// Faults that keep the policy from being enforced.
pub(super) struct Damage {
    text: String,
    since: Instant,
    /// When a repair was last tried. `None` until the damage was reported.
    tried: Option<Instant>,
}

/// Shorter faults are ignored: they come from an `apply` or `detach` that is under way.
const IS_DAMAGED_AFTER: Duration = Duration::from_millis(500);

/// How often a failed repair is tried again.
const REPAIR_AGAIN: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// Handles events until one ends the session.
    pub(super) fn attend(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
    ) -> Result<&'static str, Failure> {
        loop {
            match events.next() {
                Event::Stop(why) => return Ok(why),
                Event::Hangup => match self.terminal.hangup() {
                    Hangup::Lost => return Ok("the terminal has gone"),
                    Hangup::Outlived => {}
                    Hangup::Asked => self.reload(events, reloader, true)?,
                },
                Event::Show => self.show()?,
                Event::Fetch => {
                    self.fetch();
                    if reloader.is_waiting() {
                        self.reload(events, reloader, false)?;
                    }
                    if matches!(&self.damage, Some(damage) if damage.tried.is_none()) {
                        self.look_at_hooks(reloader)?;
                    }
                }
                Event::Sweep => self.sweep(),
                Event::PinsChanged => self.look_at_pins()?,
                Event::LinksChanged => {
                    self.look_at_link(events, reloader)?;
                    self.look_at_hooks(reloader)?;
                }
                Event::Look => {
                    if let Some(why) = self.terminal.end() {
                        return Ok(why);
                    }
                    self.look_at_link(events, reloader)?;
                    self.look_at_pins()?;
                    self.reload(events, reloader, false)?;
                    self.look_at_hooks(reloader)?;
                }
                Event::FilesChanged => {
                    self.reload(events, reloader, false)?;
                    // A directory in the path may have been replaced.
                    events.watch(reloader.files());
                }
            }
        }
    }

    /// Applies the policy again if its files mean another one now, or if `forced`.
    fn reload(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
        forced: bool,
    ) -> Result<(), Failure> {
        let present = self.present().map(|one| one.name.clone());
        let present: Vec<String> = present.collect();
        if present.is_empty() {
            // There is no interface to apply it to. It is applied when the interface is back.
            return Ok(());
        }
        reloader.set_interfaces(present);
        let outcome = reloader.check(forced);
        if matches!(outcome, Outcome::Nothing) {
            return Ok(());
        }
        self.tell(outcome);
        events.watch(reloader.files());
        self.show()
    }

    /// The interfaces that exist.
    fn present(&self) -> impl Iterator<Item = &Watched> {
        self.interfaces.iter().filter(|one| !one.is_gone)
    }

    fn names(&self) -> String {
        let names = self.interfaces.iter().map(|one| one.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    /// Watches the pins of all interfaces.
    pub(super) fn watch_pins(&self, events: &mut Events) {
        let dirs = self.interfaces.iter().map(|one| &*one.pins.dir);
        events.watch_pins(&dirs.collect::<Vec<_>>());
    }

    /// Prints logged packets, as long as the output is read. If it is not, they stay in the ring,
    /// which keeps the newest. Errors are reported with the counters, which are read from the same
    /// pins.
    fn fetch(&mut self) {
        self.log.go_on();
        if self.log.has_room()
            && let Some(Ok(logged)) = self.packets.as_mut().map(PacketLog::drain)
        {
            self.log.packets(logged);
        }
        if self.traces {
            self.fetch_trace();
        }
    }

    /// Sweeps expired flows out of the tables. They are not found any more anyway, so a failure
    /// only costs space. Its cause is reported with the counters.
    fn sweep(&mut self) {
        // They have one table in common.
        if let Some(one) = self.interfaces.first() {
            let _ = flow_tables::sweep(&one.pins, &self.timeouts, monotonic_now());
        }
    }

    fn fetch_trace(&mut self) {
        let is_of_ours = |trace: &PacketTrace| trace.generation() == self.ours.generation;
        if self.trace.is_empty() || !self.trace.iter().all(is_of_ours) {
            let open = |one: &Watched| PacketTrace::open(&self.attached(&one.name).ok()?).ok();
            self.trace = self.present().filter_map(open).collect();
        }
        let lines = self.trace.iter_mut().flat_map(PacketTrace::drain);
        for line in lines.collect::<Vec<String>>() {
            self.log.event("trace", &line, json!({"text": line}));
        }
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
    fn applied(&mut self, applied: &Applied) {
        for one in &mut self.interfaces {
            let states = applied.interfaces().map(|it| &it.state);
            let mut states = states.filter(|state| state.interface == one.name);
            // One that was made anew has its pins elsewhere.
            if let Some(state) = states.next() {
                one.pins =
                    PinTree::new(&self.context.bpffs).interface(state.netns_cookie, state.ifindex);
            }
        }
        self.hold();
        self.ours = Ours::of(applied.interfaces().map(|it| &it.state));
        self.theirs = None;
        self.tried.clear();
        self.timeouts = applied.first.state.timeouts;
    }

    /// Records what may be in force after a failure.
    fn failed(&mut self, failure: &Failure) {
        if !failure.attempted().is_empty() {
            self.tried.push(Ours::attempted(failure.attempted()));
        }
    }

    fn tell(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Unchanged => self.log.unchanged(),
            Outcome::Applied(applied, findings) => {
                self.applied(&applied);
                let warnings = apply::findings(&findings, self.policies);
                self.log.applied("reloaded", &applied, &warnings);
            }
            Outcome::Unfinished(file) => {
                let file = file.display().to_string();
                let line = format!(
                    "waiting: {file} is still being written, and generation {} stays in force until \
                     it is whole",
                    self.ours.generation
                );
                self.log.event("waiting", &line, json!({"file": file}));
            }
            Outcome::Invalid(errors) => self.log.invalid(errors, self.ours.generation),
            Outcome::Refused(failure) => {
                self.failed(&failure);
                // If nothing is attached any more, the next check reports it and ends the session.
                if self.interfaces.iter().any(|one| one.pins.exists()) {
                    let _ = self.look_at_pins();
                }
                self.log.refused(&failure, self.ours.generation);
            }
            Outcome::NotReadable => {
                let line = "not reloaded: the policy came from standard input, which can be read \
                            only once; apply a file instead";
                self.log.event("not_reloaded", line, json!({}));
            }
        }
    }

    /// Checks whether the policy in force is still the one of this process. An interface that was
    /// detached is left alone from then on; with the last one the session ends.
    fn look_at_pins(&mut self) -> Result<(), Failure> {
        let (mut states, mut detached) = (Vec::new(), Vec::new());
        for one in &self.interfaces {
            match State::read(&one.pins) {
                // It may have missed what was put in force since it has gone.
                Ok(Some(_)) if one.is_gone && self.interfaces.len() > 1 => {}
                Ok(Some(state)) => states.push(state),
                Ok(None) if !one.pins.exists() => detached.push(one.name.clone()),
                // Another process is changing it, or it is damaged. Damage is reported with the
                // counters.
                Ok(None) | Err(_) => return Ok(()),
            }
        }
        for name in &detached {
            let line =
                format!("somebody else has detached {name}, whose policy was in force until then");
            let details = json!({"why": "by somebody else"});
            self.log.event_on(name, "detached", &line, details);
        }
        if detached.len() == self.interfaces.len() {
            return Err(KernelError::NotAttached {
                scope: format!("`{}`", self.names()),
            }
            .into());
        }
        self.interfaces.retain(|one| !detached.contains(&one.name));
        let Some(latest) = states.iter().max_by_key(|state| state.policy.generation) else {
            return Ok(());
        };
        let found = Ours::of(states.iter());
        if self.ours.includes(&found) || self.theirs.as_ref() == Some(&found) {
            return Ok(());
        }
        let timeouts = latest.timeouts;
        if let Some(at) = self.tried.iter().position(|tried| tried.includes(&found)) {
            // The generation before, or the one that was to replace it, may still run in one
            // direction.
            self.tried[at] = std::mem::replace(&mut self.ours, found);
            self.theirs = None;
            self.timeouts = timeouts;
            self.hold();
            return Ok(());
        }
        let is_ours = |programs| {
            let mut all = self.tried.iter().chain([&self.ours]);
            all.any(|ours| ours.programs.contains(programs))
        };
        if found.programs.iter().all(is_ours) {
            // Some interfaces run one generation of this process and some another.
            return Ok(());
        }
        let (name, generation) = (&latest.policy.name, latest.policy.generation);
        let line = format!(
            "somebody else has put {} in force on {}, generation {generation}, in place of \
             generation {}: it stays until the files of this policy change or a SIGHUP comes",
            self.log.bold(name),
            self.names(),
            self.ours.generation,
        );
        let details = json!({"policy": latest.policy, "replaced": self.ours.generation});
        self.log.event("replaced", &line, details);
        self.timeouts = timeouts;
        self.theirs = Some(found);
        self.hold();
        Ok(())
    }

    /// Checks whether each interface is still the one with the policy. A new interface of the same
    /// name has nothing attached.
    fn look_at_link(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
    ) -> Result<(), Failure> {
        let names: Vec<String> = self.interfaces.iter().map(|one| one.name.clone()).collect();
        for name in names {
            let started = Instant::now();
            let index = match interfaces::index_of(&name) {
                Ok(index) => index,
                Err(KernelError::NoInterface { .. }) => {
                    self.has_gone(&name);
                    continue;
                }
                // The error is reported with the counters.
                Err(_) => continue,
            };
            match self.interfaces.iter_mut().find(|one| one.name == name) {
                Some(one) if one.pins.ifindex == index => one.is_gone = false,
                Some(_) => self.attach_again(&name, events, reloader, started)?,
                // It was detached meanwhile.
                None => {}
            }
        }
        Ok(())
    }

    fn has_gone(&mut self, name: &str) {
        // The name of the network namespace that it was moved to, if it was.
        let attached = self.attached(name).ok();
        let condition = attached.and_then(|one| one.condition().ok());
        let moved_to = condition.and_then(|it| it.elsewhere());
        let one = self.interfaces.iter_mut().find(|one| one.name == name);
        let Some(one) = one.filter(|one| !one.is_gone) else {
            return;
        };
        one.is_gone = true;
        let line = match &moved_to {
            Some(place) => format!(
                "{name} was moved to the network namespace {place}, where its policy goes on"
            ),
            None => {
                format!("{name} has gone: its policy is attached again when it comes back")
            }
        };
        let details = json!({"moved_to": moved_to});
        self.log.event_on(name, "gone", &line, details);
    }

    fn attached(&self, name: &str) -> Result<Attached, KernelError> {
        attached_to(&self.context.bpffs, name)
    }

    /// Reports the error, unless it is the same as last time.
    fn say_once(&mut self, line: &str, error: KernelError) {
        let text = error.to_string();
        if self.trouble.as_ref() != Some(&text) {
            self.log.event("error", line, json!({}));
            self.log.failure(&error.into());
        }
        self.trouble = Some(text);
    }

    /// Checks whether both hooks still run the programs of this process, and repairs them if
    /// another process has removed something (C12).
    fn look_at_hooks(&mut self, reloader: &mut Reloader) -> Result<(), Failure> {
        if self.present().next().is_none() || self.theirs.is_some() {
            return Ok(());
        }
        let (mut faults, mut damaged) = (Vec::new(), Vec::new());
        for one in self.present() {
            // An error in reading the state is reported with the counters.
            let Ok(status) = self.attached(&one.name).and_then(|it| it.status()) else {
                return Ok(());
            };
            if !status.faults.is_empty() {
                damaged.push(one.name.clone());
                faults.extend(status.faults);
            }
        }
        let Some(first) = damaged.first().cloned() else {
            self.damage = None;
            return Ok(());
        };
        let messages = faults.iter().map(|fault| fault.message.as_str());
        let text = messages.collect::<Vec<_>>().join("; ");
        let damaged = damaged.join(", ");
        let damage = match &mut self.damage {
            Some(damage) if damage.text == text => damage,
            _ => {
                self.damage = Some(Damage {
                    text,
                    since: Instant::now(),
                    tried: None,
                });
                return Ok(());
            }
        };
        let is_new = damage.tried.is_none();
        let is_due = match damage.tried {
            None => damage.since.elapsed() >= IS_DAMAGED_AFTER,
            Some(at) => at.elapsed() >= REPAIR_AGAIN,
        };
        if !is_due {
            return Ok(());
        }
        // Another process may have applied a policy by now.
        self.look_at_pins()?;
        if self.theirs.is_some() {
            return Ok(());
        }
        if let Some(damage) = &mut self.damage {
            damage.tried = Some(Instant::now());
        }
        if is_new {
            let line = format!("{damaged} is not enforcing: {text}");
            let details = json!({"faults": faults});
            self.log.event_on(&first, "damaged", &line, details);
        }
        reloader.set_interfaces(self.present().map(|one| one.name.clone()).collect());
        match reloader.repair() {
            Ok(applied) => {
                self.applied(&applied);
                self.log.applied("repaired", &applied, "");
            }
            Err(failure) => {
                self.failed(&failure);
                if is_new {
                    self.log
                        .event("repair_failed", "it could not be put right:", json!({}));
                    self.log.failure(&failure);
                }
            }
        }
        Ok(())
    }

    /// Shows the counters. Ends the session if nothing is attached any more.
    fn show(&mut self) -> Result<(), Failure> {
        if self.present().next().is_none() {
            return Ok(());
        }
        let read = |one: &Watched| self.attached(&one.name).and_then(|it| counters(&it));
        match self.present().map(read).collect::<Result<Vec<_>, _>>() {
            Ok(now) => {
                self.trouble = None;
                self.log.counters(&now);
            }
            // The interface may just have been removed or created.
            Err(KernelError::NotAttached { .. } | KernelError::NoInterface { .. }) => {
                return self.look_at_pins();
            }
            Err(error) => self.say_once("the counters cannot be read:", error),
        }
        Ok(())
    }

    /// Attaches the policy in force to the new interface of the same name.
    fn attach_again(
        &mut self,
        name: &str,
        events: &mut Events,
        reloader: &mut Reloader,
        started: Instant,
    ) -> Result<(), Failure> {
        let generation = match &self.theirs {
            Some(theirs) => theirs.generation,
            None => self.ours.generation,
        };
        let Some(one) = self.interfaces.iter_mut().find(|one| one.name == name) else {
            return Ok(());
        };
        let is_latest = |held: &&Held| held.state().policy.generation == generation;
        let Some(current) = one.current.as_deref().filter(is_latest) else {
            // The policy could not be kept open, or another one was put in force since, so
            // `apply` continues with what is left of it.
            one.is_gone = false;
            self.reload(events, reloader, true)?;
            self.watch_pins(events);
            return Ok(());
        };
        let pins = match current.attach_again(&self.context.bpffs, &one.pins, name) {
            Ok(pins) => pins,
            Err(error @ KernelError::NotAttached { .. }) => return Err(error.into()),
            Err(error) => {
                self.say_once(&format!("{name} has come back UNPROTECTED:"), error);
                return Ok(());
            }
        };
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        (one.is_gone, self.trouble) = (false, None);
        if let Some(packets) = &mut self.packets {
            packets.moved_to(&pins);
        }
        let index = pins.ifindex;
        one.pins = pins;
        self.watch_pins(events);
        let line = format!(
            "{name} has been made anew: its policy is attached again, {milliseconds:.1} ms after that was \
             known, with its counters and flows"
        );
        let details = json!({"ifindex": index, "milliseconds": milliseconds});
        self.log.event_on(name, "reattached", &line, details);
        self.look_at_pins()
    }

    /// Puts back what was in force before if the session could not begin, because its policy may be
    /// in force. Reports the failure first.
    pub(super) fn give_up(&mut self, failure: Failure) -> Failure {
        self.log.failure(&failure);
        if !self.interfaces.iter().all(Watched::is_as_before)
            && let Err(also) = self.leave(false, "it could not begin")
        {
            self.log.failure(&also);
        }
        Failure::Told(failure.exit_code())
    }

    /// Puts back what was in force before, unless another process has changed it.
    pub(super) fn leave(&mut self, persist: bool, why: &str) -> Result<(), Failure> {
        // Detaching waits until the maps are closed, so they must not stay open here.
        (self.packets, self.trace) = (None, Vec::new());
        for one in &mut self.interfaces {
            one.current = None;
        }
        if self.present().next().is_some() {
            self.look_at_pins()?;
        }
        let names = self.names();
        let left = match &self.interfaces[..] {
            _ if persist => "",
            _ if self.theirs.is_some() => ", for it is somebody else's",
            all if all.iter().any(|one| matches!(one.before, InForce::Damaged)) => {
                ", for what was there before was damaged"
            }
            _ => {
                let ways = [self.put_back(why)?, self.detach(why)?];
                match ways.into_iter().max() {
                    Some(Left::Done) => return Ok(()),
                    Some(Left::Gone) => ", for the interface has gone",
                    Some(Left::Foreign) => ", for it is not what this process has put there",
                    Some(Left::Nothing) | None => ", for it was there before",
                }
            }
        };
        let each = self
            .interfaces
            .iter()
            .map(|one| format!(" --iface {}", one.name));
        let each: String = each.collect();
        let line = format!(
            "left as it is on {names}{left} ({why}): `sgctl detach{each}` ends enforcement"
        );
        self.log.event("left", &line, json!({"why": why}));
        Ok(())
    }

    /// The pairs of programs that this process has put in force, or has tried to.
    fn programs(&self) -> Vec<[u32; 2]> {
        let all = [&self.ours].into_iter().chain(&self.tried);
        all.flat_map(|ours| ours.programs.iter().copied()).collect()
    }

    /// Returns to the policies that were in force before, on all interfaces where there was one.
    fn put_back(&mut self, why: &str) -> Result<Left, Failure> {
        let bpffs = &self.context.bpffs;
        let (mut what, mut has_gone) = (Vec::new(), false);
        for one in &self.interfaces {
            let InForce::Policy(held) = &one.before else {
                continue;
            };
            // Where the same policy was in force, its programs were left alone.
            if self
                .ours
                .programs
                .contains(&held.state().attempted().programs)
            {
                continue;
            }
            match one.is_gone {
                true => has_gone = true,
                false => what.push((&**held, &one.pins)),
            }
        }
        let Some((held, _)) = what.first() else {
            return Ok(match has_gone {
                true => Left::Gone,
                false => Left::Nothing,
            });
        };
        let policy = held.state().policy.clone();
        let names = what.iter().map(|(held, _)| held.state().interface.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        let programs = self.programs();
        let put_back = || put_back(bpffs, &what, &programs);
        let step = format!("returning to {}", policy.name);
        let places: Vec<&InterfacePins> = what.iter().map(|(_, pins)| *pins).collect();
        if !insist(&mut self.log, &names, &places, &step, put_back)? {
            return Ok(Left::Foreign);
        }
        let line = format!(
            "{} to {} on {names}, generation {}, as it was before ({why})",
            self.log.green("returned"),
            self.log.bold(&policy.name),
            policy.generation,
        );
        let details = json!({"why": why, "policy": policy});
        self.log.event("returned", &line, details);
        Ok(Left::Done)
    }

    /// Detaches the interfaces on which nothing was in force before.
    fn detach(&mut self, why: &str) -> Result<Left, Failure> {
        let programs = self.programs();
        let mut left = Left::Nothing;
        for one in &self.interfaces {
            if !matches!(one.before, InForce::Nothing) {
                continue;
            }
            let (name, pins) = (&one.name, &one.pins);
            let detach = || match State::read(pins) {
                // Between two attempts another process may have applied a policy.
                Ok(Some(state)) if !programs.contains(&state.attempted().programs) => Ok(false),
                _ => kernel::detach(&self.context.bpffs, pins).map(|()| true),
            };
            if !insist(&mut self.log, name, &[pins], "detaching", detach)? {
                left = Left::Foreign;
                continue;
            }
            let line = format!("{} from {name} ({why})", self.log.green("detached"));
            self.log
                .event_on(name, "detached", &line, json!({"why": why}));
            if left == Left::Nothing {
                left = Left::Done;
            }
        }
        Ok(left)
    }
}

/// What became of the interfaces at the end of a session; the later ones are said if there are
/// several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// There was nothing to do.
    Nothing,
    Done,
    /// An interface does not exist any more.
    Gone,
    /// Another process has put something there.
    Foreign,
}

/// How often, and for how long, the last step is tried.
const TRIES: u32 = 5;
const TRIED_FOR: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(300);

/// Takes the last step of a session. It is repeated after an error, because no other process cleans
/// up after this one. The error that is returned says what is in force.
fn insist(
    log: &mut Log,
    names: &str,
    places: &[&InterfacePins],
    what: &str,
    mut step: impl FnMut() -> Result<bool, KernelError>,
) -> Result<bool, Failure> {
    let started = Instant::now();
    let mut tries = 1;
    loop {
        let error = match step() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if tries == TRIES || started.elapsed() >= TRIED_FOR {
            let each = names.split(", ").map(|name| format!(" --iface {name}"));
            let each: String = each.collect();
            let line = format!(
                "left as it is on {names}, for {what} has failed {tries} times: `sgctl status` says what is \
                 wrong, `sgctl detach{each}` ends enforcement"
            );
            let why = format!("{what} has failed");
            log.event("left", &line, json!({"why": why}));
            let places = names.split(", ").zip(places.iter().copied());
            let is_only_one = !names.contains(", ");
            let places = places.map(|(name, pins)| match is_only_one {
                true => ("", pins),
                false => (name, pins),
            });
            return Err(kernel::standing_on(error, &places.collect::<Vec<_>>()).into());
        }
        let failure = Failure::from(error);
        if tries == 1 {
            let line = format!("{what} has failed, and is tried again:");
            log.event(
                "retrying",
                &line,
                json!({"step": what, "errors": failure.findings()}),
            );
            if !log.is_json() {
                log.failure(&failure);
            }
        }
        tries += 1;
        std::thread::sleep(TRY_AGAIN);
    }
}
