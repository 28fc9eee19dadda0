//! Maps: batches of lookups, values whose length is known only at run time, freezing, and mapping
//! into memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use aya::maps::{MapData, MapError, MapInfo, MapType};
use aya::util::nr_cpus;
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_cmd, bpf_map_info, bpf_map_type};
use memmap2::{MmapMut, MmapOptions, MmapRaw};

use super::call::{bpf, info, zeroed};
use super::pins::{open_pin_to_read, pin_error};

/// The values of an mmapable array map, mapped into memory.
pub(in crate::kernel) struct MapMemory(MmapRaw);

impl MapMemory {
    pub(in crate::kernel) fn read_only(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        MmapOptions::new()
            .len(len)
            .map_raw_read_only(&map)
            .map(MapMemory)
    }

    /// A mapping in which several processes may count. It must end before the map can be frozen.
    pub(in crate::kernel) fn shared(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        MmapOptions::new().len(len).map_raw(&map).map(MapMemory)
    }

    /// A copy of the `entries` values of an array map. The kernel maps no descriptor that is open
    /// for reading only (`bpf_map_mmap` requires `VM_SHARED`). A value that is written meanwhile
    /// may be copied in part.
    pub(in crate::kernel) fn copied(
        map: BorrowedFd<'_>,
        entries: u32,
        value_len: usize,
    ) -> io::Result<Self> {
        let bytes = read_per_cpu_array(map, entries, value_len, 1)?;
        let mut memory = MmapMut::map_anon(bytes.len())?;
        memory[..bytes.len()].copy_from_slice(&bytes);
        Ok(MapMemory(memory.into()))
    }

    /// Zeros that no map has.
    pub(in crate::kernel) fn of_zeros(len: usize) -> io::Result<Self> {
        Ok(MapMemory(MmapMut::map_anon(len)?.into()))
    }

    /// The values as counters, which other processes and programs may write meanwhile.
    pub(in crate::kernel) fn counters(&self) -> &[AtomicU64] {
        let len = self.0.len() / size_of::<AtomicU64>();
        // SAFETY: mappings begin at a page, so the alignment holds. All other writers write the
        // words atomically as well. The mapping lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), len) }
    }
}

/// Writes `bytes` to the beginning of an mmapable array map's values.
pub(in crate::kernel) fn fill_array(map: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let memory = MapMemory::shared(map, bytes.len())?;
    // SAFETY: the mapping is writable and `bytes.len()` long, and no program uses the map yet.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.0.as_mut_ptr(), bytes.len());
    }
    Ok(())
}

/// Forbids further writes from userspace.
pub(in crate::kernel) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// Checks that the keys of a map are `key_len` bytes long and that the kernel copies `copied` bytes
/// for each value, and returns how many entries the map has. The kernel copies whole values,
/// however short the caller's buffer is, and a pin may lead to another map than its name says. Of a
/// per-CPU map it copies the values of all possible CPUs.
fn entries_of(map: BorrowedFd<'_>, key_len: usize, copied: usize) -> io::Result<u32> {
    const PER_CPU: [bpf_map_type; 3] = [
        bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY,
        bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH,
        bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH,
    ];
    // SAFETY: what the kernel says of a map.
    let info: bpf_map_info = unsafe { info(map)? };
    let value = info.value_size as usize;
    let copies = match PER_CPU.iter().any(|it| *it as u32 == info.type_) {
        true => value.next_multiple_of(8) * nr_cpus().map_err(|(_, error)| error)?,
        false => value,
    };
    match (info.key_size as usize, copies) == (key_len, copied) {
        true => Ok(info.max_entries),
        false => Err(another_map()),
    }
}

/// What is said of a map that is not the one whose name its pin has.
fn another_map() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is another map")
}

/// All values of a per-CPU array map with `entries` values of `cpus` times `value_len` bytes, in
/// the order of the keys. It takes one system call for a thousand values, not one for each.
pub(in crate::kernel) fn read_per_cpu_array(
    map: BorrowedFd<'_>,
    entries: u32,
    value_len: usize,
    cpus: usize,
) -> io::Result<Vec<u8>> {
    const BATCH: u32 = 4096;
    let stride = value_len.next_multiple_of(8) * cpus;
    if entries_of(map, size_of::<u32>(), stride)? < entries {
        return Err(another_map());
    }
    let mut values = vec![0u8; stride * entries as usize];
    let mut keys = vec![0u32; BATCH as usize];
    // The kernel's cursor. For an array it is the last key of the batch before.
    let mut cursor = 0u32;
    let mut done = 0u32;
    while done < entries {
        let mut attr = zeroed();
        // The kernel reads the cursor before it writes it.
        let position = &raw mut cursor as u64;
        attr.batch.in_batch = if done == 0 { 0 } else { position };
        attr.batch.out_batch = position;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values[done as usize * stride..].as_mut_ptr() as u64;
        attr.batch.count = BATCH.min(entries - done);
        attr.batch.map_fd = map.as_raw_fd() as u32;
        let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
        // SAFETY: the kernel has written the number of values into the same view of the union.
        let count = unsafe { attr.batch.count };
        match result {
            Ok(_) => {}
            // The end of the map. What was copied before it is valid.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) && count > 0 => {}
            Err(e) => return Err(e),
        }
        if count == 0 {
            return Err(io::Error::other("the kernel returned an empty batch"));
        }
        done += count;
    }
    Ok(values)
}

/// Reads one value of an array map into `value`, which has the length of that. For a per-CPU map,
/// that is the values of all possible CPUs.
pub(in crate::kernel) fn lookup(
    map: BorrowedFd<'_>,
    key: &u32,
    value: &mut [u8],
) -> io::Result<()> {
    let at = value.as_mut_ptr() as u64;
    element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map, key, at, value.len())
}

/// Replaces the value of `key` in an array map.
pub(in crate::kernel) fn write_value(
    map: BorrowedFd<'_>,
    key: &u32,
    value: &[u8],
) -> io::Result<()> {
    let at = value.as_ptr() as u64;
    element(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, key, at, value.len())
}

/// Reads or writes the value of `key`; `value` is the address of the caller's copy, which has `len`
/// bytes.
fn element(
    command: bpf_cmd,
    map: BorrowedFd<'_>,
    key: &u32,
    value: u64,
    len: usize,
) -> io::Result<()> {
    entries_of(map, size_of_val(key), len)?;
    let mut attr = zeroed();
    // SAFETY: plain fields of the union's element view are written.
    let view = unsafe { &mut attr.__bindgen_anon_2 };
    view.map_fd = map.as_raw_fd() as u32;
    view.key = std::ptr::from_ref(key) as u64;
    view.__bindgen_anon_1.value = value;
    bpf(command, &mut attr).map(drop)
}

/// Visits every entry of a hash map, with `batch` entries per system call. An entry that is removed
/// meanwhile may be visited or not.
pub(in crate::kernel) fn each_hash_entry<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    batch: u32,
    mut visit: impl FnMut(K, V),
) -> io::Result<()> {
    entries_of(map, size_of::<K>(), size_of::<V>())?;
    // SAFETY: both are plain data, for which zero is valid (`aya::Pod`).
    let (no_key, no_value): (K, V) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut batch = batch;
    let mut keys = vec![no_key; batch as usize];
    let mut values = vec![no_value; batch as usize];
    // The kernel's cursor: the next bucket.
    let mut cursor = 0u32;
    let mut is_first = true;
    loop {
        let mut attr = zeroed();
        let position = &raw mut cursor as u64;
        attr.batch.in_batch = if is_first { 0 } else { position };
        attr.batch.out_batch = position;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = batch;
        attr.batch.map_fd = map.as_raw_fd() as u32;
        let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
        let is_last = match result {
            Ok(_) => false,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && batch < 1 << 20 => {
                // One bucket has more entries than a batch.
                batch *= 2;
                keys.resize(batch as usize, no_key);
                values.resize(batch as usize, no_value);
                continue;
            }
            Err(e) => return Err(e),
        };
        // SAFETY: the kernel has written the number of entries into the same view of the union.
        let count = unsafe { attr.batch.count } as usize;
        for (key, value) in keys.iter().zip(&values).take(count) {
            visit(*key, *value);
        }
        if is_last {
            return Ok(());
        }
        is_first = false;
    }
}

/// Creates an array map with one value of `len` bytes that can be mapped into memory.
pub(in crate::kernel) fn create_blob(name: &str, len: u32) -> io::Result<MapData> {
    let array = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let key_len = size_of::<u32>() as u32;
    let map = aya_obj::Map::new_from_params(array, key_len, len, 1, BPF_F_MMAPABLE);
    MapData::create(map, name, None).map_err(map_error)
}

/// Creates a program array with room for one program. The kernel empties it when no process has it
/// open any more.
pub(in crate::kernel) fn create_program_array(name: &str) -> io::Result<MapData> {
    let array = bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY as u32;
    let len = size_of::<u32>() as u32;
    let map = aya_obj::Map::new_from_params(array, len, len, 1, 0);
    MapData::create(map, name, None).map_err(map_error)
}

/// The length of one value of [`create_pages`].
const PAGE: usize = 4096;

/// An mmapable array map with room for `len` bytes, in values of one page each: older kernels
/// allocate no value of more than 4 MiB (`array_map_alloc_check` in kernel/bpf/arraymap.c).
pub(in crate::kernel) fn create_pages(name: &str, len: usize) -> io::Result<MapData> {
    let pages = u32::try_from(len.div_ceil(PAGE)).map_err(io::Error::other)?;
    let array = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let key_len = size_of::<u32>() as u32;
    let map = aya_obj::Map::new_from_params(array, key_len, PAGE as u32, pages, BPF_F_MMAPABLE);
    MapData::create(map, name, None).map_err(map_error)
}

/// The kernel's own error in one of aya's.
pub(in crate::kernel) fn map_error(error: MapError) -> io::Error {
    match error {
        MapError::CreateError { io_error, .. } => io_error,
        MapError::IoError(error) => error,
        MapError::SyscallError(error) => error.io_error,
        MapError::PinError { error, .. } => pin_error(error),
        other => io::Error::other(other),
    }
}

/// The map that is pinned at `path`, and what it is made of.
pub(in crate::kernel) fn open_map_to_read(path: &Path) -> io::Result<(MapData, MapInfo)> {
    let map = MapData::from_fd(open_pin_to_read(path)?).map_err(map_error)?;
    let info = map.info().map_err(map_error)?;
    Ok((map, info))
}

/// What the map that is pinned at `path` is made of.
pub(in crate::kernel) fn map_info(path: &Path) -> io::Result<MapInfo> {
    Ok(open_map_to_read(path)?.1)
}

/// The first value of the array map pinned at `path`. `None` for another kind of map.
pub(in crate::kernel) fn read_blob(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let (map, info) = open_map_to_read(path)?;
    if !matches!(info.map_type(), Ok(MapType::Array)) || info.max_entries() == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; info.value_size() as usize];
    lookup(map.fd().as_fd(), &0, &mut bytes)?;
    Ok(Some(bytes))
}

/// The bytes of the map of [`create_pages`] that is pinned at `path`. `None` for another map.
pub(in crate::kernel) fn read_pages(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let (map, info) = open_map_to_read(path)?;
    let is_array = matches!(info.map_type(), Ok(MapType::Array));
    if !is_array || info.value_size() as usize != PAGE || info.max_entries() == 0 {
        return Ok(None);
    }
    read_per_cpu_array(map.fd().as_fd(), info.max_entries(), PAGE, 1).map(Some)
}

/// Fails unless an array map has so many values of this length.
pub(in crate::kernel) fn is_array_of(
    map: BorrowedFd<'_>,
    entries: u32,
    value_len: usize,
) -> io::Result<()> {
    match entries_of(map, size_of::<u32>(), value_len)? == entries {
        true => Ok(()),
        false => Err(another_map()),
    }
}

/// How many entries a map has.
pub(in crate::kernel) fn entries(map: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: what the kernel says of a map.
    let info: bpf_map_info = unsafe { info(map)? };
    Ok(info.max_entries)
}

/// All values of the array map `map`, one behind the other.
pub(in crate::kernel) fn read_array(map: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // SAFETY: what the kernel says of a map.
    let info: bpf_map_info = unsafe { info(map)? };
    read_per_cpu_array(map, info.max_entries, info.value_size as usize, 1)
}
