//! Counters per rule and per reason, from the pinned maps (SPEC section 4).

use aya::maps::PerCpuArray;
use sg_common::counters::SlotCounters;

use crate::kernel::KernelError;
use crate::kernel::pins::InterfacePins;
use crate::kernel::state::open_map;

/// Every slot's counts since its map was created, summed over CPUs and over the interface's
/// `maps` counter maps.
pub(crate) fn raw_counters(
    pins: &InterfacePins,
    maps: usize,
) -> Result<Vec<SlotCounters>, KernelError> {
    let mut sums: Vec<SlotCounters> = Vec::new();
    for index in 0..maps {
        let path = pins.counters(index);
        let map = open_map(&path)?;
        let opening = |e| KernelError::bpf(format!("reading {}", path.display()), e);
        let array: PerCpuArray<_, SlotCounters> = PerCpuArray::try_from(&map).map_err(opening)?;
        sums.resize(
            sums.len().max(array.len() as usize),
            SlotCounters::default(),
        );
        for slot in 0..array.len() {
            let sum = &mut sums[slot as usize];
            for cpu in array.get(&slot, 0).map_err(opening)?.iter() {
                *sum = crate::kernel::add_counts(*sum, *cpu);
            }
        }
    }
    Ok(sums)
}
