//! When `run` replaces the policy: its files have changed and mean another policy, or it was told.
//! Whatever goes wrong, the policy in force stays.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sg_userspace::kernel::{self, Applied, ApplyOptions};
use sg_userspace::observe::watch::Stamp;
use sg_userspace::policy::{Finding, PolicyErrors};

use super::failure::Failure;
use super::policy_args::Policies;

/// A policy with errors may come to life by a file that it names for the first time, and so that
/// nobody watches.
const TRY_AGAIN: Duration = Duration::from_secs(5);

pub(super) struct Reloader {
    policies: Policies,
    options: ApplyOptions,
    /// Files of the policy in force, which are what is looked at.
    files: Vec<PathBuf>,
    /// As of before they were read last; `None` when some were read before they were known.
    stamp: Option<Stamp>,
    digest: String,
    /// What was wrong at the last attempt, so as to say it once.
    trouble: Option<(String, Instant)>,
}

pub(super) enum Outcome {
    Nothing,
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
        options: ApplyOptions,
    ) -> Result<(Reloader, Box<Applied>, Vec<Finding>), Failure> {
        let loaded = policies.load()?;
        let applied = kernel::apply(&loaded.policy, &options)?;
        let files = if policies.are_from_stdin() {
            Vec::new()
        } else {
            loaded.policy.sources.clone()
        };
        let reloader = Reloader {
            policies,
            options,
            stamp: None,
            files,
            digest: loaded.policy.digest,
            trouble: None,
        };
        Ok((reloader, Box::new(applied), loaded.findings))
    }

    /// The files to watch.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Applies the policy again if its files mean another one now, or if `forced`.
    pub(super) fn check(&mut self, forced: bool) -> Outcome {
        if self.policies.are_from_stdin() {
            return if forced {
                Outcome::NotReadable
            } else {
                Outcome::Nothing
            };
        }
        let stamp = Stamp::of(&self.files);
        let is_due = matches!(&self.trouble, Some((_, at)) if at.elapsed() >= TRY_AGAIN);
        let is_new = forced || self.stamp.as_ref().is_some_and(|before| *before != stamp);
        if !is_new && self.stamp.is_some() && !is_due {
            return Outcome::Nothing;
        }
        self.stamp = Some(stamp);
        let loaded = match self.policies.load() {
            Ok(loaded) => loaded,
            Err(errors) => {
                return match self.is_said(errors.to_string(), is_new) {
                    true => Outcome::Nothing,
                    false => Outcome::Invalid(errors),
                };
            }
        };
        if loaded.policy.sources != self.files {
            self.files.clone_from(&loaded.policy.sources);
            // What is new among them may have changed while it was read: read it once more.
            self.stamp = None;
        }
        if loaded.policy.digest == self.digest && !forced {
            let was_wrong = self.trouble.take().is_some();
            return match was_wrong || is_new {
                true => Outcome::Unchanged,
                false => Outcome::Nothing,
            };
        }
        match kernel::apply(&loaded.policy, &self.options) {
            Ok(applied) => {
                self.trouble = None;
                self.digest = loaded.policy.digest;
                Outcome::Applied(Box::new(applied), loaded.findings)
            }
            Err(error) => match self.is_said(error.to_string(), is_new) {
                true => Outcome::Nothing,
                false => Outcome::Refused(error.into()),
            },
        }
    }

    /// True when the same trouble has been told of already and nothing has happened since.
    fn is_said(&mut self, trouble: String, is_new: bool) -> bool {
        let same = matches!(&self.trouble, Some((before, _)) if *before == trouble);
        self.trouble = Some((trouble, Instant::now()));
        same && !is_new
    }
}
