//! Plain data and pure steps shared by the eBPF packet path and userspace.
//! No allocation, no I/O, no dependency on the kernel side: everything here is tested on the host.
//!
//! Each rule of meaning is written here once, and tested by a table: `protocol`, `icmp` and
//! `essential` say what a packet is, `concern` what the flow table has to do with it, `ruling` what
//! the entry of its flow says, `track` and `tcp` how a flow changes its state. The packet path,
//! userspace and tests call them.
//!
//! A verdict is what a lookup of the tables ends in: one word with the action and the counter
//! slot.
//!
//! ```
//! use sg_common::{
//!     protocol::Kind,
//!     tcp::{ACK, SYN},
//!     track,
//!     verdict::{Action, FIRST_RULE_SLOT, Verdict},
//! };
//!
//! let verdict = Verdict::new(Action::Accept, FIRST_RULE_SLOT, false);
//! assert!(verdict.is_accept());
//! assert_eq!(verdict.slot(), FIRST_RULE_SLOT);
//!
//! // A SYN begins a flow, and the SYN-ACK changes its state.
//! let tcp = Kind::Tcp as u8;
//! let begun = track::first(tcp, SYN);
//! assert_eq!(begun.name(), "tcp-syn-sent");
//! let replied = track::next(tcp, begun as u8, SYN | ACK, 0);
//! assert_eq!(replied & 0xff, sg_common::flow::Timeout::TcpSynRecv as u32);
//! assert!(replied & track::HAS_SEEN_REPLY != 0);
//! ```
#![no_std]
#![warn(missing_docs)]
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

pub mod concern;
pub mod counters;
pub mod essential;
pub mod event;
pub mod event_budget;
pub mod flow;
pub mod flow_entry;
pub mod flow_ports;
pub mod flow_table;
pub mod fragment;
pub mod icmp;
pub mod lookup;
#[cfg(feature = "user")]
mod names;
pub mod program;
pub mod protocol;
pub mod ruling;
pub mod tcp;
pub mod track;
pub mod trial;
pub mod verdict;

/// Version of every layout in this crate and of the pin directory. It changes whenever a map's
/// key, value or meaning changes, so that two builds never read each other's maps.
pub const LAYOUT_VERSION: u32 = 12;
