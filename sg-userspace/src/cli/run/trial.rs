//! The trial of a policy that `run` puts in force with `--confirm-within` (C4): somebody confirms
//! it, or the kernel undoes it at its deadline. After an undo the last policy of this process that
//! was confirmed goes on; if there is none, the session ends.

use serde_json::json;
use sg_userspace::kernel::pins::InterfacePins;
use sg_userspace::kernel::state::{PolicyRecord, State};
use sg_userspace::kernel::trial::left_until;
use sg_userspace::kernel::{self, KernelError};

use super::change::Change;
use super::end::insist;
use super::own_trial::{Ended, OwnTrial};
use super::reload::Reloader;
use super::session::{Ours, Session};
use crate::cli::failure::Failure;

impl Session<'_> {
    /// Whether the deadline of this process's policy has passed since the last look.
    pub(super) fn is_trial_over(&self) -> bool {
        let trial = self.on_trial.as_ref();
        trial.is_some_and(|trial| left_until(trial.deadline).is_zero())
    }

    /// Lets the reloader know which policy stays.
    pub(super) fn settle(&mut self, reloader: &mut Reloader) {
        if let Some(ended) = self.ended.take() {
            reloader.settle(ended);
        }
    }

    /// Finds out whether the trial of this process's policy is over, and reports that. Returns
    /// whether it was undone and the session goes on.
    ///
    /// # Errors
    ///
    /// If it was undone, and no policy of this process is in force then.
    pub(super) fn look_at_trial(&mut self, states: &[State]) -> Result<bool, Failure> {
        let Some(OwnTrial { policy, .. }) = self.on_trial.clone() else {
            return Ok(false);
        };
        let is_it = |state: &State| state.policy.generation == policy.generation;
        let waits = |state: &State| is_it(state) && state.open_trial().is_some();
        if states.is_empty() || states.iter().any(waits) {
            return Ok(false);
        }
        self.on_trial = None;
        let is_later = |state: &State| state.policy.generation > policy.generation;
        if states.iter().any(is_later) {
            // Another process has replaced it, which is reported as such.
            return Ok(false);
        }
        if states
            .iter()
            .all(|state| is_it(state) && !state.has_ended())
        {
            let line = format!(
                "{} {} on {}, generation {}",
                self.log.green("confirmed"),
                self.log.bold(&policy.name),
                self.names(),
                policy.generation
            );
            self.kept = Some(policy.generation);
            self.ended = Some(Ended::Confirmed);
            self.log
                .event(Change::Confirmed, &line, json!({"policy": policy}));
            self.hold();
            return Ok(false);
        }
        self.undone(&policy, states).map(|()| true)
    }

    /// Reports that the policy on trial was undone, and goes on with the one before it.
    fn undone(&mut self, policy: &PolicyRecord, states: &[State]) -> Result<(), Failure> {
        let returned = states.iter().filter(|state| state.has_returned());
        let returned = returned.max_by_key(|state| state.policy.generation);
        let returned = returned.map(|state| state.policy.clone());
        let now = match &returned {
            Some(before) => format!(
                "{}, generation {}, is in force again",
                before.name, before.generation
            ),
            None => "nothing is in force, as before it".to_owned(),
        };
        let undone = format!(
            "{}, generation {}, was not confirmed and is undone on {}: {now}",
            policy.name,
            policy.generation,
            self.names()
        );
        let details = json!({"policy": returned, "undone": policy});
        self.log.event(Change::Undone, &undone, details);
        self.ended = Some(Ended::Undone);
        let pins = self.present().next().map(|one| one.pins.clone());
        if let Some(pins) = pins
            && let Err(error) = kernel::undo(&self.context.bpffs, &pins)
        {
            // For packets nothing changes by it, and the next command does it.
            self.say_once("tidying up after it has failed:", error);
        }
        let Some(before) = returned.filter(|_| self.kept.is_some()) else {
            return Err(KernelError::NotConfirmed { undone }.into());
        };
        let states = self.states()?;
        let found = Ours::of(states.iter());
        if let Some(state) = states.first() {
            self.timeouts = state.timeouts;
        }
        if self.kept == Some(before.generation) {
            self.give_way(found);
            self.theirs = None;
        } else {
            // Another process has put it in force before this one's was.
            self.theirs = Some(found);
        }
        self.hold();
        Ok(())
    }

    /// At the end: undoes the policy of this process that waits to be confirmed. Returns whether
    /// everything is as it was before this process.
    pub(super) fn end_trial(&mut self, why: &str) -> Result<bool, Failure> {
        let Some(OwnTrial { policy, .. }) = self.on_trial.take() else {
            return Ok(false);
        };
        let all: Vec<_> = self
            .present()
            .map(|one| (one.name.clone(), one.pins.clone()))
            .collect();
        let Some((_, pins)) = all.first() else {
            return Ok(false);
        };
        let places: Vec<&InterfacePins> = all.iter().map(|(_, pins)| pins).collect();
        let (mut decided, names) = (None, self.names());
        let undo = || {
            decided = kernel::undo(&self.context.bpffs, pins)?;
            Ok(true)
        };
        let step = format!("undoing {}", policy.name);
        insist(&mut self.log, &names, &places, &step, undo)?;
        match &decided {
            // Somebody else has ended it at this moment.
            None => return Ok(false),
            Some(decided) if decided.is_confirmed => {
                self.kept = Some(policy.generation);
                return Ok(false);
            }
            Some(_) => {}
        }
        if self.kept.is_some() {
            let found = Ours::of(self.states()?.iter());
            self.give_way(found);
            return Ok(false);
        }
        for (name, pins) in &all {
            match State::read(pins)? {
                Some(state) => {
                    let line = format!(
                        "{} to {} on {name}, generation {}, as it was before ({why})",
                        self.log.green("returned"),
                        self.log.bold(&state.policy.name),
                        state.policy.generation,
                    );
                    let details = json!({"why": why, "policy": state.policy});
                    self.log.event_on(name, Change::Returned, &line, details);
                }
                None => {
                    let line = format!("{} from {name} ({why})", self.log.green("detached"));
                    let details = json!({"why": why});
                    self.log.event_on(name, Change::Detached, &line, details);
                }
            }
        }
        Ok(true)
    }

    /// The records of what is in force.
    fn states(&self) -> Result<Vec<State>, KernelError> {
        let read = |one: &super::session::Watched| State::read(&one.pins).transpose();
        self.present().filter_map(read).collect()
    }
}
