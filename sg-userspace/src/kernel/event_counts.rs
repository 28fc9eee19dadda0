//! Reads what was done with the events of each counter slot, from the pinned maps.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use sg_common::event_budget::EventCounts;

use super::error::KernelError;
use super::pins::InterfacePins;
use super::shared::read_suppressed;
use super::sys;

/// Events of one slot of an interface since it was attached, on all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotEvents {
    pub logged: u64,
    pub logged_suppressed: u64,
    pub watched: u64,
    pub watched_suppressed: u64,
}

impl SlotEvents {
    /// Those that were written.
    pub fn written(&self) -> u64 {
        self.logged + self.watched
    }

    /// Those that were not, for being over a limit.
    pub fn suppressed(&self) -> u64 {
        self.logged_suppressed + self.watched_suppressed
    }

    fn add(&mut self, of: &EventCounts) {
        self.logged += of.logged;
        self.logged_suppressed += of.logged_suppressed;
        self.watched += of.watched;
        self.watched_suppressed += of.watched_suppressed;
    }
}

/// The events of every slot, in the order of the slots, by the index of the interface.
pub(crate) fn event_counts(
    pins: &InterfacePins,
) -> Result<BTreeMap<u32, Vec<SlotEvents>>, KernelError> {
    let mut all = BTreeMap::new();
    for one in pins.of_attachment()? {
        let mut sums = Vec::new();
        let mut index = 0;
        // As many as there are counter maps.
        while one.event_counts(index).exists() {
            read(&one, index, &mut sums)?;
            index += 1;
        }
        all.insert(one.ifindex, sums);
    }
    Ok(all)
}

/// Words of [`EventCounts`].
const WORDS: usize = size_of::<EventCounts>() / 8;

fn read(pins: &InterfacePins, index: usize, sums: &mut Vec<SlotEvents>) -> Result<(), KernelError> {
    let path = pins.event_counts(index);
    let reading = |e| KernelError::at_pin("reading", &path, e);
    let map = sys::open_pin_to_read(&path).map_err(reading)?;
    let slots = sys::map_info(&path).map_err(reading)?.max_entries();
    let cpus = aya::util::nr_cpus().map_err(|(file, e)| KernelError::io(file, e))?;
    let bytes = sys::read_per_cpu_array(map.as_fd(), slots, size_of::<EventCounts>(), cpus)
        .map_err(reading)?;
    let (words, _) = bytes.as_chunks::<8>();
    let (values, _) = words.as_chunks::<WORDS>();
    if sums.len() < slots as usize {
        sums.resize(slots as usize, SlotEvents::default());
    }
    for (sum, cpus) in sums.iter_mut().zip(values.chunks_exact(cpus)) {
        for words in cpus {
            // Their order is that of the fields.
            let [.., logged, logged_suppressed, watched, watched_suppressed] =
                words.map(u64::from_ne_bytes);
            sum.add(&EventCounts {
                logged,
                logged_suppressed,
                watched,
                watched_suppressed,
                ..EventCounts::default()
            });
        }
    }
    let suppressed = read_suppressed(&pins.counters(index))?;
    for (sum, more) in sums.iter_mut().zip(suppressed) {
        sum.watched_suppressed += more;
    }
    Ok(())
}
