//! The table itself: opened by its pins, looked up, and gone through.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use aya::maps::MapData;
use sg_common::flow::TIMEOUTS;
use sg_common::flow_entry::{ENTRY_WORDS, FlowKey, HASH_KEYS, hash};
use sg_common::flow_ports::PORT_COUNTS;
use sg_common::flow_table::{
    BUSY, Found, LINE_WORDS, Line, Page, Place, Spot, Table, WAYS, find, give_back, read_any,
    tags_of,
};

use super::secret::{FlowKeys, read_keys};
use super::tuple::{FlowEntry, entry_of};
use crate::kernel::error::KernelError;
use crate::kernel::load::generation::ages;
use crate::kernel::load::object::PORT_COUNTS_LEN;
use crate::kernel::map_memory::{failed, memory_to_read, open_map, shared_memory};
use crate::kernel::pins::InterfacePins;
use crate::kernel::sys;

/// Opens the counts of flows by local port, or creates them.
pub(in crate::kernel) fn port_counts(pins: &InterfacePins) -> Result<MapData, KernelError> {
    let path = pins.flow_ports();
    if path.exists() {
        return open_map(&path);
    }
    sys::create_blob("sg_flow_ports", PORT_COUNTS_LEN as u32)
        .and_then(|map| map.pin(&path).map_err(sys::pin_error).map(|()| map))
        .map_err(|e| failed(&path, "creating", e))
}

/// How many groups the table has whose pages are pinned at `path`.
pub(in crate::kernel) fn groups_at(path: &Path) -> Result<u32, KernelError> {
    sys::map_info(path)
        .map(|info| info.max_entries())
        .map_err(|e| KernelError::at_pin("opening", path, e))
}

/// The flow table of an interface.
pub struct FlowTable {
    tags: sys::MapMemory,
    pages: sys::MapMemory,
    port_counts: sys::MapMemory,
    groups: u32,
    keys: FlowKeys,
    /// The ages at which flows expire. Expired flows are evicted first.
    ages: [u32; 16],
}

impl Table for FlowTable {
    type Word = AtomicU64;

    fn line(&self, group: u32) -> Option<&Line<AtomicU64>> {
        let (lines, _) = self.tags.counters().as_chunks::<LINE_WORDS>();
        lines.get(group as usize)
    }

    fn page(&self, group: u32) -> Option<&Page<AtomicU64>> {
        let (entries, _) = self.pages.counters().as_chunks::<ENTRY_WORDS>();
        let (words, _) = entries.as_chunks::<WAYS>();
        words.as_chunks::<LINE_WORDS>().0.get(group as usize)
    }

    fn port_counts(&self) -> Option<&[AtomicU64; PORT_COUNTS]> {
        self.port_counts.counters().first_chunk()
    }

    fn time_out(&self, state: u8) -> u32 {
        self.ages[usize::from(state & 15)]
    }

    fn give_back(&self, group: u32, word: u32, way: u32) {
        give_back(self, group, word, way);
    }
}

impl FlowTable {
    /// Opens the table of an interface. `timeouts` say which flows have expired.
    pub fn open(pins: &InterfacePins, timeouts: &[u32; TIMEOUTS]) -> Result<Self, KernelError> {
        Self::view(pins, timeouts, shared_memory)
    }

    /// Opens the table for reading. On a read-only file system it is a copy.
    pub(crate) fn open_to_read(
        pins: &InterfacePins,
        timeouts: &[u32; TIMEOUTS],
    ) -> Result<Self, KernelError> {
        Self::view(pins, timeouts, memory_to_read)
    }

    fn view(
        pins: &InterfacePins,
        timeouts: &[u32; TIMEOUTS],
        open: impl Fn(&Path, u32, usize) -> io::Result<sys::MapMemory>,
    ) -> Result<Self, KernelError> {
        let (tags, pages) = (pins.flow_tags(), pins.flow_pages());
        let groups = groups_at(&pages)?;
        let view = |path: &Path, items: u32, bytes: usize| {
            open(path, items, bytes).map_err(|e| KernelError::at_pin("opening", path, e))
        };
        Ok(FlowTable {
            tags: view(&tags, groups, size_of::<Line<u64>>())?,
            pages: view(&pages, groups, size_of::<Page<u64>>())?,
            port_counts: view(&pins.flow_ports(), 1, PORT_COUNTS_LEN)?,
            groups,
            keys: read_keys(&pins.flow_keys())?,
            ages: ages(timeouts),
        })
    }

    /// The table in these maps, which no pin has. Its counts of flows by local port are this
    /// process's own.
    pub(in crate::kernel) fn private(
        tags: BorrowedFd<'_>,
        pages: BorrowedFd<'_>,
        keys: FlowKeys,
        timeouts: &[u32; TIMEOUTS],
    ) -> Result<Self, KernelError> {
        let failed = |e| KernelError::io("opening a private flow table", e);
        let groups = sys::entries(pages).map_err(failed)?;
        let view = |map, bytes: usize| {
            sys::MapMemory::shared(map, groups as usize * bytes).map_err(failed)
        };
        Ok(FlowTable {
            tags: view(tags, size_of::<Line<u64>>())?,
            pages: view(pages, size_of::<Page<u64>>())?,
            port_counts: sys::MapMemory::of_zeros(PORT_COUNTS_LEN).map_err(failed)?,
            groups,
            keys,
            ages: ages(timeouts),
        })
    }

    #[doc(hidden)]
    pub fn spot(&self, key: &FlowKey) -> Spot {
        Spot::of(hash(key, |i| self.keys[i % HASH_KEYS]), self.groups)
    }

    /// Visits every way that is in use, with its tag and its place.
    pub(super) fn each_tag(&self, mut visit: impl FnMut(u64, Place)) {
        for group in 0..self.groups {
            let Some(line) = self.line(group) else {
                return;
            };
            for word in 0..LINE_WORDS as u32 {
                let tags = tags_of(line, word);
                let taken = (0..WAYS as u32).filter(|way| tags >> (way * 8) & 0xff != 0);
                for way in taken {
                    visit(tags >> (way * 8) & 0xff, Place { group, word, way });
                }
            }
        }
    }

    pub(super) fn entry(&self, place: Place) -> Option<&[AtomicU64; ENTRY_WORDS]> {
        let words = self.page(place.group)?.get(place.word as usize)?;
        words.get(place.way as usize)
    }

    /// Visits every flow that does not change while it is read.
    pub(in crate::kernel) fn each_found(&self, mut visit: impl FnMut(FlowKey, Found)) {
        self.each_tag(|tag, place| {
            let read = self.entry(place).filter(|_| tag != BUSY).and_then(read_any);
            if let Some((key, contents)) = read {
                let at = place.word * WAYS as u32 + place.way;
                let group = place.group;
                visit(
                    key,
                    Found {
                        contents,
                        group,
                        at,
                    },
                );
            }
        });
    }

    /// The entry of a flow, with its times relative to `now`.
    pub(crate) fn entry_of(&self, key: &FlowKey, now: u64) -> Option<FlowEntry> {
        Some(entry_of(key, &self.find(key)?, now))
    }

    /// Visits every flow, with its times relative to `now`.
    pub fn each(&self, now: u64, mut visit: impl FnMut(FlowEntry)) {
        self.each_found(|key, found| visit(entry_of(&key, &found, now)));
    }

    /// Finds the entry of a flow.
    pub fn find(&self, key: &FlowKey) -> Option<Found> {
        let mut found = Found::NOTHING;
        find(self, &self.spot(key), key, &mut found).then_some(found)
    }
}
