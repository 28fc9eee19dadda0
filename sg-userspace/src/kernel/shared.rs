//! Reads the maps that outlive a policy: the counters, and which slots are in use. The flow tables
//! are read in `flow_tables`.

use std::collections::HashSet;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use sg_common::counters::{CounterSlot, SlotCounters};
use sg_common::flow::CUT;
use sg_common::verdict::FIRST_RULE_SLOT;

use super::error::KernelError;
use super::flow_tables::{each_flow, each_fragment_slot, monotonic_now, sweep};
use super::pins::InterfacePins;
use super::slots::{SlotUse, add};
use super::state::State;
use super::sys;

/// The use of counter slots, read from the pinned maps.
pub(super) struct PinnedUse<'a> {
    pins: &'a InterfacePins,
    /// The record of the policy in force. `None` at a first attachment.
    state: Option<&'a State>,
    /// Whether both directions run the programs of that record and no others. Programs of an
    /// earlier record would still count in slots that this record calls retired.
    runs_alone: bool,
    /// Slots of a generation that may be put in force again.
    held: &'a HashSet<u32>,
}

impl<'a> PinnedUse<'a> {
    pub(super) fn new(
        pins: &'a InterfacePins,
        state: Option<&'a State>,
        runs_alone: bool,
        held: &'a HashSet<u32>,
    ) -> Self {
        PinnedUse {
            pins,
            state,
            runs_alone,
            held,
        }
    }
}

impl SlotUse for PinnedUse<'_> {
    fn named_by_flows(&self) -> Option<HashSet<u32>> {
        let state = self.state.filter(|_| self.runs_alone)?;
        // Expired flows are removed and not just skipped, because they would be alive again under
        // longer timeouts.
        sweep(self.pins, &state.timeouts, monotonic_now()).ok()?;
        let mut named = self.held.clone();
        each_flow(self.pins, |flow| {
            // A cut flow is not counted any more.
            if flow.value.state != CUT {
                named.insert(flow.value.slot);
            }
        })
        .ok()?;
        each_fragment_slot(self.pins, |slot| {
            named.insert(slot);
        })
        .ok()?;
        Some(named)
    }

    fn counted(&self) -> Result<Vec<SlotCounters>, KernelError> {
        raw_counters(self.pins, self.state.map_or(0, |state| state.counter_maps))
    }
}

/// The counts of every slot since its map was created, summed over CPUs and over the interface's
/// `maps` counter maps.
pub(super) fn raw_counters(
    pins: &InterfacePins,
    maps: usize,
) -> Result<Vec<SlotCounters>, KernelError> {
    counters_below(pins, maps, u32::MAX)
}

/// The same of the slots that a record names: those of the reasons and of all owners. A map has up
/// to twice as many.
pub(crate) fn owned_counters(
    pins: &InterfacePins,
    state: &State,
) -> Result<Vec<SlotCounters>, KernelError> {
    let ends = state.owners().map(|owner| owner.slot + 1);
    let end = ends.max().unwrap_or(0).max(FIRST_RULE_SLOT);
    counters_below(pins, state.counter_maps, end)
}

fn counters_below(
    pins: &InterfacePins,
    maps: usize,
    end: u32,
) -> Result<Vec<SlotCounters>, KernelError> {
    let mut sums: Vec<SlotCounters> = Vec::new();
    for index in 0..maps {
        let mut reader = CounterReader::at(&pins.counters(index))?;
        reader.slots = reader.slots.min(end);
        let counts = reader.all()?;
        let len = sums.len().max(counts.len());
        sums.resize(len, SlotCounters::default());
        for (sum, more) in sums.iter_mut().zip(counts) {
            *sum = add(*sum, more);
        }
    }
    Ok(sums)
}

/// How many packets the fast path dropped without an event because their slot was closed, of each
/// slot of a pinned counter map, summed over CPUs.
pub(super) fn read_suppressed(path: &Path) -> Result<Vec<u64>, KernelError> {
    CounterReader::at(path)?.each(suppressed)
}

/// Reads a counter map: all of it in a few system calls, or one slot in one.
pub struct CounterReader {
    map: OwnedFd,
    slots: u32,
    cpus: usize,
    /// The values of one slot, one for each possible CPU.
    values: Vec<u8>,
}

/// The length of one CPU's value, and its words.
const LEN: usize = size_of::<CounterSlot>();
const WORDS: usize = LEN / 8;

/// Their order is that of the fields.
const SUPPRESSED: usize = offset_of!(CounterSlot, suppressed) / 8;
const COUNTERS: usize = offset_of!(CounterSlot, counters) / 8;

impl CounterReader {
    fn at(path: &Path) -> Result<Self, KernelError> {
        let reading = |e| KernelError::at_pin("reading", path, e);
        let map = sys::open_pin_to_read(path).map_err(reading)?;
        let info = sys::map_info(path).map_err(reading)?;
        Self::new(map, info.max_entries())
    }

    pub(super) fn new(map: OwnedFd, slots: u32) -> Result<Self, KernelError> {
        let cpus = aya::util::nr_cpus().map_err(|(file, e)| KernelError::io(file, e))?;
        Ok(CounterReader {
            map,
            slots,
            cpus,
            values: vec![0; cpus * LEN],
        })
    }

    /// The counts of all slots, summed over CPUs.
    pub fn all(&self) -> Result<Vec<SlotCounters>, KernelError> {
        self.each(sum)
    }

    /// Something of each slot, of the values of all CPUs.
    fn each<T>(&self, of: fn(&[u8]) -> T) -> Result<Vec<T>, KernelError> {
        let bytes = sys::read_per_cpu_array(self.map.as_fd(), self.slots, LEN, self.cpus)
            .map_err(|e| KernelError::io("reading the counters", e))?;
        Ok(bytes.chunks_exact(self.cpus * LEN).map(of).collect())
    }

    /// The counts of one slot, summed over CPUs.
    pub fn slot(&mut self, slot: u32) -> Result<SlotCounters, KernelError> {
        sys::lookup(self.map.as_fd(), &slot, &mut self.values)
            .map_err(|e| KernelError::io("reading a counter", e))?;
        Ok(sum(&self.values))
    }
}

/// The words of each CPU's value of a slot.
fn per_cpu(values: &[u8]) -> impl Iterator<Item = [u64; WORDS]> {
    let (words, _) = values.as_chunks::<8>();
    let (cpus, _) = words.as_chunks::<WORDS>();
    cpus.iter().map(|cpu| cpu.map(u64::from_ne_bytes))
}

fn suppressed(values: &[u8]) -> u64 {
    per_cpu(values).map(|cpu| cpu[SUPPRESSED]).sum()
}

/// The sum of one slot's values, one for each CPU.
fn sum(values: &[u8]) -> SlotCounters {
    const { assert!(COUNTERS + 4 == WORDS) };
    per_cpu(values).fold(SlotCounters::default(), |sum, cpu| {
        let [.., packets, bytes, reply_packets, reply_bytes] = cpu;
        add(
            sum,
            SlotCounters {
                packets: packets + cpu[SUPPRESSED],
                bytes,
                reply_packets,
                reply_bytes,
            },
        )
    })
}
