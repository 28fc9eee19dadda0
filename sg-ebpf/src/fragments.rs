//! Fragments: the first one of a datagram is judged by its ports and leaves its outcome behind;
//! the later ones, which carry none, follow it.

use sg_common::{
    flow::is_expired,
    fragment::FragmentValue,
    verdict::{Direction, Reason},
};

use crate::{clock, family, maps, outcome::Outcome, packet::Packet};

/// Remembers how the first fragment was decided, be it accepted or dropped.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_keep_fragment(p: *const Packet, outcome: *const Outcome) -> u32 {
    if p.is_null() || outcome.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes whole values.
    let (p, outcome) = unsafe { (&*p, &*outcome) };
    let mut flags = 0;
    if outcome.is_accepted() {
        flags |= FragmentValue::ACCEPT;
    }
    if outcome.is_reply() {
        flags |= FragmentValue::REPLY;
    }
    let value = FragmentValue {
        seen: clock::now(),
        slot: outcome.slot,
        flags,
    };
    family::insert_fragment(p, &value);
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
    if let Some(first) = family::fragment(p) {
        // SAFETY: a map value lives until after this program run; CPUs may race on its fields,
        // and each of them is valid at any time.
        let first = unsafe { *first };
        if !is_expired(clock::now(), first.seen, maps::fragment_timeout()) {
            *out = Outcome::of_slot(
                first.slot,
                first.flags & FragmentValue::ACCEPT != 0,
                first.flags & FragmentValue::REPLY != 0,
            );
        }
    }
    0
}
