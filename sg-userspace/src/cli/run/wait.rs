//! `run --wait` while its policy is in force: puts it in force on interfaces that appear, and tells
//! the service manager what is waited for. `expected` is about what comes before that.

use serde_json::json;
use sg_userspace::kernel::pins::PinTree;
use sg_userspace::kernel::run_lock::RunLock;
use sg_userspace::kernel::{interfaces, netns};

use super::change::Change;
use super::events::Events;
use super::reload::Reloader;
use super::session::{Session, Watched, find_before};
use crate::cli::failure::Failure;

impl Session<'_> {
    /// The line that `systemctl status` shows: what is in force where, and what is waited for.
    pub(super) fn status_line(&self) -> String {
        let names: Vec<&str> = self.present().map(|one| one.name.as_str()).collect();
        let mut line = match (&self.damage, &self.policy) {
            (Some(damage), _) => format!("NOT enforcing: {}", damage.text),
            _ if names.is_empty() => String::new(),
            (None, _) if self.theirs.is_some() => {
                format!("somebody else's policy is in force on {}", names.join(", "))
            }
            (None, Some((policy, _))) => format!(
                "{}, generation {}, on {}",
                policy.name,
                policy.generation,
                names.join(", ")
            ),
            (None, None) => String::new(),
        };
        let gone = self.interfaces.iter().filter(|one| one.is_gone);
        let mut missing: Vec<&str> = gone.map(|one| one.name.as_str()).collect();
        if self.expected.waits {
            missing.extend(self.expected.missing());
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let between = if line.is_empty() { "" } else { "; " };
            line = format!("{line}{between}waiting for {}", missing.join(", "));
        }
        line
    }

    /// Puts the policy in force on interfaces that were waited for and exist by now. If that fails,
    /// they are released, and the next call tries it again.
    pub(super) fn look_for_new(
        &mut self,
        events: &mut Events,
        reloader: &mut Reloader,
    ) -> Result<(), Failure> {
        if !self.expected.waits {
            return Ok(());
        }
        let is_new = |name: &String| {
            let is_known = self.interfaces.iter().any(|one| one.name == *name);
            !is_known && !self.expected.given_up.contains(name)
        };
        let mut new = self.expected.present();
        new.retain(is_new);
        if new.is_empty() {
            return Ok(());
        }
        let names = new.join(", ");
        if self.theirs.is_some() {
            if !self.expected.is_told {
                let line = format!(
                    "{names} has appeared and is UNPROTECTED: the policy in force is somebody else's; this \
                     one comes back when its files change or a SIGHUP comes, and is put there too"
                );
                self.log
                    .event(Change::NotAttached, &line, json!({"interfaces": new}));
            }
            self.expected.is_told = true;
            return Ok(());
        }
        let first_tries: Vec<String> = new
            .iter()
            .filter(|name| !self.expected.failed.contains(*name))
            .cloned()
            .collect();
        let expected = &self.expected;
        let appeared = expected.hold(new.clone(), &first_tries, &mut self.log);
        let joined = self.join(&new, appeared.held(), reloader);
        appeared.release();
        match joined {
            Ok(()) => {
                self.expected.failed.retain(|name| !new.contains(name));
                appeared.tell(&mut self.log);
                self.watch_pins(events);
            }
            Err(failure) => {
                self.failed(&failure);
                self.interfaces.retain(|one| !new.contains(&one.name));
                if !first_tries.is_empty() {
                    let line = format!("{names} is UNPROTECTED, and is tried again:");
                    let details = json!({"interfaces": new});
                    self.log
                        .trouble(Change::NotAttached, &line, details, &failure);
                }
                self.expected.failed.extend(new);
            }
        }
        Ok(())
    }

    /// Adds the interfaces to those of the policy in force. Those that are `held` pass nothing
    /// meanwhile.
    fn join(
        &mut self,
        names: &[String],
        held: Vec<String>,
        reloader: &mut Reloader,
    ) -> Result<(), Failure> {
        let bpffs = &self.context.bpffs;
        let tree = PinTree::new(bpffs);
        let cookie = netns::cookie()?;
        let mut locks = Vec::new();
        for name in names {
            if !self.expected.has_lock(name) {
                locks.push(RunLock::take(bpffs, name)?);
            }
            let before = find_before(self.context, name)?;
            let index = interfaces::index_of(name)?;
            let pins = tree.interface(cookie, index)?;
            self.interfaces.push(Watched::new(name, pins, before));
        }
        self.settle(reloader);
        let present = self.present().map(|one| one.name.clone());
        reloader.set_interfaces(present.collect());
        let applied = reloader.join(self.on_trial.is_some(), held)?;
        self.applied(&applied);
        self.expected.locks.extend(locks);
        Ok(())
    }
}
