//! Programs: opening one by its id, what the kernel says of it, and those of a hold (`hold`), which
//! are not in the object.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{bpf_cmd, bpf_prog_info, bpf_prog_type};

use super::call::{bpf, info, info_into, zeroed};

/// Waits until no packet is in a program that was replaced before this call. Programs run inside
/// read-side sections of RCU, and the kernel's global membarrier waits for all that have begun
/// (kernel/sched/membarrier.c). Without membarrier it waits for longer than any such section lasts.
pub(in crate::kernel) fn wait_for_programs() {
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

/// Loads a tc program that drops every packet.
pub(in crate::kernel) fn load_dropper() -> io::Result<OwnedFd> {
    // TC_ACT_SHOT is 2 (include/uapi/linux/pkt_cls.h).
    load_tc(&[instruction(0xb7, 0x00, 2), EXIT])
}

/// Loads a tc program that lets every packet pass.
pub(in crate::kernel) fn load_passer() -> io::Result<OwnedFd> {
    load_tc(&[UNSPEC, EXIT])
}

/// Loads a tc program that goes on to the first program of `array`, and lets every packet pass
/// where the array is empty.
pub(in crate::kernel) fn load_switch(array: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    load_tc(&[
        // The context is in r1. The array goes to r2: an immediate of two words, which is the
        // descriptor of a map; and the index, zero, to r3. Helper 12 is bpf_tail_call.
        instruction(0x18, 0x12, array.as_raw_fd()),
        0,
        instruction(0xb7, 0x03, 0),
        instruction(0x85, 0x00, 12),
        UNSPEC,
        EXIT,
    ])
}

const EXIT: u64 = 0x95;

/// The verdict TC_ACT_UNSPEC, which is -1: the packet goes on to what comes behind the program.
const UNSPEC: u64 = instruction(0xb7, 0x00, -1);

/// `struct bpf_insn` (include/uapi/linux/bpf.h) without an offset: the code, the registers, source
/// in the upper half, and the immediate.
const fn instruction(code: u8, registers: u8, immediate: i32) -> u64 {
    (immediate.cast_unsigned() as u64) << 32 | (registers as u64) << 8 | code as u64
}

fn load_tc(code: &[u64]) -> io::Result<OwnedFd> {
    let name = c"sg_hold";
    let mut attr = zeroed();
    // SAFETY: plain fields of the union's program view are written.
    let view = unsafe { &mut attr.__bindgen_anon_3 };
    view.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    view.insn_cnt = code.len() as u32;
    view.insns = code.as_ptr() as u64;
    view.license = c"Dual MIT/GPL".as_ptr() as u64;
    for (to, from) in view.prog_name.iter_mut().zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens a program by its id. `None` if it does not exist.
pub(in crate::kernel) fn program_by_id(id: u32) -> io::Result<Option<OwnedFd>> {
    by_id(bpf_cmd::BPF_PROG_GET_FD_BY_ID, id)
}

pub(super) fn by_id(cmd: bpf_cmd, id: u32) -> io::Result<Option<OwnedFd>> {
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
pub(in crate::kernel) fn program_number(program: BorrowedFd<'_>) -> io::Result<u32> {
    program_info(program).map(|info| info.id)
}

/// The name of a program, which may be empty.
pub(in crate::kernel) fn program_name(program: BorrowedFd<'_>) -> io::Result<String> {
    let info = program_info(program)?;
    let name = info.name.iter().map(|c| *c as u8);
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// The id of the first map that a program uses, if it uses any.
pub(in crate::kernel) fn first_map(program: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut first = 0u32;
    // SAFETY: it has plain integers, for which zero is valid.
    let mut asked: bpf_prog_info = unsafe { std::mem::zeroed() };
    (asked.map_ids, asked.nr_map_ids) = (&raw mut first as u64, 1);
    // SAFETY: this is the structure that the kernel fills in for a program, with room for one id.
    unsafe { info_into(program, asked)? };
    Ok((first != 0).then_some(first))
}

/// The next id after `id` of a loaded program, map or link. `None` after the last one.
pub(in crate::kernel) fn next_id(kind: Listed, id: u32) -> io::Result<Option<u32>> {
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
pub(in crate::kernel) enum Listed {
    Programs,
    Maps,
    Links,
}
