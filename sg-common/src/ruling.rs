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
use crate::flow_entry::{Contents, Head, generation_of};
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

/// Zero if a packet with these flags changes nothing about an established flow that has not
/// expired, and this policy admitted the flow: then the ruling is one of *by rules*, *by rules
/// alone* and *reply*, without another look at the entry.
#[inline(always)]
pub const fn is_unsteady(head: Head, rule: u64, generation: u32, tcp_flags: u64) -> u64 {
    (generation_of(rule) ^ generation) as u64
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
    use core::sync::atomic::AtomicU64;

    use super::*;
    use crate::flow::Timeout;
    use crate::flow_entry::rule_word;
    use crate::tcp::{ACK, FIN, RST, SYN};

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
                        if is_unsteady(head, rule, GENERATION, flags.into()) != 0 {
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
