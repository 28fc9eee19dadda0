//! What `sgctl run` does between its first apply and its end: attends to events, reloads, tells
//! what others do to what it has put in force, puts back what they take away, and returns at last
//! to what was there before.

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

/// What this process has put in force.
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
    /// What was in force before this process, to return to.
    pub(super) before: InForce,
    /// What is in force now, whoever has put it there, to be attached to an interface that is
    /// made anew.
    pub(super) current: Option<Box<Held>>,
    /// What somebody else has put in force since, so as to say it once.
    pub(super) theirs: Option<Ours>,
    /// Generations that this process has failed to put in force, or to replace as a whole: hooks
    /// may run them all the same.
    pub(super) tried: Vec<Ours>,
    /// The interface does not exist at the moment.
    pub(super) is_gone: bool,
    /// Of the policy in force.
    pub(super) timeouts: [u32; TIMEOUTS],
    pub(super) terminal: Terminal,
    /// Why the counters could not be read last time, so as to say it once.
    pub(super) trouble: Option<String>,
    /// What was wrong with the hooks at the last look.
    pub(super) damage: Option<Damage>,
    /// Logged packets.
    pub(super) packets: Option<PacketLog>,
    /// The packet path's own log of the generation in force, with `--trace`.
    pub(super) trace: Option<PacketTrace>,
    pub(super) traces: bool,
}

/// Something that keeps the policy from being enforced.
pub(super) struct Damage {
    text: String,
    since: Instant,
    /// When it was last tried to put it right. `None` until it has been told of.
    tried: Option<Instant>,
}

/// What is wrong for a shorter time is somebody else's `apply` or `detach` under way.
const IS_DAMAGED_AFTER: Duration = Duration::from_millis(500);

/// How often it is tried again to put right what is wrong with the hooks.
const REPAIR_AGAIN: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// Attends to events until one ends the session.
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
                    // A directory on the way may be another one by now.
                    events.watch(reloader.files());
                }
            }
        }
    }

    /// Applies the policy again if its files mean another one, or if `forced`.
    fn reload(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
        forced: bool,
    ) -> Result<(), Failure> {
        if self.is_gone {
            // There is nothing to apply it to; when there is, it is applied.
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

    /// Prints the packets that were to be logged, as long as somebody reads: else they are kept
    /// where they are, where the newest are kept. What cannot be read is told with the counters,
    /// which come from the same place.
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

    /// Makes room in the flow tables. Expired flows are no longer found anyway, so a failure costs
    /// nothing but room, and whatever is wrong is told with the counters.
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

    /// Keeps open what is in force. Where that fails it can still be loaded anew when it is
    /// needed.
    pub(super) fn hold(&mut self) {
        self.current = match InForce::find(&self.context.bpffs, &self.pins) {
            Ok(InForce::Policy(held)) => Some(held),
            Ok(InForce::Nothing | InForce::Damaged) | Err(_) => None,
        };
    }

    /// Remembers what has just been put in force.
    fn applied(&mut self, applied: &Applied) {
        self.hold();
        self.ours = Ours::of(&applied.state);
        self.theirs = None;
        self.tried.clear();
        self.timeouts = applied.state.timeouts;
    }

    /// Remembers what may be in force although it has failed.
    fn failed(&mut self, failure: &Failure) {
        self.tried.extend(failure.attempted().map(Ours::attempted));
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
                // Where nothing is attached any more, the next look says so and ends the session.
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

    /// Looks whether what is in force is still what this process has put there. That it has been
    /// taken away ends the session.
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
            // Somebody is in the middle of it, or it is damaged, which is told with the counters.
            Ok(None) | Err(_) => return Ok(()),
        };
        let found = Ours::of(&state);
        if found == self.ours || self.theirs.as_ref() == Some(&found) {
            return Ok(());
        }
        if let Some(at) = self.tried.iter().position(|tried| *tried == found) {
            // What it has replaced, or was to replace, may still run in one direction.
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

    /// Looks whether the interface is still the one that the policy is attached to. One that is
    /// made anew under its name has nothing attached.
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
            // Told with the counters.
            Err(_) => return Ok(()),
        };
        if index == self.pins.ifindex {
            self.is_gone = false;
            return Ok(());
        }
        self.attach_again(events, reloader, started)
    }

    /// How the network namespace is called that the interface was moved to, if it was.
    fn moved_to(&self) -> Option<String> {
        self.attached().ok()?.condition().ok()?.elsewhere()
    }

    fn attached(&self) -> Result<Attached, KernelError> {
        attached_to(&self.context.bpffs, self.iface)
    }

    /// Says why the interface is not as it should be, unless it was said the last time.
    fn say_once(&mut self, line: &str, error: KernelError) {
        let text = error.to_string();
        if self.trouble.as_ref() != Some(&text) {
            self.log.event("error", line, json!({}));
            self.log.failure(&error.into());
        }
        self.trouble = Some(text);
    }

    /// Looks whether both hooks still run what this process has put there (SPEC C12), and puts it
    /// back where somebody has taken a part of it away.
    fn look_at_hooks(&mut self, reloader: &Reloader) -> Result<(), Failure> {
        if self.is_gone || self.theirs.is_some() {
            return Ok(());
        }
        // What cannot be looked at is told with the counters.
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
        // It may be somebody else's by now.
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

    /// Shows the counters, and ends the session when there is nothing left to count.
    fn show(&mut self) -> Result<(), Failure> {
        if self.is_gone {
            return Ok(());
        }
        match self.attached().and_then(|one| counters(&one)) {
            Ok(now) => {
                self.trouble = None;
                self.log.counters(&now);
            }
            // The interface may just have gone, or come back.
            Err(KernelError::NotAttached { .. } | KernelError::NoInterface { .. }) => {
                return self.look_at_pins();
            }
            Err(error) => self.say_once("the counters cannot be read:", error),
        }
        Ok(())
    }

    /// Attaches what is in force to the interface that has come back under its name.
    fn attach_again(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
        started: Instant,
    ) -> Result<(), Failure> {
        let Some(current) = &self.current else {
            // It could not be kept: `apply` finds what is left of it, and goes on with that.
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

    /// What was in force before this process is still so, or again.
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

    /// Returns to what was in force before, where the session could not begin although its policy
    /// may be in force. What remains of the failure has been told.
    pub(super) fn give_up(&mut self, failure: Failure) -> Failure {
        self.log.failure(&failure);
        if !self.is_as_before()
            && let Err(also) = self.leave(false, "it could not begin")
        {
            self.log.failure(&also);
        }
        Failure::Told(failure.exit_code())
    }

    /// Returns to what was in force before, as far as what is in force is still this process's.
    pub(super) fn leave(&mut self, persist: bool, why: &str) -> Result<(), Failure> {
        // Whatever is still open here would be waited for.
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
                    // Between two tries somebody may have put something there.
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

/// How often the last step is tried, and for how long.
const TRIES: u32 = 5;
const TRIED_FOR: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(300);

/// Takes the last step of a session. What the kernel refuses now it may do soon, and nobody comes
/// after this process to put it right. An error says what is in force after it.
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
