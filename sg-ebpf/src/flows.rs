//! The flow table: what admitted flows leave behind, and how their replies find it.
//! Only packets whose replies no rule would pass are remembered (SPEC K7).

use aya_ebpf::bindings::BPF_NOEXIST;
use sg_common::{
    flow::{FlowKind, FlowValue, TOUCH_INTERVAL_NS, Timeout, elapsed, is_expired},
    tables::Kind,
    tcp, track,
    verdict::{Action, Direction, Reason, Verdict, reason_slot},
};

use crate::{
    classify::ask, clock, family::with_flow_tables, maps, outcome::Outcome, packet::Packet,
};

// What touches the maps is in one function, which the verifier checks once: whatever followed in
// the same function would be checked for each of the four maps. It is exported and never inlined, or
// the compiler would undo that. A flow is copied out, changed as plain data, and written back when
// that is worth a second lookup, a few times a second.

/// Where [`READ`] found a flow: nowhere, or one more than the [`FlowKind`].
const NOWHERE: u32 = 0;
const HALF_OPEN: u32 = 1 + FlowKind::HalfOpen as u32;

// What `sg_flow` is to do, in its low bits; for `ENTER` and `FORGET` a [`FlowKind`] above them.
/// Copies the flow out; returns where it was found.
const READ: u32 = 0;
/// Writes back when the flow was last seen.
const TOUCH: u32 = 1;
/// Writes back all of it.
const WRITE: u32 = 2;
/// Enters it into the table of a kind. When another CPU was faster its entry serves as well; a full
/// table evicts. Neither is a reason to drop a packet that the rules accept.
const ENTER: u32 = 3;
/// Takes it out of the table of a kind; it may be gone already.
const FORGET: u32 = 4;
const TO_DO: u32 = 7;
const KIND_SHIFT: u32 = 3;

/// Does one of the above with the packet's flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_flow(p: *const Packet, value: *mut FlowValue, what: u32) -> u32 {
    if p.is_null() || value.is_null() {
        return NOWHERE;
    }
    // SAFETY: not null, and every caller passes whole values on its stack.
    let (p, value) = unsafe { (&*p, &mut *value) };
    let (to_do, kind) = (what & TO_DO, what >> KIND_SHIFT);
    let is_established = kind == FlowKind::Established as u32;
    let is_counted = with_flow_tables!(p, |key, established, half_open| {
        if to_do == ENTER {
            // A copy, because Linux 6.1 takes no value for a map from behind an argument.
            let value = *value;
            let table = if is_established {
                established
            } else {
                half_open
            };
            table.insert(key, &value, BPF_NOEXIST.into()).is_ok()
        } else if to_do == FORGET {
            let table = if is_established {
                established
            } else {
                half_open
            };
            table.remove(key).is_ok()
        } else {
            let (found, place) = match established.get_ptr_mut(key) {
                None => (half_open.get_ptr_mut(key), HALF_OPEN),
                found => (found, 1 + FlowKind::Established as u32),
            };
            let Some(found) = found else {
                return NOWHERE;
            };
            // SAFETY: a map value lives until after this program run; CPUs may race on its fields,
            // and each of them is valid at any time.
            let found = unsafe { &mut *found };
            if to_do == READ {
                *value = *found;
            } else if to_do == TOUCH {
                found.last_seen = value.last_seen;
            } else {
                *found = *value;
            }
            return place;
        }
    });
    if is_counted && let Some(stats) = maps::FLOW_STATS.get_ptr_mut(kind) {
        // SAFETY: the value belongs to this CPU, and BPF programs of one hook do not nest.
        let stats = unsafe { &mut *stats };
        if to_do == ENTER {
            stats.entered += 1;
        } else {
            stats.left += 1;
        }
    }
    NOWHERE
}

#[inline(always)]
fn enter(p: &Packet, flow: &mut FlowValue, kind: FlowKind) {
    sg_flow(p, flow, ENTER | (kind as u32) << KIND_SHIFT);
}

/// `kind` is a [`FlowKind`] as a number. The flow is not looked at.
#[inline(always)]
fn forget(p: &Packet, flow: &mut FlowValue, kind: u32) {
    sg_flow(p, flow, FORGET | kind << KIND_SHIFT);
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
        enter(p, flow, FlowKind::Established);
        forget(p, flow, FlowKind::HalfOpen as u32);
    } else {
        sg_flow(p, flow, if is_changed { WRITE } else { TOUCH });
    }
    0
}

/// Decides a packet whose remote address is in `class`, given the rules' verdict: remembers what they
/// accept, and looks for the flow of what they do not.
#[inline(always)]
pub(crate) fn decide(p: &Packet, class: u32, verdict: Verdict) -> Outcome {
    Outcome::unpack(sg_track(p, class, verdict.0))
}

/// The outcome of a reason. Arithmetic where [`Outcome::reason`] would branch by direction.
#[inline(always)]
fn reason(p: &Packet, reason: Reason) -> u64 {
    let accept = matches!(reason.action(), Action::Accept);
    let outcome = Outcome::of_slot(reason_slot(Direction::Inbound, reason), accept, false);
    outcome.pack() + u64::from(p.direction & 1) * REASONS_APART
}

/// What lies between the slots of a reason in the two directions.
const REASONS_APART: u64 = (reason_slot(Direction::Outbound, Reason::NonIp)
    - reason_slot(Direction::Inbound, Reason::NonIp)) as u64;

/// It answers a flow that the slot's rule admitted.
const REPLY: u64 = Outcome::of_slot(0, true, true).pack();
/// It goes on in the direction of a flow that an earlier policy admitted and this one keeps.
const KEPT: u64 = Outcome::of_slot(0, true, false).pack();

/// The outcome of [`decide`], packed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_track(p: *const Packet, class: u32, verdict: u32) -> u64 {
    if p.is_null() {
        return Outcome::rule(Verdict(verdict)).pack();
    }
    // SAFETY: not null, and every caller passes a whole packet on its stack.
    let p = unsafe { &*p };
    let verdict = Verdict(verdict);
    let is_accepted = verdict.is_accept();
    // A number, for the verifier's sake: conditions in a row are ways to walk.
    let may_enter = verdict.accept_bit() & u32::from(p.opens) != 0;
    let now = clock::now();
    let by_rules = Outcome::rule(verdict).pack();

    let mut flow = FlowValue::EMPTY;
    let place = sg_flow(p, &mut flow, READ);
    let kind = place.wrapping_sub(HALF_OPEN);
    let reopens = may_enter
        && p.is_kind(Kind::Tcp)
        && tcp::is_bare_syn(p.tcp_flags)
        && Timeout::from_index(flow.state).is_some_and(tcp::makes_room);
    if place == NOWHERE || reopens || has_expired(&flow, now) {
        if place != NOWHERE {
            forget(p, &mut flow, kind);
        }
        if may_enter {
            flow.created = now;
            flow.last_seen = now;
            flow.slot = verdict.slot();
            flow.generation = maps::generation();
            flow.opener = p.direction;
            flow.state = sg_next_state(p.kind.into(), NO_STATE, 1, p.tcp_flags.into()) as u8;
            flow.flags = 0;
            enter(p, &mut flow, FlowKind::HalfOpen);
        }
        return by_rules;
    }

    let from_opener = flow.opener == p.direction;
    let is_older = flow.generation != maps::generation();
    let mut result = by_rules;
    // All bits set where the packet counts for the flow's rule: the slot is then put in.
    let mut has_slot = 0;
    // The verdict that admits the flow under this policy, where an earlier one did.
    let mut admission = 0;
    if flow.is_seeded() && !is_accepted {
        result = reason(p, Reason::Seeded);
    } else if is_accepted {
        if from_opener && is_older && !flow.is_seeded() {
            admission = verdict.0;
        }
    } else if is_older && !maps::keeps_flows() {
        // Of an opener's packet the rules of its own direction were asked just now, and did not
        // accept.
        if !from_opener {
            admission = ask(class, p.direction().opposite(), p.kind, p.return_number).0;
        }
        if !Verdict(admission).is_accept() {
            forget(p, &mut flow, kind);
            return reason(p, Reason::Revoked);
        }
        (result, has_slot) = (REPLY, u32::MAX);
    } else if !from_opener {
        (result, has_slot) = (REPLY, u32::MAX);
    } else if is_older {
        (result, has_slot) = (KEPT, u32::MAX);
    } else {
        // Same key, other match (an ICMP code): the rules have the word.
        return by_rules;
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
    let slot = flow.slot & has_slot;
    // Nearly every packet of a busy flow changes nothing that is worth writing. One number instead
    // of four branches, for the verifier's sake.
    let disturbances = (how & !FROM_OPENER ^ FlowKind::Established as u32)
        | u32::from(p.tcp_flags & tcp::STATE_FLAGS)
        | track::disturbs(flow.state);
    let is_steady = disturbances == 0 && elapsed(now, flow.last_seen) <= TOUCH_INTERVAL_NS;
    if !is_steady {
        sg_go_on(p, &mut flow, how, now);
    }
    result | u64::from(slot)
}

/// True when `p`, a packet that was quoted and that the rules do not accept, belongs to a live
/// flow which the policy admits. Changes nothing. `rejudge` is
/// the verdict of the rules on the packet that it answers.
#[inline(always)]
pub(crate) fn belongs(p: &Packet, direction: Direction, rejudge: impl FnOnce() -> Verdict) -> bool {
    let mut flow = FlowValue::EMPTY;
    if !maps::has_flows() || sg_flow(p, &mut flow, READ) == NOWHERE {
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
