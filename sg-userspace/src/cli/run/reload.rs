//! When `run` replaces its policy: after its files have changed in a way that changes the policy,
//! or on SIGHUP. If anything fails, the policy in force stays.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sg_policy::policy::{Finding, Loaded, Policy, PolicyErrors};
use sg_userspace::kernel::attempted::Attempted;
use sg_userspace::kernel::history::Entry;
use sg_userspace::kernel::impact::Impact;
use sg_userspace::kernel::{self, Applied, ApplyOptions};
use sg_userspace::sources::watch::{Stamp, unfinished};

use super::before::{Before, admit, admit_first};
use super::check::Target;
use super::own_trial::{Ended, OwnTrial};
use crate::cli::failure::Failure;
use crate::cli::guarded::{Proposal, is_off};
use crate::cli::impact;
use crate::cli::patience::Patience;
use crate::cli::policy_args::{Policies, Trust};

/// After this time a message says that a file is not read because a process is still writing it.
const SAY_AFTER: Duration = Duration::from_secs(5);

/// How often a policy with errors is read again. It may name a new file, which is not watched, and
/// become valid when that appears.
const TRY_AGAIN: Duration = Duration::from_secs(5);

pub(super) struct Reloader {
    policies: Policies,
    trust: Trust,
    options: ApplyOptions,
    /// What has to be reachable for a policy to be confirmed.
    targets: Vec<Target>,
    /// The files of the policy in force, which are watched.
    files: Vec<PathBuf>,
    /// The files' stamp from before they were last read.
    stamp: Stamp,
    /// The policy that was last put in force.
    policy: Policy,
    /// The last one that was confirmed, if that one is on trial.
    before: Option<Policy>,
    /// The error of the last attempt and its time, so that it is reported only once.
    trouble: Option<(String, Instant)>,
    waiting: Option<Waiting>,
}

/// Why the policy is applied again whether or not its files have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forced {
    Signal,
    /// An interface was made anew, and the policy in force could not be kept open.
    NewInterface,
}

impl Forced {
    fn why(self) -> &'static str {
        match self {
            Forced::Signal => "SIGHUP has come",
            Forced::NewInterface => "an interface was made anew",
        }
    }
}

/// The files have changed, or were to be read, while a process was writing them.
struct Waiting {
    since: Instant,
    /// Why a reload was requested, changed or not.
    forced: Option<Forced>,
    is_said: bool,
}

/// A policy that was put in force.
pub(super) struct Reloaded {
    pub(super) applied: Applied,
    pub(super) findings: Vec<Finding>,
    /// What it did to connections and listening sockets, in a few words, and all of it.
    pub(super) impact: Option<(String, Impact)>,
    /// Why it was put in force.
    pub(super) why: String,
}

/// What was put in force first.
pub(super) struct Begun {
    pub(super) reloaded: Reloaded,
    /// The generation that goes on if that is undone.
    pub(super) goes_on: Option<u32>,
    /// The policy of the files, if it was undone here and is not tried again. Then what is in
    /// force goes on.
    pub(super) not_tried: Option<Entry>,
}

impl Begun {
    pub(super) fn attempted(&self) -> Vec<Attempted> {
        let interfaces = self.reloaded.applied.interfaces();
        interfaces.map(|it| it.state.attempted()).collect()
    }

    /// The policy, if it waits to be confirmed.
    pub(super) fn on_trial(&self) -> Option<OwnTrial> {
        OwnTrial::of(&self.reloaded.applied)
    }

    /// The generation that nobody has to confirm any more.
    pub(super) fn kept(&self) -> Option<u32> {
        match self.on_trial() {
            None => Some(self.reloaded.applied.first.state.policy.generation),
            Some(_) => self.goes_on,
        }
    }
}

pub(super) enum Outcome {
    Nothing,
    /// This file has been open for writing for so long that the user should know.
    Unfinished(PathBuf),
    /// The files have changed, but the policy means the same.
    Unchanged,
    Applied(Box<Reloaded>),
    Invalid(PolicyErrors),
    Refused(Failure),
    /// Standard input can only be read once.
    NotReadable,
}

impl Reloader {
    /// Applies the policy for the first time.
    pub(super) fn start(
        policies: Policies,
        trust: Trust,
        mut options: ApplyOptions,
        targets: Vec<Target>,
    ) -> Result<(Reloader, Box<Begun>), Failure> {
        let patience = Patience::with("reading and applying the policy");
        let (mut loaded, files, stamp) =
            read(&policies, trust, &[]).map_err(|(errors, _)| errors)?;
        let before = match targets.is_empty() {
            true => None,
            false => Before::find(&options, &loaded.policy)?,
        };
        let (policy, reloaded, not_tried) = match &before {
            Some(before) if before.undone.is_some() => {
                let reloaded = Reloaded {
                    applied: before.apply_again(&options)?,
                    findings: Vec::new(),
                    impact: None,
                    why: "at the start".to_owned(),
                };
                (before.policy.clone(), reloaded, before.undone.clone())
            }
            before => {
                let policy = loaded.policy;
                let proposal = Proposal::read(&policies, &policy, &options);
                admit_first(&proposal, before.as_ref(), &targets)?;
                loaded.findings.extend(proposal.breaches.watched());
                let (applied, impact) = apply(&proposal)?;
                let reloaded = Reloaded {
                    applied,
                    findings: loaded.findings,
                    impact,
                    why: "at the start".to_owned(),
                };
                (policy, reloaded, None)
            }
        };
        drop(patience);
        let before = before.filter(|_| OwnTrial::of(&reloaded.applied).is_some());
        let goes_on = before.as_ref().map(|before| before.generation);
        // These options are only valid for a first attachment.
        options.cut_existing = false;
        options.held = Vec::new();
        let reloader = Reloader {
            policies,
            trust,
            options,
            targets,
            stamp,
            files,
            policy,
            before: before.map(|before| before.policy),
            trouble: None,
            waiting: None,
        };
        let begun = Begun {
            reloaded,
            goes_on,
            not_tried,
        };
        Ok((reloader, Box::new(begun)))
    }

    /// Whether the files are others than those that were read.
    pub(super) fn has_changed(&self) -> bool {
        Stamp::of(&self.files) != self.stamp
    }

    /// Applies to these interfaces from now on.
    pub(super) fn set_interfaces(&mut self, names: Vec<String>) {
        self.options.interfaces = names;
    }

    /// The trial of the policy that was last put in force has ended.
    pub(super) fn settle(&mut self, ended: Ended) {
        let before = self.before.take();
        if ended == Ended::Undone
            && let Some(before) = before
        {
            self.policy = before;
        }
    }

    /// The files to watch.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether it waits until files are written completely. Then [`Reloader::check`] must be called
    /// again soon.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Waits until a file is written completely.
    fn wait(&mut self, forced: Option<Forced>, file: PathBuf) -> Outcome {
        let waiting = self.waiting.get_or_insert(Waiting {
            since: Instant::now(),
            forced: None,
            is_said: false,
        });
        waiting.forced = waiting.forced.or(forced);
        if waiting.is_said || waiting.since.elapsed() < SAY_AFTER {
            return Outcome::Nothing;
        }
        waiting.is_said = true;
        Outcome::Unfinished(file)
    }

    /// Applies the policy again if its files mean another one now, or if `forced`. Files that are
    /// still being written are not read yet.
    pub(super) fn check(&mut self, forced: Option<Forced>) -> Outcome {
        if self.policies.are_from_stdin() {
            return match forced {
                Some(_) => Outcome::NotReadable,
                None => Outcome::Nothing,
            };
        }
        let is_due = matches!(&self.trouble, Some((_, at)) if at.elapsed() >= TRY_AGAIN);
        let forced = forced.or(self.waiting.as_ref().and_then(|waiting| waiting.forced));
        let now = Stamp::of(&self.files);
        let is_new = forced.is_some() || now != self.stamp;
        let why = why(forced, &now.differs(&self.stamp, &self.files));
        if !is_new && !is_due {
            self.waiting = None;
            return Outcome::Nothing;
        }
        if let Some(file) = unfinished(&self.files) {
            let file = file.to_owned();
            return self.wait(forced, file);
        }
        let read = read(&self.policies, self.trust, &self.files);
        let (files, before) = match &read {
            Ok((_, files, stamp)) => (files, stamp),
            Err((_, stamp)) => (&self.files, stamp),
        };
        // A process may have begun to write while the files were read.
        if Stamp::of(files) != *before || unfinished(files).is_some() {
            let file = files.first().cloned().unwrap_or_default();
            return self.wait(forced, file);
        }
        self.waiting = None;
        let loaded = match read {
            Ok((loaded, files, stamp)) => {
                (self.files, self.stamp) = (files, stamp);
                loaded
            }
            Err((errors, stamp)) => {
                self.stamp = stamp;
                return match self.is_said(errors.to_string(), is_new) {
                    true => Outcome::Nothing,
                    false => Outcome::Invalid(errors),
                };
            }
        };
        if loaded.policy.digest == self.policy.digest && forced.is_none() {
            let was_wrong = self.trouble.take().is_some();
            return match was_wrong || is_new {
                true => Outcome::Unchanged,
                false => Outcome::Nothing,
            };
        }
        self.replace(loaded, why, is_new)
    }

    /// Puts a policy in force in the place of the one that is. That it cannot be is said once, and
    /// again if `is_new`.
    fn replace(&mut self, mut loaded: Loaded, why: String, is_new: bool) -> Outcome {
        let deciding = Some(&*self.policy.digest);
        let proposal = Proposal::read(&self.policies, &loaded.policy, &self.options);
        loaded.findings.extend(proposal.breaches.watched());
        let applied = admit(&proposal, deciding, &self.targets).and_then(|()| apply(&proposal));
        match applied {
            Ok((applied, impact)) => {
                self.trouble = None;
                let before = std::mem::replace(&mut self.policy, loaded.policy);
                if OwnTrial::of(&applied).is_none() {
                    self.before = None;
                } else if self.before.is_none() {
                    self.before = Some(before);
                }
                if applied.outcome == kernel::Outcome::Unchanged {
                    return Outcome::Unchanged;
                }
                Outcome::Applied(Box::new(Reloaded {
                    applied,
                    findings: loaded.findings,
                    impact,
                    why,
                }))
            }
            Err(failure) => {
                let said: Vec<String> = failure.findings().iter().map(Finding::to_string).collect();
                match self.is_said(said.join("\n"), is_new) {
                    true => Outcome::Nothing,
                    false => Outcome::Refused(failure),
                }
            }
        }
    }

    /// Applies the policy in force again, after a part of it was removed. The files are not read.
    /// Only one that `is_on_trial` waits to be confirmed.
    pub(super) fn repair(&self, is_on_trial: bool) -> Result<Box<Applied>, Failure> {
        self.join(is_on_trial, Vec::new())
    }

    /// As [`Reloader::repair`], on interfaces of which some have just appeared and are `held`.
    pub(super) fn join(
        &self,
        is_on_trial: bool,
        held: Vec<String>,
    ) -> Result<Box<Applied>, Failure> {
        let options = ApplyOptions {
            held,
            confirm_within: self.options.confirm_within.filter(|_| is_on_trial),
            ..self.options.clone()
        };
        Ok(Box::new(kernel::apply(&self.policy, &options)?))
    }

    /// Whether the same error was reported already and nothing has changed since.
    fn is_said(&mut self, trouble: String, is_new: bool) -> bool {
        let same = matches!(&self.trouble, Some((before, _)) if *before == trouble);
        self.trouble = Some((trouble, Instant::now()));
        same && !is_new
    }
}

/// Why the policy is read again.
fn why(forced: Option<Forced>, changed: &[&Path]) -> String {
    match (forced, changed) {
        (Some(forced), _) => forced.why().to_owned(),
        (None, [file]) => format!("{} has changed", file.display()),
        (None, [file, rest @ ..]) => {
            format!("{} and {} more have changed", file.display(), rest.len())
        }
        // A file has come that was not known before.
        (None, []) => "what was wrong with its files is mended".to_owned(),
    }
}

/// Applies a policy, unless a guard refuses it. Returns also what that does, if there is anything
/// to be said of it.
fn apply(proposal: &Proposal<'_>) -> Result<(Applied, Option<(String, Impact)>), Failure> {
    let is_off = is_off(proposal.options);
    let mut seen = None;
    let say = |found: Impact, _| {
        seen = impact::short(&found, is_off).map(|short| (short, found));
    };
    let applied = proposal.apply(say)?;
    Ok((applied, seen))
}

/// Reads the policy. Returns also its files, and their stamp from before they were read, so that no
/// later change is missed. `known` are the files known so far. If there are errors, the stamp is
/// that of the known files.
fn read(
    policies: &Policies,
    trust: Trust,
    known: &[PathBuf],
) -> Result<(Loaded, Vec<PathBuf>, Stamp), (PolicyErrors, Stamp)> {
    let mut known = known.to_vec();
    loop {
        let stamp = Stamp::of(&known);
        let loaded = match policies.load_to_enforce(trust) {
            Ok(loaded) => loaded,
            Err(errors) => return Err((errors, stamp)),
        };
        // Standard input cannot be read twice, and the files of such a policy are not watched.
        if policies.are_from_stdin() || loaded.policy.sources == known {
            return Ok((loaded, known, stamp));
        }
        // New files have no stamp from before they were read, so everything is read once more.
        known.clone_from(&loaded.policy.sources);
    }
}
