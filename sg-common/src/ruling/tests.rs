//! Every ruling, in tables.

extern crate std;

use core::sync::atomic::AtomicU64;
use std::vec::Vec;

use super::audits::{Watched, rule_with_audits};
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
            let passed = |expired| rule_on_passed::<AtomicU64>(&entry, &packet, &policy, expired);
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

/// `entry` as that of a flow that is only watched.
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
