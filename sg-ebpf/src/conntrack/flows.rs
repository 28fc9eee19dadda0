//! The flow table: what admitted flows leave behind, and how their replies find it.
//! Only packets whose replies no rule would pass are remembered (SPEC K7).

use sg_common::{
    flow::FlowKind,
    flow_entry::{
        Contents, Head, LASTING_AGE, NO_NUMBER, TOUCH_AGE, acknowledges, age, audits, begun_word,
        clock, created_of, has_expired, number_after, number_of, rule_word, slot_of, tick,
    },
    flow_table::{Found, Table as _, Word as _, change},
    ruling::{
        self, End, Ruling,
        audits::{Watched, rule_with_audits},
        end_of, has_ended, is_cut_at_its_end, rule_on_live, rule_on_passed,
    },
    tcp::Row,
    track,
    verdict::{Direction, Reason, Verdict, reason_slot},
};

use crate::audit::{Auditing, Off, On};
use crate::bpf::clock::now;
use crate::bpf::maps;
use crate::bpf::word::SharedWord;
use crate::conntrack::table::{
    Flows, enter, find, hash_of, sg_flow_change_begun, sg_flow_change_rule, sg_flow_cut,
    sg_flow_forget, sg_flow_remove_double, sg_flow_spare,
};
use crate::gate;
use crate::outcome::Outcome;
use crate::packet::{Numbers, Packet};
use crate::rules::ask;

/// 1 if a flow with this head has expired, else 0.
#[inline(always)]
fn is_expired(head: Head, now: u64) -> u64 {
    let age = age(clock(now), head.last_seen());
    has_expired(age, SharedWord::opaque(Flows.time_out(head.state()).into()))
}

// Bits of the argument `how` of `sg_go_on`, besides the `FlowKind` in bit 0.
const FROM_ORIGINATOR: u32 = 2;
const IS_CHANGED: u32 = 4;

/// Instead of a state, for a flow that begins.
const NO_STATE: u32 = u8::MAX as u32;

/// The state after one more packet: [`track::next`], or [`track::first`] after [`NO_STATE`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_next_state(kind: u32, state: u32, tcp_flags: u32, known: u32) -> u32 {
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
const DONE: u32 = 0;
/// The flow is established from now on: it is to be entered among those, as what is then in
/// `found`.
const IS_CONFIRMED: u32 = 1;
/// Another CPU has changed the flow meanwhile, to what is then in `found`: the step is to be taken
/// again from there.
const RACED: u32 = 2;

/// Takes the flow one packet further, and writes its entry if that changes it. Its last packet's
/// time is written a few times a second only, so that a busy flow's line is not dirtied by each
/// packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_go_on(found: *mut Found, traits: u64, numbers: u64, how: u32, now: u64) -> u32 {
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

/// What conntrack has to know of a packet besides its tuple, in one number: its kind in bits 0-7,
/// TCP's flags in 8-15, its direction in bit 16, whether it may open a flow in bit 17, and from
/// bit 32 on the number that the other direction's rules are asked for.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Traits(pub(crate) u64);

impl Traits {
    #[inline(always)]
    pub(crate) fn new(
        kind: u8,
        tcp_flags: u8,
        direction: u8,
        opens: u8,
        return_number: u16,
    ) -> Self {
        let low = u64::from(kind) | u64::from(tcp_flags) << 8;
        let bits = u64::from(direction) << 16 | u64::from(opens) << 17;
        Traits(low | bits | u64::from(return_number) << 32)
    }

    #[inline(always)]
    pub(crate) fn of(p: &Packet) -> Self {
        Traits::new(p.kind, p.tcp_flags, p.direction, p.opens, p.return_number)
    }

    #[inline(always)]
    fn kind(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    pub(crate) fn tcp_flags(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline(always)]
    pub(crate) fn direction(self) -> u8 {
        (self.0 >> 16) as u8 & 1
    }

    #[inline(always)]
    fn opens(self) -> u32 {
        (self.0 >> 17) as u32 & 1
    }

    /// The packet as the rulings see it; `is_accepted` is what the rules say of it.
    #[inline(always)]
    fn about(self, is_accepted: u32) -> ruling::Packet {
        ruling::Packet {
            kind: self.kind(),
            tcp_flags: self.tcp_flags(),
            direction: self.direction(),
            opens: self.opens(),
            is_accepted,
        }
    }

    #[inline(always)]
    fn return_number(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

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
fn cut(found: &Found, now: u64) {
    if gate::ends_flows() {
        sg_flow_cut(found, now);
    } else {
        sg_flow_spare(found, now);
    }
}

/// The outcome of a packet of a cut flow. A policy that audits everything lets it pass, and the
/// flow stays cut.
#[inline(always)]
fn revoked<A: Auditing>(direction: u8) -> u64 {
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
        let traits = Traits(SharedWord::opaque(traits.0));
        let verdict = Verdict(SharedWord::opaque(verdict.0.into()) as u32);
        let passes = match A::ON {
            true => verdict.accept_bit() | verdict.audit_bit(),
            false => verdict.accept_bit(),
        };
        let enters = passes & traits.opens();
        if SharedWord::opaque(is_there.into()) != 0 && (gate::ends_flows() || enters != 0) {
            sg_flow_forget(&found);
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
        // From what there is, for the stack is short.
        let verdict = Verdict(SharedWord::opaque(verdict.0.into()) as u32);
        return by_rules::<A>(verdict);
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
        let ruling = watched & WATCHED_RULING;
        if ruling == Ruling::ByRulesAlone as u64 {
            return by_rules;
        }
        // Arithmetic, so that what follows is explored once.
        let is = |rulings: u64| SharedWord::opaque(rulings) >> ruling & 1;
        const REPLIES: u64 = 1 << Ruling::Reply as u64 | 1 << Ruling::JudgedAgain as u64;
        let (is_reply, is_kept) = (is(REPLIES), is(1 << Ruling::Kept as u64));
        let is_seeded = is(1 << Ruling::Seeded as u64);
        let by_flow =
            is_reply * REPLY + is_kept * KEPT + is_seeded * reason(direction(), Reason::Seeded);
        result = by_flow + ((is_reply | is_kept | is_seeded) ^ 1) * by_rules;
        has_slot = ((is_reply | is_kept) as u32).wrapping_neg();
        admission = (watched >> 32) as u32;
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
    let numbers = packet.numbers.pack();
    let mut step = sg_go_on(&mut found, traits.0, numbers, how, now);
    if step == RACED {
        step = sg_go_on(&mut found, traits.0, numbers, how & !IS_CHANGED, now);
    }
    if step == IS_CONFIRMED {
        // Entered first, and then taken out: a packet on another CPU always finds one of the two
        // entries.
        enter(key, hash, &found.contents, FlowKind::Established, now);
        sg_flow_remove_double(key, hash);
        sg_flow_forget(&found);
    }
    result
}

/// SPEC K11, of a packet that the rules pass both ways. Whatever entry its flow has, only that it
/// is a cut one matters: the rules do not bring a connection back, but a new one may take its
/// place. Returns an [`Outcome`], packed.
#[inline(always)]
pub(crate) fn pass_unless_cut<A: Auditing>(
    packet: *const Packet,
    hash: u32,
    traits: u64,
    verdict: u32,
) -> u64 {
    match A::ON {
        true => sg_pass_audited(packet, hash, traits, verdict),
        false => sg_pass_unless_cut(packet, hash, traits, verdict),
    }
}

/// See [`pass_unless_cut`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_pass_unless_cut(
    packet: *const Packet,
    hash: u32,
    traits: u64,
    verdict: u32,
) -> u64 {
    pass_or_drop::<Off>(packet, hash, traits, verdict)
}

/// See [`pass_unless_cut`], for a policy that audits.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_pass_audited(packet: *const Packet, hash: u32, traits: u64, verdict: u32) -> u64 {
    pass_or_drop::<On>(packet, hash, traits, verdict)
}

#[inline(always)]
fn pass_or_drop<A: Auditing>(packet: *const Packet, hash: u32, traits: u64, verdict: u32) -> u64 {
    let by_rules = Outcome::rule(Verdict(verdict)).pack();
    if packet.is_null() {
        return by_rules;
    }
    // SAFETY: not null, and the only caller passes its whole packet.
    let packet = unsafe { &*packet };
    let (traits, now) = (Traits(traits), now());
    let mut found = Found::NOTHING;
    if find(packet.flow_key(), hash, &mut found) == 0 {
        return by_rules;
    }
    let entry = &found.contents;
    let about = traits.about(Verdict(verdict).accept_bit());
    match rule_on_passed::<SharedWord>(entry, &about, &maps::InForce, is_expired(entry.head, now)) {
        Ruling::NoFlow => {
            sg_flow_forget(&found);
            by_rules
        }
        Ruling::Cut => {
            cut(&found, now);
            revoked::<A>(traits.direction())
        }
        _ => by_rules,
    }
}

// What the packet is about that an ICMP error quotes (SPEC K8).

/// Nothing of this node.
pub(crate) const NONE: u32 = 0;
/// A flow, or what the rules accept.
pub(crate) const TO_ACCEPTED: u32 = 1;
/// What passes only because it is watched (SPEC C9).
pub(crate) const TO_AUDITED: u32 = 2;

/// Whether `p`, a packet that was quoted and that the rules do not accept, belongs to a live flow
/// which the policy admits; 1 if so. Changes nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_belongs(p: *const Packet, class: u32) -> u32 {
    if p.is_null() || !maps::has_flows() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes a whole packet on its stack.
    let p = unsafe { &*p };
    let mut found = Found::NOTHING;
    let key = p.flow_key();
    if find(key, hash_of(key), &mut found) == 0 {
        return 0;
    }
    let (entry, policy) = (&found.contents, maps::InForce);
    if SharedWord::opaque(is_expired(entry.head, now()) | has_ended::<SharedWord>(entry, &policy))
        != 0
    {
        return 0;
    }
    // The rules do not accept it: see `sg_is_related`.
    match rule_on_live(entry, &Traits::of(p).about(0), &policy) {
        Ruling::Revoked => 0,
        Ruling::JudgedAgain => {
            let opposite = p.direction().opposite();
            ask(class, opposite, p.kind, p.return_number).accept_bit()
        }
        _ => 1,
    }
}

/// As [`sg_belongs`], for a policy that audits: one of [`NONE`] and those after it. Whatever the
/// rules audit of it, a flow that they admit comes first.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_belongs_audited(p: *const Packet, class: u32) -> u32 {
    if p.is_null() {
        return NONE;
    }
    // SAFETY: not null, and the only caller passes a whole packet on its stack.
    let p = unsafe { &*p };
    let by_rules = ask(class, p.direction(), p.kind, p.number).audit_bit() * TO_AUDITED;
    let mut found = Found::NOTHING;
    let key = p.flow_key();
    if find(key, hash_of(key), &mut found) == 0 {
        return by_rules;
    }
    let (entry, policy) = (&found.contents, maps::InForce);
    if SharedWord::opaque(is_expired(entry.head, now()) | has_ended::<SharedWord>(entry, &policy))
        != 0
    {
        return by_rules;
    }
    let of_flow = TO_ACCEPTED + audits(entry.rule) as u32;
    match rule_on_live(entry, &Traits::of(p).about(0), &policy) {
        Ruling::Revoked => by_rules,
        Ruling::JudgedAgain => {
            let opposite = p.direction().opposite();
            let verdict = ask(class, opposite, p.kind, p.return_number);
            match verdict.is_accept() {
                true => TO_ACCEPTED,
                false => by_rules | (verdict.audit_bit() * TO_AUDITED),
            }
        }
        _ => of_flow,
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

/// The bits of what [`sg_rule_on_watched`] returns that are a [`Ruling`]. The upper half is the
/// verdict that admits the flow from now on, where an earlier policy did.
const WATCHED_RULING: u64 = 15;

/// 1 if it is this ruling, else 0; without a branch.
#[inline(always)]
fn is_ruling(watched: u64, ruling: Ruling) -> u64 {
    SharedWord::opaque(watched & WATCHED_RULING ^ ruling as u64).wrapping_sub(1) >> 63
}

/// What a flow keeps of the verdict that admits it.
#[inline(always)]
fn admission_of<A: Auditing>(verdict: Verdict) -> u32 {
    match A::ON {
        true => verdict.admission(),
        false => verdict.slot(),
    }
}

/// The ruling of a policy that audits: see [`rule_with_audits`]. In a
/// function of its own, whose stack is free again when flows are entered. Returns a [`Ruling`] in
/// the bits of [`WATCHED_RULING`]; where it is [`Ruling::JudgedAgain`] the rules have been asked.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_rule_on_watched(
    entry: *const Contents,
    traits: u64,
    verdict: u32,
    class: u32,
    is_gone: u64,
) -> u64 {
    if entry.is_null() {
        return Ruling::NoFlow as u64;
    }
    // SAFETY: not null, and the only caller passes a whole value on its stack.
    let entry = unsafe { &*entry };
    let (traits, verdict) = (Traits(traits), Verdict(verdict));
    let opposite = Direction::BOTH[usize::from(traits.direction() ^ 1)];
    let other = ask(class, opposite, traits.kind(), traits.return_number());
    let watched = Watched {
        is_audited: verdict.audit_bit(),
        accepts_other: other.accept_bit(),
        // One by one, or the compiler makes a branch of both.
        passes_other: SharedWord::opaque(other.accept_bit().into()) as u32 | other.audit_bit(),
    };
    let about = traits.about(verdict.accept_bit());
    let ruling =
        rule_with_audits::<SharedWord>(entry, &about, &watched, &maps::InForce, is_gone & 1);
    if ruling == Ruling::Readmitted as u64 {
        return ruling | u64::from(verdict.0) << 32;
    }
    if ruling == Ruling::JudgedAgain as u64 {
        if !other.passes() {
            return Ruling::Revoked as u64;
        }
        return ruling | u64::from(other.0) << 32;
    }
    ruling
}
