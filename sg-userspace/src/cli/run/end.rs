//! The end of `run`: what was in force before comes back, unless another process has changed it
//! (C11).

use std::time::{Duration, Instant};

use serde_json::json;
use sg_userspace::kernel::held::{InForce, put_back};
use sg_userspace::kernel::pins::InterfacePins;
use sg_userspace::kernel::state::State;
use sg_userspace::kernel::{self, KernelError};

use super::change::Change;
use super::log::Log;
use super::session::{Session, Watched};
use crate::cli::failure::Failure;

impl Session<'_> {
    /// Puts back what was in force before if the session could not begin, because its policy may be
    /// in force. Reports the failure first.
    pub(super) fn give_up(&mut self, failure: Failure) -> Failure {
        self.log.failure(&failure);
        if !self.interfaces.iter().all(Watched::is_as_before)
            && let Err(also) = self.leave(false, "it could not begin")
        {
            self.log.failure(&also);
        }
        Failure::Told(failure.exit_code())
    }

    /// Puts back what was in force before, unless another process has changed it.
    pub(super) fn leave(&mut self, persist: bool, why: &str) -> Result<(), Failure> {
        // Detaching waits until the maps are closed, so they must not stay open here.
        (self.packets, self.trace) = (None, Vec::new());
        for one in &mut self.interfaces {
            one.current = None;
        }
        if self.present().next().is_some() {
            self.look_at_pins()?;
        }
        // What this process alone would confirm waits for nobody.
        let ends_trial = !persist || self.checks.are_asked_for();
        if ends_trial && self.theirs.is_none() && self.end_trial(why)? {
            return Ok(());
        }
        let names = self.names();
        let left = match &self.interfaces[..] {
            _ if persist && self.on_trial.is_some() => {
                ", where it is undone unless `sgctl confirm` comes before its deadline"
            }
            _ if persist => "",
            _ if self.theirs.is_some() => ", for it is somebody else's",
            all if all.iter().any(|one| matches!(one.before, InForce::Damaged)) => {
                ", for what was there before was damaged"
            }
            _ => {
                let steps = [self.put_back(why)?, self.detach(why)?];
                match steps.into_iter().max() {
                    Some(Left::Done) => return Ok(()),
                    Some(Left::Gone) => ", for the interface has gone",
                    Some(Left::Foreign) => ", for it is not what this process has put there",
                    Some(Left::Nothing) | None => ", for it was there before",
                }
            }
        };
        let each = self
            .interfaces
            .iter()
            .map(|one| format!(" --iface {}", one.name));
        let each: String = each.collect();
        let line = format!(
            "left as it is on {names}{left} ({why}): `sgctl detach{each}` ends enforcement"
        );
        self.log.event(Change::Left, &line, json!({"why": why}));
        Ok(())
    }

    /// The pairs of programs that this process has put in force, or has tried to.
    fn programs(&self) -> Vec<[u32; 2]> {
        let all = [&self.ours].into_iter().chain(&self.tried);
        all.flat_map(|ours| ours.programs.iter().copied()).collect()
    }

    /// Returns to the policies that were in force before, on all interfaces where there was one.
    fn put_back(&mut self, why: &str) -> Result<Left, Failure> {
        let bpffs = &self.context.bpffs;
        let (mut what, mut has_gone) = (Vec::new(), false);
        for one in &self.interfaces {
            let InForce::Policy(held) = &one.before else {
                continue;
            };
            // Where the same policy was in force, its programs were left alone.
            if self
                .ours
                .programs
                .contains(&held.state().attempted().programs)
            {
                continue;
            }
            match one.is_gone {
                true => has_gone = true,
                false => what.push((&**held, &one.pins)),
            }
        }
        let Some((held, _)) = what.first() else {
            return Ok(match has_gone {
                true => Left::Gone,
                false => Left::Nothing,
            });
        };
        let policy = held.state().policy.clone();
        let names = what.iter().map(|(held, _)| held.state().interface.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        let programs = self.programs();
        let put_back = || put_back(bpffs, &what, &programs);
        let step = format!("returning to {}", policy.name);
        let places: Vec<&InterfacePins> = what.iter().map(|(_, pins)| *pins).collect();
        if !insist(&mut self.log, &names, &places, &step, put_back)? {
            return Ok(Left::Foreign);
        }
        let line = format!(
            "{} to {} on {names}, generation {}, as it was before ({why})",
            self.log.green("returned"),
            self.log.bold(&policy.name),
            policy.generation,
        );
        let details = json!({"why": why, "policy": policy});
        self.log.event(Change::Returned, &line, details);
        Ok(Left::Done)
    }

    /// Detaches the interfaces on which nothing was in force before: all at once, so that another
    /// process does not find some of them under the policy still and report it as in force.
    fn detach(&mut self, why: &str) -> Result<Left, Failure> {
        let programs = self.programs();
        let interfaces = self.interfaces.iter();
        let (names, places): (Vec<_>, Vec<_>) = interfaces
            .filter(|one| matches!(one.before, InForce::Nothing))
            .map(|one| (one.name.clone(), &one.pins))
            .unzip();
        if names.is_empty() {
            return Ok(Left::Nothing);
        }
        // Another process may have applied a policy, also between two attempts.
        let is_ours = |state: Option<&State>| {
            state.is_none_or(|state| programs.contains(&state.attempted().programs))
        };
        let detach = || {
            let all = kernel::detach_each(&self.context.bpffs, &places, is_ours)?;
            all.into_iter().collect::<Result<Vec<bool>, _>>()
        };
        let each = insist(
            &mut self.log,
            &names.join(", "),
            &places,
            "detaching",
            detach,
        )?;
        for (name, _) in names.iter().zip(&each).filter(|(_, is_gone)| **is_gone) {
            let line = format!("{} from {name} ({why})", self.log.green("detached"));
            self.log
                .event_on(name, Change::Detached, &line, json!({"why": why}));
        }
        match each.iter().all(|is_gone| *is_gone) {
            true => Ok(Left::Done),
            false => Ok(Left::Foreign),
        }
    }
}

/// What became of the interfaces at the end of a session; the later ones are said if there are
/// several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// There was nothing to do.
    Nothing,
    Done,
    /// An interface does not exist any more.
    Gone,
    /// Another process has put something there.
    Foreign,
}

/// How often, and for how long, the last step is tried.
const TRIES: u32 = 5;
const TRIED_FOR: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(300);

/// Takes the last step of a session. It is repeated after an error, because no other process cleans
/// up after this one. The error that is returned says what is in force.
pub(super) fn insist<T>(
    log: &mut Log,
    names: &str,
    places: &[&InterfacePins],
    what: &str,
    mut step: impl FnMut() -> Result<T, KernelError>,
) -> Result<T, Failure> {
    let started = Instant::now();
    let mut tries = 1;
    loop {
        let error = match step() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if tries == TRIES || started.elapsed() >= TRIED_FOR {
            let each = names.split(", ").map(|name| format!(" --iface {name}"));
            let each: String = each.collect();
            let line = format!(
                "left as it is on {names}, for {what} has failed {tries} times: `sgctl status` says what is \
                 wrong, `sgctl detach{each}` ends enforcement"
            );
            let why = format!("{what} has failed");
            log.event(Change::LeftUnwillingly, &line, json!({"why": why}));
            let places = names.split(", ").zip(places.iter().copied());
            let is_only_one = !names.contains(", ");
            let places = places.map(|(name, pins)| match is_only_one {
                true => ("", pins),
                false => (name, pins),
            });
            return Err(kernel::standing_on(error, &places.collect::<Vec<_>>()).into());
        }
        let failure = Failure::from(error);
        if tries == 1 {
            let line = format!("{what} has failed, and is tried again:");
            log.trouble(Change::Retrying, &line, json!({"step": what}), &failure);
        }
        tries += 1;
        std::thread::sleep(TRY_AGAIN);
    }
}
