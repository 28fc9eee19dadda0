//! The third step of `apply`: puts the loaded programs in force, one hook after the other, and
//! tidies up. This is all that packets notice.
//!
//! The record of the new policy is pinned beside the old one first, so that the slots of both are
//! known at every moment, whichever of them runs, and takes its place when both directions run
//! it. Where the second direction cannot follow, the first goes back.
//!
//! Where there was no policy before, one direction would judge before the other has seen
//! anything: answers would be dropped whose requests nobody has remembered. So at first both run
//! programs that pass everything and only remember what the rules admit, and those that enforce
//! come in their place.

use std::os::fd::AsFd;

use sg_common::verdict::Direction;

use super::condition::standing_after;
use super::error::KernelError;
use super::flow_tables::flush;
use super::hooks::{Hooks, remove_filters, remove_link};
use super::inspect::inspect;
use super::options::{EgressHook, XdpMode};
use super::outcome::{Applied, Outcome};
use super::plan::Plan;
use super::prepare::Prepared;
use super::removal::remove;
use super::seed::Seeding;
use super::state::{State, taken_back};
use super::targets;
use sg_policy::policy::Established;

/// Outbound comes first: then the flows that the node opens are in the table when inbound packets
/// begin to be judged.
pub(super) const ORDER: [Direction; 2] = [Direction::Outbound, Direction::Inbound];

pub(super) fn commit(plan: &Plan, prepared: Prepared<'_>) -> Result<Applied, KernelError> {
    let hooks = Hooks {
        pins: &plan.pins,
        interface: &plan.options.interface,
        xdp_mode: plan.options.xdp_mode,
        egress_hook: plan.options.egress_hook,
        owns_qdisc: plan.state.added_clsact,
    };
    let is_first = plan.replaced().is_none();
    let Prepared {
        mut programs,
        remembering,
        mut state,
        mut seeding,
        before,
    } = prepared;
    let put = state
        .write_next(&plan.pins)
        .and_then(|()| match remembering {
            Some(mut early) => {
                put_in_force(&hooks, &mut early)?;
                seeding.as_mut().map_or(Ok(()), Seeding::meanwhile)
            }
            None => Ok(()),
        })
        .and_then(|()| put_in_force(&hooks, &mut programs))
        .and_then(|()| State::promote(&plan.pins));
    if let Err(error) = put {
        take_back(plan, &state, &hooks, &before);
        return Err(halfway(plan, &state, error));
    }
    // From here on the policy is in force: each of these is done whatever becomes of the others.
    state.policy.applied_at = jiff::Timestamp::now().to_string();
    if is_first {
        state.attached_at.clone_from(&state.policy.applied_at);
    }
    let cuts = is_first && plan.options.cut_existing;
    let (mut seeded, mut cut) = (None, None);
    let looked = seeding.map_or(Ok(()), |seeding| {
        match cuts {
            true => cut = Some(seeding.after_cutting()?),
            false => seeded = Some(seeding.after()?),
        }
        Ok(())
    });
    let flushed = match plan.policy.established == Established::Flush && plan.replaced().is_some() {
        true => flush(&plan.pins, state.policy.generation),
        false => Ok(()),
    };
    state.remembering = None;
    let tidied = tidy(&hooks, &mut state);
    if let Err(error) = looked.and(flushed).and(tidied) {
        return Err(halfway(plan, &state, error));
    }
    Ok(Applied {
        outcome: match is_first {
            true => Outcome::Attached,
            false => Outcome::Replaced,
        },
        sizes: plan.compiled.sizes(),
        seeded: seeded.filter(|_| is_first),
        cut,
        added_clsact: !plan.has_qdisc && state.egress_hook == hook_name(EgressHook::Clsact),
        compile_time: plan.compile_time,
        load_time: programs.load_time,
        mounted: None,
        state,
    })
}

/// Writes down how what `state` is the record of is attached, and removes what nothing needs any
/// more.
pub(super) fn tidy(hooks: &Hooks<'_>, state: &mut State) -> Result<(), KernelError> {
    let (hook, mode) = hooks.in_use()?;
    (state.egress_hook, state.xdp_mode) = (hook_name(hook), mode_name(mode));
    state.write(hooks.pins)?;
    hooks.retire_other(hook)?;
    targets::leave_only(hooks.pins, state.policy.generation)
}

pub(super) fn put_in_force(
    hooks: &Hooks<'_>,
    programs: &mut super::programs::Programs,
) -> Result<(), KernelError> {
    for direction in ORDER {
        let program = match direction {
            Direction::Inbound => programs.inbound()?.fd(),
            Direction::Outbound => programs.outbound()?.fd(),
        };
        let program = program.map_err(|e| KernelError::bpf("opening the loaded program", e))?;
        hooks.put(direction, program.as_fd())?;
    }
    Ok(())
}

/// Has both directions run what they ran before, as far as the kernel lets it be done. What it
/// does not is told by looking at what is there afterwards.
fn take_back(
    plan: &Plan,
    attempted: &State,
    hooks: &Hooks<'_>,
    before: &[Option<std::os::fd::OwnedFd>; 2],
) {
    let Some(replaced) = plan.replaced() else {
        if let Ok(inspection) = inspect(&plan.pins) {
            let _ = remove(&inspection);
        }
        return;
    };
    let old = &replaced.inspection.outbound;
    // If a hook was not in use before, it is released. The hook that was in use still runs its old
    // program.
    let has = (old.live_link().is_some(), old.filters().next().is_some());
    let given_up = match (has, hooks.egress_hook) {
        ((true, false), EgressHook::Clsact) => {
            Some(remove_filters(plan.pins.ifindex, hooks.owns_qdisc))
        }
        ((false, true), EgressHook::Tcx) => {
            Some(remove_link(&plan.pins.tcx_link(), Direction::Outbound))
        }
        _ => None,
    };
    let mut is_back = !matches!(given_up, Some(Err(_)));
    for (direction, program) in Direction::BOTH.into_iter().zip(before) {
        let is_as_it_was = direction == Direction::Outbound && given_up.is_some();
        if let Some(program) = program.as_ref().filter(|_| !is_as_it_was) {
            is_back &= hooks.put(direction, program.as_fd()).is_ok();
        }
    }
    // Only now are the tail-call targets of the new programs unused, and the old record is true
    // again.
    let forget_attempt = || {
        // The counter maps stay: packets may have been counted in them.
        taken_back(replaced.state.clone(), attempted.clone()).write(&plan.pins)?;
        super::pins::unpin(&plan.pins.state_next())?;
        super::sys::wait_for_programs();
        targets::forget(&plan.pins, plan.state.policy.generation);
        Ok::<_, KernelError>(())
    };
    if is_back && inspect(&plan.pins).is_ok_and(|inspection| inspection.runs(&replaced.state)) {
        // What cannot be tidied up is found by the next command.
        let _ = forget_attempt();
    }
}

/// `error`, what is in force after it, and what was to be: some of it may run.
fn halfway(plan: &Plan, attempted: &State, error: KernelError) -> KernelError {
    standing_after(error, &plan.pins).with_attempted(attempted.attempted())
}

fn hook_name(hook: EgressHook) -> String {
    match hook {
        EgressHook::Clsact => "clsact".into(),
        EgressHook::Tcx | EgressHook::Auto => "tcx".into(),
    }
}

fn mode_name(mode: XdpMode) -> String {
    match mode {
        XdpMode::Generic => "generic".into(),
        XdpMode::Native | XdpMode::Auto => "native".into(),
    }
}
