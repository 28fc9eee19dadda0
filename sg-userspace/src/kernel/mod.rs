//! Loads, attaches, pins and swaps: the only code that talks to BPF.

mod attach;
pub mod bpffs;
pub mod error;
pub mod interfaces;
pub mod netns;
pub mod pins;
pub mod programs;
mod slots;
pub mod state;
mod sys;

pub use attach::{
    Applied, ApplyOptions, DEFAULT_MAX_FLOWS, EgressHook, XdpMode, apply, detach,
};
pub use error::KernelError;
pub(crate) use slots::{add as add_counts, since as counts_since};
