//! Repairs the hooks of `run` if another process has removed something from them (C12).

use std::time::{Duration, Instant};

use serde_json::json;

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
            if let Some(damage) = self.damage.take().filter(|it| it.is_told) {
                let line = format!(
                    "{}: what was wrong with the hooks is right again",
                    self.names()
                );
                let details = json!({"was": damage.text});
                self.log.event(Change::Recovered, &line, details);
            }
            return Ok(());
        };
        let messages = faults.iter().map(|fault| fault.message.as_str());
        let text = messages.collect::<Vec<_>>().join("; ");
        let damaged = damaged.join(", ");
        let damage = match &mut self.damage {
            Some(damage) if damage.text == text => damage,
            _ => {
                let is_told = self.damage.as_ref().is_some_and(|it| it.is_told);
                self.damage = Some(Damage {
                    text,
                    since: Instant::now(),
                    tried: None,
                    is_told,
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
            damage.is_told = true;
        }
        if is_new {
            let line = format!("{damaged} is not enforcing: {text}");
            let details = json!({"faults": faults});
            self.log.event_on(&first, Change::Damaged, &line, details);
        }
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
        Ok(())
    }
}
