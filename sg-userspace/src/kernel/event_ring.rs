//! The rings of events as userspace has them: mapped into memory and only read, so that any
//! number of readers see the same events, each from where it stands.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use aya::maps::MapInfo;
use sg_common::event::{Event, EventRing, EventSlot};
use sg_common::flow_table::Word;

use super::error::KernelError;
use super::pins::InterfacePins;
use super::sys;

/// Events of all CPUs together for which there is room, if they are few enough for it.
const SLOTS: u32 = 4096;
/// A CPU's, at least: a quarter of what it may write in a second, and more than it does between
/// two looks of a reader that looks ten times a second.
const FEWEST: u32 = 256;
const MOST: u32 = 2048;

/// Events for which each of so many CPUs has room, a power of two.
pub(super) fn slots_for(cpus: u32) -> u32 {
    let share = (SLOTS / cpus.max(1)).clamp(FEWEST, MOST);
    1 << share.ilog2()
}

/// CPUs that the machine may ever have, counted up to the one of the highest number.
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

/// Events for which a CPU has room where the rings are pinned.
pub(super) fn slots_at(pins: &InterfacePins) -> Result<u32, KernelError> {
    let of = |path: std::path::PathBuf| {
        sys::open_pin_to_read(&path)
            .and_then(|map| sys::map_shape(map.as_fd()))
            .map(|shape| shape.entries)
            .map_err(|e| KernelError::io(format!("opening {}", path.display()), e))
    };
    // Where somebody has removed them, as many as are made again.
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

/// A place in the rings of an interface, from which it goes on.
pub struct EventReader {
    rings: sys::MapMemory,
    slots: sys::MapMemory,
    /// Slots of each CPU.
    share: usize,
    /// The event of each CPU to go on with.
    next: Vec<u64>,
    /// Suppressed events that have been reported.
    suppressed: u64,
}

/// What has happened since the last look. All events together are what the programs made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// In the order of their times.
    pub events: Vec<Event>,
    /// Overwritten before they could be read.
    pub lost: u64,
    /// Never written, for being over the rate limit.
    pub suppressed: u64,
}

impl EventReader {
    /// Opens the rings of an interface, from the first event that was ever written to them.
    pub fn from_the_first(pins: &InterfacePins) -> Result<Self, KernelError> {
        let mut reader = Self::open(pins)?;
        reader.next.fill(0);
        reader.suppressed = 0;
        Ok(reader)
    }

    /// Opens the rings of an interface. What is in them by now is not given.
    pub fn open(pins: &InterfacePins) -> Result<Self, KernelError> {
        let share = slots_at(pins)? as usize;
        let map = |path: std::path::PathBuf, value: usize| {
            let failed = |e| KernelError::io(format!("opening {}", path.display()), e);
            let map = sys::open_pin(&path).map_err(failed)?;
            let entries = MapInfo::from_pin(&path)
                .map_err(|e| KernelError::bpf(format!("opening {}", path.display()), e))?
                .max_entries();
            sys::MapMemory::read_only(map.as_fd(), entries as usize * value).map_err(failed)
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
        // SAFETY: a ring is atomic words and padding, and all bit patterns are valid; the mapping
        // begins at a page, and the length is that of the whole rings in it.
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

    /// Everything since the last call, or since the rings were opened.
    pub fn drain(&mut self) -> Drained {
        let mut drained = Drained::default();
        let mut next = std::mem::take(&mut self.next);
        let slots = self.slots().chunks_exact(self.share);
        for ((ring, slots), next) in self.rings().iter().zip(slots).zip(&mut next) {
            let written = Word::load(&ring.written);
            let oldest = written.saturating_sub(self.share as u64);
            drained.lost += oldest.saturating_sub(*next);
            for number in oldest.max(*next)..written {
                // A power of two, as was looked at when it was opened.
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
