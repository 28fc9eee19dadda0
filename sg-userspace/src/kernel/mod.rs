//! Loads, attaches, pins and swaps: the only code that talks to BPF.

mod attach;
pub mod bpffs;
mod detach;
pub mod error;
pub mod event_ring;
mod flow_memory;
pub mod flow_tables;
mod hooks;
pub mod interfaces;
mod layout;
mod lifetime;
pub mod netns;
pub mod pins;
pub mod programs;
pub mod seed;
mod shared;
mod slots;
pub(crate) mod stages;
pub mod state;
mod sys;
pub mod tables;
mod trust;

pub use attach::{Applied, ApplyOptions, DEFAULT_MAX_FLOWS, EgressHook, XdpMode, apply};
pub use detach::detach;
pub use error::KernelError;
pub use seed::{Seeded, Unseen, UnseenKind};
pub use shared::CounterReader;
pub(crate) use shared::raw_counters;
pub(crate) use slots::since as counts_since;

/// The interface index of the link pinned at `path`: zero when the interface is gone, `None` when
/// there is no such link.
pub(crate) fn link_ifindex(path: &std::path::Path) -> Option<u32> {
    use std::os::fd::AsFd;
    let link = sys::open_pin(path).ok()?;
    sys::link_ifindex(link.as_fd()).ok()
}

/// The id of the program that the link pinned at `path` runs; `None` when there is no such link.
pub(crate) fn running_program(path: &std::path::Path) -> Option<u32> {
    use aya::programs::links::{FdLink, PinnedLink};
    let link = FdLink::from(PinnedLink::from_pin(path).ok()?);
    Some(link.info().ok()?.program_id())
}
