//! The flow table: what admitted flows leave behind, and how their replies find it.
//! Only packets whose replies no rule would pass are remembered (SPEC K7).

use sg_common::{
    flow::{FlowKind, FlowValue, TOUCH_INTERVAL_NS, Timeout, elapsed, is_expired},
    tables::Kind,
    tcp, track,
    verdict::{Direction, Verdict},
};

use crate::{classify::ask, clock, family, maps, packet::Packet};

/// What the flow table says of a packet that no rule accepts.
pub(crate) enum Found {
    Nothing,
    /// It answers a flow that the rule with this slot admitted.
    Reply(u32),
    /// It goes on in the direction of a flow that an earlier policy admitted and this one keeps.
    Kept(u32),
    /// It belongs to a flow that was there before the first policy.
    Seeded,
    /// Its flow was admitted by an earlier policy and this one takes that back.
    Revoked,
}

// What touches the maps is in functions of its own, which the verifier checks once: each of them
// chooses one of four maps, and whatever followed in the same function would be checked for each.
// They are exported and never inlined, or the compiler would undo that. A flow is copied out,
// changed as plain data, and written back when that is worth a second lookup, a few times a second.

/// Where [`sg_read_flow`] found a flow: nowhere, or one more than the [`FlowKind`].
const NOWHERE: u32 = 0;
const HALF_OPEN: u32 = 1 + FlowKind::HalfOpen as u32;

#[inline(always)]
fn kind_of(number: u32) -> FlowKind {
    if number == FlowKind::HalfOpen as u32 {
        FlowKind::HalfOpen
    } else {
        FlowKind::Established
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_read_flow(p: *const Packet, out: *mut FlowValue) -> u32 {
    if p.is_null() || out.is_null() {
        return NOWHERE;
    }
    // SAFETY: not null, and every caller passes whole values on its stack.
    let (p, out) = unsafe { (&*p, &mut *out) };
    match family::flow(p) {
        None => NOWHERE,
        Some((flow, kind)) => {
            // SAFETY: a map value lives until after this program run; CPUs may race on its
            // fields, and each of them is valid at any time.
            *out = unsafe { *flow };
            1 + kind as u32
        }
    }
}

/// Writes the flow back: only when it was last seen, or (`everything` not zero) all of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_write_flow(p: *const Packet, value: *const FlowValue, everything: u32) -> u32 {
    if p.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes whole values on its stack.
    let (p, value) = unsafe { (&*p, &*value) };
    if let Some((flow, _)) = family::flow(p) {
        // SAFETY: as in `sg_read_flow`.
        let flow = unsafe { &mut *flow };
        if everything != 0 {
            *flow = *value;
        } else {
            flow.last_seen = value.last_seen;
        }
    }
    0
}

/// Enters the packet's flow into the table of `kind` (a [`FlowKind`]). When another CPU was faster
/// its entry serves as well; a full table evicts. Neither is a reason to drop a packet that the
/// rules accept.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_enter_flow(p: *const Packet, value: *const FlowValue, kind: u32) -> u32 {
    if p.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes whole values on its stack. A copy, because Linux 6.1
    // takes no value for a map from behind an argument.
    let (p, value) = unsafe { (&*p, *value) };
    if family::insert_flow(p, kind_of(kind), &value)
        && let Some(stats) = maps::FLOW_STATS.get_ptr_mut(kind)
    {
        // SAFETY: the value belongs to this CPU, and BPF programs of one hook do not nest.
        unsafe { (*stats).entered += 1 };
    }
    0
}

/// Takes the packet's flow out of the table of `kind`; it may be gone already.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_forget_flow(p: *const Packet, kind: u32) -> u32 {
    if p.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes a whole packet on its stack.
    let p = unsafe { &*p };
    if family::remove_flow(p, kind_of(kind))
        && let Some(stats) = maps::FLOW_STATS.get_ptr_mut(kind)
    {
        // SAFETY: as in `sg_enter_flow`.
        unsafe { (*stats).left += 1 };
    }
    0
}

#[inline(always)]
fn has_expired(flow: &FlowValue, now: u64) -> bool {
    is_expired(now, flow.last_seen, maps::timeout(flow.state))
}

// What `sg_go_on` is told besides the `FlowKind`, which is bit 0.
const FROM_OPENER: u32 = 2;
const IS_CHANGED: u32 = 4;

/// Instead of a state, for a flow that begins.
const NO_STATE: u32 = u8::MAX as u32;

/// The state after one more packet: [`track::next`], or [`track::first`] after [`NO_STATE`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_next_state(kind: u32, state: u32, from_opener: u32, tcp_flags: u32) -> u32 {
    let (kind, tcp_flags) = (kind as u8, tcp_flags as u8);
    if state == NO_STATE {
        return track::first(kind, tcp_flags) as u32;
    }
    track::next(kind, state as u8, from_opener != 0, tcp_flags).into()
}

/// Takes the flow one packet further, and writes back what that changes: a busy flow's line is
/// dirtied a few times a second, not per packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_go_on(p: *const Packet, flow: *mut FlowValue, how: u32, now: u64) -> u32 {
    if p.is_null() || flow.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes whole values on its stack.
    let (p, flow) = unsafe { (&*p, &mut *flow) };
    let from_opener = how & FROM_OPENER;
    let tcp_flags = p.tcp_flags.into();
    let state = sg_next_state(p.kind.into(), flow.state.into(), from_opener, tcp_flags) as u8;
    let mut flags = flow.flags;
    if from_opener == 0 {
        flags |= FlowValue::ANSWERED;
    }
    let is_changed = how & IS_CHANGED != 0 || state != flow.state || flags != flow.flags;
    if !is_changed && elapsed(now, flow.last_seen) <= TOUCH_INTERVAL_NS {
        return 0;
    }
    flow.state = state;
    flow.flags = flags;
    flow.last_seen = now;
    let belongs = track::kind_of_flow(p.kind, state, flow.is_answered());
    let is_half_open = how & 1 == FlowKind::HalfOpen as u32;
    if is_half_open && matches!(belongs, FlowKind::Established) {
        // First in, then out: a packet on another CPU finds it in one of the two.
        sg_enter_flow(p, flow, FlowKind::Established as u32);
        sg_forget_flow(p, FlowKind::HalfOpen as u32);
    } else {
        sg_write_flow(p, flow, is_changed.into());
    }
    0
}

/// What [`sg_track`] returns in its high half; in the low half is the slot.
const NOTHING: u32 = 0;
const REPLY: u32 = 1;
const KEPT: u32 = 2;
const SEEDED: u32 = 3;
const REVOKED: u32 = 4;

/// Enters or refreshes the flow of a packet whose remote address is in `class` and which the rules
/// accept with `verdict`.
#[inline(always)]
pub(crate) fn remember(p: &Packet, class: u32, verdict: Verdict) {
    sg_track(p, class, verdict.0);
}

/// Looks up the flow of a packet that the rules do not accept.
#[inline(always)]
pub(crate) fn find(p: &Packet, class: u32, verdict: Verdict) -> Found {
    let found = sg_track(p, class, verdict.0);
    let slot = found as u32;
    match (found >> 32) as u32 {
        REPLY => Found::Reply(slot),
        KEPT => Found::Kept(slot),
        SEEDED => Found::Seeded,
        REVOKED => Found::Revoked,
        _ => Found::Nothing,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_track(p: *const Packet, class: u32, verdict: u32) -> u64 {
    let found = |what: u32, slot: u32| u64::from(what) << 32 | u64::from(slot);
    if p.is_null() {
        return found(NOTHING, 0);
    }
    // SAFETY: not null, and every caller passes a whole packet on its stack.
    let p = unsafe { &*p };
    let verdict = Verdict(verdict);
    let is_accepted = verdict.is_accept();
    let may_enter = is_accepted && p.opens != 0;
    let now = clock::now();

    let mut flow = FlowValue::EMPTY;
    let place = sg_read_flow(p, &mut flow);
    let kind = place.wrapping_sub(HALF_OPEN);
    let reopens = may_enter
        && p.is_kind(Kind::Tcp)
        && tcp::is_bare_syn(p.tcp_flags)
        && Timeout::from_index(flow.state).is_some_and(tcp::makes_room);
    if place == NOWHERE || reopens || has_expired(&flow, now) {
        if place != NOWHERE {
            sg_forget_flow(p, kind);
        }
        if may_enter {
            flow.created = now;
            flow.last_seen = now;
            flow.slot = verdict.slot();
            flow.generation = maps::generation();
            flow.opener = p.direction;
            flow.state = sg_next_state(p.kind.into(), NO_STATE, 1, p.tcp_flags.into()) as u8;
            flow.flags = 0;
            sg_enter_flow(p, &flow, FlowKind::HalfOpen as u32);
        }
        return found(NOTHING, 0);
    }

    let from_opener = flow.opener == p.direction;
    let is_older = flow.generation != maps::generation();
    let mut result = NOTHING;
    // The verdict that admits the flow under this policy, where an earlier one did.
    let mut admission = 0;
    if flow.is_seeded() {
        result = SEEDED;
    } else if is_accepted {
        if from_opener && is_older {
            admission = verdict.0;
        }
    } else if is_older && !maps::keeps_flows() {
        // Of an opener's packet the rules of its own direction were asked just now, and did not
        // accept.
        if !from_opener {
            admission = ask(class, p.direction().opposite(), p.kind, p.return_number).0;
        }
        if !Verdict(admission).is_accept() {
            sg_forget_flow(p, kind);
            return found(REVOKED, 0);
        }
        result = REPLY;
    } else if !from_opener {
        result = REPLY;
    } else if is_older {
        result = KEPT;
    } else {
        // Same key, other match (an ICMP code): the rules have the word.
        return found(NOTHING, 0);
    }
    let mut how = kind;
    if from_opener {
        how |= FROM_OPENER;
    }
    if admission != 0 {
        flow.slot = Verdict(admission).slot();
        flow.generation = maps::generation();
        how |= IS_CHANGED;
    }
    let slot = flow.slot;
    // Nearly every packet of a busy flow changes nothing that is worth writing. One number instead
    // of four branches, for the verifier's sake.
    let disturbances = (how & !FROM_OPENER ^ FlowKind::Established as u32)
        | u32::from(p.tcp_flags & tcp::STATE_FLAGS)
        | track::disturbs(flow.state);
    let is_steady = disturbances == 0 && elapsed(now, flow.last_seen) <= TOUCH_INTERVAL_NS;
    if !is_steady {
        sg_go_on(p, &mut flow, how, now);
    }
    found(result, slot)
}

/// True when `p`, a packet that was quoted and that the rules do not accept, belongs to a live
/// flow which the policy admits. Changes nothing. `rejudge` as in [`find`].
#[inline(always)]
pub(crate) fn belongs(p: &Packet, direction: Direction, rejudge: impl FnOnce() -> Verdict) -> bool {
    let mut flow = FlowValue::EMPTY;
    if !maps::has_flows() || sg_read_flow(p, &mut flow) == NOWHERE {
        return false;
    }
    if has_expired(&flow, clock::now()) {
        return false;
    }
    if flow.is_seeded() || flow.generation == maps::generation() || maps::keeps_flows() {
        return true;
    }
    !flow.opened_by(direction) && rejudge().is_accept()
}
