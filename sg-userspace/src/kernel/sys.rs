//! System calls that no library offers. aya makes the others. It does not have:
//!
//! - batches of lookups, which read a thousand values with one call,
//! - freezing a map, and values whose length is known only at run time,
//! - opening a pin for reading only, which works on a read-only mount and without capabilities,
//! - links that stay pinned: it detaches a link that it drops, attaches by netlink if
//!   BPF_LINK_CREATE fails, and does not know a link's interface,
//! - the list of programs on a hook, and opening a program by its id,
//! - programs that are not in the object: the one that drops everything (`hold`).
//!
//! Besides bpf(2): leases on files, a grace period of RCU, and the cookie of a network namespace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use aya::maps::{MapData, MapError, MapInfo, MapType};
use aya::pin::PinError;
use aya_obj::generated::{
    BPF_F_BEFORE, BPF_F_MMAPABLE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type,
    bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_map_type, bpf_prog_info, bpf_prog_type,
};
use memmap2::{MmapMut, MmapOptions, MmapRaw};
use sg_common::verdict::Direction;

use super::link_kind::{Kind, Link};

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is a complete, zero-padded attribute union, and the pointers in it outlive the
    // call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            cmd as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn zeroed() -> bpf_attr {
    // SAFETY: the union has integers and pointers as integers, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

/// The values of an mmapable array map, mapped into memory.
pub(super) struct MapMemory(MmapRaw);

impl MapMemory {
    pub(super) fn read_only(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        MmapOptions::new()
            .len(len)
            .map_raw_read_only(&map)
            .map(MapMemory)
    }

    /// A mapping in which several processes may count. It must end before the map can be frozen.
    pub(super) fn shared(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        MmapOptions::new().len(len).map_raw(&map).map(MapMemory)
    }

    /// A copy of the `entries` values of an array map. The kernel maps no descriptor that is open
    /// for reading only (`bpf_map_mmap` requires `VM_SHARED`). A value that is written meanwhile
    /// may be copied in part.
    pub(super) fn copied(map: BorrowedFd<'_>, entries: u32, value_len: usize) -> io::Result<Self> {
        let bytes = read_per_cpu_array(map, entries, value_len, 1)?;
        let mut memory = MmapMut::map_anon(bytes.len())?;
        memory[..bytes.len()].copy_from_slice(&bytes);
        Ok(MapMemory(memory.into()))
    }

    /// Zeros that no map has.
    pub(super) fn of_zeros(len: usize) -> io::Result<Self> {
        Ok(MapMemory(MmapMut::map_anon(len)?.into()))
    }

    /// The values as counters, which other processes and programs may write meanwhile.
    pub(super) fn counters(&self) -> &[AtomicU64] {
        let len = self.0.len() / size_of::<AtomicU64>();
        // SAFETY: mappings begin at a page, so the alignment holds. All other writers write the
        // words atomically as well. The mapping lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), len) }
    }
}

/// Writes `bytes` to the beginning of an mmapable array map's values.
pub(super) fn fill_array(map: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
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

/// Numbers that nobody can guess.
pub(super) fn random<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        *word = getrandom::u64()?;
    }
    Ok(words)
}

/// Forbids further writes from userspace.
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// All values of a per-CPU array map with `entries` values of `cpus` times `value_len` bytes, in
/// the order of the keys. It takes one system call for a thousand values, not one for each.
pub(super) fn read_per_cpu_array(
    map: BorrowedFd<'_>,
    entries: u32,
    value_len: usize,
    cpus: usize,
) -> io::Result<Vec<u8>> {
    const BATCH: u32 = 4096;
    let stride = value_len.next_multiple_of(8) * cpus;
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

/// Reads one value of an array map into `value`, which must have the length that the kernel copies.
/// For a per-CPU map, that is the values of all possible CPUs.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &u32, value: &mut [u8]) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: plain fields of the union's element view are written.
    let view = unsafe { &mut attr.__bindgen_anon_2 };
    view.map_fd = map.as_raw_fd() as u32;
    view.key = std::ptr::from_ref(key) as u64;
    view.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

/// Replaces the value of `key` in an array map.
pub(super) fn write_value(map: BorrowedFd<'_>, key: &u32, value: &[u8]) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: plain fields of the union's element view are written.
    let view = unsafe { &mut attr.__bindgen_anon_2 };
    view.map_fd = map.as_raw_fd() as u32;
    view.key = std::ptr::from_ref(key) as u64;
    view.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Visits every entry of a hash map, with `batch` entries per system call. An entry that is removed
/// meanwhile may be visited or not.
pub(super) fn each_hash_entry<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    batch: u32,
    mut visit: impl FnMut(K, V),
) -> io::Result<()> {
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
pub(super) fn create_blob(name: &str, len: u32) -> io::Result<MapData> {
    let array = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let key_len = size_of::<u32>() as u32;
    let map = aya_obj::Map::new_from_params(array, key_len, len, 1, BPF_F_MMAPABLE);
    MapData::create(map, name, None).map_err(map_error)
}

/// The length of one value of [`create_pages`].
const PAGE: usize = 4096;

/// An mmapable array map with room for `len` bytes, in values of one page each: older kernels
/// allocate no value of more than 4 MiB (`array_map_alloc_check` in kernel/bpf/arraymap.c).
pub(super) fn create_pages(name: &str, len: usize) -> io::Result<MapData> {
    let pages = u32::try_from(len.div_ceil(PAGE)).map_err(io::Error::other)?;
    let array = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let key_len = size_of::<u32>() as u32;
    let map = aya_obj::Map::new_from_params(array, key_len, PAGE as u32, pages, BPF_F_MMAPABLE);
    MapData::create(map, name, None).map_err(map_error)
}

/// The kernel's own error in one of aya's.
pub(super) fn map_error(error: MapError) -> io::Error {
    match error {
        MapError::CreateError { io_error, .. } => io_error,
        MapError::IoError(error) => error,
        MapError::SyscallError(error) => error.io_error,
        MapError::PinError { error, .. } => pin_error(error),
        other => io::Error::other(other),
    }
}

/// The kernel's own error in one of aya's.
pub(super) fn pin_error(error: PinError) -> io::Error {
    match error {
        PinError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

/// Pins `object` at `path`, where nothing may exist.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: plain fields of the union's pin view are written.
    let view = unsafe { &mut attr.__bindgen_anon_4 };
    view.pathname = path.as_ptr() as u64;
    view.bpf_fd = object.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Makes the number `descriptor` refer to what `other` refers to. Its owner stays the same.
pub(super) fn redirect(descriptor: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<()> {
    let (from, to) = (other.as_raw_fd(), descriptor.as_raw_fd());
    // SAFETY: both are open. `descriptor` stays open and keeps its owner.
    let result = unsafe { libc::dup3(from, to, libc::O_CLOEXEC) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether a process has the file open for writing: only if none has, the kernel grants a read
/// lease (fcntl(2)). Fails if the file system has no leases, or the file belongs to another user.
///
/// While the lease is held, a process that opens the file for writing has to wait, and this process
/// gets a SIGIO, for which it must have a handler.
pub(crate) fn is_open_for_writing(file: BorrowedFd<'_>) -> io::Result<bool> {
    let lease = |kind: libc::c_int| {
        // SAFETY: no pointers, and the descriptor is open.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    match lease(libc::F_RDLCK) {
        Ok(()) => lease(libc::F_UNLCK).map(|()| false),
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Where the kernel keeps the access control list of a file (acl(5)).
const ACL: &std::ffi::CStr = c"system.posix_acl_access";

/// Whether the file at `path` has an access control list beside its mode.
pub(crate) fn has_acl(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both names end with a NUL, and nothing is written: the length of the buffer is zero.
    let length = unsafe { libc::getxattr(path.as_ptr(), ACL.as_ptr(), std::ptr::null_mut(), 0) };
    if length >= 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // There is none, or the file system has none.
        Some(libc::ENODATA | libc::EOPNOTSUPP) => Ok(false),
        _ => Err(error),
    }
}

/// Gives a file an access control list, in the kernel's form.
#[cfg(test)]
pub(crate) fn set_acl(path: &Path, list: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both names end with a NUL, and the list is as long as is said.
    let result = unsafe {
        libc::setxattr(
            path.as_ptr(),
            ACL.as_ptr(),
            list.as_ptr().cast(),
            list.len(),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    open_pin_with(path, 0)
}

/// Opens the map or program pinned at `path` for reading only. That takes only the right to read
/// the pin, and works on a read-only file system. Links cannot be opened in this way.
pub(super) fn open_pin_to_read(path: &Path) -> io::Result<OwnedFd> {
    open_pin_with(path, aya_obj::generated::BPF_F_RDONLY)
}

fn open_pin_with(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.file_flags = flags;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// What the kernel reports about an object.
///
/// # Safety
///
/// `T` must be the structure of plain integers that the kernel fills in for this kind of object.
unsafe fn info<T>(object: BorrowedFd<'_>) -> io::Result<T> {
    // SAFETY: the structure has plain integers, for which zero is valid.
    let mut info: T = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// What the map that is pinned at `path` is made of.
pub(super) fn map_info(path: &Path) -> io::Result<MapInfo> {
    let map = MapData::from_fd(open_pin_to_read(path)?).map_err(map_error)?;
    map.info().map_err(map_error)
}

/// The first value of the array map pinned at `path`. `None` for another kind of map.
pub(super) fn read_blob(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let map = MapData::from_fd(open_pin_to_read(path)?).map_err(map_error)?;
    let info = map.info().map_err(map_error)?;
    if !matches!(info.map_type(), Ok(MapType::Array)) || info.max_entries() == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; info.value_size() as usize];
    lookup(map.fd().as_fd(), &0, &mut bytes)?;
    Ok(Some(bytes))
}

/// The bytes of the map of [`create_pages`] that is pinned at `path`. `None` for another map.
pub(super) fn read_pages(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let map = MapData::from_fd(open_pin_to_read(path)?).map_err(map_error)?;
    let info = map.info().map_err(map_error)?;
    let is_array = matches!(info.map_type(), Ok(MapType::Array));
    if !is_array || info.value_size() as usize != PAGE || info.max_entries() == 0 {
        return Ok(None);
    }
    read_per_cpu_array(map.fd().as_fd(), info.max_entries(), PAGE, 1).map(Some)
}

/// How many entries a map has.
pub(super) fn entries(map: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: what the kernel says of a map.
    let info: bpf_map_info = unsafe { info(map)? };
    Ok(info.max_entries)
}

/// All values of the array map `map`, one behind the other.
pub(super) fn read_array(map: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // SAFETY: what the kernel says of a map.
    let info: bpf_map_info = unsafe { info(map)? };
    read_per_cpu_array(map, info.max_entries, info.value_size as usize, 1)
}

/// Waits until no packet is in a program that was replaced before this call. Programs run inside
/// read-side sections of RCU, and the kernel's global membarrier waits for all that have begun
/// (kernel/sched/membarrier.c). Without membarrier it waits for longer than any such section lasts.
pub(super) fn wait_for_programs() {
    // SAFETY: no pointers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_membarrier,
            libc::MEMBARRIER_CMD_GLOBAL as libc::c_long,
            0 as libc::c_long,
            0 as libc::c_long,
        )
    };
    if result != 0 {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// What the kernel reports about an XDP or tcx link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<Link> {
    // SAFETY: this is the structure that the kernel fills in for a link.
    let info: bpf_link_info = unsafe { info(link)? };
    Ok(Link {
        id: info.id,
        program: info.prog_id,
        // SAFETY: the views for XDP and tcx both begin with the interface index.
        ifindex: unsafe { info.__bindgen_anon_1.xdp.ifindex },
    })
}

/// Attaches `program` to an interface of the current network namespace.
pub(super) fn link_create(
    kind: Kind,
    program: BorrowedFd<'_>,
    ifindex: u32,
) -> io::Result<OwnedFd> {
    let (attach_type, flags) = match kind {
        Kind::XdpNative => (bpf_attach_type::BPF_XDP, XDP_FLAGS_DRV_MODE),
        Kind::XdpGeneric => (bpf_attach_type::BPF_XDP, XDP_FLAGS_SKB_MODE),
        // The flag without another program means: before all that are there.
        Kind::TcxEgressFirst => (bpf_attach_type::BPF_TCX_EGRESS, BPF_F_BEFORE),
    };
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = attach_type as u32;
    attr.link_create.flags = flags;
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Loads a tc program that drops every packet.
pub(super) fn load_dropper() -> io::Result<OwnedFd> {
    // `struct bpf_insn` (include/uapi/linux/bpf.h): code, registers, offset, and the immediate in
    // the upper half. TC_ACT_SHOT is 2 (include/uapi/linux/pkt_cls.h).
    const DROP: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let name = c"sg_hold";
    let mut attr = zeroed();
    // SAFETY: plain fields of the union's program view are written.
    let view = unsafe { &mut attr.__bindgen_anon_3 };
    view.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    view.insn_cnt = DROP.len() as u32;
    view.insns = DROP.as_ptr() as u64;
    view.license = c"Dual MIT/GPL".as_ptr() as u64;
    for (to, from) in view.prog_name.iter_mut().zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches `program` to a tcx hook of an interface of the current network namespace, after all
/// that are there.
pub(super) fn tcx_create(
    direction: Direction,
    program: BorrowedFd<'_>,
    ifindex: u32,
) -> io::Result<OwnedFd> {
    let hook = match direction {
        Direction::Inbound => bpf_attach_type::BPF_TCX_INGRESS,
        Direction::Outbound => bpf_attach_type::BPF_TCX_EGRESS,
    };
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = hook as u32;
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Replaces the program of a link atomically.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link from its interface.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// A program at a tcx hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chained {
    pub program: u32,
    /// Zero if the program is attached without a link.
    pub link: u32,
}

/// The tcx egress programs of an interface of the current network namespace, in the order in which
/// they run. Empty if the kernel has no tcx.
pub(super) fn tcx_egress(ifindex: u32) -> io::Result<Vec<Chained>> {
    // The most programs that a hook can have (BPF_MPROG_MAX, include/linux/bpf_mprog.h).
    const MOST: usize = 64;
    let (mut programs, mut links) = ([0u32; MOST], [0u32; MOST]);
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.attach_type = bpf_attach_type::BPF_TCX_EGRESS as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.link_ids = links.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = MOST as u32;
    match bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) {
        Ok(_) => {}
        // Kernels before 6.6 know neither the attach type nor so large a request.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::E2BIG)) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e),
    }
    // SAFETY: the kernel has written the number of programs into the same view of the union.
    let count = unsafe { attr.query.__bindgen_anon_2.count } as usize;
    let chained = programs.into_iter().zip(links).take(count);
    Ok(chained
        .map(|(program, link)| Chained { program, link })
        .collect())
}

/// Opens a program by its id. `None` if it does not exist.
pub(super) fn program_by_id(id: u32) -> io::Result<Option<OwnedFd>> {
    by_id(bpf_cmd::BPF_PROG_GET_FD_BY_ID, id)
}

/// The id of the link that attaches this program, if there is one.
pub(super) fn link_of(program: u32) -> io::Result<Option<u32>> {
    let mut id = 0;
    while let Some(next) = next_id(Listed::Links, id)? {
        id = next;
        let link = by_id(bpf_cmd::BPF_LINK_GET_FD_BY_ID, id)?;
        if let Some(link) = link
            && link_info(link.as_fd())?.program == program
        {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn by_id(cmd: bpf_cmd, id: u32) -> io::Result<Option<OwnedFd>> {
    let mut attr = zeroed();
    // The id is at the same place for programs and links.
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    match bpf(cmd, &mut attr) {
        // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: this is the structure that the kernel fills in for a program.
    unsafe { info(program) }
}

/// The id of a program.
pub(super) fn program_number(program: BorrowedFd<'_>) -> io::Result<u32> {
    program_info(program).map(|info| info.id)
}

/// The name of a program, which may be empty.
pub(super) fn program_name(program: BorrowedFd<'_>) -> io::Result<String> {
    let info = program_info(program)?;
    let name = info.name.iter().map(|c| *c as u8);
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// The next id after `id` of a loaded program, map or link. `None` after the last one.
pub(super) fn next_id(kind: Listed, id: u32) -> io::Result<Option<u32>> {
    let cmd = match kind {
        Listed::Programs => bpf_cmd::BPF_PROG_GET_NEXT_ID,
        Listed::Maps => bpf_cmd::BPF_MAP_GET_NEXT_ID,
        Listed::Links => bpf_cmd::BPF_LINK_GET_NEXT_ID,
    };
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
    match bpf(cmd, &mut attr) {
        // SAFETY: the kernel has written the id into the same view of the union.
        Ok(_) => Ok(Some(unsafe { attr.__bindgen_anon_6.next_id })),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The kinds of objects that can be listed by id.
#[derive(Clone, Copy, Debug)]
pub(super) enum Listed {
    Programs,
    Maps,
    Links,
}

/// The cookie of the current network namespace, unique until the machine is restarted
/// (`SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h; Linux 5.14).
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")
        .map(OwnedFd::from)
        .or_else(|_| {
            // If loopback is down, nothing can be bound. An unbound socket also has the cookie.
            // SAFETY: no pointers; the result is checked.
            let fd =
                unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })?;
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `len` are valid for writes of the sizes that are passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}
