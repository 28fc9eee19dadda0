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

/// The events of an interface.
#[derive(Clone, Debug)]
pub struct InterfaceEvents {
    /// Its index. One that is made anew has another, and goes on with the same counts.
    pub ifindex: u32,
    /// Of every slot, in the order of the slots.
    pub slots: Vec<SlotEvents>,
}

/// The events of every interface, by the kernel's number of the first map that counts them.
pub(crate) fn event_counts(
    pins: &InterfacePins,
) -> Result<BTreeMap<u32, InterfaceEvents>, KernelError> {
    let mut all = BTreeMap::new();
    for one in pins.of_attachment()? {
        match of_interface(&one) {
            Ok(found) => all.extend(found),
            // It was detached or moved meanwhile.
            Err(_) if !one.exists() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn of_interface(pins: &InterfacePins) -> Result<Option<(u32, InterfaceEvents)>, KernelError> {
    let mut first = None;
    let mut slots = Vec::new();
    let mut index = 0;
    // As many as there are counter maps.
    while pins.event_counts(index).exists() {
        let id = read(pins, index, &mut slots)?;
        first.get_or_insert(id);
        index += 1;
    }
    let ifindex = pins.ifindex;
    Ok(first.map(|id| (id, InterfaceEvents { ifindex, slots })))
}

/// Words of [`EventCounts`].
const WORDS: usize = size_of::<EventCounts>() / 8;

/// Adds what one map counts. Returns the kernel's number of the map.
fn read(
    pins: &InterfacePins,
    index: usize,
    sums: &mut Vec<SlotEvents>,
) -> Result<u32, KernelError> {
    let path = pins.event_counts(index);
    let reading = |e| KernelError::at_pin("reading", &path, e);
    let (map, info) = sys::open_map_to_read(&path).map_err(reading)?;
    let slots = info.max_entries();
    let cpus = aya::util::nr_cpus().map_err(|(file, e)| KernelError::io(file, e))?;
    let bytes = sys::read_per_cpu_array(map.fd().as_fd(), slots, size_of::<EventCounts>(), cpus)
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
    Ok(info.id())
}
