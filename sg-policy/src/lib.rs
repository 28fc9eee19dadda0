//! What a policy means: text → rules (`policy`) → tables (`compile`), and the naive reference that both are
//! compared with (`oracle`). No unsafe code, no BPF, no operating system: its tests need neither root nor a
//! nightly compiler.
#![forbid(unsafe_code)]
// No panic is reachable from a packet, a file or a flag.
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
pub mod oracle;
pub mod policy;
#[doc(hidden)]
pub mod testing;
