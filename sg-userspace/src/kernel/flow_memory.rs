//! The flow table in userspace: its maps are mapped into memory, and the algorithm is the same as
//! in the packet path, so that neither side ever waits.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use aya::maps::MapData;
use sg_common::flow::{CUT, FlowKind, FlowValue, TIMEOUTS, Timeout};
use sg_common::flow_entry::{
    BEGUN, Contents, ENTRY_WORDS, FlowKey, HASH_KEYS, HEAD, Head, age, clock, created_of, hash,
    tick,
};
use sg_common::flow_ports::PORT_COUNTS;
use sg_common::flow_table::{
    BUSY, Found, LINE_WORDS, Line, Page, Place, Spot, Table, WAYS, claim, cut, double, find,
    find_kind, give_back, kind_of_word, publish, read_any, reclaim, remove, tags_of,
};
use sg_common::protocol::kind_of;
use sg_common::ruling::{FLUSH_OLD, InForce, Policy as _, is_cut_at_its_end};

use super::error::KernelError;
use super::generation::{Generation, ages};
use super::map_memory::{failed, memory_to_read, open_map, shared_memory};
use super::object::PORT_COUNTS_LEN;
use super::pins::InterfacePins;
use super::sys;
use sg_policy::policy::Established;

/// A flow of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    pub kind: FlowKind,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// The port, or the identifier of an ICMP query; zero for other protocols.
    pub local_port: u16,
    pub remote_port: u16,
    pub protocol: u8,
    pub value: FlowValue,
    pub place: Place,
    /// The tick in which it was entered: see [`sg_common::flow_entry::tick`].
    pub created: u32,
}

/// The multipliers of the hash, pinned beside the table. They are secret, because knowing them
/// would allow an attacker to fill one group.
pub(super) type FlowKeys = [u64; HASH_KEYS];

/// Reads the multipliers of an interface, or creates them.
pub(super) fn keys_of(pins: Option<&InterfacePins>) -> Result<FlowKeys, KernelError> {
    let making = |e| KernelError::io("making the flow table's secret", e);
    let Some(pins) = pins else {
        return sys::random().map_err(making);
    };
    let path = pins.flow_keys();
    if path.exists() {
        return read_keys(&path);
    }
    let keys: FlowKeys = sys::random().map_err(making)?;
    let bytes = keys.map(u64::to_ne_bytes);
    sys::create_blob("sg_flow_keys", size_of::<FlowKeys>() as u32)
        .and_then(|map| {
            sys::fill_array(map.fd().as_fd(), bytes.as_flattened())?;
            sys::freeze(map.fd().as_fd())?;
            map.pin(&path).map_err(sys::pin_error)
        })
        .map_err(making)?;
    Ok(keys)
}

fn read_keys(path: &Path) -> Result<FlowKeys, KernelError> {
    let bytes = sys::read_blob(path).map_err(|e| KernelError::at_pin("opening", path, e))?;
    let bytes = bytes.unwrap_or_default();
    let (words, _) = bytes.as_chunks::<8>();
    let mut keys = [0; HASH_KEYS];
    if words.len() != HASH_KEYS {
        return Err(KernelError::OtherMap {
            path: path.to_owned(),
            difference: format!("it has {} keys, not {HASH_KEYS}", words.len()),
        });
    }
    for (key, word) in keys.iter_mut().zip(words) {
        *key = u64::from_ne_bytes(*word);
    }
    Ok(keys)
}

/// Opens the counts of flows by local port, or creates them.
pub(super) fn port_counts(pins: &InterfacePins) -> Result<MapData, KernelError> {
    let path = pins.flow_ports();
    if path.exists() {
        return open_map(&path);
    }
    sys::create_blob("sg_flow_ports", PORT_COUNTS_LEN as u32)
        .and_then(|map| map.pin(&path).map_err(sys::pin_error).map(|()| map))
        .map_err(|e| failed(&path, "creating", e))
}

/// How many groups the table has whose pages are pinned at `path`.
pub(super) fn groups_at(path: &Path) -> Result<u32, KernelError> {
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

/// What happened to a flow that was to be entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub is_new: bool,
    /// Whether another flow was evicted for it.
    pub evicted: bool,
    /// Whether a CPU has entered the same flow at the same time, so that one of the two was
    /// removed.
    pub is_double: bool,
    /// Whether it has replaced a half-open entry of the same flow.
    pub has_replaced: bool,
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
    pub fn open_to_read(
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
    pub(super) fn private(
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

    /// Enters a flow with what another table says of it.
    pub(super) fn copy(&self, key: &FlowKey, contents: &Contents, kind: FlowKind, now: u64) {
        let claim = claim(self, &self.spot(key), key, kind as u32, clock(now));
        if let Some(claim) = claim {
            publish(self, &claim, key, contents);
        }
    }

    #[doc(hidden)]
    pub fn spot(&self, key: &FlowKey) -> Spot {
        Spot::of(hash(key, |i| self.keys[i % HASH_KEYS]), self.groups)
    }

    /// Visits every way that is in use, with its tag and its place.
    fn each_tag(&self, mut visit: impl FnMut(u64, Place)) {
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

    fn entry(&self, place: Place) -> Option<&[AtomicU64; ENTRY_WORDS]> {
        let words = self.page(place.group)?.get(place.word as usize)?;
        words.get(place.way as usize)
    }

    /// Visits every flow that does not change while it is read.
    pub(super) fn each_found(&self, mut visit: impl FnMut(FlowKey, Found)) {
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
    pub fn entry_of(&self, key: &FlowKey, now: u64) -> Option<FlowEntry> {
        Some(entry_of(key, &self.find(key)?, now))
    }

    /// Visits every flow, with its times relative to `now`.
    pub fn each(&self, now: u64, mut visit: impl FnMut(FlowEntry)) {
        self.each_found(|key, found| visit(entry_of(&key, &found, now)));
    }

    /// How many flows of each kind there are, in the order of [`FlowKind::BOTH`].
    pub(super) fn live(&self) -> [u64; 2] {
        let mut live = [0; 2];
        self.each_tag(|tag, place| {
            if tag != BUSY {
                live[kind_of_word(place.word) as usize] += 1;
            }
        });
        live
    }

    /// Enters a flow of a kind, unless it is there in either kind. Only if the entry has seen
    /// nothing but a SYN, and a reply has come since, is it replaced.
    pub fn enter(&self, key: &FlowKey, value: &FlowValue, kind: FlowKind, now: u64) -> Written {
        let spot = self.spot(key);
        let contents = Contents::of(value);
        let there = self.find(key);
        let is_known_better = |found: &Found| {
            let (head, now) = (found.contents.head, contents.head);
            kind == FlowKind::Established
                && found.kind() == FlowKind::HalfOpen
                && head.state() == Timeout::TcpSynSent as u8
                && now.state() != CUT
                && now.has_seen_reply()
                && now.originator() == head.originator()
        };
        if there.is_some_and(|found| !is_known_better(&found)) {
            return Written::default();
        }
        let Some(claim) = claim(self, &spot, key, kind as u32, clock(now)) else {
            return Written::default();
        };
        let is_new = publish(self, &claim, key, &contents);
        // A packet may have opened the flow meanwhile. Its entry is better than what is known from
        // outside, and it cannot be established in so short a time.
        let is_open = || find_kind(self, &spot, key, FlowKind::HalfOpen).is_some();
        let double = match (kind, there) {
            (FlowKind::Established, None) if is_new && is_open() => {
                find_kind(self, &spot, key, kind)
            }
            (FlowKind::Established, _) => double(self, &spot, key),
            (FlowKind::HalfOpen, _) => None,
        };
        Written {
            is_new,
            evicted: claim.evicted != 0,
            is_double: double.is_some_and(|double| remove(self, &double)),
            has_replaced: is_new && there.is_some_and(|found| remove(self, &found)),
        }
    }

    /// Does for all flows of earlier generations what a generation with `flush` does for the flows
    /// of its packets (K11): cuts those of TCP, and removes all others. Returns how many of each
    /// kind were removed.
    pub fn flush(&self, epoch: u32, now: u64) -> [u64; 2] {
        let policy = InForce {
            epoch,
            old_flows: FLUSH_OLD,
        };
        let mut removed = [0; 2];
        self.each_found(|key, found| {
            let is_cut = found.contents.head.state() == CUT;
            if is_cut || policy.is_before::<AtomicU64>(found.contents.rule) == 0 {
                return;
            }
            if is_cut_at_its_end(kind_of(key.protocol(), key.is_v6()) as u8) {
                cut(self, &found, tick(now));
            } else if remove(self, &found) {
                removed[found.kind() as usize] += 1;
            }
        });
        removed
    }

    /// Whether a TCP flow may be cut when the programs of `next` replace those of `in_force`
    /// (`None` if both directions do not run the same programs, so that nothing is known). Packets
    /// of a cut connection are dropped under every policy (K11). If the rules accept both
    /// directions, the programs would not look at the flow table (K7), so they have to be loaded
    /// with a lookup of cut flows. The programs are loaded after this check and before the swap,
    /// while those in force still run. Nothing is missed:
    ///
    /// - A flow that is cut now stays cut until it expires, by the longer timeout.
    /// - The programs in force cut flows of other generations and none of their own. These flows
    ///   are in the table already. With `keep` they cut none, and seeded ones only with `flush`.
    /// - The new programs cut flows whose packets or replies their rules do not accept, and for
    ///   these they look at the table anyway. Only with `flush` do they cut all flows entered
    ///   before the swap, including those that are not there yet.
    /// - While only one direction has been swapped, the programs in force may find a flow of the
    ///   new generation and cut it. That flow has an entry because the new rules do not accept both
    ///   of its directions.
    ///
    /// What userspace enters for the new policy, before and after the swap, is also a flow that its
    /// rules do not accept in both directions. A lock keeps other policies from coming in between.
    pub fn may_have_cut(&self, in_force: Option<&Generation>, next: &Generation, now: u64) -> bool {
        let flushes = next.established == Established::Flush;
        if flushes && in_force.is_none_or(|before| before.has_flows) {
            return true;
        }
        let timeouts = [Some(next), in_force].map(|g| g.map(|g| ages(&g.timeouts)));
        let mut may_have_cut = false;
        self.each_found(|key, found| {
            let Contents { head, rule, .. } = found.contents;
            let age = age(clock(now), head.last_seen());
            let is_live = timeouts
                .iter()
                .flatten()
                .any(|ages| age <= ages[usize::from(head.state())]);
            let may_be_cut = match in_force {
                _ if head.state() == CUT || flushes => true,
                None => true,
                Some(before) => before.in_force().may_cut(head, rule),
            };
            let is_tcp = is_cut_at_its_end(kind_of(key.protocol(), key.is_v6()) as u8);
            may_have_cut |= is_tcp && is_live && may_be_cut;
        });
        may_have_cut
    }

    /// Removes the flows for which `is_over` is true. Returns how many of each kind were removed.
    pub fn remove_where(&self, is_over: impl Fn(&Contents) -> bool) -> [u64; 2] {
        let mut removed = [0; 2];
        self.each_found(|_, found| {
            if is_over(&found.contents) && remove(self, &found) {
                removed[found.kind() as usize] += 1;
            }
        });
        removed
    }

    /// Releases the ways that a process was writing when it was killed.
    pub(super) fn reclaim(&self) {
        /// Far longer than it takes to write an entry, even if the process loses its processor
        /// meanwhile.
        const TOO_LONG: Duration = Duration::from_millis(100);
        let busy = || {
            let mut busy = Vec::new();
            self.each_tag(|tag, place| {
                if tag == BUSY
                    && let Some(entry) = self.entry(place)
                {
                    busy.push((place, Head(sg_common::flow_table::Word::load(&entry[HEAD]))));
                }
            });
            busy
        };
        let found = busy();
        if found.is_empty() {
            return;
        }
        std::thread::sleep(TOO_LONG);
        for (place, head) in found {
            reclaim(self, place, head);
        }
    }

    /// Finds the entry of a flow.
    pub fn find(&self, key: &FlowKey) -> Option<Found> {
        let mut found = Found::NOTHING;
        find(self, &self.spot(key), key, &mut found).then_some(found)
    }

    /// Rewrites all flows, which nothing else may use meanwhile. Tests move times with it.
    #[doc(hidden)]
    pub fn rewrite(&self, change: impl Fn(Contents) -> Contents) {
        self.each_found(|_, found| {
            if let Some(entry) = self.entry(found.place()) {
                let new = change(found.contents);
                entry[HEAD].store(new.head.0, std::sync::atomic::Ordering::SeqCst);
                entry[BEGUN].store(new.begun, std::sync::atomic::Ordering::SeqCst);
            }
        });
    }
}

/// The tuple of a flow between two addresses of one family.
pub fn key_of(local: IpAddr, remote: IpAddr, ports: (u16, u16), protocol: u8) -> FlowKey {
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        u64::from_ne_bytes(word)
    };
    let addresses = match (local, remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            [word(&local.octets()), 0, word(&remote.octets()), 0]
        }
        (local, remote) => {
            let (local, remote) = (v6(local).octets(), v6(remote).octets());
            let (a, b) = local.split_at(8);
            let (c, d) = remote.split_at(8);
            [word(a), word(b), word(c), word(d)]
        }
    };
    FlowKey {
        name: FlowKey::name(ports.0, ports.1, protocol, remote.is_ipv6()),
        addresses,
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

fn entry_of(key: &FlowKey, found: &Found, now: u64) -> FlowEntry {
    let [a, b, c, d] = key.addresses;
    let (local, remote): (IpAddr, IpAddr) = if key.is_v6() {
        let address = |first: u64, second: u64| {
            let mut octets = [0; 16];
            let words = [first.to_ne_bytes(), second.to_ne_bytes()];
            octets.copy_from_slice(words.as_flattened());
            Ipv6Addr::from(octets).into()
        };
        (address(a, b), address(c, d))
    } else {
        let address = |word: u64| sg_common::flow::ipv4(word as u32).into();
        (address(a), address(c))
    };
    FlowEntry {
        kind: found.kind(),
        local,
        remote,
        local_port: key.local_port(),
        remote_port: key.remote_port(),
        protocol: key.protocol(),
        value: found.contents.value(now),
        place: found.place(),
        created: created_of(found.contents.begun),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_both_ends() {
        for (local, remote) in [
            ("192.0.2.1", "198.51.100.7"),
            ("2001:db8::1", "2001:db8:5::7"),
        ] {
            let (local, remote): (IpAddr, IpAddr) =
                (local.parse().unwrap(), remote.parse().unwrap());
            let key = key_of(local, remote, (22, 5000), 6);
            let found = entry_of(&key, &Found::NOTHING, 0);
            assert_eq!((found.local, found.remote), (local, remote));
            let rest = (found.local_port, found.remote_port, found.protocol);
            assert_eq!(rest, (22, 5000, 6));
            assert_ne!(key, key_of(remote, local, (22, 5000), 6));
        }
        let bytes = key_of(
            "1.2.3.4".parse().unwrap(),
            "5.6.7.8".parse().unwrap(),
            (0, 0),
            1,
        );
        assert_eq!(
            bytes.addresses.map(u64::to_ne_bytes),
            [
                [1, 2, 3, 4, 0, 0, 0, 0],
                [0; 8],
                [5, 6, 7, 8, 0, 0, 0, 0],
                [0; 8]
            ],
            "as on the wire"
        );
    }
}
