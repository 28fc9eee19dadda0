//! The enforcer between real network stacks: real sockets, routers and tools in network namespaces
//! that each test makes for itself. They need root and a few Debian packages, and say so.

mod big;
mod dhcp;
mod enforced;
mod errors;
mod forwarding;
mod fragments;
mod host;
mod jumbo;
mod line;
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
mod verdicts;
