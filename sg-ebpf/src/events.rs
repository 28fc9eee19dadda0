//! Events of what policies log and audit, and, while somebody watches, of all that is dropped: a
//! typed record in a ring of the CPU's own. `sg_common::event_budget` says which are written.
//!
//! [`Target::Event`] writes events, and is reached when all else is done. What the fast path drops
//! it counts by itself if the event would not be written, and else leaves to the slow path.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};
use sg_common::{
    counters::CounterSlot,
    event::{EVENT_WORDS, HEAD, LATER_FRAGMENT, LOGGED, SNAP},
    event_budget::{EventCounts, tick_of},
    flow_table::Word as _,
    program::Target,
    verdict::Direction,
};

use crate::audit::Auditing;
use crate::bpf::bytes::at;
use crate::bpf::clock;
use crate::bpf::hook::Hook;
use crate::bpf::maps::{self, EVENT_COUNTS, EVENT_RINGS, EVENT_SLOTS};
use crate::bpf::tail_call::tail_call;
use crate::bpf::word::SharedWord;
use crate::count;
use crate::outcome::Outcome;
use crate::packet::Packet;
use crate::scratch::{self, Left};

/// Whether somebody may be watching what is dropped.
#[inline(always)]
pub(crate) fn is_watched() -> bool {
    maps::event_watch().tick.load() != 0
}

/// Of a plain packet that `slot` drops: the current tick if the slot is closed to it, or zero if
/// nobody watches. `None` if the packet may get an event, which only the slow path writes.
#[inline(always)]
pub(crate) fn closed_in<H: Hook>(hook: &H, slot: &CounterSlot) -> Option<u64> {
    let tick = maps::event_watch().tick.load();
    let source = || match H::DIRECTION {
        Direction::Inbound => source_in(hook),
        Direction::Outbound => OUTBOUND_SOURCE,
    };
    (tick == 0 || slot.closing.is_closed(tick, source)).then_some(tick)
}

/// Ends the watch that was last renewed in `tick`, if it is over.
#[inline(always)]
pub(crate) fn end_if_over(tick: u64) {
    maps::event_watch().end_if_over(tick, clock::now());
}

/// Whether the event of a packet that the slow path drops may be written. If not, and somebody
/// watches, it is counted as suppressed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_wanted(number: u32, source: u32) -> u32 {
    let tick = maps::event_watch().tick.load();
    let Some(slot) = count::slot(number) else {
        return 0;
    };
    if tick == 0 {
        return 0;
    }
    if !slot.closing.is_closed(tick, || source) {
        return 1;
    }
    if let Some(counts) = counts_of(number) {
        counts.suppress(|| end_if_over(tick));
    }
    0
}

/// What this CPU has done with the events of a counter slot.
#[inline(always)]
fn counts_of(slot: u32) -> Option<&'static mut EventCounts> {
    let counts = EVENT_COUNTS.get_ptr_mut(slot)?;
    // SAFETY: the value belongs to this CPU, and BPF programs of one hook do not nest on it.
    Some(unsafe { &mut *counts })
}

/// Outbound packets have one source, this node.
const OUTBOUND_SOURCE: u32 = 0;

/// What stands for the source of an inbound packet: a word of its address, in IPv6 the second one,
/// which tells networks apart and not the hosts in them.
#[inline(always)]
fn source_of<H: Hook>(p: &Packet) -> u32 {
    match H::DIRECTION {
        Direction::Inbound => p.remote[usize::from(p.v6) & 1],
        Direction::Outbound => OUTBOUND_SOURCE,
    }
}

/// The same, read from a frame that is plain.
#[inline(always)]
fn source_in<H: Hook>(hook: &H) -> u32 {
    const SOURCE4: usize = EthHdr::LEN + core::mem::offset_of!(Ipv4Hdr, src_addr);
    const SOURCE6: usize = EthHdr::LEN + core::mem::offset_of!(Ipv6Hdr, src_addr) + 4;
    // That of both families is in the same place.
    const _: () = assert!(SOURCE4 == SOURCE6);
    let found = at::<u32, H>(hook, SOURCE4);
    // SAFETY: `at` has compared it with the end of the packet.
    found.map_or(0, |found| unsafe { found.read_volatile() })
}

/// Goes on with [`Target::Event`] if the packet may have an event. Comes back if not, or if that
/// target is missing, which is no reason to treat the packet otherwise.
#[inline(always)]
pub(crate) fn emit<H: Hook, A: Auditing>(hook: &H, p: &Packet, outcome: &Outcome, bytes: u64) {
    let is_logged = maps::has_logging_rules() && outcome.is_logged();
    let is_wanted = || is_watched() && sg_wanted(outcome.slot, source_of::<H>(p)) != 0;
    if !is_logged && (outcome.passes() || !is_wanted()) {
        return;
    }
    let left = Left {
        what: u64::from(maps::generation())
            | (H::DIRECTION as u64) << 32
            | outcome.action::<A>() << 40
            | (u64::from(is_logged) * u64::from(LOGGED)) << 56,
        bytes,
        slot: outcome.slot,
        passes: outcome.passes().into(),
    };
    if scratch::leave::<H>(left) {
        tail_call(hook, Target::Event);
    }
}

/// [`Target::Event`]: writes the event of the packet in the scratch over the oldest one, if the
/// budgets admit it, and counts it otherwise. Returns whether the packet goes on.
#[inline(always)]
pub(crate) fn write<H: Hook>(hook: &H) -> bool {
    let Some(scratch) = scratch::get::<H>() else {
        return false;
    };
    write_event(hook, &scratch.packet, &scratch.event);
    scratch.event.passes != 0
}

#[inline(always)]
fn write_event<H: Hook>(hook: &H, p: &Packet, left: &Left) {
    let Left {
        what, bytes, slot, ..
    } = *left;
    let (Some(counts), Some(in_slot)) = (counts_of(slot), count::slot(slot)) else {
        return;
    };
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    // BPF programs of one hook do not nest on a CPU, and neither hook runs inside the other.
    let Some(ring) = EVENT_RINGS.get(cpu) else {
        return;
    };
    let now = clock::now();
    let watched = maps::event_watch().current(now);
    let is_logged = what >> 56 & u64::from(LOGGED) != 0;
    if watched == 0 && !is_logged {
        return;
    }
    let tick = if watched == 0 { tick_of(now) } else { watched };
    let closing = &mut in_slot.closing;
    let source = source_of::<H>(p);
    let halvings = maps::event_halvings();
    if !counts.admit(closing, ring, tick, source, is_logged, halvings) {
        return;
    }
    let number = ring.written.load();
    let slots = maps::event_slots();
    let index = cpu * slots + (number as u32 & (slots.wrapping_sub(1)));
    // There is one: the loader makes the array as long as that.
    let Some(place) = EVENT_SLOTS.get(index) else {
        return;
    };
    let [local, local2, remote, remote2, name] = p.flow_key_words();
    let is_later = p.is_fragment != 0 && p.fragment_offset != 0;
    let marks = (u64::from(is_later) * u64::from(LATER_FRAGMENT)) << 56;
    let tag = match hook.has_tag_beside() {
        true => u64::from(hook.tag_beside() as u16) | 1 << 16,
        false => 0,
    };
    // As `sg_common::event::Event`, whose test has the same words.
    let words: [u64; EVENT_WORDS] = [
        clock::exact(),
        u64::from(slot) | bytes << 32,
        local,
        local2,
        remote,
        remote2,
        name | u64::from(p.number) << 48,
        what | u64::from(p.tcp_flags) << 48 | marks,
        u64::from(hook.ifindex()) | u64::from(hook.queue() as u16) << 32,
        tag | u64::from(hook.segments()) << 32,
    ];
    ring.write(number, place, &words, |place| {
        let wanted = maps::event_watch().snap.load();
        let wanted = if wanted < HEAD { HEAD } else { wanted };
        // Longer than the frame would fail.
        let frame = u64::from(hook.frame_len());
        let wanted = if wanted > frame { frame } else { wanted };
        let wanted = if wanted > SNAP { SNAP } else { wanted };
        // Verifier workaround: Linux 6.1 does not learn from a comparison with zero that a length
        // is at least one, so the length less one is compared.
        let less_one = SharedWord::opaque(wanted.wrapping_sub(1));
        if less_one >= SNAP {
            return 0;
        }
        let len = less_one + 1;
        let data = core::ptr::from_ref(&place.data).cast_mut().cast();
        match hook.copy(data, len as u32) {
            true => len,
            false => 0,
        }
    });
}
