//! The flow table: what admitted flows leave behind, and how their replies find it.
//! Only packets whose replies no rule would pass are remembered (SPEC K7).

use sg_common::{
    flow::{FlowKind, Timeout},
    flow_entry::{Contents, Head, TOUCH_AGE, age, clock, generation_of, rule_word, slot_of, tick},
    flow_table::{Found, Table as _, change, change_rule},
    tables::Kind,
    tcp, track,
    verdict::{Action, Direction, Reason, Verdict, reason_slot},
};

use crate::{
    classify::ask,
    clock::now,
    flow_maps::{Flows, find, key, sg_flow_enter, sg_flow_forget},
    maps,
    outcome::Outcome,
    packet::Packet,
};

#[inline(always)]
fn has_expired(head: Head, now: u64) -> bool {
    age(clock(now), head.last_seen()) > Flows.time_out(head.state())
}

// What `sg_go_on` is told besides the `FlowKind`, which is bit 0.
const FROM_OPENER: u32 = 2;
const IS_CHANGED: u32 = 4;

/// How often a step is taken again from what another CPU has made of the flow meanwhile.
const ATTEMPTS: u32 = 3;

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
/// dirtied a few times a second, not per packet. `rule` is whose it is now, if `IS_CHANGED`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_go_on(
    p: *const Packet,
    found: *mut Found,
    how: u32,
    now: u64,
    rule: u64,
) -> u32 {
    if p.is_null() || found.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes whole values on its stack.
    let (p, found) = unsafe { (&*p, &mut *found) };
    if how & IS_CHANGED != 0 {
        change_rule(&Flows, found, rule);
        found.contents.rule = rule;
    }
    let from_opener = how & FROM_OPENER;
    let is_half_open = how & 1 == FlowKind::HalfOpen as u32;
    for _ in 0..ATTEMPTS {
        let head = found.contents.head;
        let (kind, flags) = (p.kind.into(), p.tcp_flags.into());
        let state = sg_next_state(kind, head.state().into(), from_opener, flags) as u8;
        let mut next = head.in_state(state);
        if from_opener == 0 {
            next.0 |= Head::ANSWERED;
        }
        let is_step = next != head;
        if how & IS_CHANGED == 0 && !is_step && age(clock(now), head.last_seen()) < TOUCH_AGE {
            return 0;
        }
        let next = next.seen_at(tick(now));
        let belongs = track::kind_of_flow(p.kind, state, next.is_answered());
        if is_half_open && matches!(belongs, FlowKind::Established) {
            // First in, then out: a packet on another CPU finds it among one of the two.
            let contents = Contents {
                head: next,
                ..found.contents
            };
            sg_flow_enter(&key(p), &contents, FlowKind::Established as u32, now);
            sg_flow_forget(found);
            return 0;
        }
        let Some(current) = change(&Flows, found, next) else {
            return 0;
        };
        if !is_step || !current.is_same_flow(head) {
            return 0;
        }
        found.contents.head = current;
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
pub(crate) const REPLY: u64 = Outcome::of_slot(0, true, true).pack();
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
    let now = now();
    let by_rules = Outcome::rule(verdict).pack();

    let key = key(p);
    let mut found = Found::NOTHING;
    let is_there = find(&key, &mut found);
    let head = found.contents.head;
    let reopens = may_enter
        && p.is_kind(Kind::Tcp)
        && tcp::is_bare_syn(p.tcp_flags)
        && Timeout::from_index(head.state()).is_some_and(tcp::makes_room);
    if !is_there || reopens || has_expired(head, now) {
        if is_there {
            sg_flow_forget(&found);
        }
        if may_enter {
            let state = sg_next_state(p.kind.into(), NO_STATE, 1, p.tcp_flags.into()) as u8;
            let contents = Contents {
                head: Head::new(tick(now), state, p.direction),
                rule: rule_word(verdict.slot(), maps::generation()),
                created: now,
            };
            sg_flow_enter(&key, &contents, FlowKind::HalfOpen as u32, now);
        }
        return by_rules;
    }

    let from_opener = head.opener() == p.direction;
    let mut rule = found.contents.rule;
    let is_older = generation_of(rule) != maps::generation();
    let mut result = by_rules;
    // All bits set where the packet counts for the flow's rule: the slot is then put in.
    let mut has_slot = 0;
    // The verdict that admits the flow under this policy, where an earlier one did.
    let mut admission = 0;
    if head.is_seeded() && !is_accepted {
        result = reason(p, Reason::Seeded);
    } else if is_accepted {
        if from_opener && is_older && !head.is_seeded() {
            admission = verdict.0;
        }
    } else if is_older && !maps::keeps_flows() {
        // Of an opener's packet the rules of its own direction were asked just now, and did not
        // accept.
        if !from_opener {
            admission = ask(class, p.direction().opposite(), p.kind, p.return_number).0;
        }
        if !Verdict(admission).is_accept() {
            sg_flow_forget(&found);
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
    let mut how = found.kind() as u32;
    if from_opener {
        how |= FROM_OPENER;
    }
    if admission != 0 {
        rule = rule_word(Verdict(admission).slot(), maps::generation());
        how |= IS_CHANGED;
    }
    sg_go_on(p, &mut found, how, now, rule);
    result | u64::from(slot_of(rule) & has_slot)
}

/// True when `p`, a packet that was quoted and that the rules do not accept, belongs to a live
/// flow which the policy admits. Changes nothing. `rejudge` is
/// the verdict of the rules on the packet that it answers.
#[inline(always)]
pub(crate) fn belongs(p: &Packet, direction: Direction, rejudge: impl FnOnce() -> Verdict) -> bool {
    let mut found = Found::NOTHING;
    if !maps::has_flows() || !find(&key(p), &mut found) {
        return false;
    }
    let Contents { head, rule, .. } = found.contents;
    if has_expired(head, now()) {
        return false;
    }
    if head.is_seeded() || generation_of(rule) == maps::generation() || maps::keeps_flows() {
        return true;
    }
    head.opener() != direction as u8 && rejudge().is_accept()
}
