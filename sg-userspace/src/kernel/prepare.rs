//! The second step of `apply`: removes remains, loads the programs of each interface, fills their
//! tables, pins what they need, and opens what has to come back if the third step fails. Packets
//! are not affected yet.

use std::os::fd::OwnedFd;

use sg_common::verdict::Direction;

use super::error::KernelError;
use super::fallback::Fallback;
use super::flow_tables::{Ledger, may_have_cut};
use super::inspect::inspect;
use super::load::generation::Generation;
use super::load::programs::Programs;
use super::load::shared_maps::SharedMaps;
use super::load::tables::LiveTables;
use super::load::targets;
use super::pins::{InterfacePins, unpin};
use super::plan::{InterfacePlan, Plan};
use super::removal::remove;
use super::seed::Seeding;
use super::self_check::{CheckedBeside, CheckedRules, SelfCheck, self_check};
use super::start::{Replaced, Start};
use super::state::{SlotOwner, State, Trial};
use super::trial::{Stands, Word};
use super::{fallback, faults, links};
use sg_policy::compile::Compiled;

/// The number in the names of the remembering programs' pins, instead of a generation.
const REMEMBERING: u32 = 0;

/// What is ready to be put in force.
pub(super) struct Prepared<'a> {
    /// In the order of the plan.
    pub(super) interfaces: Vec<PreparedInterface<'a>>,
    /// Finds existing flows and enters them.
    pub(super) seedings: Seedings<'a>,
    /// The word of the trial, if the policy is to be confirmed.
    pub(super) trial: Option<Word>,
    /// What the self-check has tried, where one was asked for.
    pub(super) self_check: Option<SelfCheck>,
}

/// What is ready for one interface.
pub(super) struct PreparedInterface<'a> {
    pub(super) plan: &'a InterfacePlan,
    pub(super) programs: Programs,
    /// The remembering programs, if this is a first attachment of a policy with flows.
    pub(super) remembering: Option<Programs>,
    pub(super) state: State,
    /// Whether the gates are attached, and not the programs.
    pub(super) is_on_trial: bool,
    /// The programs that have to come back if the new ones cannot be put in force, inbound first.
    pub(super) before: [Option<OwnedFd>; 2],
}

/// The seeding of existing flows.
#[derive(Default)]
pub(super) struct Seedings<'a> {
    /// Finds flows that the replaced policy has accepted without an entry.
    pub(super) carried: Option<Seeding<'a>>,
    /// Finds flows of interfaces that are attached for the first time.
    pub(super) new: Option<Seeding<'a>>,
}

pub(super) fn prepare(plan: &Plan) -> Result<Prepared<'_>, KernelError> {
    let prepared = make_room(plan).and_then(|()| load(plan));
    if prepared.is_err() {
        forget(plan);
    }
    prepared
}

/// Removes remains of an attempt where the pins belong, and moves existing pins there.
fn make_room(plan: &Plan) -> Result<(), KernelError> {
    for one in &plan.interfaces {
        match &one.start {
            Start::First => {}
            Start::Leftovers(inspection) => remove(inspection)?,
            Start::Replace(replaced) => {
                if let Some(from) = &replaced.moved_from {
                    adopt(from, &one.pins)?;
                }
            }
        }
    }
    Ok(())
}

/// Removes the pins that `prepare` has made for a policy that was not put in force.
pub(super) fn forget(plan: &Plan) {
    for one in &plan.interfaces {
        let pins = &one.pins;
        match one.replaced() {
            // Nothing is attached that needs the pins.
            None => {
                let _ = pins.remove();
            }
            Some(replaced) => {
                targets::forget(pins, one.state.number());
                targets::forget(pins, plan.fallback_number());
                if plan.options.confirm_within.is_some() {
                    let _ = unpin(&pins.trial(one.state.number()));
                }
                for index in replaced.state.counter_maps..one.state.counter_maps {
                    let _ = unpin(&pins.counters(index));
                    let _ = unpin(&pins.event_counts(index));
                }
            }
        }
    }
}

fn load(plan: &Plan) -> Result<Prepared<'_>, KernelError> {
    for one in &plan.interfaces {
        one.pins.create()?;
        shared_by(one).check()?;
    }
    // The flow table and the multipliers of its hash are the same from all interfaces.
    let Some(shared) = plan.interfaces.first() else {
        return Ok(Prepared {
            interfaces: Vec::new(),
            seedings: Seedings::default(),
            trial: None,
            self_check: None,
        });
    };
    Ledger::create(&shared.pins)?;
    let mut seedings = Seedings::default();
    if !plan.options.cut_existing {
        seedings.carried = carry_over(plan)?;
    }
    // If the programs do not look up flows, flows that were opened meanwhile need no entry.
    let has_entered = seedings.carried.as_ref().is_some_and(|it| it.entered() > 0);
    let has_flows = shared.state.has_flows || has_entered;
    seedings.carried = seedings.carried.filter(|_| has_flows);
    let trial = match plan.options.confirm_within {
        Some(_) => Some(Word::create(&shared.pins, plan.generation())?),
        None => None,
    };
    let in_force = in_force(plan);
    let generation = generation_of(plan, &shared.pins, has_flows, in_force.as_ref());
    let tables = faults::tables(&plan.compiled);
    let mut interfaces: Vec<PreparedInterface<'_>> = Vec::new();
    for one in &plan.interfaces {
        // One copy of the tables for all interfaces.
        let tables_of = interfaces.first().map(|first| &first.programs);
        let load = || Ok(load_for(one, &tables, &generation, tables_of));
        let (mut programs, mut state) = faults::step(|| "loading the programs".into(), load)
            .map_err(|e| KernelError::io("loading the programs", e))??;
        if trial.is_some() {
            let number = plan.fallback_number();
            put_on_trial(one, &mut programs, &mut state, number, in_force.as_ref())?;
        }
        interfaces.push(PreparedInterface {
            plan: one,
            programs,
            remembering: None,
            is_on_trial: trial.is_some(),
            state,
            before: before(one)?,
        });
    }
    let self_check = match interfaces.first() {
        Some(one) if plan.options.self_check => {
            Some(check_itself(plan, one, &tables, &generation)?)
        }
        _ => None,
    };
    seedings.new = seed_new(plan, shared)?;
    for one in &mut interfaces {
        pin(one, &tables, &generation)?;
    }
    Ok(Prepared {
        interfaces,
        seedings,
        trial,
        self_check,
    })
}

/// The options of the programs. They look up flows if `has_flows`, or if a flow may be cut: see
/// [`may_have_cut`]. `in_force` are the options of the programs that run now.
fn generation_of(
    plan: &Plan,
    pins: &InterfacePins,
    has_flows: bool,
    in_force: Option<&Generation>,
) -> Generation {
    let logs_differences = plan.watch.as_ref().is_some_and(|watch| watch.logs);
    let mut generation = Generation {
        epoch: plan.epoch(),
        log_level: plan.options.log_level,
        has_logging_rules: plan.policy.logs() || logs_differences,
        on_trial: plan.options.confirm_within.is_some(),
        ..Generation::of(&plan.policy, plan.generation())
    };
    generation.may_have_cut = !plan.is_first() && may_have_cut(pins, in_force, &generation);
    generation.has_flows = has_flows || generation.may_have_cut;
    generation
}

/// Loads the programs of one interface, which share the tables with those of another one, if there
/// are any. Returns also its record.
fn load_for(
    one: &InterfacePlan,
    tables: &Compiled,
    generation: &Generation,
    tables_of: Option<&Programs>,
) -> Result<(Programs, State), KernelError> {
    let generation = Generation {
        has_fallback: generation.on_trial && fallback::returns_to(one).is_some(),
        ..generation.clone()
    };
    let mut programs = Programs::load_sharing(tables, &generation, &shared_by(one), tables_of)?;
    let [inbound_program, outbound_program] = programs.ids()?;
    let state = State {
        has_flows: generation.has_flows,
        may_have_cut: generation.may_have_cut,
        inbound_program,
        outbound_program,
        ..one.state.clone()
    };
    Ok((programs, state))
}

/// Puts the policy behind the gates of an interface, with the one that returns if it is not
/// confirmed, which gets `number`.
fn put_on_trial(
    one: &InterfacePlan,
    programs: &mut Programs,
    state: &mut State,
    number: u32,
    in_force: Option<&Generation>,
) -> Result<(), KernelError> {
    let load = |before| Fallback::load(one, before, number, in_force);
    let fallback = fallback::returns_to(one).map(load).transpose()?;
    programs.connect_gates(fallback.as_ref().map(|it| &it.programs))?;
    if fallback.is_some() {
        state.last_generation = number;
    }
    state.trial = Some(Trial {
        gates: programs.gate_ids()?,
        // Set when it begins.
        deadline: 0,
        until: String::new(),
        returns_to: fallback.map(|it| Box::new(it.state)),
        stands: Stands::OnTrial,
    });
    Ok(())
}

/// Compares the loaded programs of an interface with the rules.
fn check_itself(
    plan: &Plan,
    one: &PreparedInterface<'_>,
    tables: &Compiled,
    generation: &Generation,
) -> Result<SelfCheck, KernelError> {
    let slots = |owners: &[SlotOwner]| owners.iter().map(|owner| owner.slot).collect();
    let [of_rules, of_pairs]: [Vec<u32>; 2] =
        [&one.state.rules, &one.state.pairs].map(|it| slots(it));
    let rules = CheckedRules {
        policy: &plan.policy,
        partition: &plan.partition,
        slots: &of_rules,
        beside: plan.watch.as_ref().map(|watch| CheckedBeside {
            policy: &watch.policy,
            pairs: watch.found.pairs(),
            slots: &of_pairs,
        }),
    };
    let check = || Ok(self_check(&rules, tables, generation, Some(&one.programs)));
    faults::step(|| "the self-check".into(), check)
        .map_err(|e| KernelError::io("the self-check", e))?
}

/// Enters the flows of the interfaces that are attached for the first time. `None` if there is no
/// such interface.
fn seed_new<'a>(
    plan: &'a Plan,
    shared: &InterfacePlan,
) -> Result<Option<Seeding<'a>>, KernelError> {
    let new = plan
        .interfaces
        .iter()
        .filter(|one| one.replaced().is_none());
    let added: Vec<u32> = new.map(|one| one.pins.ifindex).collect();
    if added.is_empty() {
        return Ok(None);
    }
    let mut seeding = Seeding::new(
        &plan.compiled,
        plan.epoch(),
        &shared.pins,
        shared.state.max_flows,
        &plan.policy.timeouts,
    )?;
    seeding.of_interfaces(plan.indices());
    if plan.options.cut_existing {
        seeding.cuts();
    }
    if !plan.is_first() {
        seeding.joins(added);
    }
    seeding.before()?;
    Ok(Some(seeding))
}

/// Pins what the programs of an interface need, and loads those that remember, where it is a first
/// attachment.
fn pin(
    one: &mut PreparedInterface<'_>,
    tables: &Compiled,
    generation: &Generation,
) -> Result<(), KernelError> {
    let pins = &one.plan.pins;
    one.programs.pin_targets(pins, generation.number)?;
    if one.is_on_trial {
        one.programs.pin_gates(pins, generation.number)?;
    }
    // Without rules that open flows, the remembering programs would have nothing to enter. Neither
    // would they on an interface that is held: no request passes it whose reply they could lose.
    if one.plan.replaced().is_some() || one.plan.is_held || !one.state.opens_flows {
        return Ok(());
    }
    let shared = shared_by(one.plan);
    let load = || Ok(one.programs.load_remembering(tables, generation, &shared));
    let mut early = faults::step(|| "loading the programs that remember".into(), load)
        .map_err(|e| KernelError::io("loading the programs that remember", e))??;
    one.state.remembering = Some(early.ids()?);
    early.pin_targets(pins, REMEMBERING)?;
    one.remembering = Some(early);
    Ok(())
}

/// The maps that the programs of an interface share with others.
fn shared_by(one: &InterfacePlan) -> SharedMaps {
    SharedMaps {
        pins: Some(one.pins.clone()),
        counter_map: one.state.counter_maps - 1,
        counter_slots: one.counter_slots,
        max_flows: one.state.max_flows,
    }
}

/// The programs that an interface runs, so that they can be put back.
fn before(one: &InterfacePlan) -> Result<[Option<OwnedFd>; 2], KernelError> {
    let mut before = [None, None];
    if let Some(replaced) = one.replaced() {
        for (direction, before) in Direction::BOTH.into_iter().zip(&mut before) {
            // The gate, if what is replaced is on trial itself; else what decides.
            let running = match replaced.state.open_trial() {
                Some(_) => replaced.inspection.attached(direction),
                None => replaced.inspection.running(direction),
            };
            let id = running.unwrap_or(replaced.state.program(direction));
            *before = targets::program_in_force(&one.pins, direction, id)?;
        }
    }
    Ok(before)
}

/// The options of the programs in force. `None` if they are not all of one generation, or if
/// another one may come in their place before they are replaced, because nothing is known about
/// their behaviour then.
fn in_force(plan: &Plan) -> Option<Generation> {
    let mut states: Vec<&State> = plan.unchanged.iter().collect();
    for (_, replaced) in plan.replaced() {
        let is_on_trial = replaced.state.open_trial().is_some();
        if is_on_trial || !replaced.inspection.runs(&replaced.state) {
            return None;
        }
        states.push(&replaced.state);
    }
    let (first, others) = states.split_first()?;
    let number = first.policy.generation;
    let is_one = others.iter().all(|state| state.policy.generation == number);
    is_one.then(|| Generation::recorded(first))
}

/// Moves the pins of an interface that was moved or created anew to where they belong. The
/// attachment does not change. If it was moved to another network namespace, its attachment comes
/// along.
pub(super) fn adopt(from: &InterfacePins, to: &InterfacePins) -> Result<(), KernelError> {
    let moving = |e| KernelError::io(format!("moving {}", from.dir.display()), e);
    if to.exists() {
        // Nothing of it is attached to the interface: it would have been found.
        remove(&inspect(to)?)?;
    }
    if !from.shares_with(to) && from.exists() {
        to.create_netns()?;
        links::rename(from.shared_dir(), to.shared_dir()).map_err(moving)?;
    }
    to.create_parent()?;
    let here = to.sibling(from.ifindex);
    match here.dir == to.dir {
        true => Ok(()),
        false => links::rename(&here.dir, &to.dir).map_err(moving),
    }
}

/// Enters the flows that the policy to be replaced accepts without an entry and the new one does
/// not. `None` if the attachment is damaged, because this `apply` repairs it.
fn carry_over(plan: &Plan) -> Result<Option<Seeding<'_>>, KernelError> {
    let is_intact = |replaced: &Replaced| {
        replaced.inspection.running(Direction::Inbound) == Some(replaced.state.inbound_program)
    };
    if !plan.replaced().all(|(_, replaced)| is_intact(replaced)) {
        return Ok(None);
    }
    let Some((one, Replaced { state, .. })) = plan.replaced().next() else {
        return Ok(None);
    };
    let seeding = Seeding::new(
        &plan.compiled,
        plan.epoch(),
        &one.pins,
        state.max_flows,
        &state.timeouts,
    );
    let mut seeding = match seeding {
        Err(KernelError::MissingPin { .. }) => return Ok(None),
        seeding => seeding?,
    };
    seeding.of_interfaces(plan.indices());
    let tables = match LiveTables::open(&one.pins, state.inbound_program) {
        Err(KernelError::MissingPin { .. } | KernelError::Refused { .. }) => return Ok(None),
        tables => tables?,
    };
    seeding.before_replacing(tables, state.epoch)?;
    Ok(Some(seeding))
}
