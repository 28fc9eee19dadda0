//! Everything behind the `sgctl` binary that touches the kernel. Data flows one way: text → rules → tables
//! (both in `sg-policy`) → kernel (`kernel`) → counters and flows (`observe`); `lab` tries a policy with real
//! traffic. Arrows point down only.
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

pub mod kernel;
pub mod lab;
pub mod observe;
