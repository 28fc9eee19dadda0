//! What `run` does with the check of its own policy (`check`): confirms the policy, or, where that
//! was undone and nothing goes on, waits for another one.

use serde_json::json;
use sg_userspace::kernel::{self, KernelError};

use super::change::Change;
use super::check::Found;
use super::events::{Event, Events};
use super::reload::Reloader;
use super::session::Session;
use crate::cli::failure::Failure;

impl Session<'_> {
    /// Confirms the policy on trial if everything is reachable under it.
    pub(super) fn look_at_check(&mut self) -> Result<(), Failure> {
        if !self.checks.are_asked_for() {
            return Ok(());
        }
        let Some(trial) = self.on_trial.clone() else {
            self.checks.give_up();
            return Ok(());
        };
        let (name, generation) = (&trial.policy.name, trial.policy.generation);
        match self.checks.look(&trial) {
            Found::Nothing => Ok(()),
            Found::Unreachable(reason) => {
                let line =
                    format!("not confirmed yet: under {name}, generation {generation}, {reason}");
                let details = json!({"policy": trial.policy, "reason": reason});
                self.log.event(Change::Unreachable, &line, details);
                Ok(())
            }
            Found::Reachable => {
                let pins = self.present().next().map(|one| one.pins.clone());
                let Some(pins) = pins else {
                    return Ok(());
                };
                match kernel::confirm_generation(&self.context.bpffs, &pins, generation) {
                    // Where it was undone or replaced meanwhile, the look at the pins says so.
                    Ok(_)
                    | Err(KernelError::TooLate { .. } | KernelError::NothingToConfirm { .. }) => {}
                    Err(error) => {
                        self.say_once("it is reachable, but confirming has failed:", error);
                        // Another check begins at the next look.
                        self.checks.give_up();
                    }
                }
                self.look_at_pins()
            }
        }
    }

    /// Waits until the files of a policy that was undone change. What was in force before may be
    /// nothing, and then nothing tells the next process that it was undone: whoever starts this one
    /// again after its end would try the same policy again.
    pub(super) fn rest(
        &mut self,
        failure: Failure,
        events: &mut Events,
        reloader: &Reloader,
    ) -> Failure {
        self.log.failure(&failure);
        let line = "waiting: the same policy is not tried again until its files change";
        self.log.event(Change::Waiting, line, json!({}));
        loop {
            self.manager
                .ready("waiting for another policy: its own was undone");
            self.manager.beat();
            match events.next() {
                Event::Stop(_) | Event::Hangup => break,
                Event::Look | Event::FilesChanged => {
                    self.beat();
                    if self.terminal.end().is_some() || reloader.has_changed() {
                        break;
                    }
                }
                Event::Fetch => self.log.go_on(),
                _ => {}
            }
        }
        Failure::Told(failure.exit_code())
    }
}
