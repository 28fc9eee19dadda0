//! The flow table in the packet path: its maps, its constants, and the functions that the verifier
//! checks once. How it works is said in `sg_common::flow_table`.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use sg_common::{
    flow::{FlowKind, FlowStats},
    flow_entry::{Contents, FlowKey, HASH_KEYS, clock, hash},
    flow_table::{self, Found, Line, Page, Spot, Table, spread},
};

use crate::{
    maps::{MMAPABLE, constant, constants},
    packet::Packet,
    verifier::forget,
    word::SharedWord,
};

// Both families share the groups: the loader sets how many.

#[map(name = "sg_flow_tags")]
static TAGS: Array<Line<SharedWord>> = Array::with_max_entries(1, MMAPABLE);

#[map(name = "sg_flow_pages")]
static PAGES: Array<Page<SharedWord>> = Array::with_max_entries(1, MMAPABLE);

/// By flow kind.
#[map(name = "sg_flow_stats")]
static STATS: PerCpuArray<FlowStats> = PerCpuArray::with_max_entries(2, 0);

constants! {
    /// Groups of the flow table.
    SG_FLOW_GROUPS: u32 = 1;
    /// The secret of the hash, padded to a power of two.
    SG_FLOW_KEYS: [u64; 16] = [0; 16];
    /// Ages at which flows expire, by state: see `sg_common::flow_entry::time_out`.
    SG_FLOW_TIMEOUTS: [u32; 16] = [0; 16];
}

const _: () = assert!(HASH_KEYS <= 16);

/// One multiplier of the hash.
#[inline(always)]
pub(crate) fn hash_key(index: usize) -> u64 {
    // SAFETY: the index is masked to the length of the array.
    unsafe { core::ptr::read_volatile((&raw const SG_FLOW_KEYS).cast::<u64>().add(index & 15)) }
}

#[inline(always)]
pub(crate) fn spot(hash: u32) -> Spot {
    Spot::of(hash, constant!(SG_FLOW_GROUPS))
}

pub(crate) struct Flows;

impl Table for Flows {
    type Word = SharedWord;

    #[inline(always)]
    fn line(&self, group: u32) -> Option<&Line<SharedWord>> {
        TAGS.get(group)
    }

    #[inline(always)]
    fn page(&self, group: u32) -> Option<&Page<SharedWord>> {
        PAGES.get(group)
    }

    #[inline(always)]
    fn time_out(&self, state: u8) -> u32 {
        let index = (state & 15) as usize;
        // SAFETY: the index is masked to the length of the array.
        unsafe { core::ptr::read_volatile((&raw const SG_FLOW_TIMEOUTS).cast::<u32>().add(index)) }
    }

    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        forget(value, value)
    }

    #[inline(always)]
    fn find_in(&self, group: u32, word: u32, tag: u64, key: &FlowKey, out: &mut Found) -> bool {
        sg_flow_find(group, word, tag, key, out) != 0
    }

    #[inline(always)]
    fn victim(&self, group: u32, word: u32, clock: u32) -> u32 {
        sg_flow_victim(group, word, clock)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow_find(
    group: u32,
    word: u32,
    tag: u64,
    key: *const FlowKey,
    out: *mut Found,
) -> u32 {
    if key.is_null() || out.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes whole values on its stack.
    let (key, out) = unsafe { (&*key, &mut *out) };
    flow_table::find_in(&Flows, group, word, tag, key, out).into()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow_victim(group: u32, word: u32, clock: u32) -> u32 {
    flow_table::victim(&Flows, group, word, clock)
}

/// The key of a packet's flow.
#[inline(always)]
pub(crate) fn key(p: &Packet) -> FlowKey {
    let [a, b, c, d] = p.local;
    let [e, f, g, h] = p.remote;
    let addresses = if p.is_v6() {
        let pair = FlowKey::pair;
        [pair(a, b), pair(c, d), pair(e, f), pair(g, h)]
    } else {
        [FlowKey::pair(a, e), 0, 0, 0]
    };
    FlowKey {
        name: FlowKey::name(p.local_port, p.remote_port, p.protocol, p.is_v6()),
        addresses,
    }
}

#[inline(always)]
pub(crate) fn hash_of(key: &FlowKey) -> u32 {
    let mut keys = [0; HASH_KEYS];
    let mut i = 0;
    while i < HASH_KEYS {
        keys[i] = hash_key(i);
        i += 1;
    }
    hash(key, &keys)
}

/// Whether a flow of that hash may be there: false is certain, and known from one cache line.
#[inline(always)]
pub(crate) fn may_be_there(hash: u32) -> bool {
    let spot = spot(hash);
    let Some(line) = Flows.line(spot.group) else {
        return false;
    };
    let tags = spread(spot.tag);
    let tagged = |word: u32| flow_table::has_match(flow_table::tags_of(line, word), tags);
    tagged(spot.first) | tagged(spot.second) | tagged(spot.half_open) != 0
}

/// Looks for the flow of `key`. True if it is there.
#[inline(always)]
pub(crate) fn find(key: &FlowKey, found: &mut Found) -> bool {
    flow_table::find(&Flows, &spot(hash_of(key)), key, found)
}

/// Enters a flow into the table, among those of a kind. When another CPU was faster its entry serves
/// as well; a full word evicts. Neither is a reason to drop a packet that the rules accept.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_flow_enter(
    key: *const FlowKey,
    contents: *const Contents,
    kind: u32,
    now: u64,
) -> u32 {
    if key.is_null() || contents.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes whole values on its stack.
    let (key, contents) = unsafe { (&*key, &*contents) };
    let spot = spot(hash_of(key));
    let of_kind = if kind == FlowKind::Established as u32 {
        FlowKind::Established
    } else {
        FlowKind::HalfOpen
    };
    let entered = flow_table::enter(&Flows, &spot, key, contents, of_kind, clock(now));
    if let Some(stats) = STATS.get_ptr_mut(kind) {
        // SAFETY: the value belongs to this CPU, and BPF programs of one hook do not nest.
        let stats = unsafe { &mut *stats };
        stats.entered += u64::from(entered.is_new);
        stats.evicted += u64::from(entered.evicted);
        stats.left += u64::from(entered.was_double);
    }
    0
}

/// Takes a flow out of the table; it may be gone already.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_flow_forget(found: *const Found) -> u32 {
    if found.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes a whole value on its stack.
    let found = unsafe { &*found };
    if flow_table::remove(&Flows, found)
        && let Some(stats) = STATS.get_ptr_mut(found.kind() as u32)
    {
        // SAFETY: as above.
        unsafe { (*stats).left += 1 };
    }
    0
}
