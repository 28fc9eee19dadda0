//! One more packet of a flow: the state after it, and what is written of it into the entry.

use sg_common::{
    flow::FlowKind,
    flow_entry::{
        Head, LASTING_AGE, TOUCH_AGE, acknowledges, age, begun_word, clock, created_of,
        number_after, number_of, tick,
    },
    flow_table::{Found, Word as _, change},
    tcp::Row,
    track,
};

use super::table::{Flows, sg_flow_change_begun};
use super::traits::Traits;
use crate::bpf::word::SharedWord;
use crate::packet::Numbers;

// Bits of the argument `how` of `sg_go_on`, besides the `FlowKind` in bit 0.
pub(super) const FROM_ORIGINATOR: u32 = 2;
pub(super) const IS_CHANGED: u32 = 4;

/// Instead of a state, for a flow that begins.
pub(super) const NO_STATE: u32 = u8::MAX as u32;

/// The state after one more packet: [`track::next`], or [`track::first`] after [`NO_STATE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn sg_next_state(kind: u32, state: u32, tcp_flags: u32, known: u32) -> u32 {
    // Nothing is known of these, in all of its 64 bits.
    let unknown = u64::from(known) | u64::from(tcp_flags) << 32;
    let (kind, tcp_flags) = (kind as u8, tcp_flags as u8);
    if state == NO_STATE {
        return track::first(kind, tcp_flags) as u32;
    }
    let row = track::row(kind, state as u8, tcp_flags, known);
    let row = Row(SharedWord::forget(row.0, unknown));
    track::by_row(row, kind, state as u8, tcp_flags, known)
}

// What `sg_go_on` returns.
pub(super) const DONE: u32 = 0;
/// The flow is established from now on: it is to be entered among those, as what is then in
/// `found`.
pub(super) const IS_CONFIRMED: u32 = 1;
/// Another CPU has changed the flow meanwhile, to what is then in `found`: the step is to be taken
/// again from there.
pub(super) const RACED: u32 = 2;

/// Takes the flow one packet further, and writes its entry if that changes it. Its last packet's
/// time is written a few times a second only, so that a busy flow's line is not dirtied by each
/// packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn sg_go_on(
    found: *mut Found,
    traits: u64,
    numbers: u64,
    how: u32,
    now: u64,
) -> u32 {
    if found.is_null() {
        return DONE;
    }
    // SAFETY: not null, and the only caller passes a whole value on its stack.
    let found = unsafe { &mut *found };
    let (traits, numbers) = (Traits(traits), Numbers::unpack(numbers));
    let from_originator = (how & FROM_ORIGINATOR) / FROM_ORIGINATOR;
    let (head, begun) = (found.contents.head, found.contents.begun);
    let (kind, flags) = (traits.kind(), traits.tcp_flags());
    let old = head.state();
    // Numbers, because each condition in a row doubles the paths to explore.
    let acknowledges = acknowledges(number_of(begun), numbers.acknowledged);
    let young =
        u64::from(age(clock(now), created_of(begun))).wrapping_sub(LASTING_AGE.into()) >> 63;
    let known = from_originator * track::FROM_ORIGINATOR
        + u32::from(head.has_seen_reply()) * track::SEEN_REPLY
        + acknowledges * track::ACKNOWLEDGES
        + (young as u32 ^ 1) * track::LASTS;
    let state = sg_next_state(kind.into(), old.into(), flags.into(), known);
    let sets_number = track::sets_number(kind, old, flags, from_originator);
    if SharedWord::opaque(sets_number.into()) != 0 {
        // Written before the state to which it belongs.
        sg_flow_change_begun(
            found,
            begun_word(created_of(begun), number_after(numbers.next)),
        );
    }
    let mut next = head.in_state(state as u8);
    next.0 |= u64::from((state / track::HAS_SEEN_REPLY) & 1) * Head::SEEN_REPLY;
    let is_step = next.0 ^ head.0;
    let age = u64::from(age(clock(now), head.last_seen()));
    let is_stale = u64::from(TOUCH_AGE - 1).wrapping_sub(age) >> 63;
    if SharedWord::opaque(is_step | is_stale | u64::from(how & IS_CHANGED)) == 0 {
        return DONE;
    }
    let next = next.seen_at(tick(now));
    // 1 if it is half-open and belongs to the established ones now.
    let is_half_open = how & 1 ^ FlowKind::Established as u32;
    if SharedWord::opaque((is_half_open & (state / track::IS_ESTABLISHED)).into()) != 0 {
        found.contents.head = next;
        return IS_CONFIRMED;
    }
    let Some(current) = change(&Flows, found, next) else {
        return DONE;
    };
    found.contents.head = current;
    if is_step != 0 && current.is_same_flow(head) {
        RACED
    } else {
        DONE
    }
}
