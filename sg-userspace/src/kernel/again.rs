//! Loads the programs of a pinned generation again, with the tables that it has: with another
//! epoch, so that they judge again what was admitted meanwhile, or because connections may have
//! been cut that they have to look up.

use super::error::KernelError;
use super::load::generation::Generation;
use super::load::object;
use super::load::programs::Programs;
use super::load::shared_maps::SharedMaps;
use super::load::tables::LiveTables;
use super::load::targets::PinnedGeneration;
use super::pins::InterfacePins;
use super::state::State;

/// Loads them as `options` say, and completes the record that is to be theirs.
pub(super) fn load(
    generation: &PinnedGeneration,
    options: &Generation,
    state: &mut State,
    pins: &InterfacePins,
) -> Result<Programs, KernelError> {
    let shared = SharedMaps {
        pins: Some(pins.clone()),
        counter_map: state.counter_maps - 1,
        // The counter maps exist already.
        counter_slots: 0,
        max_flows: state.max_flows,
    };
    let [bss, array] = generation.tables()?;
    let tables = LiveTables::read(bss, || Ok(array))?;
    let mut programs = Programs::load_tables(&tables.plain(), options, &shared)?;
    let ids = programs.ids()?;
    [state.inbound_program, state.outbound_program] = ids;
    (state.has_flows, state.may_have_cut) = (options.has_flows, options.may_have_cut);
    state.epoch = options.epoch;
    object::digest().clone_into(&mut state.object);
    state.last_generation = state.latest_number();
    Ok(programs)
}
