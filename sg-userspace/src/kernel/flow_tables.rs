//! An interface's flow tables from userspace: reading, sweeping what has expired, forgetting all,
//! and how many flows were evicted. Everything goes in batches, bucket by bucket, so that the
//! packet path never waits for more than one bucket.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use sg_common::flow::{
    FlowKey4, FlowKey6, FlowKind, FlowStats, FlowValue, TIMEOUTS, Timeout, is_expired,
};
use sg_common::fragment::{FragmentKey4, FragmentKey6, FragmentValue};

use super::pins::InterfacePins;
use super::{KernelError, sys};

/// One entry, whatever its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    pub kind: FlowKind,
    pub local: IpAddr,
    pub remote: IpAddr,
    pub local_port: u16,
    pub remote_port: u16,
    pub protocol: u8,
    pub value: FlowValue,
}

/// What the tables of one kind of flow have seen since the first policy, both families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FlowTableUse {
    /// Flows in the tables now, those included that have expired and not been swept.
    pub live: u64,
    pub entered: u64,
    /// Least recently used flows that made room for new ones.
    pub evicted: u64,
}

/// Number of entries that one system call reads.
const BATCH: u32 = 1024;

/// The clock that flow times are in.
pub fn monotonic_now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
        .unwrap_or(0)
}

/// A flow may come back to life between the look at it and its removal. One that has been expired
/// for this long has been silent for longer than a batch takes by far.
const GRACE_NS: u64 = 1_000_000_000;

fn failed(path: &Path, doing: &str, error: std::io::Error) -> KernelError {
    KernelError::io(format!("{doing} {}", path.display()), error)
}

fn open(path: &Path) -> Result<OwnedFd, KernelError> {
    sys::open_pin(path).map_err(|e| failed(path, "opening", e))
}

/// Visits every entry of the hash map pinned at `path`.
fn each<K: aya::Pod, V: aya::Pod>(path: &Path, visit: impl FnMut(K, V)) -> Result<(), KernelError> {
    let map = open(path)?;
    sys::each_hash_entry(map.as_fd(), BATCH, visit).map_err(|e| failed(path, "reading", e))
}

/// Removes the entries that `is_over` says, and returns how many there were.
fn remove_where<K: aya::Pod, V: aya::Pod>(
    path: &Path,
    is_over: impl Fn(&V) -> bool,
) -> Result<u64, KernelError> {
    let map = open(path)?;
    let mut over: Vec<K> = Vec::new();
    sys::each_hash_entry(map.as_fd(), BATCH, |key, value| {
        if is_over(&value) {
            over.push(key);
        }
    })
    .map_err(|e| failed(path, "reading", e))?;
    let mut removed = 0;
    for key in &over {
        match sys::delete_entry(map.as_fd(), key) {
            Ok(()) => removed += 1,
            // Evicted or removed by a packet meanwhile, which is as good.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(failed(path, "sweeping", e)),
        }
    }
    Ok(removed)
}

/// The pinned tables of one kind, IPv4 and IPv6.
pub(super) fn pins_of(pins: &InterfacePins, kind: FlowKind) -> [std::path::PathBuf; 2] {
    match kind {
        FlowKind::HalfOpen => [pins.half_open4(), pins.half_open6()],
        FlowKind::Established => [pins.flows4(), pins.flows6()],
    }
}

/// Visits every flow of the interface.
pub fn each_flow(
    pins: &InterfacePins,
    mut visit: impl FnMut(FlowEntry),
) -> Result<(), KernelError> {
    for kind in FlowKind::BOTH {
        let [v4, v6] = pins_of(pins, kind);
        each(&v4, |k: FlowKey4, value| {
            let (local, remote) = k.addresses();
            visit(FlowEntry {
                kind,
                local: local.into(),
                remote: remote.into(),
                local_port: k.local_port,
                remote_port: k.remote_port,
                protocol: k.protocol,
                value,
            });
        })?;
        each(&v6, |k: FlowKey6, value| {
            let (local, remote) = k.addresses();
            visit(FlowEntry {
                kind,
                local: local.into(),
                remote: remote.into(),
                local_port: k.local_port,
                remote_port: k.remote_port,
                protocol: k.protocol,
                value,
            });
        })?;
    }
    Ok(())
}

/// The slots that a remembered first fragment points to.
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

/// Removes the flows and fragments that have expired at `now` (`CLOCK_MONOTONIC` nanoseconds), a
/// second or more ago. Returns how many flows that were.
pub fn sweep(
    pins: &InterfacePins,
    timeouts: &[u32; TIMEOUTS],
    now: u64,
) -> Result<u64, KernelError> {
    let now = now.saturating_sub(GRACE_NS);
    let fragment = timeouts[Timeout::Fragment as usize];
    let is_over = |v: &FragmentValue| is_expired(now, v.seen, fragment);
    remove_where::<FragmentKey4, _>(&pins.fragments4(), is_over)?;
    remove_where::<FragmentKey6, _>(&pins.fragments6(), is_over)?;
    remove_flows(pins, |flow| {
        let seconds = timeouts.get(flow.state as usize).copied().unwrap_or(0);
        is_expired(now, flow.last_seen, seconds)
    })
}

/// Forgets every flow and every fragment.
pub(super) fn flush(pins: &InterfacePins) -> Result<(), KernelError> {
    remove_where::<FragmentKey4, FragmentValue>(&pins.fragments4(), |_| true)?;
    remove_where::<FragmentKey6, FragmentValue>(&pins.fragments6(), |_| true)?;
    remove_flows(pins, |_| true).map(drop)
}

fn remove_flows(
    pins: &InterfacePins,
    is_over: impl Fn(&FlowValue) -> bool,
) -> Result<u64, KernelError> {
    let ledger = Ledger::open(pins)?;
    let mut removed = 0;
    for kind in FlowKind::BOTH {
        let [v4, v6] = pins_of(pins, kind);
        let of_kind = remove_where::<FlowKey4, _>(&v4, &is_over)?
            + remove_where::<FlowKey6, _>(&v6, &is_over)?;
        ledger.add_left(kind, of_kind);
        removed += of_kind;
    }
    Ok(removed)
}

/// How the tables of both kinds are used, in the order of [`FlowKind::BOTH`]. Whatever was entered,
/// was not taken out and is not there any more was evicted.
pub fn table_use(pins: &InterfacePins) -> Result<[FlowTableUse; 2], KernelError> {
    let ledger = Ledger::open(pins)?;
    let mut result = [FlowTableUse::default(); 2];
    for (kind, found) in FlowKind::BOTH.into_iter().zip(&mut result) {
        // Entries first: what is entered or leaves while we look must not turn up as evicted.
        let [v4, v6] = pins_of(pins, kind);
        each(&v4, |_: FlowKey4, _: FlowValue| found.live += 1)?;
        each(&v6, |_: FlowKey6, _: FlowValue| found.live += 1)?;
        let counted = packet_path_stats(pins, kind)?;
        found.entered = counted.entered + ledger.entered(kind);
        let left = counted.left + ledger.left(kind);
        found.evicted = found.entered.saturating_sub(left + found.live);
    }
    Ok(result)
}

/// What the packet path has counted, over all CPUs.
fn packet_path_stats(pins: &InterfacePins, kind: FlowKind) -> Result<FlowStats, KernelError> {
    let path = pins.flow_stats();
    let map = open(&path)?;
    let cpus = aya::util::nr_cpus().map_err(|(file, e)| KernelError::io(file, e))?;
    let bytes = sys::read_per_cpu_array(
        map.as_fd(),
        FlowKind::BOTH.len() as u32,
        size_of::<FlowStats>(),
        cpus,
    )
    .map_err(|e| failed(&path, "reading", e))?;
    let (words, _) = bytes.as_chunks::<8>();
    let mut sum = FlowStats::default();
    let of_kind = words.chunks_exact(2 * cpus).nth(kind as usize);
    for [entered, left] in of_kind.unwrap_or_default().as_chunks::<2>().0 {
        sum.entered += u64::from_ne_bytes(*entered);
        sum.left += u64::from_ne_bytes(*left);
    }
    Ok(sum)
}

/// What userspace has entered into the tables and taken out of them: pinned beside them, so that
/// it adds up over processes.
pub(super) struct Ledger {
    memory: sys::MapMemory,
}

/// `entered` of both kinds, then `left` of both.
const LEDGER_WORDS: usize = 4;

impl Ledger {
    /// Creates the ledger where there is none.
    pub(super) fn create(pins: &InterfacePins) -> Result<(), KernelError> {
        let path = pins.flow_ledger();
        if path.exists() {
            return Ok(());
        }
        sys::create_blob("sg_flow_ledger", (LEDGER_WORDS * 8) as u32)
            .and_then(|map| sys::pin(map.as_fd(), &path))
            .map_err(|e| failed(&path, "creating", e))
    }

    pub(super) fn open(pins: &InterfacePins) -> Result<Self, KernelError> {
        let path = pins.flow_ledger();
        let map = open(&path)?;
        sys::MapMemory::shared(map.as_fd(), LEDGER_WORDS * 8)
            .map(|memory| Ledger { memory })
            .map_err(|e| failed(&path, "opening", e))
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        self.memory.counters().get(index)
    }

    fn read(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    fn add(&self, index: usize, count: u64) {
        if let Some(word) = self.word(index) {
            word.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn entered(&self, kind: FlowKind) -> u64 {
        self.read(kind as usize)
    }

    fn left(&self, kind: FlowKind) -> u64 {
        self.read(2 + kind as usize)
    }

    pub(super) fn add_entered(&self, kind: FlowKind, count: u64) {
        self.add(kind as usize, count);
    }

    fn add_left(&self, kind: FlowKind, count: u64) {
        self.add(2 + kind as usize, count);
    }
}
