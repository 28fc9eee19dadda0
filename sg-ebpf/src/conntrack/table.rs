//! The flow table in the packet path: its maps, its constants, and the functions that the verifier
//! checks once. How it works is said in `sg_common::flow_table`.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use sg_common::{
    flow::{CUT, FlowKind, FlowStats},
    flow_entry::{Contents, FlowKey, Head, TOUCH_AGE, age, clock, has_expired, hash, tick},
    flow_ports::PORT_COUNTS,
    flow_table::{
        self, Claim, Found, LINE_WORDS, Line, NO_WAY, Page, Spot, Table, Unclaimed, WAYS, Word as _,
    },
    lookup::HASH_KEY_ROOM,
    program::STATES,
};

use crate::bpf::maps::{self, MMAPABLE};
use crate::bpf::word::SharedWord;

// Both families share the groups: the loader sets how many.

#[map(name = "sg_flow_tags")]
static TAGS: Array<Line<SharedWord>> = Array::with_max_entries(1, MMAPABLE);

#[map(name = "sg_flow_pages")]
static PAGES: Array<Page<SharedWord>> = Array::with_max_entries(1, MMAPABLE);

/// In the programs' own memory, where a packet finds them without a lookup. The section is a map by
/// itself, so that all generations can share it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.flow_ports")]
static SG_FLOW_PORTS: [SharedWord; PORT_COUNTS] = [const { SharedWord::zero() }; PORT_COUNTS];

/// By flow kind.
#[map(name = "sg_flow_stats")]
static STATS: PerCpuArray<FlowStats> = PerCpuArray::with_max_entries(2, 0);

/// The multipliers of the hash.
#[derive(Clone, Copy)]
pub(crate) struct HashKeys(&'static [u64; HASH_KEY_ROOM]);

impl HashKeys {
    #[inline(always)]
    pub(crate) fn get() -> Self {
        HashKeys(maps::flow_keys())
    }

    #[inline(always)]
    pub(crate) fn at(self, index: usize) -> u64 {
        self.0[index & (HASH_KEY_ROOM - 1)]
    }
}

#[inline(always)]
pub(crate) fn spot(hash: u32) -> Spot {
    Spot::of(hash, maps::config().flow_groups)
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
    fn port_counts(&self) -> Option<&[SharedWord; PORT_COUNTS]> {
        Some(&SG_FLOW_PORTS)
    }

    #[inline(always)]
    fn time_out(&self, state: u8) -> u32 {
        maps::config().flow_timeouts[usize::from(state) & (STATES - 1)]
    }

    #[inline(always)]
    fn find_in(
        &self,
        group: u32,
        word: u32,
        candidates: u64,
        key: &FlowKey,
        out: &mut Contents,
    ) -> u32 {
        sg_flow_find(group, word, candidates, key, out)
    }

    #[inline(always)]
    fn has(&self, group: u32, word: u32, candidates: u64, key: &FlowKey) -> bool {
        sg_flow_find(group, word, candidates, key, core::ptr::null_mut()) != NO_WAY
    }

    #[inline(always)]
    fn give_back(&self, group: u32, word: u32, way: u32) {
        sg_flow_give_back(group, word, way);
    }

    #[inline(always)]
    fn victim(&self, group: u32, word: u32, tags: u64, clock: u32) -> u32 {
        sg_flow_victim(group, word, tags, clock)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow_find(
    group: u32,
    word: u32,
    candidates: u64,
    key: *const FlowKey,
    out: *mut Contents,
) -> u32 {
    if key.is_null() {
        return NO_WAY;
    }
    // SAFETY: not null, and every caller passes a whole key on its stack.
    let key = unsafe { &*key };
    let page = Flows.page(group);
    let found = page.and_then(|page| flow_table::look(page, word, candidates, key));
    let Some((way, contents)) = found else {
        return NO_WAY;
    };
    if !out.is_null() {
        // SAFETY: not null, and every caller passes a whole value on its stack.
        unsafe { *out = contents };
    }
    way
}

/// Makes `rule` the one that a flow counts for.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_flow_change_rule(found: *mut Found, rule: u64) -> u32 {
    if found.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes a whole value on its stack.
    let found = unsafe { &mut *found };
    flow_table::change_rule(&Flows, found, rule);
    found.contents.rule = rule;
    0
}

/// Changes the number that completes the handshake of a flow that is there.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_flow_change_begun(found: *mut Found, begun: u64) -> u32 {
    if found.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes a whole value on its stack.
    let found = unsafe { &mut *found };
    flow_table::change_begun(&Flows, found, begun);
    found.contents.begun = begun;
    0
}

/// Makes a TCP flow a cut one, or notes that a cut one was seen.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_flow_cut(found: *const Found, now: u64) -> u32 {
    if found.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes a whole value on its stack.
    let found = unsafe { &*found };
    let head = found.contents.head;
    let age = u64::from(age(clock(now), head.last_seen()));
    let is_stale = u64::from(TOUCH_AGE - 1).wrapping_sub(age) >> 63;
    if SharedWord::opaque(is_stale | u64::from(head.state() ^ CUT)) != 0 {
        // Where another CPU has been faster the next packet tries again, and does not pass either.
        flow_table::change(&Flows, found, head.cut().seen_at(tick(now)));
    }
    0
}

/// Notes that a packet of a flow was seen and dropped, and leaves the flow as it is otherwise: the
/// policy that does not admit it may yet be undone.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_flow_spare(found: *const Found, now: u64) -> u32 {
    if found.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes a whole value on its stack.
    let found = unsafe { &*found };
    let head = found.contents.head;
    let age = u64::from(age(clock(now), head.last_seen()));
    if SharedWord::opaque(u64::from(TOUCH_AGE - 1).wrapping_sub(age) >> 63) != 0 {
        flow_table::change(&Flows, found, head.seen_at(tick(now)));
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow_give_back(group: u32, word: u32, way: u32) -> u32 {
    flow_table::give_back(&Flows, group, word, way);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow_victim(group: u32, word: u32, tags: u64, clock: u32) -> u32 {
    let Some(page) = Flows.page(group) else {
        return NO_WAY;
    };
    flow_table::victim(page, word, tags, clock, |state| Flows.time_out(state))
}

/// The hash of a flow's key.
#[inline(always)]
pub(crate) fn hash_of(key: &FlowKey) -> u32 {
    let keys = HashKeys::get();
    hash(key, |index| keys.at(index))
}

/// Looks for a flow: 1 if it is there, else 0.
#[inline(always)]
pub(crate) fn find(key: &FlowKey, hash: u32, found: &mut Found) -> u32 {
    sg_flow_look_up(key, hash, found) & 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow_look_up(key: *const FlowKey, hash: u32, found: *mut Found) -> u32 {
    if key.is_null() || found.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes whole values on its stack.
    let (key, found) = unsafe { (&*key, &mut *found) };
    flow_table::find(&Flows, &spot(hash), key, found).into()
}

/// Enters a flow of `kind` into the table. If another CPU has entered the same flow first, its
/// entry is used. If the word is full, another flow is evicted, or this one stays without an entry.
/// The rules have accepted the packet, so it passes in every case.
#[inline(always)]
pub(crate) fn enter(key: &FlowKey, hash: u32, contents: &Contents, kind: FlowKind, now: u64) {
    let mut claimed = sg_flow_claim(key, hash, kind as u32, now);
    if claimed == RACED {
        claimed = sg_flow_claim(key, hash, kind as u32, now);
    }
    if claimed <= RACED {
        return;
    }
    let entered = sg_flow_publish(key, contents, claimed);
    sg_flow_tally(kind as u32, entered | claimed as u32 & EVICTED);
}

/// [`sg_flow_claim`] returns a claimed way: the way in bits 0-2, its word in bits 3-5, [`EVICTED`]
/// if another flow was evicted for it, the tag in bits 16-23 and the group in bits 32-63. If
/// nothing is claimed it returns this.
const NOT_CLAIMED: u64 = 0;
/// Returned instead if nothing is claimed but another attempt may succeed: no way has so small a
/// tag.
const RACED: u64 = 1;
const EVICTED: u32 = 1 << 8;
const ENTERED: u32 = 1;
const LEFT: u32 = 2;

/// Counts flows of a kind: any of the above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow_tally(kind: u32, what: u32) -> u32 {
    if let Some(stats) = STATS.get_ptr_mut(kind) {
        // SAFETY: the value belongs to this CPU, and BPF programs of one hook do not nest.
        let stats = unsafe { &mut *stats };
        stats.entered += u64::from(what & ENTERED);
        stats.left += u64::from((what / LEFT) & 1);
        stats.evicted += u64::from((what / EVICTED) & 1);
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow_claim(key: *const FlowKey, hash: u32, kind: u32, now: u64) -> u64 {
    if key.is_null() {
        return NOT_CLAIMED;
    }
    // SAFETY: not null, and every caller passes a whole key on its stack.
    let key = unsafe { &*key };
    match flow_table::try_claim(&Flows, &spot(hash), key, kind & 1, clock(now)) {
        Ok(claim) => {
            let at = claim.word * WAYS as u32 + claim.way;
            let low = claim.evicted * EVICTED + at;
            u64::from(claim.group) << 32 | claim.tag << 16 | u64::from(low)
        }
        Err(Unclaimed::NotNeeded) => NOT_CLAIMED,
        Err(Unclaimed::Raced) => RACED,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow_publish(key: *const FlowKey, contents: *const Contents, claimed: u64) -> u32 {
    if key.is_null() || contents.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes whole values on its stack.
    let (key, contents) = unsafe { (&*key, &*contents) };
    let at = claimed as u32;
    let claim = Claim {
        group: (claimed >> 32) as u32,
        tag: claimed >> 16 & 0xff,
        word: at / WAYS as u32 % LINE_WORDS as u32,
        way: at % WAYS as u32,
        evicted: 0,
    };
    flow_table::publish(&Flows, &claim, key, contents).into()
}

/// Removes the second of two entries of an established flow, if there are two. To be called after
/// one has been entered: see `flow_table::double`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_flow_remove_double(key: *const FlowKey, hash: u32) -> u32 {
    if key.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes a whole key on its stack.
    let key = unsafe { &*key };
    if let Some(found) = flow_table::double(&Flows, &spot(hash), key) {
        sg_flow_forget(&found);
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
    if flow_table::remove(&Flows, found) {
        sg_flow_tally(found.kind() as u32, LEFT);
    }
    0
}

/// 1 if a flow with this head has expired, else 0.
#[inline(always)]
pub(super) fn is_expired(head: Head, now: u64) -> u64 {
    let age = age(clock(now), head.last_seen());
    has_expired(age, SharedWord::opaque(Flows.time_out(head.state()).into()))
}
