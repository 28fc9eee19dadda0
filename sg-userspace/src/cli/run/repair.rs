//! Repairs the hooks of `run` if another process has removed something from them (C12).

use std::time::{Duration, Instant};

use serde_json::json;
use sg_userspace::kernel::Fault;

use super::change::Change;
use super::reload::Reloader;
use super::session::{Damage, Session};
use crate::cli::failure::Failure;

/// Shorter faults are ignored: they come from an `apply` or `detach` that is under way.
const IS_DAMAGED_AFTER: Duration = Duration::from_millis(500);

/// How often a failed repair is tried again.
const REPAIR_AGAIN: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// Checks whether both hooks still run the programs of this process, and repairs them if
    /// another process has removed something (C12).
    pub(super) fn look_at_hooks(&mut self, reloader: &mut Reloader) -> Result<(), Failure> {
        if self.present().next().is_none() || self.theirs.is_some() {
            return Ok(());
        }
        // An error in reading the state is reported with the counters.
        let Some(wrong) = self.wrong_with_hooks() else {
            return Ok(());
        };
        let Some(first) = wrong.interfaces.first() else {
            self.recovered();
            return Ok(());
        };
        let text = wrong.text();
        let Some(is_new) = self.is_due(&text) else {
            return Ok(());
        };
        // Another process may have applied a policy by now.
        self.look_at_pins()?;
        if self.theirs.is_some() {
            return Ok(());
        }
        if let Some(damage) = &mut self.damage {
            damage.tried = Some(Instant::now());
            damage.is_told = true;
        }
        if is_new {
            let line = format!("{} is not enforcing: {text}", wrong.interfaces.join(", "));
            let details = json!({"faults": wrong.faults});
            self.log.event_on(first, Change::Damaged, &line, details);
        }
        self.repair(reloader, is_new);
        Ok(())
    }

    /// The faults of all interfaces. `None` if they cannot be read.
    fn wrong_with_hooks(&self) -> Option<Wrong> {
        let mut wrong = Wrong::default();
        for one in self.present() {
            let status = self.attached(&one.name).and_then(|it| it.status()).ok()?;
            if !status.faults.is_empty() {
                wrong.interfaces.push(one.name.clone());
                wrong.faults.extend(status.faults);
            }
        }
        Some(wrong)
    }

    /// Says that the hooks are whole again, if it was said that they are not.
    fn recovered(&mut self) {
        if let Some(damage) = self.damage.take().filter(|it| it.is_told) {
            let line = format!(
                "{}: what was wrong with the hooks is right again",
                self.names()
            );
            let details = json!({"was": damage.text});
            self.log.event(Change::Recovered, &line, details);
        }
    }

    /// Whether a repair is due of what is wrong: not before it has lasted, and not again at once.
    /// `Some(true)` if it is the first one.
    fn is_due(&mut self, text: &str) -> Option<bool> {
        let Some(damage) = self.damage.as_ref().filter(|it| it.text == text) else {
            self.damage = Some(Damage {
                text: text.to_owned(),
                since: Instant::now(),
                tried: None,
                is_told: self.damage.as_ref().is_some_and(|it| it.is_told),
            });
            return None;
        };
        let is_due = match damage.tried {
            None => damage.since.elapsed() >= IS_DAMAGED_AFTER,
            Some(at) => at.elapsed() >= REPAIR_AGAIN,
        };
        is_due.then_some(damage.tried.is_none())
    }

    /// Puts the policy of this process in force again. That this fails is said the first time.
    fn repair(&mut self, reloader: &mut Reloader, is_new: bool) {
        self.settle(reloader);
        reloader.set_interfaces(self.present().map(|one| one.name.clone()).collect());
        match reloader.repair(self.on_trial.is_some()) {
            Ok(applied) => {
                self.applied(&applied);
                self.log.applied(Change::Repaired, &applied, "", None);
                // The line just printed tells of the damage too.
                if let Some(damage) = &mut self.damage {
                    damage.is_told = false;
                }
            }
            Err(failure) => {
                self.failed(&failure);
                if is_new {
                    let line = "it could not be put right, and is tried again every 5 seconds:";
                    self.log
                        .trouble(Change::RepairFailed, line, json!({}), &failure);
                }
            }
        }
    }
}

/// What is wrong with the hooks.
#[derive(Default)]
struct Wrong {
    /// The interfaces that have faults.
    interfaces: Vec<String>,
    faults: Vec<Fault>,
}

impl Wrong {
    fn text(&self) -> String {
        let messages = self.faults.iter().map(|fault| fault.message.as_str());
        messages.collect::<Vec<_>>().join("; ")
    }
}
