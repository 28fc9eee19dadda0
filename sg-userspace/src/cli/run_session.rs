//! What `sgctl run` does between its first apply and its end. It handles events, reloads the
//! policy, reports what other processes change, repairs what they remove, and finally puts back
//! what was in force before.

use std::time::{Duration, Instant};

use serde_json::json;
use sg_common::flow::TIMEOUTS;
use sg_userspace::kernel::attempted::Attempted;
use sg_userspace::kernel::held::{Held, InForce};
use sg_userspace::kernel::pins::InterfacePins;
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
    programs: [u32; 2],
}

impl Ours {
    pub(super) fn of(state: &State) -> Ours {
        Ours::attempted(&state.attempted())
    }

    pub(super) fn attempted(what: &Attempted) -> Ours {
        Ours {
            generation: what.generation,
            programs: what.programs,
        }
    }
}

pub(super) struct Session<'a> {
    pub(super) context: &'a Context,
    pub(super) policies: &'a Policies,
    pub(super) iface: &'a str,
    pub(super) log: Log,
    pub(super) pins: InterfacePins,
    pub(super) ours: Ours,
    /// What was in force before this process, to be put back at its end.
    pub(super) before: InForce,
    /// The policy in force now, whichever process has applied it, to be attached again if the
    /// interface is created anew.
    pub(super) current: Option<Box<Held>>,
    /// The policy that another process has put in force since, so that it is reported only once.
    pub(super) theirs: Option<Ours>,
    /// Generations that this process has failed to put in force or to replace completely. A hook
    /// may still run them.
    pub(super) tried: Vec<Ours>,
    /// Whether the interface does not exist at the moment.
    pub(super) is_gone: bool,
    /// The timeouts of the policy in force.
    pub(super) timeouts: [u32; TIMEOUTS],
    pub(super) terminal: Terminal,
    /// The last error in reading the counters, so that it is reported only once.
    pub(super) trouble: Option<String>,
    /// The faults of the hooks at the last check.
    pub(super) damage: Option<Damage>,
    /// The reader of logged packets.
    pub(super) packets: Option<PacketLog>,
    /// The reader of the packet path's log of the generation in force, with `--trace`.
    pub(super) trace: Option<PacketTrace>,
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
        if self.is_gone {
            // There is no interface to apply it to. It is applied when the interface is back.
            return Ok(());
        }
        let outcome = reloader.check(forced);
        if matches!(outcome, Outcome::Nothing) {
            return Ok(());
        }
        self.tell(outcome);
        events.watch(reloader.files());
        self.show()
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
        let _ = flow_tables::sweep(&self.pins, &self.timeouts, monotonic_now());
    }

    fn fetch_trace(&mut self) {
        if self.trace.as_ref().map(PacketTrace::generation) != Some(self.ours.generation) {
            let one = self.attached().ok();
            self.trace = one.and_then(|one| PacketTrace::open(&one).ok());
        }
        let lines = self.trace.as_mut().map(PacketTrace::drain);
        for line in lines.unwrap_or_default() {
            self.log.event("trace", &line, json!({"text": line}));
        }
    }

    /// Keeps the policy in force open. If that fails, it can still be loaded again later.
    pub(super) fn hold(&mut self) {
        self.current = match InForce::find(&self.context.bpffs, &self.pins) {
            Ok(InForce::Policy(held)) => Some(held),
            Ok(InForce::Nothing | InForce::Damaged) | Err(_) => None,
        };
    }

    /// Records what was just put in force.
    fn applied(&mut self, applied: &Applied) {
        self.hold();
        self.ours = Ours::of(&applied.first.state);
        self.theirs = None;
        self.tried.clear();
        self.timeouts = applied.first.state.timeouts;
    }

    /// Remembers what may be in force although it has failed.
    fn failed(&mut self, failure: &Failure) {
        self.tried
            .extend(failure.attempted().iter().map(Ours::attempted));
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
                if self.pins.exists() {
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

    /// Checks whether the policy in force is still the one of this process. If it was detached, the
    /// session ends.
    fn look_at_pins(&mut self) -> Result<(), Failure> {
        let state = match State::read(&self.pins) {
            Ok(Some(state)) => state,
            Ok(None) if !self.pins.exists() => {
                let line = format!(
                    "somebody else has detached {}, whose policy was in force until then",
                    self.iface
                );
                self.log
                    .event("detached", &line, json!({"why": "by somebody else"}));
                return Err(KernelError::NotAttached {
                    scope: format!("`{}`", self.iface),
                }
                .into());
            }
            // Another process is changing it, or it is damaged. Damage is reported with the
            // counters.
            Ok(None) | Err(_) => return Ok(()),
        };
        let found = Ours::of(&state);
        if found == self.ours || self.theirs.as_ref() == Some(&found) {
            return Ok(());
        }
        if let Some(at) = self.tried.iter().position(|tried| *tried == found) {
            // The generation before, or the one that was to replace it, may still run in one
            // direction.
            self.tried[at] = std::mem::replace(&mut self.ours, found);
            self.theirs = None;
            self.timeouts = state.timeouts;
            self.hold();
            return Ok(());
        }
        let (name, generation) = (&state.policy.name, state.policy.generation);
        let line = format!(
            "somebody else has put {} in force on {}, generation {generation}, in place of \
             generation {}: it stays until the files of this policy change or a SIGHUP comes",
            self.log.bold(name),
            self.iface,
            self.ours.generation,
        );
        let details = json!({"policy": state.policy, "replaced": self.ours.generation});
        self.log.event("replaced", &line, details);
        self.timeouts = state.timeouts;
        self.theirs = Some(found);
        self.hold();
        Ok(())
    }

    /// Checks whether the interface is still the one with the policy. A new interface of the same
    /// name has nothing attached.
    fn look_at_link(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let index = match interfaces::index_of(self.iface) {
            Ok(index) => index,
            Err(KernelError::NoInterface { .. }) => {
                if !self.is_gone {
                    self.is_gone = true;
                    let moved_to = self.moved_to();
                    let line = match &moved_to {
                        Some(place) => format!(
                            "{} was moved to the network namespace {place}, where its policy goes on",
                            self.iface
                        ),
                        None => format!(
                            "{} has gone: its policy is attached again when it comes back",
                            self.iface
                        ),
                    };
                    self.log.event("gone", &line, json!({"moved_to": moved_to}));
                }
                return Ok(());
            }
            // The error is reported with the counters.
            Err(_) => return Ok(()),
        };
        if index == self.pins.ifindex {
            self.is_gone = false;
            return Ok(());
        }
        self.attach_again(events, reloader, started)
    }

    /// The name of the network namespace that the interface was moved to, if it was.
    fn moved_to(&self) -> Option<String> {
        self.attached().ok()?.condition().ok()?.elsewhere()
    }

    fn attached(&self) -> Result<Attached, KernelError> {
        attached_to(&self.context.bpffs, self.iface)
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
    fn look_at_hooks(&mut self, reloader: &Reloader) -> Result<(), Failure> {
        if self.is_gone || self.theirs.is_some() {
            return Ok(());
        }
        // An error in reading the state is reported with the counters.
        let Ok(status) = self.attached().and_then(|one| one.status()) else {
            return Ok(());
        };
        if status.faults.is_empty() {
            self.damage = None;
            return Ok(());
        }
        let messages = status.faults.iter().map(|fault| fault.message.as_str());
        let text = messages.collect::<Vec<_>>().join("; ");
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
            let line = format!("{} is not enforcing: {text}", self.iface);
            let details = json!({"faults": status.faults});
            self.log.event("damaged", &line, details);
        }
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
        if self.is_gone {
            return Ok(());
        }
        match self.attached().and_then(|one| counters(&one)) {
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
        events: &mut Events,
        reloader: &mut Reloader,
        started: Instant,
    ) -> Result<(), Failure> {
        let Some(current) = &self.current else {
            // The policy could not be kept open, so `apply` continues with what is left of it.
            self.is_gone = false;
            return self.reload(events, reloader, true);
        };
        let pins = match current.attach_again(&self.context.bpffs, &self.pins, self.iface) {
            Ok(pins) => pins,
            Err(error @ KernelError::NotAttached { .. }) => return Err(error.into()),
            Err(error) => {
                self.say_once(&format!("{} has come back UNPROTECTED:", self.iface), error);
                return Ok(());
            }
        };
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        (self.is_gone, self.trouble) = (false, None);
        if let Some(packets) = &mut self.packets {
            packets.moved_to(&pins);
        }
        events.watch_pins(&pins.dir);
        self.pins = pins;
        let line = format!(
            "{} has been made anew: its policy is attached again, {milliseconds:.1} ms after that was \
             known, with its counters and flows",
            self.iface
        );
        let details = json!({"ifindex": self.pins.ifindex, "milliseconds": milliseconds});
        self.log.event("reattached", &line, details);
        self.look_at_pins()
    }

    /// Whether the policy in force is the one from before this process.
    fn is_as_before(&self) -> bool {
        match &self.before {
            InForce::Nothing => !self.pins.exists(),
            InForce::Policy(held) => {
                let found = State::read(&self.pins).ok().flatten();
                found.as_ref().map(Ours::of) == Some(Ours::of(held.state()))
            }
            InForce::Damaged => false,
        }
    }

    /// Puts back what was in force before if the session could not begin, because its policy may be
    /// in force. Reports the failure first.
    pub(super) fn give_up(&mut self, failure: Failure) -> Failure {
        self.log.failure(&failure);
        if !self.is_as_before()
            && let Err(also) = self.leave(false, "it could not begin")
        {
            self.log.failure(&also);
        }
        Failure::Told(failure.exit_code())
    }

    /// Puts back what was in force before, unless another process has changed it.
    pub(super) fn leave(&mut self, persist: bool, why: &str) -> Result<(), Failure> {
        // Detaching waits until the maps are closed, so they must not stay open here.
        (self.packets, self.trace, self.current) = (None, None, None);
        if !self.is_gone {
            self.look_at_pins()?;
        }
        let (iface, bpffs, pins) = (self.iface, &self.context.bpffs, &self.pins);
        let details = json!({"why": why});
        let mut ours = vec![self.ours.clone()];
        ours.extend(self.tried.iter().cloned());
        let foreign = ", for it is not what this process has put there";
        let left = match &self.before {
            _ if persist => "",
            _ if self.theirs.is_some() => ", for it is somebody else's",
            InForce::Damaged => ", for what was there before was damaged",
            InForce::Policy(_) if self.is_gone => ", for the interface has gone",
            InForce::Policy(held) if Ours::of(held.state()) == self.ours => {
                ", for it was there before"
            }
            InForce::Policy(held) => {
                let policy = &held.state().policy;
                let programs: Vec<[u32; 2]> = ours.iter().map(|ours| ours.programs).collect();
                let put_back = || held.put_back(bpffs, pins, &programs);
                let what = format!("returning to {}", policy.name);
                if insist(&mut self.log, iface, pins, &what, put_back)? {
                    let line = format!(
                        "{} to {} on {iface}, generation {}, as it was before ({why})",
                        self.log.green("returned"),
                        self.log.bold(&policy.name),
                        policy.generation,
                    );
                    let details = json!({"why": why, "policy": policy});
                    self.log.event("returned", &line, details);
                    return Ok(());
                }
                foreign
            }
            InForce::Nothing => {
                let detach = || match State::read(pins) {
                    // Between two attempts another process may have applied a policy.
                    Ok(Some(state)) if !ours.contains(&Ours::of(&state)) => Ok(false),
                    _ => kernel::detach(bpffs, pins).map(|()| true),
                };
                if insist(&mut self.log, iface, pins, "detaching", detach)? {
                    let line = format!("{} from {iface} ({why})", self.log.green("detached"));
                    self.log.event("detached", &line, details);
                    return Ok(());
                }
                foreign
            }
        };
        let line = format!(
            "left as it is on {iface}{left} ({why}): `sgctl detach --iface {iface}` ends enforcement"
        );
        self.log.event("left", &line, details);
        Ok(())
    }
}

/// How often, and for how long, the last step is tried.
const TRIES: u32 = 5;
const TRIED_FOR: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(300);

/// Takes the last step of a session. It is repeated after an error, because no other process cleans
/// up after this one. The error that is returned says what is in force.
fn insist(
    log: &mut Log,
    iface: &str,
    pins: &InterfacePins,
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
            let line = format!(
                "left as it is on {iface}, for {what} has failed {tries} times: `sgctl status` says what is \
                 wrong, `sgctl detach --iface {iface}` ends enforcement"
            );
            let why = format!("{what} has failed");
            log.event("left", &line, json!({"why": why}));
            return Err(kernel::standing_after(error, pins).into());
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
