//! The events of `run`, one after the other: signals, files, pins, links and the clock.

use serde_json::json;
use sg_userspace::kernel::{KernelError, flow_tables};
use sg_userspace::observe::counters::counters;
use sg_userspace::observe::events::Events as PacketLog;
use sg_userspace::observe::flows::monotonic_now;
use sg_userspace::observe::trace::PacketTrace;

use super::change::Change;
use super::events::{Event, Events};
use super::reload::{Forced, Outcome, Reloader};
use super::session::{Session, Watched};
use super::terminal::Hangup;
use crate::cli::apply;
use crate::cli::failure::Failure;

/// What is said while the counters cannot be read.
const UNREADABLE: &str = "the counters cannot be read:";

impl Session<'_> {
    /// Handles events until one ends the session.
    pub(super) fn attend(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
    ) -> Result<&'static str, Failure> {
        loop {
            self.manager.ready(&self.status_line());
            self.manager.beat();
            match events.next() {
                Event::Stop(why) => return Ok(why),
                Event::Hangup => match self.terminal.hangup() {
                    Hangup::Lost => return Ok("the terminal has gone"),
                    Hangup::Outlived => {}
                    Hangup::Asked => self.reload(events, reloader, Some(Forced::Signal))?,
                },
                Event::Show => self.show()?,
                Event::Fetch => {
                    self.fetch();
                    self.look_at_check()?;
                    if self.is_trial_over() {
                        self.look_at_pins()?;
                    }
                    if reloader.is_waiting() {
                        self.reload(events, reloader, None)?;
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
                    self.beat();
                    if let Some(why) = self.terminal.end() {
                        return Ok(why);
                    }
                    self.look_at_link(events, reloader)?;
                    self.look_at_pins()?;
                    self.reload(events, reloader, None)?;
                    self.look_at_hooks(reloader)?;
                }
                Event::FilesChanged => {
                    self.reload(events, reloader, None)?;
                    // A directory in the path may have been replaced.
                    events.watch(reloader.files());
                }
            }
        }
    }

    /// Applies the policy again if its files mean another one now, or if `forced`.
    pub(super) fn reload(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
        forced: Option<Forced>,
    ) -> Result<(), Failure> {
        if self.on_trial.is_some() {
            // It may have been confirmed meanwhile, and is then what the next one gives way to.
            self.look_at_pins()?;
        }
        let present = self.present().map(|one| one.name.clone());
        let present: Vec<String> = present.collect();
        if present.is_empty() {
            // There is no interface to apply it to. It is applied when the interface is back.
            return Ok(());
        }
        self.settle(reloader);
        reloader.set_interfaces(present);
        let outcome = reloader.check(forced);
        if matches!(outcome, Outcome::Nothing) {
            return Ok(());
        }
        self.tell(outcome);
        events.watch(reloader.files());
        self.show()
    }

    fn tell(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Unchanged => self.log.unchanged(),
            Outcome::Applied(reloaded) => {
                self.applied(&reloaded.applied);
                let warnings = apply::findings(&reloaded.findings, self.policies);
                self.log.impact(reloaded.impact.as_ref());
                let why = Some(reloaded.why.as_str());
                self.log
                    .applied(Change::Reloaded, &reloaded.applied, &warnings, why);
                self.log.watched(&reloaded.findings);
            }
            Outcome::Unfinished(file) => {
                let file = file.display().to_string();
                let line = format!(
                    "waiting: {file} is still being written, and generation {} stays in force until \
                     it is whole",
                    self.ours.generation
                );
                self.log
                    .event(Change::Waiting, &line, json!({"file": file}));
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
                self.log.event(Change::NotReloaded, line, json!({}));
            }
        }
    }

    /// Prints logged packets, as long as the output is read. If it is not, they stay in the ring,
    /// which keeps the newest. Errors are reported with the counters, which are read from the same
    /// pins.
    fn fetch(&mut self) {
        self.log.go_on();
        if self.log.has_room()
            && let Some(Ok(logged)) = self.packets.as_mut().map(PacketLog::drain)
        {
            self.read.add(&logged);
            self.log.packets(logged);
        }
        if self.traces {
            self.fetch_trace();
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
            self.log.trace(&line);
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

    /// Shows the counters. Ends the session if nothing is attached any more.
    fn show(&mut self) -> Result<(), Failure> {
        if self.present().next().is_none() {
            return Ok(());
        }
        let read = |one: &Watched| self.attached(&one.name).and_then(|it| counters(&it));
        match self.present().map(read).collect::<Result<Vec<_>, _>>() {
            Ok(now) => {
                self.say_over(UNREADABLE, "the counters can be read again");
                self.log.counters(&now);
            }
            // The interface may just have been removed or created.
            Err(KernelError::NotAttached { .. } | KernelError::NoInterface { .. }) => {
                return self.look_at_pins();
            }
            Err(error) => self.say_once(UNREADABLE, error),
        }
        Ok(())
    }
}
