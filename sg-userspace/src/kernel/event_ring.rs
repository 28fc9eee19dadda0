//! The rings of events in userspace: mapped into memory and only read, so that any number of
//! readers get the same events, each at its own position.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use aya::maps::MapData;
use sg_common::event::{Event, EventRing, EventSlot};
use sg_common::flow_table::Word;

use super::error::KernelError;
use super::pins::InterfacePins;
use super::sys;

/// Room for events of all CPUs together, unless each has its minimum then.
const SLOTS: u32 = 4096;
/// The least room for each CPU: a quarter of the events that the rate limit allows in a second, and
/// more than come in the tenth of a second between two readings.
const FEWEST: u32 = 256;
const MOST: u32 = 2048;

/// Room for events of each of so many CPUs, a power of two.
pub(super) fn slots_for(cpus: u32) -> u32 {
    let share = (SLOTS / cpus.max(1)).clamp(FEWEST, MOST);
    1 << share.ilog2()
}

/// How many CPUs the machine may have: the highest possible number plus one.
pub(super) fn possible_cpus() -> Result<u32, KernelError> {
    const PATH: &str = "/sys/devices/system/cpu/possible";
    let text =
        fs::read_to_string(PATH).map_err(|e| KernelError::io(format!("reading {PATH}"), e))?;
    highest(&text).map(|last| last + 1).ok_or_else(|| {
        let error = std::io::Error::other(format!("`{}` is no list of CPUs", text.trim()));
        KernelError::io(format!("reading {PATH}"), error)
    })
}

/// The last number of a list such as `0-3,8`.
fn highest(list: &str) -> Option<u32> {
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// Room for the events of one CPU in the pinned rings.
pub(super) fn slots_at(pins: &InterfacePins) -> Result<u32, KernelError> {
    let of = |path: std::path::PathBuf| {
        sys::map_info(&path)
            .map(|info| info.max_entries())
            .map_err(|e| KernelError::at_pin("opening", &path, e))
    };
    // If the rings were removed, they are created again for all possible CPUs.
    let rings = match pins.event_rings().exists() {
        true => of(pins.event_rings())?,
        false => possible_cpus()?,
    };
    let slots = of(pins.event_slots())?;
    let share = slots.checked_div(rings).unwrap_or(0);
    match share.is_power_of_two() && share * rings == slots {
        true => Ok(share),
        false => Err(KernelError::OtherMap {
            path: pins.event_slots(),
            difference: format!("it has {slots} entries for {rings} CPUs"),
        }),
    }
}

/// A reader's position in the rings of an interface.
pub struct EventReader {
    rings: sys::MapMemory,
    slots: sys::MapMemory,
    /// How many slots each CPU has.
    share: usize,
    /// The number of the next event to read, for each CPU.
    next: Vec<u64>,
    /// How many suppressed events were reported.
    suppressed: u64,
}

/// The events since the last reading. With those lost and suppressed, they are all that the
/// programs have made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The events, ordered by time.
    pub events: Vec<Event>,
    /// How many were overwritten before they were read.
    pub lost: u64,
    /// How many were over the rate limit, and so not written.
    pub suppressed: u64,
}

impl EventReader {
    /// Opens the rings of an interface, beginning with the oldest event.
    pub fn from_the_first(pins: &InterfacePins) -> Result<Self, KernelError> {
        let mut reader = Self::open(pins)?;
        reader.next.fill(0);
        reader.suppressed = 0;
        Ok(reader)
    }

    /// Opens the rings of an interface, beginning with the next event that is written.
    pub fn open(pins: &InterfacePins) -> Result<Self, KernelError> {
        let share = slots_at(pins)? as usize;
        let map = |path: std::path::PathBuf, value: usize| {
            let failed = |e| KernelError::at_pin("opening", &path, e);
            let opened = MapData::from_pin(&path).and_then(|map| Ok((map.info()?, map)));
            let (info, map) = opened.map_err(|e| failed(sys::map_error(e)))?;
            let len = info.max_entries() as usize * value;
            sys::MapMemory::read_only(map.fd().as_fd(), len).map_err(failed)
        };
        let mut reader = EventReader {
            rings: map(pins.event_rings(), size_of::<EventRing<u64>>())?,
            slots: map(pins.event_slots(), size_of::<EventSlot<u64>>())?,
            share,
            next: Vec::new(),
            suppressed: 0,
        };
        reader.next = reader
            .rings()
            .iter()
            .map(|r| Word::load(&r.written))
            .collect();
        reader.suppressed = reader.suppressed_in_all();
        Ok(reader)
    }

    fn rings(&self) -> &[EventRing<AtomicU64>] {
        let words = self.rings.counters();
        const WORDS: usize = size_of::<EventRing<AtomicU64>>() / 8;
        // SAFETY: a ring consists of atomic words and padding, so all bit patterns are valid. The
        // mapping begins at a page, and the length is that of the whole rings in it.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() / WORDS) }
    }

    fn slots(&self) -> &[EventSlot<AtomicU64>] {
        let words = self.slots.counters();
        const WORDS: usize = size_of::<EventSlot<AtomicU64>>() / 8;
        // SAFETY: as above, without padding.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() / WORDS) }
    }

    fn suppressed_in_all(&self) -> u64 {
        self.rings().iter().map(|r| Word::load(&r.suppressed)).sum()
    }

    /// Reads all events since the last call, or since the rings were opened.
    pub fn drain(&mut self) -> Drained {
        let mut drained = Drained::default();
        let mut next = std::mem::take(&mut self.next);
        let slots = self.slots().chunks_exact(self.share);
        for ((ring, slots), next) in self.rings().iter().zip(slots).zip(&mut next) {
            let written = Word::load(&ring.written);
            let oldest = written.saturating_sub(self.share as u64);
            drained.lost += oldest.saturating_sub(*next);
            for number in oldest.max(*next)..written {
                // `share` is a power of two; that was checked when the rings were opened.
                match slots[number as usize & (self.share - 1)].read(number) {
                    Some(words) => drained.events.push(Event::from_words(&words)),
                    None => drained.lost += 1,
                }
            }
            *next = written;
        }
        self.next = next;
        drained.events.sort_by_key(|event| event.time);
        let suppressed = self.suppressed_in_all();
        drained.suppressed = suppressed.wrapping_sub(self.suppressed);
        self.suppressed = suppressed;
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_cpus_has_rings_of_a_power_of_two() {
        for cpus in 0..=8192 {
            let slots = slots_for(cpus);
            assert!(slots.is_power_of_two() && (FEWEST..=MOST).contains(&slots));
        }
        assert_eq!(
            (slots_for(1), slots_for(2), slots_for(6)),
            (2048, 2048, 512)
        );
        assert_eq!((slots_for(16), slots_for(1000)), (256, 256));
    }

    #[test]
    fn the_highest_cpu_is_the_last_of_the_list() {
        for (list, last) in [("0\n", 0), ("0-3\n", 3), ("0-3,8", 8), ("0,2-63\n", 63)] {
            assert_eq!(highest(list), Some(last), "{list}");
        }
        assert_eq!(highest("\n"), None);
    }
}
