//! The maps of the loaded object, by name.

use aya::Ebpf;
use aya::maps::{Map, MapData};

use super::super::error::{KernelError, broken_object};

/// An array map of the loaded object.
pub(in crate::kernel) fn array_map<'a>(
    ebpf: &'a Ebpf,
    name: &'static str,
) -> Result<&'a MapData, KernelError> {
    match ebpf.map(name) {
        Some(Map::Array(map)) => Ok(map),
        _ => Err(broken_object(name)),
    }
}

/// A program array of the loaded object.
pub(in crate::kernel) fn program_array<'a>(
    ebpf: &'a Ebpf,
    name: &'static str,
) -> Result<&'a MapData, KernelError> {
    match ebpf.map(name) {
        Some(Map::ProgramArray(map)) => Ok(map),
        _ => Err(broken_object(name)),
    }
}
