//! An interface that goes, is moved to another network namespace, or is made anew under its name:
//! then the policy in force is attached to it again.

use std::time::Instant;

use serde_json::json;
use sg_userspace::kernel::held::Held;
use sg_userspace::kernel::inspect::{Inspection, inspect};
use sg_userspace::kernel::{KernelError, interfaces};

use super::change::Change;
use super::events::Events;
use super::reload::{Forced, Reloader};
use super::session::Session;
use crate::cli::failure::Failure;

impl Session<'_> {
    /// Checks whether each interface is still the one with the policy. A new interface of the same
    /// name has nothing attached.
    pub(super) fn look_at_link(
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
                Some(one) if one.pins.ifindex == index => {
                    let was_gone = std::mem::take(&mut one.is_gone);
                    if was_gone {
                        let line = format!("{name} is here again");
                        self.log.event_on(&name, Change::Back, &line, json!({}));
                    }
                }
                Some(_) => self.attach_again(&name, events, reloader, started)?,
                // It was detached meanwhile.
                None => {}
            }
        }
        self.look_for_new(events, reloader)
    }

    /// Says, once, where the interface is that had this name.
    fn has_gone(&mut self, name: &str) {
        let one = self.interfaces.iter_mut().find(|one| one.name == name);
        let Some(one) = one.filter(|one| !one.is_gone) else {
            return;
        };
        one.is_gone = true;
        self.troubles.remove(&unprotected(name));
        let found = inspect(&one.pins).ok().filter(Inspection::is_attached);
        let at = found.as_ref().and_then(Inspection::at);
        let (moved_to, renamed_to) = match at {
            Some(at) if at.netns().is_some() => (at.netns(), None),
            Some(at) => (None, Some(&*at.interface.name)),
            None => (None, None),
        };
        let line = match (moved_to, renamed_to) {
            (Some(place), _) => format!(
                "{name} was moved to the network namespace {place}, where its policy goes on"
            ),
            (None, Some(now)) => {
                format!("{name} is called {now} now, and its policy goes on there")
            }
            (None, None) => {
                format!("{name} has gone: its policy is attached again when it comes back")
            }
        };
        let details = json!({"moved_to": moved_to, "renamed_to": renamed_to});
        self.log.event_on(name, Change::Gone, &line, details);
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
        let lives_on = inspect(&one.pins)?.is_attached();
        let current = one.current.as_deref().filter(is_latest);
        let Some(current) = current.filter(|_| !lives_on) else {
            // The policy could not be kept open, or another one was put in force since, so
            // `apply` continues with what is left of it. Or the interface that had the name is
            // still there, renamed or moved: it keeps its policy, and the new one gets its own.
            one.is_gone = false;
            self.reload(events, reloader, Some(Forced::NewInterface))?;
            self.watch_pins(events);
            return Ok(());
        };
        let pins = match current.attach_again(&self.context.bpffs, &one.pins, name) {
            Ok(pins) => pins,
            Err(error @ KernelError::NotAttached { .. }) => return Err(error.into()),
            Err(error) => {
                self.say_once(&unprotected(name), error);
                return Ok(());
            }
        };
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        one.is_gone = false;
        // That it is attached again says that this is over.
        self.troubles.remove(&unprotected(name));
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
        self.log.event_on(name, Change::Reattached, &line, details);
        self.look_at_pins()
    }
}

/// What is said while the policy cannot be attached to an interface that was made anew.
fn unprotected(name: &str) -> String {
    format!("{name} has come back UNPROTECTED:")
}
