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

pub mod audits;

use crate::flow::CUT;
use crate::flow_entry::{Contents, Head, differs_from_mark, generation_of};
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

/// What a policy does with flows that an earlier one admitted. It is a trait so that the packet
/// path can read each value where it needs it: it has too few registers, and too short a stack, to
/// keep them all.
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

/// Whether a flow ends before a packet, by the first two rulings of the table, in their order. Each
/// is 1 or 0.
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

/// The ruling on a packet that the rules pass in both directions, so that its flow matters only if
/// it is cut and has not expired. The rules do not bring a cut connection back, but a bare SYN may
/// begin a new one in its place.
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
mod tests;
