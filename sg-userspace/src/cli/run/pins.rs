//! What other processes change while `run` looks on: another policy put in force, or an interface
//! detached. Both stay as they are.

use serde_json::json;
use sg_userspace::kernel::KernelError;
use sg_userspace::kernel::held::{Held, InForce};
use sg_userspace::kernel::state::{PolicyRecord, State};

use super::change::Change;
use super::session::{Ours, Session};
use crate::cli::failure::Failure;

impl Session<'_> {
    /// Checks whether the policy in force is still the one of this process. An interface that was
    /// detached is left alone from then on; with the last one the session ends.
    pub(super) fn look_at_pins(&mut self) -> Result<(), Failure> {
        let (mut states, mut detached) = (Vec::new(), Vec::new());
        for one in &self.interfaces {
            match State::read(&one.pins) {
                // It may have missed what was put in force since it has gone.
                Ok(Some(_)) if one.is_gone && self.interfaces.len() > 1 => {}
                Ok(Some(state)) => states.push(state),
                Ok(None) if !one.pins.exists() => detached.push(one.name.clone()),
                // Another process is changing it, or it is damaged. Damage is reported with the
                // counters.
                Ok(None) | Err(_) => return Ok(()),
            }
        }
        if self.look_at_trial(&states)? {
            return Ok(());
        }
        self.leave_alone(&detached)?;
        let Some(latest) = states.iter().max_by_key(|state| state.policy.generation) else {
            return Ok(());
        };
        let found = Ours::of(states.iter());
        if self.ours.includes(&found) || self.theirs.as_ref() == Some(&found) {
            return Ok(());
        }
        let timeouts = latest.timeouts;
        if let Some(at) = self.tried.iter().position(|tried| tried.includes(&found)) {
            // The generation before, or the one that was to replace it, may still run in one
            // direction.
            self.tried[at] = std::mem::replace(&mut self.ours, found);
            self.theirs = None;
            self.timeouts = timeouts;
            self.hold();
            return Ok(());
        }
        if latest.has_returned()
            && self.kept == Some(latest.policy.generation)
            && self.theirs.is_none()
        {
            // One that was to replace it has failed, and the kernel has returned to it.
            self.ours.programs.extend(found.programs);
            return Ok(());
        }
        let is_ours = |programs| {
            let mut all = self.tried.iter().chain([&self.ours]);
            all.any(|ours| ours.programs.contains(programs))
        };
        if found.programs.iter().all(is_ours) {
            // Some interfaces run one generation of this process and some another.
            return Ok(());
        }
        if let Some(undone) = self.theirs_on_trial.take_if(|_| latest.has_returned()) {
            self.go_on_after_theirs(&undone, latest, found);
            return Ok(());
        }
        if self.is_with_other_candidate(latest) {
            return self.go_on_beside_another_candidate(latest, found);
        }
        self.give_way_to_theirs(latest, found);
        Ok(())
    }

    /// Reports interfaces that somebody else has detached, and looks after them no more.
    fn leave_alone(&mut self, detached: &[String]) -> Result<(), Failure> {
        for name in detached {
            let line =
                format!("somebody else has detached {name}, whose policy was in force until then");
            let details = json!({"why": "by somebody else"});
            self.log
                .event_on(name, Change::DetachedByOther, &line, details);
        }
        self.expected.give_up(detached);
        if detached.len() == self.interfaces.len() {
            return Err(KernelError::NotAttached {
                scope: format!("`{}`", self.names()),
            }
            .into());
        }
        self.interfaces.retain(|one| !detached.contains(&one.name));
        Ok(())
    }

    /// Reports that the policy that somebody else had put in force was not confirmed, so that the
    /// one before it has returned.
    fn go_on_after_theirs(&mut self, undone: &PolicyRecord, latest: &State, found: Ours) {
        let generation = latest.policy.generation;
        let line = format!(
            "generation {}, which somebody else has put in force on {}, was not confirmed and is undone: \
                 {}, generation {generation}, is in force again",
            undone.generation,
            self.names(),
            self.log.bold(&latest.policy.name),
        );
        let details = json!({"policy": latest.policy, "undone": undone});
        self.log.event(Change::Undone, &line, details);
        self.timeouts = latest.timeouts;
        self.theirs = match generation == self.ours.generation {
            true => {
                self.ours.programs.extend(found.programs);
                None
            }
            false => Some(found),
        };
        self.hold();
    }

    /// Reports that somebody else has put another policy in force, which stays.
    fn give_way_to_theirs(&mut self, latest: &State, found: Ours) {
        let generation = latest.policy.generation;
        let waits = latest.open_trial().map(|trial| trial.until.clone());
        let ends = match &waits {
            Some(_) => "it is undone unless `sgctl confirm` comes before its deadline",
            None => "it stays until the files of this policy change or a SIGHUP comes",
        };
        let line = format!(
            "somebody else has put {} in force on {}, generation {generation}, in place of \
             generation {}: {ends}",
            self.log.bold(&latest.policy.name),
            self.names(),
            self.ours.generation,
        );
        let details = json!({
            "policy": latest.policy,
            "replaced": self.ours.generation,
            "unconfirmed_until": waits,
        });
        self.log.event(Change::Replaced, &line, details);
        self.theirs_on_trial = waits.map(|_| latest.policy.clone());
        self.timeouts = latest.timeouts;
        self.theirs = Some(found);
        self.hold();
    }

    /// Reports that somebody else has put a candidate beside the policy of this process, or has
    /// taken it away. It is the policy of this process still.
    fn go_on_beside_another_candidate(
        &mut self,
        latest: &State,
        found: Ours,
    ) -> Result<(), Failure> {
        let generation = latest.policy.generation;
        let beside = self.log.bold(&latest.policy.name);
        let line = match &latest.candidate {
            Some(candidate) => format!(
                "somebody else has put the candidate {} beside {beside} on {}, generation {generation}: no \
                 verdict changes",
                self.log.bold(&candidate.name),
                self.names(),
            ),
            None => format!(
                "somebody else has taken away the candidate beside {beside} on {}, generation {generation}",
                self.names(),
            ),
        };
        let details = json!({"policy": latest.policy, "candidate": latest.candidate.as_ref().map(|it| json!({
            "name": it.name, "digest": it.digest, "since": it.since,
        }))});
        self.log.event(Change::Candidate, &line, details);
        self.policy = Some(Session::policy_of(latest));
        // Where this process has put nothing there, it is still what it found.
        let (bpffs, ours) = (&self.context.bpffs, &self.ours);
        for one in self.interfaces.iter_mut() {
            let is_ours = |held: &Held| ours.programs.contains(&held.state().attempted().programs);
            if matches!(&one.before, InForce::Policy(held) if is_ours(held)) {
                one.before = InForce::find(bpffs, &one.pins)?;
            }
        }
        self.give_way(found);
        self.timeouts = latest.timeouts;
        self.hold();
        Ok(())
    }

    /// Whether it is the policy of this process, with another candidate beside it or with none.
    fn is_with_other_candidate(&self, latest: &State) -> bool {
        let Some((policy, watch)) = self.policy.as_ref().filter(|_| self.theirs.is_none()) else {
            return false;
        };
        let (found, now) = Session::policy_of(latest);
        let is_same = policy.digest == found.digest && policy.audit == found.audit;
        is_same && *watch != now && latest.trial.is_none() && !latest.has_returned()
    }
}
