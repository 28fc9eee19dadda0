//! The third step of `apply`: puts the loaded programs in force, one hook after the other, and
//! removes what is not needed any more. Only this step changes what happens to packets.
//!
//! The record of the new policy is first pinned beside the old one, on every interface, so that the
//! counter slots of both are known whichever of them runs. It replaces the old record when both
//! directions of all interfaces run the new policy. If a hook fails, all hooks return to the old
//! programs.
//!
//! At a first attachment, one direction would enforce before the other has entered any flow, so
//! replies would be dropped. Therefore both directions first run the remembering programs, which
//! accept everything and enter the flows that the rules admit. The enforcing programs then replace
//! them. Where the interface is held (`hold`) there is nothing to remember.

use std::os::fd::AsFd;
use std::time::Duration;

use sg_common::verdict::Direction;

use super::condition::standing_on;
use super::error::KernelError;
use super::flow_tables::flush;
use super::history::{self, Keepsake};
use super::hooks::{Hooks, remove_filters, remove_link};
use super::inspect::inspect;
use super::load::programs::Programs;
use super::load::targets;
use super::options::EgressHook;
use super::outcome::{Applied, AppliedTo, Outcome};
use super::plan::{InterfacePlan, Plan};
use super::prepare::{Prepared, PreparedInterface, Seedings};
use super::records::{Records, taken_back};
use super::removal::remove;
use super::seed::{Cut, Seeded};
use super::self_check::SelfCheck;
use super::shared::raw_counters;
use super::state::State;
use super::sums::Sums;
use super::trial::{Word, deadline_after};
use super::{sys, tc};
use sg_policy::policy::Established;

/// Outbound comes first: then the flows that the node opens are in the table when inbound packets
/// begin to be judged.
pub(super) const ORDER: [Direction; 2] = [Direction::Outbound, Direction::Inbound];

pub(super) fn commit(plan: &Plan, prepared: Prepared<'_>) -> Result<Applied, KernelError> {
    let Prepared {
        mut interfaces,
        mut seedings,
        trial,
        self_check,
    } = prepared;
    let within = plan.options.confirm_within;
    let trial = trial.zip(within);
    let put = announce(plan).and_then(|()| put_all(&mut interfaces, &mut seedings, trial.as_ref()));
    if let Err(error) = put {
        // Where a hook cannot return to the programs before, the gate passes packets to them.
        if let Some((word, _)) = &trial {
            let _ = word.undo();
        }
        for one in &interfaces {
            take_back(one);
        }
        return Err(halfway(plan, &interfaces, error));
    }
    // The policy is in force from here on.
    let now = jiff::Timestamp::now().to_string();
    for one in &mut interfaces {
        if plan.unchanged.is_empty() && !plan.keeps_policy {
            one.state.policy.applied_at.clone_from(&now);
        }
        if one.plan.replaced().is_none() {
            one.state.attached_at.clone_from(&now);
        }
    }
    let (seen, done) = follow_up(plan, &mut interfaces, seedings, &now);
    if let Err(error) = done {
        return Err(halfway(plan, &interfaces, error));
    }
    applied(plan, interfaces, seen, self_check)
}

/// What became of the connections that existed at a first attachment.
#[derive(Default)]
struct Seen {
    seeded: Option<Seeded>,
    cut: Option<Cut>,
}

/// Takes the steps that follow once the policy is in force, each of them even if another one fails.
fn follow_up(
    plan: &Plan,
    interfaces: &mut [PreparedInterface<'_>],
    seedings: Seedings<'_>,
    now: &str,
) -> (Seen, Result<(), KernelError>) {
    let mut seen = Seen::default();
    let carried = seedings.carried.map_or(Ok(()), |it| it.after().map(drop));
    let looked = seedings.new.map_or(Ok(()), |seeding| {
        match plan.options.cut_existing {
            true => seen.cut = Some(seeding.after_cutting()?),
            false => seen.seeded = Some(seeding.after()?),
        }
        Ok(())
    });
    let flushed = match (plan.policy.established, interfaces.first()) {
        // The same policy as before flushes nothing.
        (Established::Flush, Some(one))
            // A policy that may yet be undone forgets nothing.
            if plan.options.confirm_within.is_none()
                && !plan.is_first()
                && plan.epoch() == plan.generation() && plan.unchanged.is_empty() =>
        {
            flush(&one.plan.pins, plan.epoch())
        }
        _ => Ok(()),
    };
    let watched = watch_from_now(interfaces, now);
    let mut done = carried.and(looked).and(flushed).and(watched);
    for one in interfaces.iter_mut() {
        one.state.remembering = None;
        let tidied = tidy(&hooks_of(one.plan), &mut one.state);
        done = done.and(tidied);
    }
    if let Some(one) = interfaces.first() {
        done = done.and(Records::forget_trials(&one.plan.pins));
        done = done.and(history::settle(&one.plan.pins, &one.state));
    }
    (seen, done)
}

/// What was done.
fn applied(
    plan: &Plan,
    interfaces: Vec<PreparedInterface<'_>>,
    seen: Seen,
    self_check: Option<SelfCheck>,
) -> Result<Applied, KernelError> {
    let load_time = interfaces.iter().map(|one| one.programs.load_time).sum();
    let changed = interfaces.into_iter().map(|one| AppliedTo {
        outcome: match one.plan.replaced() {
            None => Outcome::Attached,
            Some(_) => Outcome::Replaced,
        },
        added_clsact: !one.plan.has_qdisc && one.state.egress_hook == EgressHook::Clsact,
        state: one.state,
    });
    let unchanged = plan.unchanged.iter().cloned().map(AppliedTo::unchanged);
    let mut all: Vec<AppliedTo> = changed.chain(unchanged).collect();
    let names = &plan.options.interfaces;
    all.sort_by_key(|one| names.iter().position(|name| *name == one.state.interface));
    let mut all = all.into_iter();
    let replaced = plan.replaced().map(|(_, replaced)| replaced);
    let lead = replaced.max_by_key(|it| it.state.policy.generation);
    Ok(Applied {
        outcome: match plan.replaced().next() {
            Some(_) => Outcome::Replaced,
            None => Outcome::Attached,
        },
        replaced: lead.map(|lead| lead.state.policy.clone()),
        has_ended_trial: lead.is_some_and(|lead| lead.state.open_trial().is_some()),
        first: all.next().ok_or_else(KernelError::none_named)?,
        others: all.collect(),
        sizes: plan.compiled.sizes(),
        seeded: seen.seeded,
        cut: seen.cut,
        ended_candidate: plan.ended_candidate.clone(),
        self_check,
        compile_time: plan.compile_time,
        load_time,
        decided: Vec::new(),
        mounted: None,
    })
}

/// Writes down what is about to be done, once for the attachment. Where only an interface is added
/// to a policy that is in force, that is nothing.
fn announce(plan: &Plan) -> Result<(), KernelError> {
    let Some(one) = plan
        .interfaces
        .first()
        .filter(|_| plan.unchanged.is_empty())
    else {
        return Ok(());
    };
    let replaced = plan.replaced().map(|(_, it)| &it.state);
    let in_force = replaced.max_by_key(|state| state.policy.generation);
    let watch = plan.watch.as_ref();
    let candidate = watch.and_then(|watch| Some((watch.number, watch.text.clone()?)));
    let next = match in_force.filter(|_| plan.keeps_policy) {
        Some(state) => Keepsake::again(&one.pins, state, &one.state, candidate)?,
        None => Keepsake::of(&plan.policy, &one.state, candidate)?,
    };
    history::begin(&one.pins, in_force, &next, plan.options.how, None)
}

/// Where the watch of a candidate begins, writes down how many packets had been decided before it,
/// less those that pairs have already counted. It waits until no packet is in the old programs any
/// more; else packets that they decided would count as evaluated.
fn watch_from_now(interfaces: &mut [PreparedInterface<'_>], now: &str) -> Result<(), KernelError> {
    let begins = |one: &PreparedInterface<'_>| {
        let candidate = one.state.candidate.as_ref();
        candidate.is_some_and(|candidate| candidate.began.is_none())
    };
    if !interfaces.iter().any(begins) {
        return Ok(());
    }
    sys::wait_for_programs();
    for one in interfaces.iter_mut().filter(|one| begins(one)) {
        let raw = raw_counters(&one.plan.pins, one.state.counter_maps)?;
        let sums = Sums::of(&one.state, &raw);
        let (decided, differing) = (sums.decided(), sums.differing(&one.state));
        let [inbound, outbound] = Direction::BOTH.map(|direction| {
            let at = direction as usize;
            decided[at].wrapping_sub(differing[at].packets)
        });
        if let Some(candidate) = &mut one.state.candidate {
            candidate.began = Some([inbound, outbound]);
            now.clone_into(&mut candidate.since);
        }
    }
    Ok(())
}

/// The hooks of an interface, with the options of the plan.
fn hooks_of(plan: &InterfacePlan) -> Hooks<'_> {
    Hooks {
        pins: &plan.pins,
        interface: &plan.name,
        xdp_mode: plan.xdp_mode,
        egress_hook: plan.egress_hook,
        owns_qdisc: plan.state.added_clsact,
    }
}

/// Writes the record of each interface beside the existing one, replaces the programs of one
/// direction on all interfaces and then of the other, and makes the new records those in force.
fn put_all(
    interfaces: &mut [PreparedInterface<'_>],
    seedings: &mut Seedings<'_>,
    trial: Option<&(Word, Duration)>,
) -> Result<(), KernelError> {
    if let Some((word, within)) = trial {
        let deadline = deadline_after(*within);
        let until = jiff::Timestamp::now().checked_add(*within);
        let until = until.map_or_else(|_| String::new(), |time| time.to_string());
        word.begin(deadline)?;
        let trials = interfaces
            .iter_mut()
            .filter_map(|one| one.state.trial.as_mut());
        for trial in trials {
            (trial.deadline, trial.until) = (deadline, until.clone());
        }
    }
    for one in &mut *interfaces {
        one.state.write_next(&one.plan.pins)?;
    }
    for direction in ORDER {
        for one in &mut *interfaces {
            if let Some(early) = &mut one.remembering {
                put_direction(&hooks_of(one.plan), early, direction)?;
            }
        }
    }
    if interfaces.iter().any(|one| one.remembering.is_some())
        && let Some(seeding) = &mut seedings.new
    {
        seeding.meanwhile()?;
    }
    for direction in ORDER {
        for one in &mut *interfaces {
            let hooks = hooks_of(one.plan);
            match one.is_on_trial {
                true => hooks.put(direction, one.programs.gate(direction)?.as_fd())?,
                false => put_direction(&hooks, &mut one.programs, direction)?,
            }
        }
    }
    let mut interfaces = interfaces.iter();
    interfaces.try_for_each(|one| State::promote(&one.plan.pins))
}

/// Completes the record with the hooks in use, and removes what is not needed any more.
pub(super) fn tidy(hooks: &Hooks<'_>, state: &mut State) -> Result<(), KernelError> {
    let (hook, mode) = hooks.in_use()?;
    (state.egress_hook, state.xdp_mode) = (hook, mode);
    state.write(hooks.pins)?;
    // The filters of a hold are in nobody's way any more, whether its process is alive or was
    // killed.
    tc::remove_hold(hooks.pins.ifindex)?;
    hooks.retire_other(hook)?;
    targets::leave_only(hooks.pins, state)
}

/// Makes the hook of a direction run the loaded program.
pub(super) fn put_direction(
    hooks: &Hooks<'_>,
    programs: &mut Programs,
    direction: Direction,
) -> Result<(), KernelError> {
    let program = match direction {
        Direction::Inbound => programs.inbound()?.fd(),
        Direction::Outbound => programs.outbound()?.fd(),
    };
    let program = program.map_err(|e| KernelError::bpf("opening the loaded program", e))?;
    hooks.put(direction, program.as_fd())
}

/// Returns both directions of an interface to the programs before, as far as the kernel allows.
/// Reading the state afterwards shows how far that was.
fn take_back(one: &PreparedInterface<'_>) {
    let (plan, attempted, hooks) = (one.plan, &one.state, hooks_of(one.plan));
    let pins = &plan.pins;
    let Some(replaced) = plan.replaced() else {
        if let Ok(inspection) = inspect(pins) {
            let _ = remove(&inspection);
        }
        return;
    };
    let old = &replaced.inspection.outbound;
    // If a hook was not in use before, it is released. The hook that was in use still runs its old
    // program.
    let has = (old.live_link().is_some(), old.filters().next().is_some());
    let given_up = match (has, hooks.egress_hook) {
        ((true, false), EgressHook::Clsact) => Some(remove_filters(pins.ifindex, hooks.owns_qdisc)),
        ((false, true), EgressHook::Tcx) => {
            Some(remove_link(&pins.tcx_link(), Direction::Outbound))
        }
        _ => None,
    };
    let mut is_back = !matches!(given_up, Some(Err(_)));
    for (direction, program) in Direction::BOTH.into_iter().zip(&one.before) {
        let is_as_it_was = direction == Direction::Outbound && given_up.is_some();
        if let Some(program) = program.as_ref().filter(|_| !is_as_it_was) {
            is_back &= hooks.put(direction, program.as_fd()).is_ok();
        }
    }
    // Only now are the tail-call targets of the new programs unused, and the old record is true
    // again.
    let forget_attempt = || {
        // The counter maps stay, because packets may have been counted in them.
        taken_back(replaced.state.clone(), attempted.clone()).write(pins)?;
        super::pins::unpin(&pins.state_next())?;
        super::sys::wait_for_programs();
        targets::forget(pins, attempted.number());
        let trial = attempted.trial.as_ref();
        if let Some(before) = trial.and_then(|trial| trial.returns_to.as_ref()) {
            targets::forget(pins, before.number());
        }
        history::settle(pins, &replaced.state)
    };
    if is_back && inspect(pins).is_ok_and(|inspection| inspection.runs(&replaced.state)) {
        // What cannot be removed now is found by the next command.
        let _ = forget_attempt();
    }
}

/// `error`, what is in force after it on each interface, and what was to be: some of it may run.
fn halfway(plan: &Plan, interfaces: &[PreparedInterface<'_>], error: KernelError) -> KernelError {
    let is_only_one = plan.options.interfaces.len() == 1;
    let places: Vec<_> = interfaces
        .iter()
        .map(|one| match is_only_one {
            true => ("", &one.plan.pins),
            false => (&*one.plan.name, &one.plan.pins),
        })
        .collect();
    let error = standing_on(error, &places);
    error.with_attempted(interfaces.iter().map(|one| one.state.attempted()).collect())
}
