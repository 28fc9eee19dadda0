//! The rings of events in userspace: mapped into memory and only read, so that any number of
//! readers get the same events, each at its own position.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use aya::maps::MapData;
use sg_common::event::{Event, EventRing, EventSlot, EventWords, SNAP_WORDS};
use sg_common::flow_table::Word;

use super::error::KernelError;
use super::pins::InterfacePins;
use super::sys;

/// Room for events of all CPUs together, unless each has its minimum then.
const SLOTS: u32 = 4096;
/// The least room for each CPU: all events that one CPU writes in half a second, besides
/// the first one of each slot (see [`sg_common::event_budget`]).
const FEWEST: u32 = 512;
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

/// How many CPUs handle packets now; one if that is unknown.
pub(super) fn online_cpus() -> u32 {
    aya::util::online_cpus().map_or(1, |cpus| u32::try_from(cpus.len()).unwrap_or(u32::MAX))
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

/// A reader's position in the rings of an attachment.
pub struct EventReader {
    rings: sys::MapMemory,
    slots: sys::MapMemory,
    /// How many slots each CPU has.
    share: usize,
    /// The number of the next event to read, for each CPU.
    next: Vec<u64>,
}

/// An event and the first bytes of its packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub event: Event,
    pub bytes: Vec<u8>,
}

/// The events since the last reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The events, ordered by time.
    pub events: Vec<Taken>,
    /// How many were overwritten before they were read.
    pub lost: u64,
}

/// Events that policies log, since the rings were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoggedSoFar {
    /// Those that were written.
    pub written: u64,
    /// Those that were not, for being over a limit.
    pub suppressed: u64,
}

impl EventReader {
    /// Opens the rings of an interface, beginning with the oldest event.
    pub fn from_the_first(pins: &InterfacePins) -> Result<Self, KernelError> {
        let mut reader = Self::open(pins)?;
        reader.next.fill(0);
        Ok(reader)
    }

    /// Opens the rings of an interface, beginning with the next event that is written.
    pub fn open(pins: &InterfacePins) -> Result<Self, KernelError> {
        let share = slots_at(pins)? as usize;
        let open = |path: std::path::PathBuf| {
            MapData::from_pin(&path)
                .map_err(|e| KernelError::at_pin("opening", &path, sys::map_error(e)))
        };
        let (rings, slots) = (open(pins.event_rings())?, open(pins.event_slots())?);
        Self::of_maps(&rings, &slots, share)
    }

    /// Opens the rings in these maps. Each CPU has `share` slots.
    pub(super) fn of_maps(
        rings: &MapData,
        slots: &MapData,
        share: usize,
    ) -> Result<Self, KernelError> {
        let failed = |e| KernelError::io("mapping the events into memory", e);
        let map = |map: &MapData, value: usize| {
            let entries = map
                .info()
                .map_err(|e| failed(sys::map_error(e)))?
                .max_entries();
            sys::MapMemory::read_only(map.fd().as_fd(), entries as usize * value).map_err(failed)
        };
        let mut reader = EventReader {
            rings: map(rings, size_of::<EventRing<u64>>())?,
            slots: map(slots, size_of::<EventSlot<u64>>())?,
            share,
            next: Vec::new(),
        };
        reader.skip();
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

    /// Goes on behind the newest event.
    pub fn skip(&mut self) {
        self.next = self
            .rings()
            .iter()
            .map(|r| Word::load(&r.written))
            .collect();
    }

    /// Whether no event has been written or begun since the last reading: counts of written events
    /// that were read in between belong to what was read. `earlier` is one of them.
    pub(crate) fn is_at_the_end(&self, earlier: u64) -> bool {
        let mut rings = self.rings().iter().zip(&self.next);
        rings.all(|(ring, next)| ring.is_at(*next, earlier))
    }

    /// What the headers of the rings say of the events that policies log.
    pub(crate) fn logged_so_far(&self) -> LoggedSoFar {
        let mut sum = LoggedSoFar::default();
        for ring in self.rings() {
            sum.written += Word::load(&ring.logged);
            sum.suppressed += Word::load(&ring.logged_suppressed);
        }
        sum
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
                    Some((words, data)) => drained.events.push(taken(&words, &data)),
                    None => drained.lost += 1,
                }
            }
            *next = written;
        }
        self.next = next;
        drained.events.sort_by_key(|taken| taken.event.time);
        drained
    }
}

fn taken(words: &EventWords, data: &[u64; SNAP_WORDS]) -> Taken {
    let event = Event::from_words(words);
    let bytes = data.iter().flat_map(|word| word.to_ne_bytes());
    Taken {
        bytes: bytes.take(event.captured.into()).collect(),
        event,
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
        assert_eq!((slots_for(16), slots_for(1000)), (512, 512));
    }

    #[test]
    fn the_highest_cpu_is_the_last_of_the_list() {
        for (list, last) in [("0\n", 0), ("0-3\n", 3), ("0-3,8", 8), ("0,2-63\n", 63)] {
            assert_eq!(highest(list), Some(last), "{list}");
        }
        assert_eq!(highest("\n"), None);
    }
}
