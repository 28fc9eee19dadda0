//! Fills the tables of a loaded object, and makes its programs use maps that others have: those of
//! an attachment, or the tables of the same generation on another interface.

use std::mem::offset_of;
use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::MapData;
use sg_common::lookup::{BssTables, LINE_WORDS, Line, Plain};

use super::super::error::KernelError;
use super::super::flow_memory::FlowKeys;
use super::super::sys;
use super::object::{ARRAY, BSS};
use super::object_maps::array_map;

/// Makes the programs use the map that all generations share in the place of a section. The loader
/// makes a map of its own from each section, and would overwrite a pinned one. So the descriptor
/// that the programs are about to be loaded with is replaced by one of the shared map.
pub(in crate::kernel) fn share_section(
    section: &'static str,
    ebpf: &Ebpf,
    shared: &MapData,
    doing: &str,
) -> Result<(), KernelError> {
    let own = array_map(ebpf, section)?.fd().as_fd();
    sys::redirect(own, shared.fd().as_fd()).map_err(|e| KernelError::io(doing, e))
}

/// Makes the programs of `ebpf` use the tables of `other`.
pub(in crate::kernel) fn share_tables(ebpf: &Ebpf, other: &Ebpf) -> Result<(), KernelError> {
    for name in [BSS, ARRAY] {
        share_section(name, ebpf, array_map(other, name)?, "sharing the tables")?;
    }
    Ok(())
}

/// Writes the tables of a generation and freezes them. `is_in_bss` says where the lines are.
pub(in crate::kernel) fn fill_tables(
    ebpf: &Ebpf,
    flow_keys: &FlowKeys,
    tables: &Plain<'_>,
    is_in_bss: bool,
) -> Result<(), KernelError> {
    fill_bss(ebpf, flow_keys, tables, is_in_bss)?;
    match is_in_bss {
        true => Ok(()),
        false => fill(ebpf, ARRAY, bytes_of(words_of(tables.lines))),
    }
}

/// Writes [`BssTables`]: the multipliers of the hash, the first level of IPv4, and with `has_all`
/// also the lines.
fn fill_bss(
    ebpf: &Ebpf,
    flow_keys: &FlowKeys,
    tables: &Plain<'_>,
    has_all: bool,
) -> Result<(), KernelError> {
    let fd = array_map(ebpf, BSS)?.fd().as_fd();
    let mut bytes = vec![0u8; size_of::<BssTables>()];
    let mut write = |at: usize, from: &[u8]| bytes[at..][..from.len()].copy_from_slice(from);
    let keys = flow_keys.map(u64::to_ne_bytes);
    write(offset_of!(BssTables, flow_keys), keys.as_flattened());
    write(offset_of!(BssTables, root4), bytes_of(tables.root4));
    if has_all {
        let lines = bytes_of(words_of(tables.lines));
        write(offset_of!(BssTables, lines), lines);
    }
    sys::write_value(fd, &0, &bytes)
        .and_then(|()| sys::freeze(fd))
        .map_err(|e| KernelError::io("filling the tables", e))
}

fn fill(ebpf: &Ebpf, name: &'static str, bytes: &[u8]) -> Result<(), KernelError> {
    let fd = array_map(ebpf, name)?.fd().as_fd();
    sys::fill_array(fd, bytes)
        .and_then(|()| sys::freeze(fd))
        .map_err(|e| KernelError::io(format!("filling the table {name}"), e))
}

fn words_of(lines: &[Line]) -> &[u32] {
    // SAFETY: a line is so many words and nothing else, and lines in a slice follow each other.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LINE_WORDS) }
}

fn bytes_of(words: &[u32]) -> &[u8] {
    // SAFETY: any u32 is four readable bytes, and the length is that of the slice.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}
