//! The second step of `apply`: makes room, loads the programs, fills their tables and pins what
//! they need, and opens what is to come back if the third step fails. No packet meets anything of
//! it yet.

use std::os::fd::OwnedFd;

use sg_common::verdict::Direction;

use super::error::KernelError;
use super::flow_tables::{Ledger, may_have_cut};
use super::generation::Generation;
use super::pins::{InterfacePins, unpin};
use super::plan::{Plan, Replaced, Start};
use super::programs::Programs;
use super::removal::remove;
use super::seed::Seeding;
use super::shared_maps::SharedMaps;
use super::state::State;
use super::tables::LiveTables;
use super::{faults, links, targets};
use sg_policy::compile::Compiled;

/// The number in the names of the remembering programs' pins, instead of a generation.
const REMEMBERING: u32 = 0;

/// What is ready to be put in force.
pub(super) struct Prepared<'a> {
    pub(super) programs: Programs,
    /// Of a first policy under which there are flows: what runs in both directions before it is
    /// enforced.
    pub(super) remembering: Option<Programs>,
    pub(super) state: State,
    pub(super) seeding: Option<Seeding<'a>>,
    /// The programs that are to come back if the new ones cannot be put in force, inbound first.
    pub(super) before: [Option<OwnedFd>; 2],
}

pub(super) fn prepare(plan: &Plan) -> Result<Prepared<'_>, KernelError> {
    let pins = &plan.pins;
    match &plan.start {
        Start::First => {}
        Start::Leftovers(inspection) => remove(inspection)?,
        Start::Replace(replaced) => {
            if let Some(from) = &replaced.moved_from {
                adopt(from, pins)?;
            }
        }
    }
    let prepared = load(plan);
    if prepared.is_err() {
        forget(plan);
    }
    prepared
}

/// Removes what `prepare` has pinned of a policy that was not put in force.
pub(super) fn forget(plan: &Plan) {
    let pins = &plan.pins;
    match plan.replaced() {
        // Nothing is attached that might miss it.
        None => {
            let _ = pins.remove();
        }
        Some(replaced) => {
            targets::forget(pins, plan.state.policy.generation);
            for index in replaced.state.counter_maps..plan.state.counter_maps {
                let _ = unpin(&pins.counters(index));
            }
        }
    }
}

fn load(plan: &Plan) -> Result<Prepared<'_>, KernelError> {
    let Plan {
        policy,
        options,
        pins,
        compiled,
        ..
    } = plan;
    let mut state = plan.state.clone();
    let generation = state.policy.generation;
    pins.create()?;
    Ledger::create(pins)?;
    let shared = SharedMaps {
        pins: Some(pins.clone()),
        counter_map: state.counter_maps - 1,
        counter_slots: plan.counter_slots,
        max_flows: state.max_flows,
    };
    shared.check()?;
    let mut before = [None, None];
    let mut seeding = None;
    if let Some(replaced) = plan.replaced() {
        for (direction, before) in Direction::BOTH.into_iter().zip(&mut before) {
            let running = replaced.inspection.running(direction);
            let id = running.unwrap_or(replaced.state.program(direction));
            *before = targets::program_in_force(pins, direction, id)?;
        }
        if !options.cut_existing {
            let is_intact = replaced.inspection.running(Direction::Inbound)
                == Some(replaced.state.inbound_program);
            if is_intact {
                seeding = carry_over(compiled, &replaced.state, generation, pins)?;
            }
        }
    }
    // Where there are no flows nobody would look for one that came about meanwhile.
    let entered = seeding.as_ref().map_or(0, Seeding::entered);
    state.has_flows |= entered > 0;
    seeding = seeding.filter(|_| state.has_flows);
    let mut told = Generation::of(policy, generation);
    told.log_level = options.log_level;
    if let Some(Replaced {
        state: before,
        inspection,
        ..
    }) = plan.replaced()
    {
        let in_force = inspection
            .runs(before)
            .then(|| Generation::recorded(before));
        state.may_have_cut = may_have_cut(pins, in_force.as_ref(), &told);
        state.has_flows |= state.may_have_cut;
    }
    told.has_flows = state.has_flows;
    told.may_have_cut = state.may_have_cut;
    let mut programs = faults::step(
        || "loading the programs".into(),
        || Ok(Programs::load(compiled, &told, &shared)),
    )
    .map_err(|e| KernelError::io("loading the programs", e))??;
    [state.inbound_program, state.outbound_program] = programs.ids()?;
    if plan.replaced().is_none() {
        let timeouts = &policy.timeouts;
        let mut new = Seeding::new(compiled, generation, pins, state.max_flows, timeouts)?;
        if options.cut_existing {
            new.cuts();
        }
        seeding.insert(new).before()?;
    }
    programs.pin_targets(pins, generation)?;
    // Without a rule whose flows need entries there is nothing to remember.
    let remembers = plan.replaced().is_none() && state.opens_flows;
    let mut remembering = None;
    if remembers {
        let mut early = faults::step(
            || "loading the programs that remember".into(),
            || Ok(programs.load_remembering(compiled, &told, &shared)),
        )
        .map_err(|e| KernelError::io("loading the programs that remember", e))??;
        state.remembering = Some(early.ids()?);
        early.pin_targets(pins, REMEMBERING)?;
        remembering = Some(early);
    }
    Ok(Prepared {
        programs,
        remembering,
        state,
        seeding,
        before,
    })
}

/// Takes the pins of an interface that was moved, or made anew, to where they belong. What is
/// attached stays so.
pub(super) fn adopt(from: &InterfacePins, to: &InterfacePins) -> Result<(), KernelError> {
    if to.exists() {
        // Nothing of it is attached to the interface: it would have been found.
        remove(&super::inspect::inspect(to)?)?;
    }
    to.create_parent()?;
    links::rename(&from.dir, &to.dir)
        .map_err(|e| KernelError::io(format!("moving {}", from.dir.display()), e))
}

/// Enters what the policy that is to be replaced passes without an entry, and this one does not.
/// None where an attachment is damaged: applying again is what puts it right.
fn carry_over<'a>(
    compiled: &'a Compiled,
    replaced: &State,
    generation: u32,
    pins: &InterfacePins,
) -> Result<Option<Seeding<'a>>, KernelError> {
    let timeouts = &replaced.timeouts;
    let seeding = Seeding::new(compiled, generation, pins, replaced.max_flows, timeouts);
    let mut seeding = match seeding {
        Err(KernelError::MissingPin { .. }) => return Ok(None),
        seeding => seeding?,
    };
    let tables = match LiveTables::open(pins, replaced.inbound_program) {
        Err(KernelError::MissingPin { .. } | KernelError::Refused { .. }) => return Ok(None),
        tables => tables?,
    };
    seeding.before_replacing(tables, replaced.policy.generation)?;
    Ok(Some(seeding))
}
