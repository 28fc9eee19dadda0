//! The policy that returns if the one that replaces it is not confirmed (C4). Its programs are
//! loaded anew before anything changes, so that nothing can fail at the deadline: with an epoch of
//! their own, by which they judge again what the policy on trial has admitted.

use super::again;
use super::error::KernelError;
use super::flow_tables::may_have_cut;
use super::load::generation::Generation;
use super::load::programs::Programs;
use super::load::targets;
use super::pins::InterfacePins;
use super::plan::InterfacePlan;
use super::state::State;
use sg_policy::policy::Established;

/// A policy that may return to an interface.
pub(super) struct Fallback {
    pub(super) programs: Programs,
    pub(super) state: State,
}

/// The record of the policy that an undo returns to: the last one that was confirmed. `None` if
/// there is none.
pub(super) fn returns_to(one: &InterfacePlan) -> Option<&State> {
    let state = &one.replaced()?.state;
    match state.open_trial() {
        Some(trial) => trial.returns_to.as_deref(),
        None => Some(state),
    }
}

impl Fallback {
    /// Loads and pins it under `number`, which no generation and no epoch has had. `in_force` are
    /// the options of the programs that run now, see [`may_have_cut`].
    pub(super) fn load(
        one: &InterfacePlan,
        before: &State,
        number: u32,
        in_force: Option<&Generation>,
    ) -> Result<Fallback, KernelError> {
        let pins = &one.pins;
        let Some(generation) = targets::open(pins, before.number())? else {
            return Err(damaged(&one.name, pins, before));
        };
        let mut options = Generation {
            epoch: number,
            ..Generation::recorded(before)
        };
        // What it was to flush is gone since it was put in force first. What it was to keep may
        // have been admitted by the policy on trial only, and is judged.
        options.established = Established::Revalidate;
        if may_have_cut(pins, in_force, &options) {
            (options.has_flows, options.may_have_cut) = (true, true);
        }
        let mut state = State {
            trial: None,
            remembering: None,
            pinned_as: Some(number),
            // Those of the policy on trial exist by now.
            counter_maps: one.state.counter_maps,
            ..before.clone().back_after(&one.state)
        };
        let programs = again::load(&generation, &options, &mut state, pins)?;
        programs.pin_targets(pins, number)?;
        Ok(Fallback { programs, state })
    }
}

fn damaged(interface: &str, pins: &InterfacePins, before: &State) -> KernelError {
    let missing = targets::missing(pins, before.number()).join(", ");
    KernelError::Refused {
        what: format!("keeping the policy in force on {interface}, to return to it"),
        reason: match missing.is_empty() {
            true => "some of its programs are not pinned any more".into(),
            false => format!("pins of it have been removed: {missing}"),
        },
        help: "apply a policy without --confirm-within first, which repairs the attachment".into(),
    }
}
