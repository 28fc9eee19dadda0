//! Everything behind the `sgctl` binary. Data flows one way: text → rules (`policy`) → tables
//! (`compile`) → kernel (`kernel`) → counters and flows (`observe`); `oracle` is what all of them
//! are compared with. Arrows point down only: `policy` and `compile` never import `kernel`.
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

pub mod compile;
pub mod kernel;
pub mod lab;
pub mod observe;
pub mod oracle;
pub mod policy;
#[doc(hidden)]
pub mod testing;
