//! Says that somebody watches what is dropped: two words in a map that all generations of an
//! attachment share. Without a watcher a dropped packet finds a zero there, and nothing more
//! happens. A watch that is not renewed ends by itself: see [`sg_common::event_budget`].

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use aya::maps::MapData;
use sg_common::event::{HEAD, SNAP};
use sg_common::event_budget::{WATCH_TICKS, tick_of};

use super::error::KernelError;
use super::load::object::EVENT_WATCH_LEN;
use super::map_memory::{failed, open_map, shared_memory};
use super::pins::InterfacePins;
use super::{sys, trial};

/// The pinned map, made if it is not there.
pub(super) fn map(pins: &InterfacePins) -> Result<MapData, KernelError> {
    let path = pins.event_watch();
    if path.exists() {
        return open_map(&path);
    }
    create()
        .and_then(|map| map.pin(&path).map_err(sys::pin_error).map(|()| map))
        .map_err(|e| failed(&path, "creating", e))
}

/// A map for programs that share none. The one that comes with them cannot be mapped into memory.
pub(super) fn private() -> Result<MapData, KernelError> {
    create().map_err(|e| KernelError::io("creating the map of who watches", e))
}

fn create() -> io::Result<MapData> {
    sys::create_blob("sg_event_watch", EVENT_WATCH_LEN as u32)
}

/// A watch on what an attachment drops. It lasts only as long as it is renewed, several times in a
/// second.
pub struct Watch {
    memory: sys::MapMemory,
    snap: u64,
    /// The tick of the last renewal.
    renewed: u64,
}

impl Watch {
    /// Begins to watch. `snap` is how many bytes of each packet are wanted; there are always some
    /// for the headers.
    pub fn begin(pins: &InterfacePins, snap: u32) -> Result<Watch, KernelError> {
        let path = pins.event_watch();
        let memory = shared_memory(&path, 1, EVENT_WATCH_LEN)
            .map_err(|e| KernelError::at_pin("opening", &path, e))?;
        Ok(Watch::of(memory, snap))
    }

    /// A watch by a map that is open.
    pub(super) fn of_map(map: &MapData) -> Result<Watch, KernelError> {
        let memory = sys::MapMemory::shared(map.fd().as_fd(), EVENT_WATCH_LEN)
            .map_err(|e| KernelError::io("mapping who watches into memory", e))?;
        Ok(Watch::of(memory, 0))
    }

    fn of(memory: sys::MapMemory, snap: u32) -> Watch {
        let mut watch = Watch {
            memory,
            snap: u64::from(snap).clamp(HEAD, SNAP),
            renewed: 0,
        };
        watch.renew();
        watch
    }

    /// Goes on watching. False if nobody watched for some time since the last renewal: what was
    /// dropped then has left no event and is in no count of events.
    pub fn renew(&mut self) -> bool {
        let [tick, snap, ..] = self.memory.counters() else {
            return false;
        };
        let now = tick_of(trial::monotonic_of_programs());
        // Other watchers write the same words: the latest tick counts, and the most bytes.
        let before = tick.fetch_max(now, Ordering::SeqCst);
        snap.fetch_max(self.snap, Ordering::SeqCst);
        let was_watched = before != 0 && now.saturating_sub(before) <= WATCH_TICKS;
        let is_first = self.renewed == 0;
        self.renewed = now;
        was_watched || is_first
    }

    /// Ends the watch at once, also that of other watchers until they renew it. A watch that is
    /// merely dropped ends by itself.
    pub fn end(self) {
        if let [tick, ..] = self.memory.counters() {
            tick.store(0, Ordering::SeqCst);
        }
    }
}
