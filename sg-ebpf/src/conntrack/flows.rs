//! What a packet does to its flow, and the flow to the packet: what admitted flows leave behind,
//! and how their replies find it. Only packets whose replies no rule would pass are remembered
//! (SPEC K7).

use sg_common::{
    flow::FlowKind,
    flow_entry::{
        Contents, FlowKey, Head, NO_NUMBER, audits, begun_word, rule_word, slot_of, tick,
    },
    flow_table::{Found, Word as _},
    ruling::{End, Ruling, end_of, is_cut_at_its_end, rule_on_live},
    verdict::{Direction, Reason, Verdict, reason_slot},
};

use super::step::{
    FROM_ORIGINATOR, IS_CHANGED, IS_CONFIRMED, NO_STATE, RACED, sg_go_on, sg_next_state,
};
use super::table::{
    enter, find, is_expired, sg_flow_change_rule, sg_flow_cut, sg_flow_forget,
    sg_flow_remove_double, sg_flow_spare,
};
use super::traits::Traits;
use super::watched::{WATCHED_RULING, is_ruling, sg_rule_on_watched};
use crate::audit::{Auditing, Off, On};
use crate::bpf::clock::now;
use crate::bpf::maps;
use crate::bpf::word::SharedWord;
use crate::gate;
use crate::outcome::Outcome;
use crate::packet::Packet;
use crate::rules::ask;

/// The outcome of a reason. Arithmetic where [`Outcome::reason`] would branch by direction.
#[inline(always)]
fn reason(direction: u8, reason: Reason) -> u64 {
    const { assert!(REASONS_APART > 0) };
    let outcome = Outcome::reason(Direction::Inbound, reason);
    outcome.pack() + u64::from(direction) * REASONS_APART
}

/// What lies between the slots of a reason in the two directions.
const REASONS_APART: u64 = (reason_slot(Direction::Outbound, Reason::NonIp)
    - reason_slot(Direction::Inbound, Reason::NonIp)) as u64;

/// The outcome of a reply in a flow that the slot's rule admitted; the slot is put in.
pub(crate) const REPLY: u64 = Outcome::of_slot(0, true, true).pack();
/// The outcome of [`Ruling::Kept`]; the slot is put in.
const KEPT: u64 = Outcome::of_slot(0, true, false).pack();

/// Cuts a TCP flow, or spares it: see [`gate::ends_flows`].
#[inline(always)]
pub(super) fn cut(found: &Found, now: u64) {
    if gate::ends_flows() {
        sg_flow_cut(found, now);
    } else {
        sg_flow_spare(found, now);
    }
}

/// The outcome of a packet of a cut flow. A policy that audits everything lets it pass, and the
/// flow stays cut.
#[inline(always)]
pub(super) fn revoked<A: Auditing>(direction: u8) -> u64 {
    if A::ON && maps::audits_all() {
        return reason(direction, Reason::RevokedAudited);
    }
    reason(direction, Reason::Revoked)
}

/// Decides a packet whose remote address is in `class`, given the rules' verdict: enters or
/// continues the flow of what they accept, and looks for the flow of what they do not. Returns an
/// [`Outcome`], packed, or [`BY_RULES`].
#[inline(always)]
pub(crate) fn track<A: Auditing>(
    packet: *const Packet,
    hash: u32,
    traits: u64,
    class: u32,
    verdict: u32,
) -> u64 {
    match A::ON {
        true => sg_track_audited(packet, hash, traits, class, verdict),
        false => sg_track(packet, hash, traits, class, verdict),
    }
}

/// See [`track`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_track(
    packet: *const Packet,
    hash: u32,
    traits: u64,
    class: u32,
    verdict: u32,
) -> u64 {
    track_packet::<Off>(packet, hash, traits, class, verdict)
}

/// See [`track`], for a policy that audits.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_track_audited(
    packet: *const Packet,
    hash: u32,
    traits: u64,
    class: u32,
    verdict: u32,
) -> u64 {
    track_packet::<On>(packet, hash, traits, class, verdict)
}

#[inline(always)]
fn track_packet<A: Auditing>(
    packet: *const Packet,
    hash: u32,
    traits: u64,
    class: u32,
    verdict: u32,
) -> u64 {
    let verdict = Verdict(verdict);
    if packet.is_null() {
        return by_rules::<A>(verdict);
    }
    // SAFETY: not null, and the only caller passes its whole packet.
    let packet = unsafe { &*packet };
    let key = packet.flow_key();
    let traits = Traits(traits);
    let now = now();

    let mut found = Found::NOTHING;
    let is_there = find(key, hash, &mut found);
    let head = found.contents.head;
    let about = traits.about(verdict.accept_bit());
    let entry = found.contents;
    let is_gone = || is_expired(head, now) | u64::from(is_there ^ 1);
    let mut watched = 0;
    let end = match A::ON {
        true => {
            watched = sg_rule_on_watched(&found.contents, traits.0, verdict.0, class, is_gone());
            End {
                is_without_flow: is_ruling(watched, Ruling::NoFlow),
                // `end_flow` cuts a flow of TCP and forgets any other, under either ruling.
                is_cut: is_ruling(watched, Ruling::Cut) | is_ruling(watched, Ruling::Revoked),
            }
        }
        false => end_of::<SharedWord>(&entry, &about, &maps::InForce, is_gone),
    };
    if SharedWord::opaque(end.is_without_flow) != 0 {
        return without_flow::<A>(key, hash, &mut found, is_there, traits, verdict, now);
    }
    if SharedWord::opaque(end.is_cut) != 0 {
        if A::ON {
            end_flow(&found, traits, now);
        } else {
            cut(&found, now);
        }
        return revoked::<A>(Traits(SharedWord::opaque(traits.0)).direction());
    }

    // Opaque, so that the compiler takes everything below from these words anew: it would keep
    // what was computed above on the stack, which is short.
    let traits = Traits(SharedWord::opaque(traits.0));
    let verdict = Verdict(SharedWord::opaque(verdict.0.into()) as u32);
    let head = Head(SharedWord::opaque(head.0));
    let entry = Contents { head, ..entry };
    let by_rules = by_rules::<A>(verdict);
    let mut result = by_rules;
    // Taken anew, or it would be kept in a register meanwhile.
    let direction = || Traits(SharedWord::opaque(traits.0)).direction();
    // All bits set where the packet counts for the flow's rule: the slot is then put in.
    let mut has_slot = 0u32;
    // The verdict that admits the flow under this policy, where an earlier one did.
    let mut admission = 0;
    if A::ON {
        match by_watched_flow(watched, traits) {
            Some(ruled) => (result, has_slot, admission) = ruled,
            None => return by_rules,
        }
    } else {
        match rule_on_live(&entry, &traits.about(verdict.accept_bit()), &maps::InForce) {
            Ruling::NoFlow | Ruling::Cut | Ruling::ByRulesAlone => return by_rules,
            Ruling::ByRules => {}
            Ruling::Readmitted => admission = verdict.0,
            Ruling::Seeded => result = reason(direction(), Reason::Seeded),
            Ruling::Kept => (result, has_slot) = (KEPT, u32::MAX),
            Ruling::Reply => (result, has_slot) = (REPLY, u32::MAX),
            ruling @ (Ruling::JudgedAgain | Ruling::Revoked) => {
                if matches!(ruling, Ruling::JudgedAgain) {
                    let opposite = Direction::BOTH[usize::from(traits.direction() ^ 1)];
                    admission = ask(class, opposite, traits.kind(), traits.return_number()).0;
                }
                if !Verdict(admission).is_accept() {
                    end_flow(&found, traits, now);
                    return revoked::<A>(direction());
                }
                (result, has_slot) = (REPLY, u32::MAX);
            }
        }
    }
    let from_originator = head.originator() == traits.direction();
    let mut rule = found.contents.rule;
    // The verifier explores what follows once for all of these.
    rule = SharedWord::forget(rule, now);
    let result = SharedWord::forget(result, now);
    let has_slot = SharedWord::forget(has_slot.into(), now) as u32;
    let admission = SharedWord::forget(admission.into(), now) as u32;
    let mut how = found.kind() as u32
        + SharedWord::forget(u64::from(from_originator), now) as u32 * FROM_ORIGINATOR;
    if admission != 0 {
        rule = rule_word(admission_of::<A>(Verdict(admission)), maps::config().epoch);
        how |= IS_CHANGED;
        sg_flow_change_rule(&mut found, rule);
    }
    #[allow(unused_mut, reason = "only what audits changes it")]
    let mut result = result | u64::from(slot_of(rule) & has_slot);
    if A::ON {
        // What counts for the rule of a flow that is only watched leaves an event.
        let is_counted = u64::from(has_slot & 1);
        result |= (audits(rule) & is_counted) * Outcome::AUDIT;
    }
    go_on(packet, hash, &mut found, traits, how, now);
    result
}

/// Enters a flow where the rules admit one that they have to remember, in the place of what is left
/// of an earlier one. The rules decide the packet.
#[inline(always)]
fn without_flow<A: Auditing>(
    key: &FlowKey,
    hash: u32,
    found: &mut Found,
    is_there: u32,
    traits: Traits,
    verdict: Verdict,
    now: u64,
) -> u64 {
    let traits = Traits(SharedWord::opaque(traits.0));
    let verdict = Verdict(SharedWord::opaque(verdict.0.into()) as u32);
    let passes = match A::ON {
        true => verdict.accept_bit() | verdict.audit_bit(),
        false => verdict.accept_bit(),
    };
    let enters = passes & traits.opens();
    if SharedWord::opaque(is_there.into()) != 0 && (gate::ends_flows() || enters != 0) {
        sg_flow_forget(found);
    }
    if SharedWord::opaque(enters.into()) != 0 {
        let flags = traits.tcp_flags().into();
        let state = sg_next_state(traits.kind().into(), NO_STATE, flags, 0) as u8;
        found.contents = Contents {
            head: Head::of_first(tick(now), state, traits.direction()),
            rule: rule_word(admission_of::<A>(verdict), maps::config().epoch),
            begun: begun_word(tick(now), NO_NUMBER),
        };
        enter(key, hash, &found.contents, FlowKind::HalfOpen, now);
    }
    // Opaque, as below, so that the compiler keeps nothing of it on the stack, which is short.
    by_rules::<A>(Verdict(SharedWord::opaque(verdict.0.into()) as u32))
}

/// What the ruling on a flow that a policy watches makes of a packet, as [`track_packet`] has it:
/// outcome, slot and the verdict that admits the flow, which `watched` has above the ruling. `None`
/// where the rules decide and the flow does not go on.
#[inline(always)]
fn by_watched_flow(watched: u64, traits: Traits) -> Option<(u64, u32, u32)> {
    let ruling = watched & WATCHED_RULING;
    if ruling == Ruling::ByRulesAlone as u64 {
        return None;
    }
    // Arithmetic, so that what follows is explored once.
    let is = |rulings: u64| SharedWord::opaque(rulings) >> ruling & 1;
    const REPLIES: u64 = 1 << Ruling::Reply as u64 | 1 << Ruling::JudgedAgain as u64;
    let (is_reply, is_kept) = (is(REPLIES), is(1 << Ruling::Kept as u64));
    let is_seeded = is(1 << Ruling::Seeded as u64);
    let direction = Traits(SharedWord::opaque(traits.0)).direction();
    let by_flow = is_reply * REPLY + is_kept * KEPT + is_seeded * reason(direction, Reason::Seeded);
    let by_rules = (is_reply | is_kept | is_seeded) ^ 1;
    let has_slot = ((is_reply | is_kept) as u32).wrapping_neg();
    Some((
        by_flow + by_rules * BY_RULES,
        has_slot,
        (watched >> 32) as u32,
    ))
}

/// Continues the flow, and confirms it if the packet answers its first one.
#[inline(always)]
fn go_on(packet: &Packet, hash: u32, found: &mut Found, traits: Traits, how: u32, now: u64) {
    let numbers = packet.numbers.pack();
    let mut step = sg_go_on(found, traits.0, numbers, how, now);
    if step == RACED {
        step = sg_go_on(found, traits.0, numbers, how & !IS_CHANGED, now);
    }
    if step == IS_CONFIRMED {
        // Entered first, and then taken out: a packet on another CPU always finds one of the two
        // entries.
        enter(
            packet.flow_key(),
            hash,
            &found.contents,
            FlowKind::Established,
            now,
        );
        sg_flow_remove_double(packet.flow_key(), hash);
        sg_flow_forget(found);
    }
}

/// Returned by [`track`] for what the rules decide, by programs that audit: theirs is a longer
/// outcome, which is made in one place.
pub(crate) const BY_RULES: u64 = u64::MAX;

#[inline(always)]
fn by_rules<A: Auditing>(verdict: Verdict) -> u64 {
    match A::ON {
        true => BY_RULES,
        false => Outcome::rule(verdict).pack(),
    }
}

/// Ends a flow that the policy does not admit any more.
#[inline(always)]
fn end_flow(found: &Found, traits: Traits, now: u64) {
    let is_cut = is_cut_at_its_end(SharedWord::opaque(traits.kind().into()) as u8);
    if !gate::ends_flows() {
        sg_flow_spare(found, now);
    } else if is_cut {
        sg_flow_cut(found, now);
    } else {
        sg_flow_forget(found);
    }
}

/// What a flow keeps of the verdict that admits it.
#[inline(always)]
fn admission_of<A: Auditing>(verdict: Verdict) -> u32 {
    match A::ON {
        true => verdict.admission(),
        false => verdict.slot(),
    }
}
