//! Loads programs and their tables.

pub mod frame;
pub mod generation;
pub(super) mod loader;
pub mod object;
pub(super) mod object_maps;
pub mod programs;
pub mod rehearsal;
pub(super) mod sections;
pub mod shared_maps;
pub mod tables;
pub(crate) mod targets;
