//! Applies a policy unless a guard refuses it (SPEC C6): the lock-out guard, or what the policy
//! names under its own `guard`. What the change does to this machine is said before it is made.

use sg_policy::analysis::access;
use sg_policy::policy::{AuditScope, Finding, Policy, Severity};
use sg_userspace::kernel::impact::{Change, Impact, OwnConnection};
use sg_userspace::kernel::{self, Applied, ApplyOptions, KernelError, Preview};

use super::failure::Failure;
use super::impact::{self, Mood};
use super::policy_args::Policies;
use super::remedy::remedy;
use super::screen::{Paint, Screen};

/// What turns a guard off.
pub(super) const OFF: &str =
    "with `--confirm-within 60s` it undoes itself, with --force it is applied all the same";

/// Whether the guards refuse nothing.
pub(super) fn is_off(options: &ApplyOptions) -> bool {
    options.forced || options.confirm_within.is_some()
}

/// What a policy drops of what its own `guard` names, as it is applied: errors, and warnings where
/// it passes all the same because it is audited.
pub(super) struct Breaches(Vec<Finding>);

impl Breaches {
    fn of(policy: &Policy, options: &ApplyOptions) -> Breaches {
        Breaches(match options.audit {
            AuditScope::Rules => access::findings(policy),
            scope => access::findings(&policy.clone().audited(scope)),
        })
    }

    fn with(&self, severity: Severity) -> impl Iterator<Item = Finding> {
        let of = self.0.iter().filter(move |it| it.severity == severity);
        of.cloned()
    }

    /// What would be dropped if it were not audited.
    pub(super) fn watched(&self) -> impl Iterator<Item = Finding> {
        self.with(Severity::Warning)
    }

    /// Fails if something is dropped.
    pub(super) fn refuse(&self) -> Result<(), Failure> {
        let dropped: Vec<Finding> = self.with(Severity::Error).collect();
        match dropped.is_empty() {
            true => Ok(()),
            false => Err(Failure::Guard(dropped)),
        }
    }
}

/// A policy that is about to be applied.
pub(super) struct Proposal<'a> {
    policies: Option<&'a Policies>,
    pub(super) policy: &'a Policy,
    pub(super) options: &'a ApplyOptions,
    pub(super) breaches: Breaches,
}

impl<'a> Proposal<'a> {
    /// `policies` are what the policy was read from.
    pub(super) fn read(
        policies: &'a Policies,
        policy: &'a Policy,
        options: &'a ApplyOptions,
    ) -> Proposal<'a> {
        Proposal {
            policies: Some(policies),
            ..Proposal::kept(policy, options)
        }
    }

    /// A policy that was kept in the history or as a candidate. It has no files any more in which
    /// somebody could change a rule.
    pub(super) fn kept(policy: &'a Policy, options: &'a ApplyOptions) -> Proposal<'a> {
        Proposal {
            policies: None,
            policy,
            options,
            breaches: Breaches::of(policy, options),
        }
    }

    /// Applies it, unless a guard refuses it. Before anything changes `say` gets what it does to
    /// this machine, and whether it is refused.
    pub(super) fn apply(&self, mut say: impl FnMut(Impact, bool)) -> Result<Applied, Failure> {
        let is_off = is_off(self.options);
        if !is_off {
            self.breaches.refuse()?;
        }
        let mut review = |change: &Change<'_>| {
            let found = change.impact()?;
            let refusal = self.lock_out(&found).filter(|_| !is_off);
            say(found, refusal.is_some());
            refusal.map_or(Ok(()), Err)
        };
        Ok(kernel::apply_reviewed(
            self.policy,
            self.options,
            &mut review,
        )?)
    }

    /// Applies it for a person: what it does to this machine is printed on `screen`, if there is
    /// one, and kept in `seen`.
    pub(super) fn apply_aloud(
        &self,
        screen: Option<&Screen>,
        seen: &mut Option<Impact>,
    ) -> Result<Applied, Failure> {
        self.apply(|found, is_refused| {
            if let Some(screen) = screen {
                self.announce(screen, &found, is_refused);
            }
            *seen = Some(found);
        })
    }

    /// Prints what is about to be applied and what that does, or what it would have done if it is
    /// refused.
    fn announce(&self, screen: &Screen, impact: &Impact, is_refused: bool) {
        let (mood, verb) = match is_refused {
            false => (Mood::Does, "applying"),
            true => (Mood::Would, "not applied:"),
        };
        let name = screen.paint(Paint::Bold, &self.policy.name);
        let mut out = format!("{verb} {name} to {}\n", impact.interfaces.join(", "));
        out.push_str(&impact::text(screen, impact, mood, is_off(self.options)));
        // If the output is closed, the policy is applied nevertheless.
        let _ = screen.say(&out);
    }

    /// Finds out what applying it would do, and changes nothing.
    pub(super) fn preview(&self) -> Result<Previewed, Failure> {
        let mut refusals: Vec<Finding> = self.breaches.with(Severity::Error).collect();
        let mut impact = None;
        let mut review = |change: &Change<'_>| {
            let found = change.impact()?;
            let refusal = self.lock_out(&found).map(Failure::from);
            refusals.extend(refusal.iter().flat_map(Failure::findings));
            impact = Some(found);
            Ok(())
        };
        let preview = kernel::preview(self.policy, self.options, &mut review)?;
        if is_off(self.options) {
            refusals.clear();
        }
        Ok(Previewed {
            preview,
            impact,
            refusals,
        })
    }

    /// The refusal of a change that would lock the operator out.
    fn lock_out(&self, impact: &Impact) -> Option<KernelError> {
        let one = impact::crossing(impact).find(|one| one.is_lost())?;
        let mut help: Vec<String> = self.remedy(one).into_iter().collect();
        help.push(OFF.to_owned());
        Some(KernelError::Guarded {
            code: "lock-out",
            message: format!("refused, for it would lock you out: {}", impact::loss(one)),
            help: help.join("; "),
        })
    }

    fn remedy(&self, one: &OwnConnection) -> Option<String> {
        remedy(self.policies?, self.policy, one)
    }
}

/// What an apply would do.
pub(super) struct Previewed {
    pub(super) preview: Preview,
    /// What it would do to this machine. `None` if nothing would change.
    pub(super) impact: Option<Impact>,
    /// For what it would be refused.
    pub(super) refusals: Vec<Finding>,
}
