//! The further programs of each hook: puts them where the first ones jump to, and keeps them there for
//! as long as a packet may want them.
//!
//! The kernel empties a program array when nobody has it open any more and it is pinned nowhere. Hence
//! the pins, of each generation its own: one that is replaced still has packets under way.

use std::os::fd::AsFd;
use std::path::PathBuf;

use aya::Ebpf;
use aya::maps::{Map, ProgramArray};
use sg_common::stage::Stage;
use sg_common::verdict::Direction;

use super::pins::{InterfacePins, unpin};
use super::programs::broken_object;
use super::{KernelError, links, sys};

/// The program array of a hook.
const fn array(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "sg_in_stages",
        Direction::Outbound => "sg_out_stages",
    }
}

/// The program of a stage.
const fn program(direction: Direction, stage: Stage) -> &'static str {
    match (direction, stage) {
        (Direction::Inbound, Stage::Long) => "sg_in_long",
        (Direction::Inbound, Stage::Track) => "sg_in_track",
        (Direction::Inbound, Stage::Related) => "sg_in_related",
        (Direction::Outbound, Stage::Long) => "sg_out_long",
        (Direction::Outbound, Stage::Track) => "sg_out_track",
        (Direction::Outbound, Stage::Related) => "sg_out_related",
    }
}

/// Puts the loaded programs of each stage into the arrays of their hooks.
pub(super) fn connect(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for direction in Direction::BOTH {
        for stage in Stage::ALL {
            let name = program(direction, stage);
            let what = || format!("connecting {name}");
            let program = ebpf.program(name).ok_or_else(|| broken_object(name))?;
            let fd = program.fd().map_err(|e| KernelError::bpf(what(), e))?;
            let fd = fd.try_clone().map_err(|e| KernelError::io(what(), e))?;
            let array = array(direction);
            let map = ebpf.map_mut(array).ok_or_else(|| broken_object(array))?;
            ProgramArray::try_from(map)
                .and_then(|mut array| array.set(stage as u32, &fd, 0))
                .map_err(|e| KernelError::bpf(what(), e))?;
        }
    }
    Ok(())
}

/// The pins of a generation.
fn paths(pins: &InterfacePins, generation: u32) -> [PathBuf; 2] {
    Direction::BOTH.map(|direction| pins.stages(direction, generation))
}

/// Pins the arrays of a generation, before its programs are attached.
pub(super) fn pin(ebpf: &Ebpf, pins: &InterfacePins, generation: u32) -> Result<(), KernelError> {
    for direction in Direction::BOTH {
        let name = array(direction);
        let Some(Map::ProgramArray(map)) = ebpf.map(name) else {
            return Err(broken_object(name));
        };
        let path = pins.stages(direction, generation);
        // One that was killed before it attached anything may have left it.
        unpin(&path)?;
        links::pin(map.fd().as_fd(), &path)
            .map_err(|e| KernelError::io(format!("pinning {}", path.display()), e))?;
    }
    Ok(())
}

/// Whether the array of a hook in a generation is pinned, with a program for each stage.
pub(super) fn are_there(pins: &InterfacePins, direction: Direction, generation: u32) -> bool {
    let Ok(map) = sys::open_pin(&pins.stages(direction, generation)) else {
        return false;
    };
    let mut id = [0; 4];
    let mut stages = Stage::ALL.into_iter();
    stages.all(|stage| sys::lookup(map.as_fd(), &(stage as u32), &mut id).is_ok())
}

/// Removes the pins of all generations but one, which runs, once no packet is under way in the programs
/// of another.
pub(super) fn leave_only(pins: &InterfacePins, generation: u32) -> Result<(), KernelError> {
    let kept = paths(pins, generation);
    let mut others = pins.all_stages()?;
    others.retain(|path| !kept.contains(path));
    if others.is_empty() {
        return Ok(());
    }
    sys::wait_for_programs();
    others.iter().try_for_each(|path| unpin(path))
}

/// Removes the pins of a generation that was never attached, as far as there are any.
pub(super) fn forget(pins: &InterfacePins, generation: u32) {
    for path in paths(pins, generation) {
        let _ = unpin(&path);
    }
}

/// The id of the program of a stage; `None` where it is not there.
pub(crate) fn program_id(
    pins: &InterfacePins,
    direction: Direction,
    generation: u32,
    stage: Stage,
) -> Option<u32> {
    let array = sys::open_pin(&pins.stages(direction, generation)).ok()?;
    let mut id = [0; 4];
    sys::lookup(array.as_fd(), &(stage as u32), &mut id).ok()?;
    Some(u32::from_ne_bytes(id))
}

/// The ids of all programs in the pinned arrays.
pub(super) fn program_ids(pins: &InterfacePins) -> Vec<u32> {
    let mut ids = Vec::new();
    for path in pins.all_stages().unwrap_or_default() {
        let Ok(map) = sys::open_pin(&path) else {
            continue;
        };
        for stage in Stage::ALL {
            let mut id = [0; 4];
            if sys::lookup(map.as_fd(), &(stage as u32), &mut id).is_ok() {
                ids.push(u32::from_ne_bytes(id));
            }
        }
    }
    ids
}
