//! The values of pinned array maps, as memory of this process.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::MapData;

use super::error::KernelError;
use super::sys;

pub(super) fn failed(path: &Path, doing: &str, error: io::Error) -> KernelError {
    KernelError::io(format!("{doing} {}", path.display()), error)
}

pub(super) fn open_map(path: &Path) -> Result<MapData, KernelError> {
    MapData::from_pin(path).map_err(|e| KernelError::at_pin("opening", path, sys::map_error(e)))
}

/// Maps the values of a pinned array map, which other processes and programs write as well.
pub(super) fn shared_memory(path: &Path, items: u32, bytes: usize) -> io::Result<sys::MapMemory> {
    let map = sys::open_pin(path)?;
    sys::is_array_of(map.as_fd(), items, bytes)?;
    sys::MapMemory::shared(map.as_fd(), items as usize * bytes)
}

/// Maps the values for reading only, or copies them if they cannot be mapped.
pub(super) fn memory_to_read(path: &Path, items: u32, bytes: usize) -> io::Result<sys::MapMemory> {
    let shared = shared_memory(path, items, bytes);
    let Err(error) = shared else {
        return shared;
    };
    match error.raw_os_error() {
        Some(libc::EROFS | libc::EACCES | libc::EPERM) => {
            sys::MapMemory::copied(sys::open_pin_to_read(path)?.as_fd(), items, bytes)
        }
        _ => Err(error),
    }
}
