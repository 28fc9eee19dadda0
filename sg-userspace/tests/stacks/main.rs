//! The enforcer between real network stacks: each test makes its own network namespaces with
//! sockets, routers and tools. The tests need root and a few Debian packages, and fail with a clear
//! message without them.

mod audit;
mod big;
mod dhcp;
mod enforced;
mod errors;
mod forwarding;
mod fragments;
mod jumbo;
mod line;
mod migrated;
mod multicast;
mod nat;
mod neighbours;
mod path_mtu;
mod reuse;
#[path = "../kernel/sandbox.rs"]
#[expect(dead_code, reason = "the tests of one interface use more of it")]
mod sandbox;
mod scan;
mod second_opinion;
mod service;
mod simultaneous;
mod timeouts;
mod tools;
mod traceroute;
mod transfer;
mod tunnel;
mod uplinks;
mod uplinks_nftables;
mod verdicts;
