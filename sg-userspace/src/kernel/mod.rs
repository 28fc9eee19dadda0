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
pub mod tables;

use sg_common::counters::SlotCounters;

pub use attach::{Applied, ApplyOptions, DEFAULT_MAX_FLOWS, EgressHook, XdpMode, apply, detach};
pub use error::KernelError;
pub(crate) use slots::{add as add_counts, since as counts_since};

/// The interface index of the link pinned at `path`: zero when the interface is gone, `None` when
/// there is no such link.
pub(crate) fn link_ifindex(path: &std::path::Path) -> Option<u32> {
    use std::os::fd::AsFd;
    let link = sys::open_pin(path).ok()?;
    sys::link_ifindex(link.as_fd()).ok()
}

/// Every value of a pinned counter map, summed over CPUs, in the order of the slots.
pub(crate) fn read_counters(path: &std::path::Path) -> Result<Vec<SlotCounters>, KernelError> {
    use std::os::fd::AsFd;
    let what = || format!("reading {}", path.display());
    let info = aya::maps::MapInfo::from_pin(path).map_err(|e| KernelError::bpf(what(), e))?;
    let cpus = aya::util::nr_cpus().map_err(|(file, e)| KernelError::io(file, e))?;
    let map = sys::open_pin(path).map_err(|e| KernelError::io(what(), e))?;
    const LEN: usize = size_of::<SlotCounters>();
    let bytes = sys::read_per_cpu_array(map.as_fd(), info.max_entries(), LEN, cpus)
        .map_err(|e| KernelError::io(what(), e))?;
    let (words, _) = bytes.as_chunks::<8>();
    let (cpus_of_slots, _) = words.as_chunks::<{ LEN / 8 }>();
    Ok(cpus_of_slots
        .chunks_exact(cpus)
        .map(|slot| {
            slot.iter().fold(SlotCounters::default(), |sum, cpu| {
                let [packets, bytes, reply_packets, reply_bytes] = cpu.map(u64::from_ne_bytes);
                slots::add(
                    sum,
                    SlotCounters {
                        packets,
                        bytes,
                        reply_packets,
                        reply_bytes,
                    },
                )
            })
        })
        .collect())
}
