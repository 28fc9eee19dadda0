//! What the entry of a flow says about a packet: one table of rulings, which the packet path
//! follows, and by which userspace sweeps the flow table (SPEC K6, K11 and K12).
//!
//! | entry \ packet | accepted bare SYN | accepted, from the originator | accepted, from the other side | dropped, from the originator | dropped, from the other side |
//! |---|---|---|---|---|---|
//! | none, or expired | no flow | no flow | no flow | no flow | no flow |
//! | of this policy | by rules | by rules | by rules | by rules alone | reply |
//! | closing | no flow | by rules | by rules | by rules alone | reply |
//! | cut | no flow | cut | cut | cut | cut |
//! | seeded | by rules | by rules | by rules | seeded | seeded |
//! | earlier, to be judged | (as the next two) | readmitted | over | revoked | judged again |
//! | earlier, kept | (as the next two) | readmitted | by rules | kept | reply |
//! | earlier, flushed | no flow | over | over | over | over |
//!
//! *Over* means cut if the flow is one of TCP, and no flow otherwise. A seeded flow of an earlier
//! policy is as a seeded one of this, unless it is flushed.
//!
//! Facts are numbers, 1 or 0, and rulings on ends are arithmetic: each condition in a row would
//! double the paths that the verifier explores.

use crate::flow::CUT;
use crate::flow_entry::{Contents, Head, audits, differs_from_mark, generation_of};
use crate::flow_table::Word;
use crate::protocol::Kind;
use crate::tcp;
use crate::track;

// What a policy does with flows that an earlier one admitted (SPEC K11).

/// The rules of the direction that admitted them are asked, at their next packet.
pub const JUDGE_OLD: u8 = 0;
/// They go on.
pub const KEEP_OLD: u8 = 1;
/// They are flows no more: those of TCP are cut, all others are forgotten.
pub const FLUSH_OLD: u8 = 2;

/// What becomes of a packet, and of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Ruling {
    /// The packet belongs to no flow. Whatever entry there is goes, the rules decide, and what
    /// they accept begins a flow if it may.
    NoFlow,
    /// The flow is cut, or is so from now on: the packet is dropped.
    Cut,
    /// The rules decide, and the flow goes on.
    ByRules,
    /// The rules decide, and the flow is left as it is: the packet has its tuple, but another rule
    /// matches (by an ICMP code).
    ByRulesAlone,
    /// The rules decide, and the rule that accepts the packet is the flow's from now on.
    Readmitted,
    /// It passes in a flow that was there before the first attachment.
    Seeded,
    /// It passes as a reply, and counts for the flow's rule.
    Reply,
    /// It passes in the direction of a flow that an earlier policy admitted and this one keeps, and
    /// counts for the flow's rule.
    Kept,
    /// The rules are asked about the packet to which it replies. If they accept that one, it
    /// passes as a reply, and the rule is the flow's from now on; if not, the flow is revoked.
    JudgedAgain,
    /// The policy in force does not admit the flow: the packet is dropped, and the flow ends.
    Revoked,
}

impl Ruling {
    /// The ruling of this number.
    #[inline(always)]
    pub const fn of_number(number: u64) -> Ruling {
        const NO_FLOW: u64 = Ruling::NoFlow as u64;
        const CUT: u64 = Ruling::Cut as u64;
        const BY_RULES: u64 = Ruling::ByRules as u64;
        const BY_RULES_ALONE: u64 = Ruling::ByRulesAlone as u64;
        const READMITTED: u64 = Ruling::Readmitted as u64;
        const SEEDED: u64 = Ruling::Seeded as u64;
        const REPLY: u64 = Ruling::Reply as u64;
        const KEPT: u64 = Ruling::Kept as u64;
        const JUDGED_AGAIN: u64 = Ruling::JudgedAgain as u64;
        match number {
            NO_FLOW => Ruling::NoFlow,
            CUT => Ruling::Cut,
            BY_RULES => Ruling::ByRules,
            BY_RULES_ALONE => Ruling::ByRulesAlone,
            READMITTED => Ruling::Readmitted,
            SEEDED => Ruling::Seeded,
            REPLY => Ruling::Reply,
            KEPT => Ruling::Kept,
            JUDGED_AGAIN => Ruling::JudgedAgain,
            _ => Ruling::Revoked,
        }
    }
}

/// What a policy does with flows that an earlier one admitted. A trait, since the packet path reads
/// its constants anew each time: it has few registers, and a short stack.
pub trait Policy {
    /// The epoch in force: what its flows are stamped with.
    fn epoch(&self) -> u32;
    /// One of [`JUDGE_OLD`] and those after it.
    fn old_flows(&self) -> u8;

    /// 1 where such flows are judged again.
    #[inline(always)]
    fn judges(&self) -> u64 {
        u64::from(self.old_flows() == JUDGE_OLD)
    }

    /// 1 where such flows are flushed.
    #[inline(always)]
    fn flushes(&self) -> u64 {
        u64::from(self.old_flows() == FLUSH_OLD)
    }

    /// 1 if a policy before this one has admitted the flow with this rule word, else 0. While
    /// programs are replaced one direction's meet flows of the policy that comes, which are not
    /// before it.
    #[inline(always)]
    fn is_before<W: Word>(&self, rule: u64) -> u64 {
        W::opaque(generation_of(rule).into()).wrapping_sub(self.epoch().into()) >> 63
    }

    /// Whether another policy has admitted the flow, before this one or after it.
    #[inline(always)]
    fn is_other(&self, rule: u64) -> bool {
        generation_of(rule) != self.epoch()
    }

    /// Whether programs of this policy may cut a TCP flow with this entry: if they do not, no
    /// packet makes it a cut one.
    fn may_cut(&self, head: Head, rule: u64) -> bool {
        let judges = self.judges() != 0 && !head.is_seeded();
        self.is_other(rule) && (self.flushes() != 0 || judges)
    }
}

/// A [`Policy`] in numbers at hand.
#[derive(Clone, Copy, Debug)]
pub struct InForce {
    /// See [`Policy::epoch`].
    pub epoch: u32,
    /// See [`Policy::old_flows`].
    pub old_flows: u8,
}

impl Policy for InForce {
    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn old_flows(&self) -> u8 {
        self.old_flows
    }
}

/// A packet, and what the rules say of it.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// A [`Kind`] as a number.
    pub kind: u8,
    /// TCP's, else zero.
    pub tcp_flags: u8,
    /// A [`crate::verdict::Direction`] as a number.
    pub direction: u8,
    /// 1 if it may open a flow: a reset and the reply to a query never do.
    pub opens: u32,
    /// 1 if the rules accept it.
    pub is_accepted: u32,
}

impl Packet {
    /// Zero for the protocol whose flows are cut when they end: see [`is_cut_at_its_end`].
    #[inline(always)]
    const fn differs_from_tcp(&self) -> u32 {
        (self.kind ^ Kind::Tcp as u8) as u32
    }

    #[inline(always)]
    fn is_tcp<W: Word>(&self) -> u64 {
        is_zero::<W>(self.differs_from_tcp().into())
    }
}

/// Whether a flow of this kind is cut when it is flushed or revoked, because both its ends would
/// bring it back from its middle; if not it is forgotten. So it is with TCP only.
#[inline(always)]
pub const fn is_cut_at_its_end(kind: u8) -> bool {
    kind == Kind::Tcp as u8
}

/// 1 if a number of less than 64 bits is zero. The compiler must not see that it is one, or it
/// makes a branch of this.
#[inline(always)]
fn is_zero<W: Word>(number: u64) -> u64 {
    W::opaque(number).wrapping_sub(1) >> 63
}

/// 1 if the flow is a cut one.
#[inline(always)]
fn is_cut<W: Word>(head: Head) -> u64 {
    is_zero::<W>((head.state() ^ CUT).into())
}

/// 1 if the flow with this entry is a cut one, or has been flushed.
#[inline(always)]
pub fn has_ended<W: Word>(entry: &Contents, policy: &impl Policy) -> u64 {
    policy.is_before::<W>(entry.rule) & policy.flushes() | is_cut::<W>(entry.head)
}

/// 1 if an earlier policy admitted the flow and this one ends it at this packet: it flushes all
/// such flows, or accepts what replies in the flow but not what it would reply to. (If it accepted
/// both, the table would not have been asked.)
#[inline(always)]
fn is_over<W: Word>(entry: &Contents, packet: &Packet, policy: &impl Policy) -> u64 {
    let head = entry.head;
    let is_unanswerable =
        u64::from(packet.is_accepted & u32::from(head.originator() ^ packet.direction));
    let is_lost = policy.judges() & is_unanswerable & (u64::from(head.is_seeded()) ^ 1);
    policy.is_before::<W>(entry.rule) & (policy.flushes() | is_lost)
}

/// Whether a flow ends before a packet: the first two rulings of the table. 1 or 0; the first one
/// comes first.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// [`Ruling::NoFlow`].
    pub is_without_flow: u64,
    /// [`Ruling::Cut`].
    pub is_cut: u64,
}

/// Whether the flow that is entered under a packet's tuple ends before the packet. The table was
/// asked because the rules do not pass both directions. `is_gone` says, by 1 or 0, whether there is
/// no entry, or one that has expired; it is asked last.
#[inline(always)]
pub fn end_of<W: Word>(
    entry: &Contents,
    packet: &Packet,
    policy: &impl Policy,
    is_gone: impl FnOnce() -> u64,
) -> End {
    let is_over = is_over::<W>(entry, packet, policy);
    let may_enter = packet.is_accepted & packet.opens;
    let other_kind = packet.differs_from_tcp();
    let is_full = (tcp::makes_room(entry.head.state()) | is_over as u32) ^ 1;
    let continues =
        may_enter ^ 1 | other_kind | is_full | tcp::differs_from_bare_syn(packet.tcp_flags);
    let reopens = u64::from(continues).wrapping_sub(1) >> 63;
    let has_left = is_over & (packet.is_tcp::<W>() ^ 1);
    End {
        is_without_flow: reopens | has_left | is_gone(),
        is_cut: is_over | is_cut::<W>(entry.head),
    }
}

/// The ruling on a packet of a flow that is there and does not end: where [`end_of`] says
/// so.
#[inline(always)]
pub fn rule_on_live(entry: &Contents, packet: &Packet, policy: &impl Policy) -> Ruling {
    let is_seeded = entry.head.is_seeded();
    let is_accepted = packet.is_accepted != 0;
    let from_originator = entry.head.originator() == packet.direction;
    let is_other = policy.is_other(entry.rule);
    if is_seeded && !is_accepted {
        Ruling::Seeded
    } else if is_accepted {
        if from_originator && is_other && !is_seeded {
            Ruling::Readmitted
        } else {
            Ruling::ByRules
        }
    } else if is_other && policy.old_flows() != KEEP_OLD {
        // A packet of the originator has just been judged by the rules of its own direction, which
        // did not accept it.
        if from_originator {
            Ruling::Revoked
        } else {
            Ruling::JudgedAgain
        }
    } else if !from_originator {
        Ruling::Reply
    } else if is_other {
        Ruling::Kept
    } else {
        Ruling::ByRulesAlone
    }
}

/// The ruling on a packet that the rules pass in both directions, of a flow that has not expired:
/// only that it is a cut one matters. The rules do not bring a connection back, but a new one may
/// take its place.
#[inline(always)]
pub fn rule_on_passed<W: Word>(
    entry: &Contents,
    packet: &Packet,
    policy: &impl Policy,
    has_expired: u64,
) -> Ruling {
    let is_live_tcp = (has_expired ^ 1) & packet.is_tcp::<W>();
    if W::opaque(has_ended::<W>(entry, policy) & is_live_tcp) == 0 {
        Ruling::ByRulesAlone
    } else if tcp::differs_from_bare_syn(packet.tcp_flags) == 0 {
        Ruling::NoFlow
    } else {
        Ruling::Cut
    }
}

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

/// The ruling on a packet of a policy that audits, as [`end_of`] and [`rule_on_live`] together for
/// others. Returns its number: see [`Ruling::of_number`]. `is_gone` as there.
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

/// Zero if a packet with these flags changes nothing about an established flow that has not
/// expired, and the policy of this [`mark`](crate::program::Config::mark) admitted the flow and
/// does not only watch it: then the ruling is one of *by rules*, *by rules alone* and *reply*,
/// without another look at the entry.
#[inline(always)]
pub const fn is_unsteady(head: Head, rule: u64, mark: u64, tcp_flags: u64) -> u64 {
    differs_from_mark(rule, mark)
        | (tcp_flags & tcp::STATE_FLAGS as u64)
        | track::disturbs(head.state()) as u64
        | head.0 & Head::SEEDED
}

/// Whether that ruling is *by rules alone*; if not, it is *by rules* for an accepted packet and
/// *reply* for a dropped one.
#[inline(always)]
pub const fn is_by_rules_alone(head: Head, direction: u8, is_accepted: bool) -> bool {
    head.originator() == direction && !is_accepted
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::sync::atomic::AtomicU64;
    use std::vec::Vec;

    use super::*;
    use crate::flow::Timeout;
    use crate::flow_entry::rule_word;
    use crate::tcp::{ACK, FIN, RST, SYN};
    use crate::verdict::Verdict;

    const GENERATION: u32 = 7;
    const ORIGINATOR: u8 = 1;

    fn in_force(old_flows: u8) -> InForce {
        InForce {
            epoch: GENERATION,
            old_flows,
        }
    }

    /// An entry of a flow in `state`, admitted by `generation`.
    fn entry(state: u8, generation: u32) -> Contents {
        Contents {
            head: Head::new(1, state, ORIGINATOR),
            rule: rule_word(99, generation),
            begun: 0,
        }
    }

    fn seeded(entry: Contents) -> Contents {
        Contents {
            head: Head(entry.head.0 | Head::SEEDED),
            ..entry
        }
    }

    /// The packets of the table: kind, flags, whether from the originator, whether accepted.
    const PACKETS: [(Kind, u8, bool, bool); 11] = [
        (Kind::Tcp, SYN, true, true),
        (Kind::Tcp, SYN, false, true),
        (Kind::Tcp, ACK, true, true),
        (Kind::Tcp, ACK, false, true),
        (Kind::Tcp, RST, true, true),
        (Kind::Tcp, ACK, true, false),
        (Kind::Tcp, ACK, false, false),
        (Kind::Udp, 0, true, true),
        (Kind::Udp, 0, false, true),
        (Kind::Udp, 0, true, false),
        (Kind::Udp, 0, false, false),
    ];

    /// The table as a whole.
    fn rule_on(entry: &Contents, packet: &Packet, policy: &InForce, is_gone: bool) -> Ruling {
        match end_of::<AtomicU64>(entry, packet, policy, || is_gone.into()) {
            End {
                is_without_flow: 1, ..
            } => Ruling::NoFlow,
            End { is_cut: 1, .. } => Ruling::Cut,
            _ => rule_on_live(entry, packet, policy),
        }
    }

    fn packet((kind, tcp_flags, from_originator, is_accepted): (Kind, u8, bool, bool)) -> Packet {
        Packet {
            kind: kind as u8,
            tcp_flags,
            direction: if from_originator {
                ORIGINATOR
            } else {
                1 - ORIGINATOR
            },
            opens: u32::from(tcp_flags & RST == 0),
            is_accepted: is_accepted.into(),
        }
    }

    fn letter(ruling: Ruling) -> char {
        match ruling {
            Ruling::NoFlow => 'n',
            Ruling::Cut => 'C',
            Ruling::ByRules => 'r',
            Ruling::ByRulesAlone => 'a',
            Ruling::Readmitted => '+',
            Ruling::Seeded => 's',
            Ruling::Reply => 'p',
            Ruling::Kept => 'k',
            Ruling::JudgedAgain => 'j',
            Ruling::Revoked => 'V',
        }
    }

    /// Proves K6, K11 and K12: every entry with every packet. A letter for each packet; `-` where
    /// there is no such flow.
    #[test]
    fn every_packet_of_every_flow() {
        let tcp = Timeout::TcpEstablished as u8;
        let closing = Timeout::TcpFinWait as u8;
        let (this, old, next) = (GENERATION, GENERATION - 1, GENERATION + 1);
        let (judge, keep, flush) = (JUDGE_OLD, KEEP_OLD, FLUSH_OLD);
        #[rustfmt::skip]
        let table = [
            // TCP:                            SYN    ACK    RST  ACK    UDP
            // accepted:                       yes    yes    yes  no     yes    no
            // originator, other side:         o t    o t    o    o t    o t    o t
            (entry(tcp, this),         judge, "r r    r r    r    a p    r r    a p"),
            (entry(tcp, this),         keep,  "r r    r r    r    a p    r r    a p"),
            (entry(tcp, this),         flush, "r r    r r    r    a p    r r    a p"),
            (entry(closing, this),     judge, "n n    r r    r    a p    - -    - -"),
            (entry(CUT, this),         judge, "n n    C C    C    C C    - -    - -"),
            (entry(CUT, old),          keep,  "n n    C C    C    C C    - -    - -"),
            (seeded(entry(tcp, this)), judge, "r r    r r    r    s s    r r    s s"),
            (seeded(entry(tcp, old)),  judge, "r r    r r    r    s s    r r    s s"),
            (seeded(entry(tcp, old)),  keep,  "r r    r r    r    s s    r r    s s"),
            (seeded(entry(tcp, old)),  flush, "n n    C C    C    C C    n n    n n"),
            (entry(tcp, old),          judge, "+ n    + C    +    V j    + n    V j"),
            (entry(tcp, old),          keep,  "+ r    + r    +    k p    + r    k p"),
            (entry(tcp, old),          flush, "n n    C C    C    C C    n n    n n"),
            (entry(tcp, next),         judge, "+ r    + r    +    V j    + r    V j"),
            (entry(tcp, next),         keep,  "+ r    + r    +    k p    + r    k p"),
            (entry(tcp, next),         flush, "+ r    + r    +    V j    + r    V j"),
        ];
        let mut gone_ones = 0;
        for (entry, old_flows, expected) in table {
            let policy = in_force(old_flows);
            let letters = expected.chars().filter(|c| !c.is_whitespace());
            let mut count = 0;
            for (expected, about) in letters.zip(PACKETS) {
                count += 1;
                if expected == '-' {
                    continue;
                }
                let packet = packet(about);
                // Whatever is left of an entry that is not there, or has expired.
                let gone = rule_on(&entry, &packet, &policy, true);
                assert_eq!(gone, Ruling::NoFlow);
                gone_ones += 1;
                let found = rule_on(&entry, &packet, &policy, false);
                assert_eq!(letter(found), expected, "{entry:?}\n{about:?}\n{policy:?}");
                let ends = matches!(found, Ruling::Cut | Ruling::Revoked | Ruling::JudgedAgain);
                if packet.kind == Kind::Tcp as u8 && ends && entry.head.state() != CUT {
                    assert!(policy.may_cut(entry.head, entry.rule), "{entry:?}");
                }
                // Of what the rules pass in both directions only the end counts.
                let passed =
                    |expired| rule_on_passed::<AtomicU64>(&entry, &packet, &policy, expired);
                let has_ended = has_ended::<AtomicU64>(&entry, &policy) != 0;
                let passed_as = match has_ended && packet.kind == Kind::Tcp as u8 {
                    true if packet.tcp_flags == SYN => Ruling::NoFlow,
                    true => Ruling::Cut,
                    false => Ruling::ByRulesAlone,
                };
                assert_eq!(passed(0), passed_as, "{entry:?} {about:?}");
                assert_eq!(passed(1), Ruling::ByRulesAlone);
            }
            assert_eq!(count, PACKETS.len());
        }
        assert!(gone_ones > 0);
    }

    /// What the fast path decides by itself it decides as the table does.
    #[test]
    fn a_steady_flow_needs_no_other_ruling() {
        let mut steady = 0;
        for state in 0..=CUT {
            for generation in [GENERATION - 1, GENERATION, GENERATION + 1] {
                for flags in [0, ACK, SYN, FIN | ACK, RST, SYN | ACK] {
                    for entry in [entry(state, generation), seeded(entry(state, generation))] {
                        let policy = in_force(JUDGE_OLD);
                        let (head, rule) = (entry.head, entry.rule);
                        if is_unsteady(head, rule, u64::from(GENERATION) << 32, flags.into()) != 0 {
                            continue;
                        }
                        steady += 1;
                        for (from_originator, is_accepted, expected) in [
                            (true, true, Ruling::ByRules),
                            (false, true, Ruling::ByRules),
                            (true, false, Ruling::ByRulesAlone),
                            (false, false, Ruling::Reply),
                        ] {
                            let about = (Kind::Tcp, flags, from_originator, is_accepted);
                            let packet = packet(about);
                            let found = rule_on(&entry, &packet, &policy, false);
                            assert_eq!(found, expected, "{entry:?} {about:?}");
                            let is_alone = is_by_rules_alone(head, packet.direction, is_accepted);
                            assert_eq!(is_alone, expected == Ruling::ByRulesAlone);
                        }
                    }
                }
            }
        }
        assert!(steady > 0);
        // A flow that is only watched always needs another look.
        let entry = watched(entry(Timeout::TcpEstablished as u8, GENERATION));
        let mark = u64::from(GENERATION) << 32;
        assert_ne!(is_unsteady(entry.head, entry.rule, mark, ACK.into()), 0);
    }

    /// The same entry, of a flow that is only watched.
    fn watched(entry: Contents) -> Contents {
        Contents {
            rule: entry.rule | u64::from(Verdict::AUDIT_BIT),
            ..entry
        }
    }

    /// What the rules say of a packet, and of its reply.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Says {
        Accept,
        Audit,
        Drop,
    }

    fn rule_on_with_audits(
        entry: &Contents,
        packet: &Packet,
        watched: &Watched,
        policy: &InForce,
    ) -> Ruling {
        let rule = |is_gone| rule_with_audits::<AtomicU64>(entry, packet, watched, policy, is_gone);
        assert_eq!(Ruling::of_number(rule(1)), Ruling::NoFlow);
        Ruling::of_number(rule(0))
    }

    /// Proves C9: where nothing is audited, neither the packet nor its reply nor the flow, a policy
    /// that audits rules on flows as any other.
    #[test]
    fn what_is_not_audited_is_ruled_on_as_without_audits() {
        let mut compared = 0;
        for state in 0..=CUT {
            for generation in [GENERATION - 1, GENERATION, GENERATION + 1] {
                for old_flows in [JUDGE_OLD, KEEP_OLD, FLUSH_OLD] {
                    let entry = entry(state, generation);
                    for entry in [entry, seeded(entry)] {
                        for about in PACKETS {
                            let (packet, policy) = (packet(about), in_force(old_flows));
                            // Where the rules accept both sides the table is not asked.
                            for accepts_other in [0, 1 ^ packet.is_accepted] {
                                let watched = Watched {
                                    is_audited: 0,
                                    accepts_other,
                                    passes_other: accepts_other,
                                };
                                let found = rule_on_with_audits(&entry, &packet, &watched, &policy);
                                let expected = rule_on(&entry, &packet, &policy, false);
                                assert_eq!(found, expected, "{entry:?} {about:?} {policy:?}");
                                compared += 1;
                            }
                        }
                    }
                }
            }
        }
        assert!(compared > 6_000, "{compared}");
    }

    /// Proves C9 and K11: the table of a policy that audits. A letter for each packet, as above.
    #[test]
    fn every_packet_of_every_flow_with_audits() {
        use Says::{Accept, Audit, Drop};
        let tcp = Timeout::TcpEstablished as u8;
        let closing = Timeout::TcpFinWait as u8;
        let (this, old) = (GENERATION, GENERATION - 1);
        let (judge, keep, flush) = (JUDGE_OLD, KEEP_OLD, FLUSH_OLD);
        // Flags, whether from the originator, and what the rules say of the packet and of what it
        // would reply to.
        let packets = [
            (SYN, true, Audit, Accept),
            (SYN, true, Audit, Drop),
            (SYN, false, Audit, Accept),
            (SYN, false, Audit, Drop),
            (ACK, true, Audit, Accept),
            (ACK, true, Audit, Drop),
            (ACK, false, Audit, Accept),
            (ACK, false, Audit, Audit),
            (ACK, false, Audit, Drop),
            (SYN, false, Accept, Audit),
            (ACK, false, Accept, Audit),
            (ACK, false, Accept, Drop),
            (ACK, true, Accept, Audit),
            (ACK, false, Drop, Audit),
        ];
        #[rustfmt::skip]
        let table = [
            // packet:                              audit                         accept    drop
            // what it would reply to:              acc drop  a d   a d   a u d   u  u d u  u
            // SYN or not, originator or other:     So So     St St o o   t t t   St t t o  t
            (entry(tcp, this),              judge, "r  r      r  r  r r   p p p   r  r r r  p"),
            (watched(entry(tcp, this)),     judge, "r  r      r  r  r r   p p p   n  p p r  p"),
            (entry(closing, this),          judge, "n  n      n  n  r r   p p p   n  r r r  p"),
            (entry(CUT, this),              judge, "n  n      n  n  C C   C C C   n  C C C  C"),
            (watched(entry(CUT, old)),      judge, "n  n      n  n  C C   C C C   n  C C C  C"),
            (seeded(entry(tcp, this)),      judge, "r  r      r  r  s s   s s s   r  r r r  s"),
            (entry(tcp, old),               judge, "+  +      r  n  + +   j j j   n  j C +  j"),
            (watched(entry(tcp, old)),      judge, "+  +      r  n  + +   j j j   n  j C +  j"),
            (entry(tcp, old),               keep,  "r  r      r  r  k k   p p p   r  r r +  p"),
            (watched(entry(tcp, old)),      keep,  "r  r      r  r  k k   p p p   n  p p +  p"),
            (entry(tcp, old),               flush, "n  n      n  n  C C   C C C   n  C C C  C"),
        ];
        for (entry, old_flows, expected) in table {
            let letters: Vec<char> = expected.chars().filter(|c| *c != ' ').collect();
            assert_eq!(letters.len(), packets.len(), "{expected}");
            for (expected, about) in letters.into_iter().zip(packets) {
                let (flags, from_originator, says, of_other) = about;
                let packet = packet((Kind::Tcp, flags, from_originator, says == Accept));
                let watched = Watched {
                    is_audited: u32::from(says == Audit),
                    accepts_other: u32::from(of_other == Accept),
                    passes_other: u32::from(of_other != Drop),
                };
                let found = rule_on_with_audits(&entry, &packet, &watched, &in_force(old_flows));
                assert_eq!(Ruling::of_number(found as u64), found);
                assert_eq!(letter(found), expected, "{entry:?} {about:?} {old_flows}");
            }
        }
    }

    /// A flow of an earlier policy has ended if it is flushed; one that is judged or kept has not.
    #[test]
    fn flushed_and_cut_flows_have_ended() {
        let (tcp, old) = (Timeout::TcpEstablished as u8, GENERATION - 1);
        for (state, generation, old_flows, expected) in [
            (tcp, GENERATION, FLUSH_OLD, false),
            (tcp, old, JUDGE_OLD, false),
            (tcp, old, KEEP_OLD, false),
            (tcp, old, FLUSH_OLD, true),
            (CUT, GENERATION, KEEP_OLD, true),
        ] {
            let policy = in_force(old_flows);
            let entry = entry(state, generation);
            let found = has_ended::<AtomicU64>(&entry, &policy) != 0;
            assert_eq!(found, expected, "{state} {old_flows}");
        }
    }
}
