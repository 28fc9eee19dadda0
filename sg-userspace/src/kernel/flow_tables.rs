//! Maintenance of an interface's flow table: reading it, sweeping expired flows, flushing, and its
//! use. Fragments are swept and flushed with the flows.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{HashMap, Map};
use serde::Serialize;
use sg_common::flow::{FlowKind, FlowStats, FlowValue, TIMEOUTS, Timeout, is_expired, seconds};
use sg_common::flow_entry::{Contents, age, clock};
use sg_common::flow_table::{LINE_WORDS, Table as _, WAYS, groups_for, kind_of_word};
use sg_common::fragment::{FragmentKey4, FragmentKey6, FragmentValue};

use super::error::KernelError;
pub use super::flow_memory::{FlowEntry, FlowTable, Written, key_of};
use super::load::generation::Generation;
use super::map_memory::{failed, memory_to_read, open_map, shared_memory};
use super::pins::InterfacePins;
use super::sys;

/// The use of the table by one kind of flow since the first policy, in both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowTableUse {
    /// Flows in the table that have not expired.
    pub live: u64,
    pub entered: u64,
    /// Flows that were evicted for new ones.
    pub evicted: u64,
}

/// How many half-open flows a table has entries for that was made for so many established ones. A
/// few are evicted before all are taken: each flow has but some entries that it may have.
pub fn half_open_capacity(max_flows: u32) -> u64 {
    let words = (0..LINE_WORDS as u32).filter(|word| kind_of_word(*word) == FlowKind::HalfOpen);
    u64::from(groups_for(max_flows)) * (words.count() * WAYS) as u64
}

/// How many entries one system call reads.
const BATCH: u32 = 1024;

/// The time on the clock that flow times use.
pub fn monotonic_now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
        .unwrap_or(0)
}

/// A fragment may be refreshed between reading and removing it. One that expired this long ago was
/// silent for much longer than a batch takes.
const GRACE_NS: u64 = 1_000_000_000;

fn open_to_read(path: &Path) -> Result<OwnedFd, KernelError> {
    sys::open_pin_to_read(path).map_err(|e| KernelError::at_pin("opening", path, e))
}

/// Visits every entry of the hash map pinned at `path`.
fn each<K: aya::Pod, V: aya::Pod>(path: &Path, visit: impl FnMut(K, V)) -> Result<(), KernelError> {
    let map = open_to_read(path)?;
    sys::each_hash_entry(map.as_fd(), BATCH, visit)
        .map_err(|e| KernelError::at_pin("reading", path, e))
}

/// Removes the entries for which `is_over` is true, and returns their number.
fn remove_where<K: aya::Pod, V: aya::Pod>(
    path: &Path,
    is_over: impl Fn(&V) -> bool,
) -> Result<u64, KernelError> {
    let map = open_map(path)?;
    let mut over: Vec<K> = Vec::new();
    sys::each_hash_entry(map.fd().as_fd(), BATCH, |key, value: V| {
        if is_over(&value) {
            over.push(key);
        }
    })
    .map_err(|e| KernelError::at_pin("reading", path, e))?;
    let sweeping = |e| failed(path, "sweeping", sys::map_error(e));
    let map = Map::from_map_data(map).map_err(sweeping)?;
    let mut map = HashMap::<_, K, V>::try_from(map).map_err(sweeping)?;
    let mut removed = 0;
    for key in &over {
        match map.remove(key).map_err(sys::map_error) {
            Ok(()) => removed += 1,
            // The entry was evicted or removed by a packet meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(failed(path, "sweeping", e)),
        }
    }
    Ok(removed)
}

/// Visits every flow of the interface.
pub fn each_flow(pins: &InterfacePins, visit: impl FnMut(FlowEntry)) -> Result<(), KernelError> {
    let table = FlowTable::open_to_read(pins, &Timeout::defaults())?;
    table.each(monotonic_now(), visit);
    Ok(())
}

/// Visits the counter slots that remembered first fragments name.
pub(super) fn each_fragment_slot(
    pins: &InterfacePins,
    mut visit: impl FnMut(u32),
) -> Result<(), KernelError> {
    each(&pins.fragments4(), |_: FragmentKey4, v: FragmentValue| {
        visit(v.slot)
    })?;
    each(&pins.fragments6(), |_: FragmentKey6, v: FragmentValue| {
        visit(v.slot)
    })
}

/// Calls [`FlowTable::may_have_cut`] for the table pinned at `pins`. True if it cannot be read.
pub fn may_have_cut(
    pins: &InterfacePins,
    in_force: Option<&Generation>,
    next: &Generation,
) -> bool {
    let table = FlowTable::open_to_read(pins, &next.timeouts);
    table.map_or(true, |table| {
        table.may_have_cut(in_force, next, monotonic_now())
    })
}

/// Whether a flow is stamped with a later epoch than this one; if the table cannot be read, it may
/// be.
pub(super) fn has_later_flow(pins: &InterfacePins, epoch: u32) -> bool {
    let mut has_later = false;
    each_flow(pins, |flow| has_later |= flow.value.generation > epoch).is_err() || has_later
}

/// Removes the flows that have expired at `now` (`CLOCK_MONOTONIC` nanoseconds), and the fragments
/// that expired a second or more ago. Returns the number of flows.
pub fn sweep(
    pins: &InterfacePins,
    timeouts: &[u32; TIMEOUTS],
    now: u64,
) -> Result<u64, KernelError> {
    let before = now.saturating_sub(GRACE_NS);
    let fragment = timeouts[Timeout::Fragment as usize];
    let is_over = |v: &FragmentValue| is_expired(before, v.seen, fragment);
    remove_where::<FragmentKey4, _>(&pins.fragments4(), is_over)?;
    remove_where::<FragmentKey6, _>(&pins.fragments6(), is_over)?;
    let table = FlowTable::open(pins, timeouts)?;
    table.reclaim();
    let has_expired = |flow: &Contents| {
        age(clock(now), flow.head.last_seen()) > table.time_out(flow.head.state())
    };
    remove_flows(pins, &table, has_expired)
}

/// Removes all fragments and all flows of earlier generations, except for those of TCP, which are
/// cut. The programs of this generation do the same at a flow's next packet.
pub(super) fn flush(pins: &InterfacePins, generation: u32) -> Result<(), KernelError> {
    remove_where::<FragmentKey4, FragmentValue>(&pins.fragments4(), |_| true)?;
    remove_where::<FragmentKey6, FragmentValue>(&pins.fragments6(), |_| true)?;
    let table = FlowTable::open(pins, &Timeout::defaults())?;
    let ledger = Ledger::open(pins)?;
    ledger.add_left(table.flush(generation, monotonic_now()));
    Ok(())
}

fn remove_flows(
    pins: &InterfacePins,
    table: &FlowTable,
    is_over: impl Fn(&Contents) -> bool,
) -> Result<u64, KernelError> {
    let ledger = Ledger::open(pins)?;
    let removed = table.remove_where(is_over);
    ledger.add_left(removed);
    Ok(removed.iter().sum())
}

/// The use of the table by both kinds, in the order of [`FlowKind::BOTH`]. `timeouts` say which
/// flows have expired.
pub fn table_use(
    pins: &InterfacePins,
    timeouts: &[u32; TIMEOUTS],
) -> Result<[FlowTableUse; 2], KernelError> {
    let mut live = [0; 2];
    let now = monotonic_now();
    each_flow(pins, |flow| {
        let FlowValue {
            state, last_seen, ..
        } = flow.value;
        if !is_expired(now, last_seen, seconds(timeouts, state)) {
            live[flow.kind as usize] += 1;
        }
    })?;
    table_use_with(pins, live)
}

/// As [`table_use`], where the live flows have been counted already.
pub fn table_use_with(
    pins: &InterfacePins,
    live: [u64; 2],
) -> Result<[FlowTableUse; 2], KernelError> {
    let ledger = Ledger::open_to_read(pins)?;
    let counted = packet_path_stats(pins)?;
    Ok(FlowKind::BOTH.map(|kind| {
        let counted = counted[kind as usize];
        FlowTableUse {
            live: live[kind as usize],
            entered: counted.entered + ledger.read(ENTERED, kind),
            evicted: counted.evicted + ledger.read(EVICTED, kind),
        }
    }))
}

/// How many flows of each kind were evicted, as [`table_use`] has it. To map the table into memory
/// would take longer than everything else.
pub(crate) fn evicted(pins: &InterfacePins) -> Result<[u64; 2], KernelError> {
    let ledger = Ledger::open_to_read(pins)?;
    let counted = packet_path_stats(pins)?;
    Ok(FlowKind::BOTH.map(|kind| counted[kind as usize].evicted + ledger.read(EVICTED, kind)))
}

/// The packet path's statistics of both kinds, summed over all CPUs.
fn packet_path_stats(pins: &InterfacePins) -> Result<[FlowStats; 2], KernelError> {
    let path = pins.flow_stats();
    let map = open_to_read(&path)?;
    let cpus = aya::util::nr_cpus().map_err(|(file, e)| KernelError::io(file, e))?;
    let bytes = sys::read_per_cpu_array(
        map.as_fd(),
        FlowKind::BOTH.len() as u32,
        size_of::<FlowStats>(),
        cpus,
    )
    .map_err(|e| KernelError::at_pin("reading", &path, e))?;
    let (words, _) = bytes.as_chunks::<8>();
    let mut sums = [FlowStats::default(); 2];
    for (sum, of_kind) in sums.iter_mut().zip(words.chunks_exact(3 * cpus)) {
        for [entered, left, evicted] in of_kind.as_chunks::<3>().0 {
            sum.entered += u64::from_ne_bytes(*entered);
            sum.left += u64::from_ne_bytes(*left);
            sum.evicted += u64::from_ne_bytes(*evicted);
        }
    }
    Ok(sums)
}

/// How many flows userspace has entered, removed and evicted. Pinned beside the table, so that all
/// processes add to the same numbers.
pub(super) struct Ledger {
    memory: sys::MapMemory,
}

// The indexes of the numbers, each of which exists for both kinds.
const ENTERED: usize = 0;
const LEFT: usize = 1;
const EVICTED: usize = 2;
const LEDGER_WORDS: usize = 6;

impl Ledger {
    /// Creates the ledger if it does not exist.
    pub(super) fn create(pins: &InterfacePins) -> Result<(), KernelError> {
        let path = pins.flow_ledger();
        if path.exists() {
            return Ok(());
        }
        sys::create_blob("sg_flow_ledger", (LEDGER_WORDS * 8) as u32)
            .and_then(|map| map.pin(&path).map_err(sys::pin_error))
            .map_err(|e| failed(&path, "creating", e))
    }

    pub(super) fn open(pins: &InterfacePins) -> Result<Self, KernelError> {
        Self::view(&pins.flow_ledger(), shared_memory)
    }

    fn open_to_read(pins: &InterfacePins) -> Result<Self, KernelError> {
        Self::view(&pins.flow_ledger(), memory_to_read)
    }

    fn view(
        path: &Path,
        open: impl Fn(&Path, u32, usize) -> io::Result<sys::MapMemory>,
    ) -> Result<Self, KernelError> {
        open(path, 1, LEDGER_WORDS * 8)
            .map(|memory| Ledger { memory })
            .map_err(|e| KernelError::at_pin("opening", path, e))
    }

    fn word(&self, what: usize, kind: FlowKind) -> Option<&AtomicU64> {
        self.memory.counters().get(2 * what + kind as usize)
    }

    fn read(&self, what: usize, kind: FlowKind) -> u64 {
        self.word(what, kind)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn add(&self, what: usize, kind: FlowKind, count: u64) {
        if let Some(word) = self.word(what, kind) {
            word.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Adds so many of each kind, in the order of [`FlowKind::BOTH`].
    pub(super) fn add_left(&self, counts: [u64; 2]) {
        for kind in FlowKind::BOTH {
            self.add(LEFT, kind, counts[kind as usize]);
        }
    }

    pub(super) fn add_entered(&self, kind: FlowKind, entered: Written) {
        self.add(ENTERED, kind, entered.is_new.into());
        self.add(EVICTED, kind, entered.evicted.into());
        self.add(LEFT, kind, entered.is_double.into());
        self.add(LEFT, FlowKind::HalfOpen, entered.has_replaced.into());
    }
}
