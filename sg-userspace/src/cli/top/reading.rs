//! What is read, as `source` makes it and `model` takes it.

use sg_userspace::observe::sampler::Sample;

use super::drops::Dropped;

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

/// What was seen since the last look.
#[derive(Default)]
pub(super) struct Seen {
    /// Dropped packets, with the interface of each.
    pub(super) packets: Vec<(String, Dropped)>,
    /// Why nothing can be seen, or not all.
    pub(super) trouble: Option<String>,
}
