//! System calls that no library offers. aya makes the others. It does not have:
//!
//! - batches of lookups, which read a thousand values with one call,
//! - freezing a map, and values whose length is known only at run time,
//! - opening a pin for reading only, which works on a read-only mount and without capabilities,
//! - links that stay pinned: it detaches a link that it drops, attaches by netlink if
//!   BPF_LINK_CREATE fails, and does not know a link's interface,
//! - the list of programs on a hook, and opening a program by its id,
//! - programs that are not in the object: those of a hold (`hold`).
//!
//! Besides bpf(2): leases on files, a grace period of RCU, and the cookie of a network namespace.

mod call;
mod links;
mod maps;
mod pins;
mod process;
mod programs;

pub(super) use links::{
    Chained, has_no_tcx, link_create, link_detach, link_info, link_of, link_update, tcx_create,
    tcx_egress,
};
pub(super) use maps::{
    MapMemory, create_blob, create_pages, create_program_array, each_hash_entry, entries,
    fill_array, freeze, is_array_of, lookup, map_error, map_info, open_map_to_read, read_array,
    read_blob, read_pages, read_per_cpu_array, write_value,
};
pub(super) use pins::{open_pin, open_pin_to_read, pin, pin_error};
#[cfg(test)]
pub(crate) use process::set_acl;
pub(crate) use process::{has_acl, is_open_for_writing};
pub(super) use process::{netns_cookie, random, redirect};
pub(super) use programs::{
    Listed, first_map, load_dropper, load_passer, load_switch, next_id, program_by_id,
    program_name, program_number, wait_for_programs,
};
