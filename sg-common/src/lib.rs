//! Plain data and pure steps shared by the eBPF packet path and userspace.
//! No allocation, no I/O, no dependency on the kernel side: everything here is tested on the host.
#![no_std]
// No panic is reachable from a packet, a file, a flag or the state directory.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo
    )
)]

pub mod counters;
pub mod event;
pub mod flow;
pub mod flow_entry;
pub mod flow_ports;
pub mod flow_table;
pub mod fragment;
pub mod lookup;
pub mod protocol;
pub mod stage;
pub mod tcp;
pub mod track;
pub mod verdict;

/// Version of every layout in this crate and of the pin directory. It changes whenever a map's
/// key, value or meaning changes, so that two builds never read each other's maps.
pub const LAYOUT_VERSION: u32 = 7;
