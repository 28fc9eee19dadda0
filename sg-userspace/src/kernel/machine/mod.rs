//! The machine: its file system for pins, the rights of this process, interfaces and network
//! namespaces.

pub mod bpffs;
pub(crate) mod capabilities;
pub mod interfaces;
pub(super) mod lifetime;
pub mod link_watch;
pub mod listening;
pub(super) mod netlink;
pub mod netns;
pub mod own_addresses;
pub(crate) mod places;
pub(super) mod trust;
