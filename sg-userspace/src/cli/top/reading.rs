//! One reading of all interfaces, as `source` makes it and `model` takes it.

use sg_userspace::observe::sampler::Sample;

/// What was read at one moment.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) interfaces: Vec<InterfaceReading>,
    /// Why some or all could not be read.
    pub(super) troubles: Vec<String>,
}

pub(super) struct InterfaceReading {
    pub(super) sample: Sample,
    /// Interfaces with the same number share a flow table.
    pub(super) attachment: usize,
}
