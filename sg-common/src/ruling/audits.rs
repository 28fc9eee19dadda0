//! What the entry of a flow says about a packet under a policy that audits (SPEC C9).

use super::{FLUSH_OLD, JUDGE_OLD, KEEP_OLD, Packet, Policy, Ruling, is_cut, is_zero};
use crate::flow_entry::{Contents, Head, audits, generation_of};
use crate::flow_table::Word;
use crate::tcp;

/// What a policy that audits has to know of a packet besides [`Packet`] (SPEC C9).
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    /// 1 if the rules audit the packet. They do not accept it then.
    pub is_audited: u32,
    /// 1 if the rules of the other direction accept its reply.
    pub accepts_other: u32,
    /// 1 if they accept or audit it.
    pub passes_other: u32,
}

/// What decides the ruling of a policy that audits on a flow that goes on: bits of an index into
/// [`LIVE_WATCHED`].
mod fact {
    /// The flow is a seeded one.
    pub(super) const SEEDED: u64 = 1 << 0;
    /// The rules accept the packet.
    pub(super) const ACCEPTED: u64 = 1 << 1;
    /// The rules audit the packet.
    pub(super) const AUDITED: u64 = 1 << 2;
    /// Only rules may accept it: see [`crate::concern::only_rules_accept`].
    pub(super) const ONLY_RULES: u64 = 1 << 3;
    /// It comes from the side that did not open the flow.
    pub(super) const FROM_OTHER: u64 = 1 << 4;
    /// Another policy has admitted the flow.
    pub(super) const OF_OTHER: u64 = 1 << 5;
    /// The flow is only watched.
    pub(super) const WATCHED: u64 = 1 << 6;
    /// Flows of other policies are judged, and what the packet would reply to passes.
    pub(super) const PASSES_OTHER: u64 = 1 << 7;
    /// Flows of other policies are kept.
    pub(super) const KEEPS: u64 = 1 << 8;
    /// All indices.
    pub(super) const ALL: usize = 1 << 9;
}

/// What is audited is ruled on as what is dropped, so that what a flow admits anyway is not taken
/// for what would be dropped. Only what the rules would decide is audited: a SYN, and what comes
/// from the side that opened the flow. In a flow that is only watched the other side's packets are
/// replies also where the rules accept them: without the audit there would be none. Where the rules
/// accept a packet of the other side, those of the flow's own direction may audit what it replies
/// to, and so the flow goes on.
const fn live_watched(facts: u64) -> Ruling {
    let is_accepted = facts & fact::ACCEPTED != 0;
    let is_audited = facts & fact::AUDITED != 0;
    let only_rules = facts & fact::ONLY_RULES != 0;
    let from_other = facts & fact::FROM_OTHER != 0;
    let is_other = facts & fact::OF_OTHER != 0;
    let is_kept = is_other && facts & fact::KEEPS != 0;
    if facts & fact::SEEDED != 0 {
        return if is_accepted || is_audited && only_rules {
            Ruling::ByRules
        } else {
            Ruling::Seeded
        };
    }
    if is_accepted && from_other {
        return if is_other && facts & fact::PASSES_OTHER != 0 {
            Ruling::JudgedAgain
        } else if facts & fact::WATCHED != 0 {
            Ruling::Reply
        } else {
            Ruling::ByRules
        };
    }
    if is_accepted || is_audited && (only_rules || !from_other && !is_kept) {
        return if !from_other && is_other && (is_accepted || !is_kept) {
            Ruling::Readmitted
        } else {
            Ruling::ByRules
        };
    }
    // As if the rules dropped it: see `rule_on_live`.
    match (is_other, is_kept, from_other) {
        (true, false, false) => Ruling::Revoked,
        (true, false, true) => Ruling::JudgedAgain,
        (_, _, true) => Ruling::Reply,
        (true, true, false) => Ruling::Kept,
        (false, _, false) => Ruling::ByRulesAlone,
    }
}

/// [`live_watched`] of all facts: a list in memory is fewer instructions than what it says.
static LIVE_WATCHED: [u8; fact::ALL] = {
    let mut rulings = [0; fact::ALL];
    let mut facts = 0;
    while facts < fact::ALL {
        rulings[facts] = live_watched(facts as u64) as u8;
        facts += 1;
    }
    rulings
};

/// The ruling on a packet of a policy that audits, as [`super::end_of`] and [`super::rule_on_live`]
/// together for others. Returns its number: see [`Ruling::of_number`]. `is_gone` as there.
///
/// A SYN that is audited begins a flow where an accepted one would, but leaves one alone that the
/// rules accept; a SYN that is accepted takes the place of a flow that is only watched.
#[inline(always)]
pub fn rule_with_audits<W: Word>(
    entry: &Contents,
    packet: &Packet,
    watched: &Watched,
    policy: &impl Policy,
    is_gone: u64,
) -> u64 {
    let not = |fact: u64| fact ^ 1;
    // Facts are numbers. The compiler must not see that they are 1 or 0, or it makes branches.
    let fact = |fact: u64| W::opaque(fact);
    let head = entry.head;
    let old_flows = u64::from(policy.old_flows()) & 3;
    let is = |rule: u8| W::opaque(1 << rule) >> old_flows & 1;
    let (judges, keeps, flushes) = (is(JUDGE_OLD), is(KEEP_OLD), is(FLUSH_OLD));
    let is_seeded = fact((head.0 / Head::SEEDED) & 1);
    let is_accepted = fact(packet.is_accepted.into());
    let is_audited = fact(watched.is_audited.into());
    let passes_other = fact(watched.passes_other.into());
    let from_other = fact((head.originator() ^ packet.direction).into());
    let is_watched = fact(audits(entry.rule));
    let before = policy.is_before::<W>(entry.rule);
    let of_this = is_zero::<W>((generation_of(entry.rule) ^ policy.epoch()).into());
    let is_tcp = packet.is_tcp::<W>();

    // Whether the flow ends before the packet.
    let is_flushed = before & flushes;
    let is_judged = before & judges & not(is_seeded) & from_other;
    let is_over = is_flushed | is_judged & is_accepted & not(passes_other);
    let is_new = is_accepted | not(watched.accepts_other.into());
    let is_full = u64::from(tcp::makes_room(head.state()))
        | is_flushed
        | is_accepted & is_watched
        | is_judged & is_new;
    let may_enter = (is_accepted | is_audited) & u64::from(packet.opens);
    let is_syn = is_zero::<W>(tcp::differs_from_bare_syn(packet.tcp_flags).into());
    let reopens = may_enter & is_tcp & is_syn & is_full;
    let is_without_flow = reopens | is_over & not(is_tcp) | is_gone;
    let is_cut = is_over | is_cut::<W>(head);

    // The flags are zero where the protocol is not TCP.
    let only_rules = is_zero::<W>(tcp::differs_from_opening(packet.tcp_flags).into());
    let facts = is_seeded * fact::SEEDED
        + is_accepted * fact::ACCEPTED
        + is_audited * fact::AUDITED
        + only_rules * fact::ONLY_RULES
        + from_other * fact::FROM_OTHER
        + not(of_this) * fact::OF_OTHER
        + is_watched * fact::WATCHED
        + (judges & passes_other) * fact::PASSES_OTHER
        + keeps * fact::KEEPS;
    let ruling = u64::from(LIVE_WATCHED[W::opaque(facts) as usize & (fact::ALL - 1)]);
    const { assert!(Ruling::NoFlow as u64 == 0) };
    let (goes_on, is_cut) = (fact(not(is_without_flow)), fact(is_cut));
    // All ones where the ruling is the table's.
    let live = is_cut.wrapping_sub(1);
    goes_on.wrapping_neg() & (ruling & live | (is_cut * Ruling::Cut as u64))
}
