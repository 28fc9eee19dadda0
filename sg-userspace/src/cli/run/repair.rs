//! Repairs the hooks of `run` if another process has removed something from them (C12).

use std::time::{Duration, Instant};

use serde_json::json;

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
        self.settle(reloader);
        reloader.set_interfaces(self.present().map(|one| one.name.clone()).collect());
        match reloader.repair(self.on_trial.is_some()) {
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
}
