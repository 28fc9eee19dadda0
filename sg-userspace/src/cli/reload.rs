//! When `run` replaces the policy: its files have changed and mean another policy, or it was told.
//! Whatever goes wrong, the policy in force stays.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sg_policy::policy::{Finding, Loaded, Policy, PolicyErrors};
use sg_userspace::kernel::{self, Applied, ApplyOptions};
use sg_userspace::observe::watch::{Stamp, unfinished};

use super::failure::Failure;
use super::patience::Patience;
use super::policy_args::Policies;

/// After this long somebody is told that a file is not read because it is still being written.
const SAY_AFTER: Duration = Duration::from_secs(5);

/// A policy with errors may come to life by a file that it names for the first time, and so that
/// nobody watches.
const TRY_AGAIN: Duration = Duration::from_secs(5);

pub(super) struct Reloader {
    policies: Policies,
    options: ApplyOptions,
    /// Files of the policy in force, which are what is looked at.
    files: Vec<PathBuf>,
    /// As of before they were read last.
    stamp: Stamp,
    /// The policy that was put in force last.
    policy: Policy,
    /// What was wrong at the last attempt, so as to say it once.
    trouble: Option<(String, Instant)>,
    waiting: Option<Waiting>,
}

/// The files have changed, or were to be read, while somebody was writing them.
struct Waiting {
    since: Instant,
    /// Somebody has asked for the policy to be applied, changed or not.
    forced: bool,
    is_said: bool,
}

pub(super) enum Outcome {
    Nothing,
    /// This file is still being written, for so long that somebody should know.
    Unfinished(PathBuf),
    /// The files have changed, but what they mean has not.
    Unchanged,
    Applied(Box<Applied>, Vec<Finding>),
    Invalid(PolicyErrors),
    Refused(Failure),
    /// Standard input has been read once and for all.
    NotReadable,
}

impl Reloader {
    /// Applies the policy for the first time.
    pub(super) fn start(
        policies: Policies,
        mut options: ApplyOptions,
    ) -> Result<(Reloader, Box<Applied>, Vec<Finding>), Failure> {
        let patience = Patience::with("reading and applying the policy");
        let (loaded, files, stamp) = read(&policies, &[]).map_err(|(errors, _)| errors)?;
        let applied = kernel::apply(&loaded.policy, &options)?;
        drop(patience);
        // Done once and for all: it is about a first attachment.
        options.cut_existing = false;
        let reloader = Reloader {
            policies,
            options,
            stamp,
            files,
            policy: loaded.policy,
            trouble: None,
            waiting: None,
        };
        Ok((reloader, Box::new(applied), loaded.findings))
    }

    /// The files to watch.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether it waits for files to be whole, so that [`Reloader::check`] is to be called again
    /// soon.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Waits for a file to be whole.
    fn wait(&mut self, forced: bool, file: PathBuf) -> Outcome {
        let waiting = self.waiting.get_or_insert(Waiting {
            since: Instant::now(),
            forced: false,
            is_said: false,
        });
        waiting.forced |= forced;
        if waiting.is_said || waiting.since.elapsed() < SAY_AFTER {
            return Outcome::Nothing;
        }
        waiting.is_said = true;
        Outcome::Unfinished(file)
    }

    /// Applies the policy again if its files mean another one now, or if `forced`. What is still
    /// being written is left alone until it is whole.
    pub(super) fn check(&mut self, forced: bool) -> Outcome {
        if self.policies.are_from_stdin() {
            return if forced {
                Outcome::NotReadable
            } else {
                Outcome::Nothing
            };
        }
        let is_due = matches!(&self.trouble, Some((_, at)) if at.elapsed() >= TRY_AGAIN);
        let forced = forced || self.waiting.as_ref().is_some_and(|waiting| waiting.forced);
        let is_new = forced || Stamp::of(&self.files) != self.stamp;
        if !is_new && !is_due {
            self.waiting = None;
            return Outcome::Nothing;
        }
        if let Some(file) = unfinished(&self.files) {
            let file = file.to_owned();
            return self.wait(forced, file);
        }
        let read = read(&self.policies, &self.files);
        let (files, before) = match &read {
            Ok((_, files, stamp)) => (files, stamp),
            Err((_, stamp)) => (&self.files, stamp),
        };
        // Somebody may have begun to write while they were read.
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
        if loaded.policy.digest == self.policy.digest && !forced {
            let was_wrong = self.trouble.take().is_some();
            return match was_wrong || is_new {
                true => Outcome::Unchanged,
                false => Outcome::Nothing,
            };
        }
        match kernel::apply(&loaded.policy, &self.options) {
            Ok(applied) => {
                self.trouble = None;
                self.policy = loaded.policy;
                if applied.outcome == kernel::Outcome::Unchanged {
                    return Outcome::Unchanged;
                }
                Outcome::Applied(Box::new(applied), loaded.findings)
            }
            Err(error) => match self.is_said(error.to_string(), is_new) {
                true => Outcome::Nothing,
                false => Outcome::Refused(error.into()),
            },
        }
    }

    /// Puts the policy in force once more, where some of it has been taken away. Its files are
    /// not looked at.
    pub(super) fn repair(&self) -> Result<Box<Applied>, Failure> {
        Ok(Box::new(kernel::apply(&self.policy, &self.options)?))
    }

    /// True when the same trouble has been told of already and nothing has happened since.
    fn is_said(&mut self, trouble: String, is_new: bool) -> bool {
        let same = matches!(&self.trouble, Some((before, _)) if *before == trouble);
        self.trouble = Some((trouble, Instant::now()));
        same && !is_new
    }
}

/// Reads the policy, with the files it is made of and their stamp from before they were read, so
/// that no later change goes unnoticed. `known` are the files as far as they are known; on errors
/// the stamp is theirs.
fn read(
    policies: &Policies,
    known: &[PathBuf],
) -> Result<(Loaded, Vec<PathBuf>, Stamp), (PolicyErrors, Stamp)> {
    let mut known = known.to_vec();
    loop {
        let stamp = Stamp::of(&known);
        let loaded = match policies.load() {
            Ok(loaded) => loaded,
            Err(errors) => return Err((errors, stamp)),
        };
        // Standard input cannot be read twice, and its files are not looked at.
        if policies.are_from_stdin() || loaded.policy.sources == known {
            return Ok((loaded, known, stamp));
        }
        // Files that were not known have no stamp from before: once more, with theirs.
        known.clone_from(&loaded.policy.sources);
    }
}
