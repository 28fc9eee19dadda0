//! The tail-call targets of each hook: puts them into the program arrays, and keeps them there for
//! as long as a packet may need them.
//!
//! The kernel clears a program array when no process has it open and it is not pinned. Therefore
//! each generation pins its own arrays: after it is replaced there are still packets in its
//! programs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::ProgramArray;
use sg_common::program::Target;
use sg_common::verdict::Direction;

use super::super::error::{KernelError, broken_object};
use super::super::pins::{InterfacePins, unpin};
use super::super::state::State;
use super::super::{links, sys};
use super::object::{ARRAY, ARRAY_PIN, BSS, BSS_PIN, INBOUND, OUTBOUND};
use super::object_maps::{array_map, program_array};

/// The program array of a hook.
const fn array(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "sg_in_targets",
        Direction::Outbound => "sg_out_targets",
    }
}

/// The attached program of a hook.
pub(in crate::kernel) const fn entry(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => INBOUND,
        Direction::Outbound => OUTBOUND,
    }
}

/// The two programs of a target: the usual one, and that of policies that audit. One may be both.
const fn variants(direction: Direction, target: Target) -> [&'static str; 2] {
    match (direction, target) {
        (Direction::Inbound, Target::Slow) => ["sg_in_slow", "sg_in_slow_aud"],
        (Direction::Inbound, Target::Track) => ["sg_in_track", "sg_in_track_aud"],
        (Direction::Inbound, Target::Related) => ["sg_in_related", "sg_in_rel_aud"],
        (Direction::Inbound, Target::Event) => ["sg_in_event"; 2],
        (Direction::Outbound, Target::Slow) => ["sg_out_slow", "sg_out_slow_aud"],
        (Direction::Outbound, Target::Track) => ["sg_out_track", "sg_out_track_aud"],
        (Direction::Outbound, Target::Related) => ["sg_out_related", "sg_out_rel_aud"],
        (Direction::Outbound, Target::Event) => ["sg_out_event"; 2],
    }
}

/// Whether a program is loaded for a policy that `audits` something, or for one that does not.
pub(in crate::kernel) fn is_wanted(name: &str, audits: bool) -> bool {
    let other = usize::from(!audits);
    let mut all = Direction::BOTH
        .into_iter()
        .flat_map(|direction| Target::ALL.map(|target| variants(direction, target)));
    all.all(|names| names[other] != name || names[1 - other] == name)
}

/// Puts the loaded programs of each target into the arrays of their hooks.
pub(in crate::kernel) fn connect(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for direction in Direction::BOTH {
        for target in Target::ALL {
            let names = variants(direction, target);
            let [name, _] = names;
            let what = || format!("connecting {name}");
            // Only one of the two variants is loaded.
            let mut programs = names.into_iter().filter_map(|name| ebpf.program(name));
            let fd = programs
                .find_map(|program| program.fd().ok())
                .ok_or_else(|| broken_object(name))?;
            let fd = fd.try_clone().map_err(|e| KernelError::io(what(), e))?;
            let array = array(direction);
            let map = ebpf.map_mut(array).ok_or_else(|| broken_object(array))?;
            ProgramArray::try_from(map)
                .and_then(|mut array| array.set(target as u32, &fd, 0))
                .map_err(|e| KernelError::bpf(what(), e))?;
        }
    }
    Ok(())
}

/// The pins of a generation.
fn paths(pins: &InterfacePins, generation: u32) -> [PathBuf; 6] {
    let [inbound, outbound] = Direction::BOTH;
    [
        pins.targets(inbound, generation),
        pins.targets(outbound, generation),
        pins.program(inbound, generation),
        pins.program(outbound, generation),
        pins.tables(BSS_PIN, generation),
        pins.tables(ARRAY_PIN, generation),
    ]
}

/// Pins a generation before its programs are attached: the program arrays, the attached programs,
/// which have to come back if a later generation cannot be put in force, and the tables, which
/// `explain` and a later `apply` read. Without a pin an object could only be opened by its id,
/// which takes CAP_SYS_ADMIN.
pub(in crate::kernel) fn pin(
    ebpf: &Ebpf,
    pins: &InterfacePins,
    generation: u32,
) -> Result<(), KernelError> {
    for direction in Direction::BOTH {
        let map = program_array(ebpf, array(direction))?;
        pin_at(map.fd().as_fd(), &pins.targets(direction, generation))?;
        let name = entry(direction);
        let program = ebpf.program(name).ok_or_else(|| broken_object(name))?;
        let fd = program
            .fd()
            .map_err(|e| KernelError::bpf("opening the loaded program", e))?;
        pin_at(fd.as_fd(), &pins.program(direction, generation))?;
    }
    for (name, place) in [(BSS, BSS_PIN), (ARRAY, ARRAY_PIN)] {
        let map = array_map(ebpf, name)?;
        pin_at(map.fd().as_fd(), &pins.tables(place, generation))?;
    }
    Ok(())
}

pub(in crate::kernel) fn pin_at(object: BorrowedFd<'_>, path: &Path) -> Result<(), KernelError> {
    // An `apply` that was killed before it attached anything may have left this pin.
    unpin(path)?;
    links::pin(object, path).map_err(|e| KernelError::io(format!("pinning {}", path.display()), e))
}

/// The program with this id among the pinned ones of a hook, and its generation.
pub(in crate::kernel) fn pinned_program(
    pins: &InterfacePins,
    direction: Direction,
    id: u32,
) -> Result<Option<(u32, OwnedFd)>, KernelError> {
    for (generation, path) in pins.programs(direction)? {
        let opened = sys::open_pin_to_read(&path)
            .and_then(|fd| Ok((sys::program_number(fd.as_fd())?, fd)))
            .map_err(|e| KernelError::at_pin("opening", &path, e));
        match opened {
            Ok((found, fd)) if found == id => return Ok(Some((generation, fd))),
            Ok(_) | Err(KernelError::MissingPin { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether the program array of a hook in a generation is pinned and has a program for each target.
pub(in crate::kernel) fn are_there(
    pins: &InterfacePins,
    direction: Direction,
    generation: u32,
) -> bool {
    look(pins, direction, generation).unwrap_or(false)
}

/// As [`are_there`]; an error where that cannot be seen at the moment.
pub(in crate::kernel) fn look(
    pins: &InterfacePins,
    direction: Direction,
    generation: u32,
) -> Result<bool, KernelError> {
    let path = pins.targets(direction, generation);
    let is_missing = |e: &std::io::Error| e.raw_os_error() == Some(libc::ENOENT);
    let failed = |e| KernelError::at_pin("reading", &path, e);
    let map = match sys::open_pin_to_read(&path) {
        Err(e) if is_missing(&e) => return Ok(false),
        map => map.map_err(failed)?,
    };
    let mut id = [0; 4];
    for target in Target::ALL {
        match sys::lookup(map.as_fd(), &(target as u32), &mut id) {
            Err(e) if is_missing(&e) => return Ok(false),
            found => found.map_err(failed)?,
        }
    }
    Ok(true)
}

/// The program that a hook runs, so that it can be put back. Opened by its id if it is not pinned.
pub(in crate::kernel) fn program_in_force(
    pins: &InterfacePins,
    direction: Direction,
    id: u32,
) -> Result<Option<OwnedFd>, KernelError> {
    if let Some((_, program)) = pinned_program(pins, direction, id)? {
        return Ok(Some(program));
    }
    sys::program_by_id(id).map_err(|e| {
        let what = "opening the running programs, to be able to go back to them";
        KernelError::io(what, e)
    })
}

/// All pinned objects of a generation, kept open.
pub(in crate::kernel) struct PinnedGeneration {
    /// One descriptor for each of `paths`, in their order.
    objects: Vec<OwnedFd>,
}

/// Opens a generation. `None` if one of its objects is missing.
pub(in crate::kernel) fn open(
    pins: &InterfacePins,
    generation: u32,
) -> Result<Option<PinnedGeneration>, KernelError> {
    let mut objects = Vec::new();
    for path in paths(pins, generation) {
        match sys::open_pin(&path) {
            Ok(object) => objects.push(object),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(e) => {
                return Err(KernelError::at_pin("opening", &path, e));
            }
        }
    }
    Ok(Some(PinnedGeneration { objects }))
}

impl PinnedGeneration {
    /// The attached program of a hook.
    pub(in crate::kernel) fn program(&self, direction: Direction) -> BorrowedFd<'_> {
        // They come after the arrays of both directions.
        self.objects[Direction::BOTH.len() + direction as usize].as_fd()
    }

    /// The tables of its programs: in .bss, and in an array map.
    pub(in crate::kernel) fn tables(&self) -> Result<[BorrowedFd<'_>; 2], KernelError> {
        // They are the last two.
        let [.., bss, array] = &self.objects[..] else {
            return Err(broken_object(BSS));
        };
        Ok([bss.as_fd(), array.as_fd()])
    }

    pub(in crate::kernel) fn program_id(&self, direction: Direction) -> Result<u32, KernelError> {
        sys::program_number(self.program(direction))
            .map_err(|e| KernelError::io("asking for a program's id", e))
    }

    /// Pins the objects that are not pinned any more.
    pub(in crate::kernel) fn pin(
        &self,
        pins: &InterfacePins,
        generation: u32,
    ) -> Result<(), KernelError> {
        let are_there = Direction::BOTH.map(|d| are_there(pins, d, generation));
        let paths = paths(pins, generation);
        for (i, (path, object)) in paths.iter().zip(&self.objects).enumerate() {
            // An array may exist and be empty.
            if are_there.get(i).copied().unwrap_or_else(|| path.exists()) {
                continue;
            }
            pin_at(object.as_fd(), path)?;
        }
        Ok(())
    }
}

/// The names of missing pins of a generation, besides the arrays. Packets do not need them, but the
/// next `apply` and readers do.
pub(in crate::kernel) fn missing(pins: &InterfacePins, generation: u32) -> Vec<String> {
    let [_, _, rest @ ..] = paths(pins, generation);
    let gone = rest.iter().filter(|path| !path.exists());
    gone.map(|path| links::name_of(path)).collect()
}

/// Removes the pins of all generations but the one of this record, and the one that may return if
/// it is not confirmed, once no packet is in the programs of the others.
pub(in crate::kernel) fn leave_only(
    pins: &InterfacePins,
    state: &State,
) -> Result<(), KernelError> {
    let mut kept = Vec::from(paths(pins, state.number()));
    if let Some(trial) = &state.trial {
        kept.extend(pins.gates(state.number()));
        if let Some(before) = &trial.returns_to {
            kept.extend(paths(pins, before.number()));
        }
    }
    let mut others = pins.all_of_generations()?;
    others.retain(|path| !kept.contains(path));
    if others.is_empty() {
        return Ok(());
    }
    sys::wait_for_programs();
    others.iter().try_for_each(|path| unpin(path))
}

/// Removes the pins of a generation that was never attached, if there are any, and of its gates.
pub(in crate::kernel) fn forget(pins: &InterfacePins, generation: u32) {
    let gates = pins.gates(generation);
    for path in paths(pins, generation).iter().chain(&gates) {
        let _ = unpin(path);
    }
}

/// The id of the program of a target. `None` if it is missing.
pub(crate) fn program_id(
    pins: &InterfacePins,
    direction: Direction,
    generation: u32,
    target: Target,
) -> Option<u32> {
    let array = sys::open_pin_to_read(&pins.targets(direction, generation)).ok()?;
    let mut id = [0; 4];
    sys::lookup(array.as_fd(), &(target as u32), &mut id).ok()?;
    Some(u32::from_ne_bytes(id))
}

/// The ids of all programs in the pinned arrays.
pub(in crate::kernel) fn program_ids(pins: &InterfacePins) -> Vec<u32> {
    let mut ids = Vec::new();
    for path in pins.all_targets().unwrap_or_default() {
        let Ok(map) = sys::open_pin_to_read(&path) else {
            continue;
        };
        for target in Target::ALL {
            let mut id = [0; 4];
            if sys::lookup(map.as_fd(), &(target as u32), &mut id).is_ok() {
                ids.push(u32::from_ne_bytes(id));
            }
        }
    }
    ids
}
