//! What becomes of a connection's next packet under a policy. Pure: the rules' verdicts, the entry
//! and the policy come in; `sg_common` has the steps, which are those of the packet path.

use std::sync::atomic::AtomicU64;

use sg_common::concern::{Concern, concern};
use sg_common::flow_entry::Contents;
use sg_common::protocol::Kind;
use sg_common::ruling::audits::{Watched, rule_with_audits};
use sg_common::ruling::{End, InForce, Packet, Ruling, end_of, rule_on_live, rule_on_passed};
use sg_common::tcp;
use sg_common::verdict::{Direction, Verdict};
use sg_policy::policy::AuditScope;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Passes,
    /// The rules of this direction do not accept what they are asked about: the packet itself, or
    /// the one to which it replies.
    ByRules(Direction),
    /// The flow has ended: an earlier packet was cut, or the policy flushes it.
    Ended,
}

/// The next packet from one side of a connection that exists: of TCP, a segment from its middle.
/// `entry` is the live entry that the flow table has for it then, if it has one; `rules` gives the
/// verdict of a direction's rules about the connection's packets of that direction; `audits` is
/// what the policy audits, if anything.
///
/// The packet path leaves a step out where its programs know that nothing can come of it
/// (`has_flows`, `may_have_cut`); such an entry is not there then.
pub(super) fn fate(
    kind: Kind,
    direction: Direction,
    entry: Option<&Contents>,
    rules: impl Fn(Direction) -> Verdict,
    policy: &InForce,
    audits: Option<AuditScope>,
) -> Fate {
    if audits.is_some_and(|scope| scope != AuditScope::Rules) {
        // Of the packets that belong to connections none is dropped (SPEC C9).
        return Fate::Passes;
    }
    let opposite = direction.opposite();
    let (verdict, other) = (rules(direction), rules(opposite));
    let is_accepted = verdict.is_accept();
    let by_rules = match verdict.passes() {
        true => Fate::Passes,
        false => Fate::ByRules(direction),
    };
    let concern = concern(is_accepted, || true, || other.is_accept());
    let Some(entry) = entry else {
        return by_rules;
    };
    let packet = Packet {
        kind: kind as u8,
        tcp_flags: if kind == Kind::Tcp { tcp::ACK } else { 0 },
        direction: direction as u8,
        opens: 1,
        is_accepted: is_accepted.into(),
    };
    let ruling = match concern {
        Concern::None => return by_rules,
        Concern::MayBeCut => {
            return match rule_on_passed::<AtomicU64>(entry, &packet, policy, 0) {
                Ruling::Cut => Fate::Ended,
                _ => by_rules,
            };
        }
        Concern::MayReply | Concern::Remembered if audits.is_some() => {
            let watched = Watched {
                is_audited: verdict.audit_bit(),
                accepts_other: other.accept_bit(),
                passes_other: other.passes().into(),
            };
            Ruling::of_number(rule_with_audits::<AtomicU64>(
                entry, &packet, &watched, policy, 0,
            ))
        }
        Concern::MayReply | Concern::Remembered => {
            match end_of::<AtomicU64>(entry, &packet, policy, || 0) {
                End {
                    is_without_flow: 1, ..
                } => Ruling::NoFlow,
                End { is_cut: 1, .. } => Ruling::Cut,
                End { .. } => rule_on_live(entry, &packet, policy),
            }
        }
    };
    match ruling {
        Ruling::NoFlow | Ruling::ByRules | Ruling::ByRulesAlone | Ruling::Readmitted => by_rules,
        Ruling::Seeded | Ruling::Reply | Ruling::Kept => Fate::Passes,
        Ruling::Revoked => Fate::ByRules(direction),
        Ruling::JudgedAgain if other.passes() => Fate::Passes,
        Ruling::JudgedAgain => Fate::ByRules(opposite),
        // Where the rules of this direction accept the packet and a policy that judges ends the
        // flow, it is those of the other one that do not.
        Ruling::Cut if is_lost(entry, &packet, policy) => Fate::ByRules(opposite),
        Ruling::Cut => Fate::Ended,
    }
}

/// Whether the flow ends because its originator's packets are not accepted any more, and not
/// because it is flushed or was cut before.
fn is_lost(entry: &Contents, packet: &Packet, policy: &InForce) -> bool {
    use sg_common::flow::CUT;
    use sg_common::ruling::FLUSH_OLD;
    let is_reply = entry.head.originator() != packet.direction;
    entry.head.state() != CUT && policy.old_flows != FLUSH_OLD && is_reply
}

#[cfg(test)]
mod tests {
    use sg_common::flow::{CUT, Timeout};
    use sg_common::flow_entry::{Head, rule_word};
    use sg_common::ruling::{FLUSH_OLD, JUDGE_OLD, KEEP_OLD};
    use sg_common::verdict::{Action, FIRST_RULE_SLOT};

    use super::*;

    const EPOCH: u32 = 7;

    fn entry(state: u8, epoch: u32, flags: u64) -> Contents {
        let head = Head::new(1, state, Direction::Inbound as u8);
        Contents {
            head: Head(head.0 | flags),
            rule: rule_word(99, epoch),
            begun: 0,
        }
    }

    /// Proves C5: what becomes of packets of a flow that came in, by the rules of both directions.
    /// `-` passes, `i` and `o` are not accepted by the rules of a direction, `e` has ended.
    #[test]
    fn the_next_packet_of_every_flow() {
        let (tcp, old) = (Timeout::TcpEstablished as u8, EPOCH - 1);
        let (judge, keep, flush) = (JUDGE_OLD, KEEP_OLD, FLUSH_OLD);
        let seeded = Head::SEEDED;
        #[rustfmt::skip]
        let table = [
            // The rules accept:                                    both  in    out   none
            // The packet is of the originator, or of the other side: o t   o t   o t   o t
            (Kind::Tcp, None,                            judge, "- -   - o   i -   i o"),
            (Kind::Tcp, Some(entry(tcp, EPOCH, 0)),      judge, "- -   - -   i -   i -"),
            (Kind::Tcp, Some(entry(tcp, old, 0)),        judge, "- -   - -   i i   i i"),
            (Kind::Tcp, Some(entry(tcp, old, 0)),        keep,  "- -   - -   - -   - -"),
            (Kind::Tcp, Some(entry(tcp, old, 0)),        flush, "e e   e e   e e   e e"),
            (Kind::Tcp, Some(entry(tcp, old, seeded)),   judge, "- -   - -   - -   - -"),
            (Kind::Tcp, Some(entry(tcp, old, seeded)),   flush, "e e   e e   e e   e e"),
            (Kind::Tcp, Some(entry(CUT, EPOCH, 0)),      judge, "e e   e e   e e   e e"),
            (Kind::Udp, Some(entry(tcp, old, 0)),        judge, "- -   - -   i -   i i"),
            (Kind::Udp, Some(entry(tcp, old, 0)),        flush, "- -   - o   i -   i o"),
        ];
        for (kind, entry, old_flows, expected) in table {
            let policy = InForce {
                epoch: EPOCH,
                old_flows,
            };
            let mut found = String::new();
            for accepted in [[true, true], [true, false], [false, true], [false, false]] {
                let rules = |direction: Direction| match accepted[direction as usize] {
                    true => Verdict::new(Action::Accept, FIRST_RULE_SLOT, false),
                    false => Verdict::no_match(direction),
                };
                for direction in Direction::BOTH {
                    let fate = fate(kind, direction, entry.as_ref(), rules, &policy, None);
                    found.push(match fate {
                        Fate::Passes => '-',
                        Fate::ByRules(Direction::Inbound) => 'i',
                        Fate::ByRules(Direction::Outbound) => 'o',
                        Fate::Ended => 'e',
                    });
                }
            }
            let expected: String = expected.split_whitespace().collect();
            assert_eq!(found, expected, "{kind:?} {entry:?} {old_flows}");
        }
    }
}
