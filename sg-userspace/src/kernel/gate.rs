//! The gates in front of a policy that is not confirmed, one for each hook: they pass packets to
//! the policy on trial, and to the one before it once the trial is over (C4). Both are behind the
//! gate from before it is attached, so that nothing has to be done for the return.

use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya::maps::ProgramArray;
use sg_common::trial::Behind;
use sg_common::verdict::Direction;

use super::error::{KernelError, broken_object};
use super::load::object_maps::program_array;
use super::load::targets;
use super::pins::InterfacePins;
use super::state::State;
use super::{links, sys};

/// The gate of a hook.
pub(super) const fn program(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "sg_in_gate",
        Direction::Outbound => "sg_out_gate",
    }
}

/// Whether a program of the object is a gate.
pub(super) fn is_one(name: &str) -> bool {
    Direction::BOTH
        .into_iter()
        .any(|direction| name == program(direction))
}

/// The program array of a gate.
const fn array(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "sg_in_behind",
        Direction::Outbound => "sg_out_behind",
    }
}

/// Puts the first programs of the policy on trial behind its gates, and those of the policy that
/// returns, if there is one.
pub(super) fn connect(ebpf: &mut Ebpf, fallback: Option<&Ebpf>) -> Result<(), KernelError> {
    for direction in Direction::BOTH {
        let first = |of: &Ebpf| {
            let name = targets::entry(direction);
            let program = of.program(name).ok_or_else(|| broken_object(name))?;
            let what = "opening the loaded program";
            let fd = program.fd().map_err(|e| KernelError::bpf(what, e))?;
            fd.try_clone().map_err(|e| KernelError::io(what, e))
        };
        let mut behind = vec![(Behind::OnTrial, first(ebpf)?)];
        if let Some(fallback) = fallback {
            behind.push((Behind::Fallback, first(fallback)?));
        }
        let name = array(direction);
        let map = ebpf.map_mut(name).ok_or_else(|| broken_object(name))?;
        let what = format!("connecting {}", program(direction));
        let connect = |e| KernelError::bpf(what.clone(), e);
        let mut programs = ProgramArray::try_from(map).map_err(connect)?;
        for (index, fd) in &behind {
            programs.set(*index as u32, fd, 0).map_err(connect)?;
        }
    }
    Ok(())
}

/// Pins the gates before they are attached, and what is behind them: see `targets::pin`.
pub(super) fn pin(ebpf: &Ebpf, pins: &InterfacePins, number: u32) -> Result<(), KernelError> {
    for direction in Direction::BOTH {
        let map = program_array(ebpf, array(direction))?;
        targets::pin_at(map.fd().as_fd(), &pins.behind(direction, number))?;
        let gate = open(ebpf, direction)?;
        targets::pin_at(gate.as_fd(), &pins.gate(direction, number))?;
    }
    Ok(())
}

/// The loaded gate of a hook.
pub(super) fn open(ebpf: &Ebpf, direction: Direction) -> Result<OwnedFd, KernelError> {
    const WHAT: &str = "opening the loaded gate";
    let name = program(direction);
    let program = ebpf.program(name).ok_or_else(|| broken_object(name))?;
    let fd = program.fd().map_err(|e| KernelError::bpf(WHAT, e))?;
    let fd = fd.as_fd().try_clone_to_owned();
    fd.map_err(|e| KernelError::io(WHAT, e))
}

/// Whether all that a hook's gate passes packets to is there: the first programs, and the tail-call
/// targets of the policy that may return.
pub(super) fn is_whole(pins: &InterfacePins, direction: Direction, state: &State) -> bool {
    let Some(trial) = &state.trial else {
        return true;
    };
    let Ok(map) = sys::open_pin_to_read(&pins.behind(direction, state.number())) else {
        return false;
    };
    let has = |behind: Behind| {
        let mut id = [0; 4];
        sys::lookup(map.as_fd(), &(behind as u32), &mut id).is_ok()
    };
    has(Behind::OnTrial)
        && trial.returns_to.as_ref().is_none_or(|before| {
            has(Behind::Fallback) && targets::are_there(pins, direction, before.number())
        })
}

/// The names of missing pins of a policy on trial, besides the arrays: of its gates, of its word,
/// and of the policy that may return.
pub(super) fn missing(pins: &InterfacePins, state: &State) -> Vec<String> {
    let Some(trial) = &state.trial else {
        return Vec::new();
    };
    let [_, _, gates @ ..] = pins.gates(state.number());
    let own = gates.into_iter().chain([pins.trial(state.number())]);
    let gone = own.filter(|path| !path.exists());
    let mut names: Vec<String> = gone.map(|path| links::name_of(&path)).collect();
    if let Some(before) = &trial.returns_to {
        names.extend(targets::missing(pins, before.number()));
    }
    names
}
