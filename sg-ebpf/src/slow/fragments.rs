//! Fragments: the first one of a datagram is judged by its ports and leaves its outcome behind;
//! the later ones, which carry none, follow it.

use aya_ebpf::bindings::BPF_ANY;
use sg_common::{
    flow::is_expired,
    fragment::{FragmentKey4, FragmentKey6, FragmentValue},
    verdict::{Direction, Reason},
};

use crate::{
    bpf::{
        clock,
        maps::{self, FRAGMENTS4, FRAGMENTS6},
    },
    outcome::Outcome,
    packet::Packet,
};

/// Remembers how the first fragment was decided, be it accepted or dropped.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_keep_fragment(p: *const Packet, outcome: *const Outcome) -> u32 {
    if p.is_null() || outcome.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes whole values.
    let (p, outcome) = unsafe { (&*p, &*outcome) };
    let value = FragmentValue {
        seen: clock::now(),
        slot: outcome.slot,
        flags: outcome.kept_flags(),
    };
    insert_fragment(p, &value);
    0
}

/// Decides a later fragment as its first one was.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_follow_fragment(p: *const Packet, out: *mut Outcome) -> u32 {
    if p.is_null() || out.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes whole values.
    let (p, out) = unsafe { (&*p, &mut *out) };
    let direction = if p.direction == Direction::Inbound as u8 {
        Direction::Inbound
    } else {
        Direction::Outbound
    };
    *out = Outcome::reason(direction, Reason::Fragment);
    if let Some(first) = fragment(p) {
        // SAFETY: a map value lives until after this program run; CPUs may race on its fields,
        // and each of them is valid at any time.
        let first = unsafe { *first };
        if !is_expired(clock::now(), first.seen, maps::fragment_timeout()) {
            *out = Outcome::of_first(first.slot, first.flags);
        }
    }
    0
}

#[inline(always)]
fn fragment_key4(p: &Packet) -> FragmentKey4 {
    FragmentKey4 {
        local: p.local[0],
        remote: p.remote[0],
        identification: p.fragment_id,
        protocol: p.fragment_protocol,
        direction: p.direction,
        zero: [0; 2],
    }
}

#[inline(always)]
fn fragment_key6(p: &Packet) -> FragmentKey6 {
    FragmentKey6 {
        local: p.local,
        remote: p.remote,
        identification: p.fragment_id,
        protocol: p.fragment_protocol,
        direction: p.direction,
        zero: [0; 2],
    }
}

/// What is remembered of the first fragment of the packet's datagram.
#[inline(always)]
fn fragment(p: &Packet) -> Option<*mut FragmentValue> {
    if p.is_v6() {
        FRAGMENTS6.get_ptr_mut(fragment_key6(p))
    } else {
        FRAGMENTS4.get_ptr_mut(fragment_key4(p))
    }
}

/// Remembers a first fragment, in place of an older one of the same key. If the table is full the
/// later fragments of this datagram are dropped, and nothing else happens.
#[inline(always)]
fn insert_fragment(p: &Packet, value: &FragmentValue) {
    let _ = if p.is_v6() {
        FRAGMENTS6.insert(fragment_key6(p), value, BPF_ANY.into())
    } else {
        FRAGMENTS4.insert(fragment_key4(p), value, BPF_ANY.into())
    };
}
