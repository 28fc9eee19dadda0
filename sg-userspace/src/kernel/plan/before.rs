//! What is in force on the interfaces before a policy, and what follows from it for the policy:
//! whether anything changes, its generation and epoch, and the counter slots of its rules.

use std::time::Duration;

use super::super::error::KernelError;
use super::super::flow_tables::each_flow;
use super::super::found::Found;
use super::super::options::{ApplyOptions, DEFAULT_MAX_FLOWS};
use super::super::outcome::{Applied, AppliedTo, Outcome};
use super::super::pins::InterfacePins;
use super::super::shared::PinnedUse;
use super::super::slots::{self, Assignment, PairsOf};
use super::super::start::Replaced;
use super::super::state::{PolicyRecord, State};
use super::super::watch::{self, Watch};
use super::record::{Common, capacity_of};
use sg_policy::compile::Compiled;
use sg_policy::policy::Policy;

/// What is in force on the interfaces before the policy.
pub(super) struct Before<'a> {
    found: &'a [Found],
    /// The interface whose record counts. All have the same policy, unless an `apply` was
    /// interrupted; then it is one with the latest generation. `None` if no policy is in force.
    lead: Option<&'a Replaced>,
    /// Wherever a policy is in force it is the same one, with the same options and no fault.
    pub(super) is_same_policy: bool,
    /// And the candidate beside it is the same too, or there is none.
    pub(super) is_same: bool,
}

impl<'a> Before<'a> {
    /// Returns also what is to be beside the policy.
    pub(super) fn of(
        policy: &Policy,
        options: &ApplyOptions,
        found: &'a [Found],
    ) -> Result<(Self, watch::Planned), KernelError> {
        let replaced = found.iter().filter_map(|one| one.start.replaced());
        let lead = replaced.max_by_key(|it| it.state.policy.generation);
        let is_new = |one: &Found| one.start.replaced().is_none();
        let mut all = found.iter();
        let is_same_policy =
            lead.is_some() && all.all(|one| is_new(one) || one.is_unchanged(policy));
        let before = Before {
            found,
            lead,
            is_same_policy,
            is_same: false,
        };
        let next = before.next_generation();
        let beside = watch::Planned::of(policy, &options.candidate, lead, next)?;
        Ok((before.with(&beside), beside))
    }

    /// Says also whether all stays the same with `beside` beside the policy.
    pub(super) fn with(self, beside: &watch::Planned) -> Self {
        let is_same = self.is_same_policy && self.replaced().all(|it| beside.is_of(&it.state));
        Before { is_same, ..self }
    }

    /// Fails unless what is in force is what the options say.
    pub(super) fn expect(&self, options: &ApplyOptions) -> Result<(), KernelError> {
        let in_force = self.previous().map(|state| state.policy.generation);
        match options.only_over {
            Some(expected) if in_force != Some(expected) => Err(KernelError::Fixed {
                what: format!("changing what is in force with generation {expected}"),
                reason: match in_force {
                    Some(other) => format!("generation {other} has come in its place"),
                    None => "nothing is in force any more".into(),
                },
                help: "look at it with `sgctl status`, and repeat the command".into(),
            }),
            _ => Ok(()),
        }
    }

    /// The number of a generation that would follow.
    fn next_generation(&self) -> u32 {
        let latest = self.replaced().map(|it| it.state.latest_number());
        latest.max().unwrap_or(0) + 1
    }

    fn replaced(&self) -> impl Iterator<Item = &'a Replaced> {
        self.found.iter().filter_map(|one| one.start.replaced())
    }

    fn previous(&self) -> Option<&'a State> {
        self.lead.map(|lead| &lead.state)
    }

    /// Whether the interface runs the same policy already and is left as it is.
    pub(super) fn leaves(&self, one: &Found) -> bool {
        self.is_same && one.start.replaced().is_some()
    }

    pub(super) fn leads(&self, one: &Found) -> bool {
        let both = one.start.replaced().zip(self.lead);
        both.is_some_and(|(it, lead)| std::ptr::eq(it, lead))
    }

    /// The records of the interfaces that are left as they are.
    pub(super) fn unchanged(&self) -> Vec<State> {
        let left = self.found.iter().filter(|one| self.leaves(one));
        let states = left.filter_map(|one| Some(one.start.replaced()?.state.clone()));
        states.collect()
    }

    /// The result if there is nothing to do on any interface.
    pub(super) fn all_unchanged(
        &self,
        compiled: &Compiled,
        compile_time: Duration,
    ) -> Option<Applied> {
        let mut states = self.unchanged().into_iter();
        if states.len() < self.found.len() {
            return None;
        }
        Some(Applied {
            outcome: Outcome::Unchanged,
            replaced: None,
            has_ended_trial: false,
            first: AppliedTo::unchanged(states.next()?),
            others: states.map(AppliedTo::unchanged).collect(),
            sizes: compiled.sizes(),
            seeded: None,
            cut: None,
            ended_candidate: None,
            self_check: None,
            compile_time,
            load_time: Duration::ZERO,
            decided: Vec::new(),
            mounted: None,
        })
    }

    /// The counter slots of the policy's rules, and of the pairs with the candidate's. `has_run`
    /// says whether a `run` looks after the interfaces. `nowhere` are pins that need not exist.
    pub(super) fn assign(
        &self,
        policy: &Policy,
        watch: Option<&Watch>,
        (options, has_run): (&ApplyOptions, bool),
        nowhere: &InterfacePins,
    ) -> Result<Assignment, KernelError> {
        let capacity = match self.lead {
            Some(lead) => capacity_of(lead)?,
            None => 0,
        };
        // If only the candidate changes while a `run` is active, that `run` may still return to the
        // record from before, and only it knows that record's slots. So no slot is taken away.
        let keeps_all = self.is_same || self.is_same_policy && has_run;
        let runs_alone = !keeps_all && self.replaced().all(|it| it.inspection.runs(&it.state));
        // If no policy is in force, the pins are not read.
        let pins = self.lead.map_or(nowhere, |it| &it.inspection.pins);
        // A policy that may return counts in its slots.
        let mut held = options.held_slots.clone();
        let trials = self.replaced().filter_map(|it| it.state.open_trial());
        let returning = trials.filter_map(|trial| trial.returns_to.as_ref());
        held.extend(returning.flat_map(|state| state.slots()));
        let in_use = PinnedUse::new(pins, self.previous(), runs_alone, &held);
        let pairs = watch.map(|watch| PairsOf {
            watch: watch.number,
            owners: watch.owners(policy),
        });
        slots::assign(policy, pairs, self.previous(), capacity, &in_use)
    }

    /// What is the same on all interfaces that change.
    pub(super) fn common<'p>(
        &self,
        policy: &'p Policy,
        options: &'p ApplyOptions,
        compiled: &Compiled,
    ) -> Common<'p> {
        let previous = self.previous();
        let opens_flows = compiled.opens_flows();
        let has_flows = opens_flows
            || match self.lead {
                // Existing flows may be entered.
                None => !options.cut_existing,
                // If the policy before opens no flows, none can be added until it is replaced.
                Some(Replaced {
                    state, inspection, ..
                }) => state.has_flows && (state.opens_flows || has_any_flow(&inspection.pins)),
            };
        let generation = match previous {
            // Added interfaces get the same generation.
            Some(state) if self.is_same => state.policy.generation,
            _ => self.next_generation(),
        };
        // The rules of an epoch are the same wherever it runs, so that its flows stay admitted.
        let is_of_epoch = |state: &State| {
            let same = previous.map(|previous| previous.epoch) == Some(state.epoch);
            // What passes only because it is watched is judged again when that ends.
            let same_audit = state.policy.audit == policy.audit_in_force();
            same && same_audit && state.policy.digest == policy.digest
        };
        let epoch = match previous {
            Some(state) if self.replaced().all(|it| is_of_epoch(&it.state)) => state.epoch,
            _ => generation,
        };
        // A preliminary time, until the policy takes effect.
        let now = jiff::Timestamp::now().to_string();
        Common {
            policy,
            options,
            record: PolicyRecord {
                name: policy.name.clone(),
                digest: policy.digest.clone(),
                generation,
                applied_at: match previous {
                    Some(state) if self.is_same_policy => state.policy.applied_at.clone(),
                    _ => now.clone(),
                },
                audit: policy.audit_in_force(),
            },
            now,
            epoch,
            max_flows: match previous {
                Some(state) => state.max_flows,
                None => options.max_flows.unwrap_or(DEFAULT_MAX_FLOWS),
            },
            opens_flows,
            has_flows,
        }
    }
}

/// Whether there is a flow in the tables. True if they cannot be read.
fn has_any_flow(pins: &InterfacePins) -> bool {
    let mut has_any = false;
    each_flow(pins, |_| has_any = true).is_err() || has_any
}
