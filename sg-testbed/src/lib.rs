//! Networks that exist for a moment, for the lab, the tests and the benches: network namespaces,
//! veth pairs between them, and mounts that nobody else sees.
//!
//! ```text
//! Namespace   a network namespace, held by a descriptor: gone with the last one
//! Host        the same for tests: what cannot be done fails the test and says why
//! interfaces  veth pairs, addresses, routes (rtnetlink, one request at a time)
//! mounts      mounts of one's own, a BPF file system, a view of /sys
//! objects     BPF objects by their ids: what was made, and whether it is gone
//! Scratch     what has to have a name that other processes can use; cleaned up even after a kill
//! ```
//!
//! What a [`Namespace`] or a private mount holds ends with the process, however it ends. Only
//! [`Scratch`] makes things with names, and writes them down before it makes them, so that the
//! next process finds and removes what a killed one has left.
//!
//! ```no_run
//! use std::net::Ipv4Addr;
//! use sg_testbed::{Namespace, interfaces};
//!
//! # fn main() -> std::io::Result<()> {
//! let (node, peer) = (Namespace::new()?, Namespace::new()?);
//! interfaces::add_veth((&node, "eth0"), (&peer, "eth0"))?;
//! node.inside(|| {
//!     interfaces::set_up("eth0")?;
//!     interfaces::add_address("eth0", Ipv4Addr::new(192, 0, 2, 1).into(), 24)
//! })?
//! # }
//! ```

mod command;
mod host;
pub mod interfaces;
pub mod mounts;
mod namespace;
mod netlink;
pub mod objects;
mod scratch;
pub mod sysctl;

pub use command::{ip, require_root, run};
pub use host::{Host, wait_for};
pub use mounts::Mount;
pub use namespace::Namespace;
pub use scratch::Scratch;
pub use sysctl::set_sysctl;
