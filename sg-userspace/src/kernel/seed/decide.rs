//! Decides whether an existing flow gets an entry at a first attachment, and which one. Pure.

use std::net::IpAddr;

use sg_common::concern::needs_no_entry;
use sg_common::flow::{FlowKind, FlowValue};
use sg_common::protocol::Kind;
use sg_common::track::kind_of_flow;
use sg_common::verdict::{Direction, Verdict};

use super::existing::Existing;

/// The kind and the entry of `flow`, if it gets one. `judge` evaluates the rules of a direction for
/// a remote address and the number of a kind, as the packet path does. `epoch` is that of the
/// policy, `now` the time on the monotonic clock.
///
/// - If the rules accept both the packets of the flow and their replies, it needs no entry (K7).
/// - If the rules of one direction accept its packets, the flow gets an entry for that rule, as if
///   the next packet in that direction had opened it. Which side really opened it makes no
///   difference.
/// - If neither direction accepts, the flow is seeded.
///
/// A request without a reply may have a forged sender. It only gets an entry if a rule of its own
/// direction admits it, or if it is known that this host has sent it.
pub(in crate::kernel) fn decide(
    flow: &Existing,
    judge: impl Fn(Direction, IpAddr, Kind, u16) -> Verdict,
    epoch: u32,
    now: u64,
) -> Option<(FlowKind, FlowValue)> {
    let key = &flow.key;
    let kind = key.kind();
    let by_rule = |direction| {
        let number = key.number(direction, flow.originator);
        Some(judge(direction, key.remote, kind, number)).filter(|verdict| verdict.is_accept())
    };
    let entry = entry(flow, now);
    let mut flags = entry.flags;
    let is_vouched_for = flow.has_seen_reply || flow.is_ours || by_rule(flow.originator).is_some();
    let [inbound, outbound] = Direction::BOTH.map(by_rule);
    if !is_vouched_for || needs_no_entry(inbound.is_some(), || outbound.is_some()) {
        return None;
    }
    let (originator, slot) = match [inbound, outbound] {
        [Some(inbound), _] => (Direction::Inbound, inbound.slot()),
        [None, Some(outbound)] => (Direction::Outbound, outbound.slot()),
        [None, None] => {
            flags |= FlowValue::SEEDED;
            (flow.originator, 0)
        }
    };
    let value = FlowValue {
        slot,
        generation: epoch,
        flags,
        ..entry
    };
    let value = value.admitted(originator, flow.opened_by());
    Some((kind_of(flow, kind), value))
}

/// The entry of a flow that exists `now`, without the rule that admits it.
pub(super) fn entry(flow: &Existing, now: u64) -> FlowValue {
    FlowValue {
        created: now,
        last_seen: now,
        state: flow.state as u8,
        flags: match flow.has_seen_reply {
            true => FlowValue::SEEN_REPLY,
            false => 0,
        },
        ..FlowValue::EMPTY
    }
}

pub(super) fn kind_of(flow: &Existing, kind: Kind) -> FlowKind {
    kind_of_flow(kind as u8, flow.state as u8, flow.has_seen_reply)
}

#[cfg(test)]
mod tests {
    use sg_common::flow::Timeout;
    use sg_common::protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};
    use sg_common::verdict::FIRST_RULE_SLOT;

    use super::super::existing::Key;
    use super::*;
    use sg_policy::compile::Budget;
    use sg_policy::compile_policy;
    use sg_policy::policy::rules_from_lines;

    /// A flow between `local` port 22 and `remote` port 5000, or a ping.
    fn flow(remote: &str, protocol: u8, originator: Direction, state: Timeout) -> Existing {
        let remote: IpAddr = remote.parse().unwrap();
        let local = match remote {
            IpAddr::V4(_) => "192.0.2.1",
            IpAddr::V6(_) => "2001:db8::1",
        };
        let asked_inbound = if originator == Direction::Inbound {
            256
        } else {
            0
        };
        let (local_port, remote_port) = match protocol {
            IPPROTO_ICMP => (77, 8 + asked_inbound),
            IPPROTO_ICMPV6 => (77, 128 + asked_inbound),
            47 => (0, 0),
            _ => (22, 5000),
        };
        Existing {
            key: Key {
                local: local.parse().unwrap(),
                remote,
                local_port,
                remote_port,
                protocol,
            },
            originator,
            is_originator_known: true,
            state,
            has_seen_reply: !matches!(state, Timeout::TcpSynSent | Timeout::Udp),
            is_ours: originator == Direction::Outbound,
            recency: 0,
        }
    }

    fn forwarded(flow: Existing) -> Existing {
        Existing {
            is_ours: false,
            ..flow
        }
    }

    /// Returns `nothing`, or three parts: `seeded` or the direction and position of the rule, the
    /// direction of the originator, and the kind.
    fn decided(rules: &str, flow: &Existing) -> String {
        let policy = rules_from_lines(rules);
        let slots: Vec<u32> = (0..).take(policy.rules.len()).collect();
        let slots: Vec<u32> = slots.iter().map(|i| FIRST_RULE_SLOT + i).collect();
        let tables = compile_policy(&policy, &slots, Budget::default()).unwrap();
        let judge =
            |direction, remote, kind, number| tables.decide(direction, remote, kind, number);
        let Some((kind, value)) = decide(flow, judge, 7, 1000) else {
            return "nothing".into();
        };
        assert_eq!(
            (value.created, value.last_seen, value.generation),
            (1000, 1000, 7)
        );
        assert_eq!(value.state, flow.state as u8);
        assert_eq!(value.has_seen_reply(), flow.has_seen_reply);
        assert_eq!(
            value.opened_by(),
            Some(flow.originator),
            "whoever admits it"
        );
        let unknown = Existing {
            is_originator_known: false,
            ..*flow
        };
        let (_, other) = decide(&unknown, judge, 7, 1000).expect("this flow gets an entry as well");
        assert_eq!(
            (other.originator, other.opened_by()),
            (value.originator, None)
        );
        let originator = Direction::BOTH[usize::from(value.originator)].name();
        let whose = match value.is_seeded() {
            true => "seeded".to_owned(),
            false => {
                let rule = &policy.rules[(value.slot - FIRST_RULE_SLOT) as usize];
                format!("{} {}", rule.direction.name(), rule.position)
            }
        };
        format!("{whose}, as {originator}, {}", kind.name())
    }

    /// Proves K12 and A1: a flow is entered for the rule that admits it, or is seeded, or needs no
    /// entry.
    #[test]
    fn a_flow_is_a_rules_or_seeded_or_needs_no_entry() {
        use Direction::{Inbound, Outbound};
        const V4: &str = "198.51.100.7";
        const V6: &str = "2001:db8::7";
        let ssh = |originator| flow(V4, IPPROTO_TCP, originator, Timeout::TcpEstablished);
        let ssh6 = |originator| flow(V6, IPPROTO_TCP, originator, Timeout::TcpEstablished);
        let ping = |originator| flow(V4, IPPROTO_ICMP, originator, Timeout::Icmp);
        let ping6 = |originator| flow(V6, IPPROTO_ICMPV6, originator, Timeout::Icmp);
        for (rules, flow, expected) in [
            ("", ssh(Inbound), "seeded, as inbound, established"),
            ("", ssh(Outbound), "seeded, as outbound, established"),
            ("", ssh6(Outbound), "seeded, as outbound, established"),
            (
                "in tcp 22 from any accept",
                ssh(Inbound),
                "inbound 1, as inbound, established",
            ),
            (
                "in tcp 22 from any accept",
                ssh6(Inbound),
                "inbound 1, as inbound, established",
            ),
            (
                "in tcp 22 from 198.51.100.7 drop\nin all from any accept",
                ssh(Inbound),
                "seeded, as inbound, established",
            ),
            // The rules accept inbound packets, so the flow is admitted although the node opened
            // it.
            (
                "in tcp 22 from any accept",
                ssh(Outbound),
                "inbound 1, as inbound, established",
            ),
            (
                "out all to any accept",
                ssh(Inbound),
                "outbound 1, as outbound, established",
            ),
            // The rules accept both directions.
            (
                "in tcp 22 from any accept\nout all to any accept",
                ssh(Inbound),
                "nothing",
            ),
            (
                "in tcp 22 from any accept\nout tcp 5000 to any accept",
                ssh(Inbound),
                "nothing",
            ),
            (
                "in tcp 22 from any accept\nout tcp 22 to any accept",
                ssh(Inbound),
                "inbound 1, as inbound, established",
            ),
            // A handshake under way stays half-open.
            (
                "",
                flow(V4, IPPROTO_TCP, Outbound, Timeout::TcpSynSent),
                "seeded, as outbound, half-open",
            ),
            (
                "",
                flow(V4, IPPROTO_TCP, Inbound, Timeout::TcpTimeWait),
                "seeded, as inbound, half-open",
            ),
            (
                "",
                flow(V4, IPPROTO_UDP, Outbound, Timeout::UdpStream),
                "seeded, as outbound, established",
            ),
            (
                "",
                flow(V4, IPPROTO_UDP, Outbound, Timeout::Udp),
                "seeded, as outbound, half-open",
            ),
            // Without a reply the sender may be forged, unless this host has sent the request.
            ("", flow(V4, IPPROTO_UDP, Inbound, Timeout::Udp), "nothing"),
            (
                "",
                flow(V4, IPPROTO_TCP, Inbound, Timeout::TcpSynSent),
                "nothing",
            ),
            (
                "out all to any accept",
                flow(V4, IPPROTO_UDP, Inbound, Timeout::Udp),
                "nothing",
            ),
            (
                "in udp 22 from any accept",
                flow(V4, IPPROTO_UDP, Inbound, Timeout::Udp),
                "inbound 1, as inbound, half-open",
            ),
            (
                "out udp 5000 to any accept",
                forwarded(flow(V4, IPPROTO_UDP, Outbound, Timeout::Udp)),
                "outbound 1, as outbound, half-open",
            ),
            (
                "in all from any accept",
                forwarded(flow(V4, IPPROTO_UDP, Outbound, Timeout::Udp)),
                "nothing",
            ),
            (
                "",
                forwarded(flow(V4, IPPROTO_UDP, Outbound, Timeout::UdpStream)),
                "seeded, as outbound, established",
            ),
            // The request is judged by one direction and the reply by the other.
            ("", ping(Outbound), "seeded, as outbound, half-open"),
            (
                "out icmp 8 to any accept",
                ping(Outbound),
                "outbound 1, as outbound, half-open",
            ),
            (
                "out icmp 8 to any accept",
                ping(Inbound),
                "seeded, as inbound, half-open",
            ),
            (
                "in icmp 8 from any accept\nout icmp 0 to any accept",
                ping(Inbound),
                "nothing",
            ),
            (
                "in icmpv6 128 from any accept",
                ping6(Inbound),
                "inbound 1, as inbound, half-open",
            ),
            (
                "out icmpv6 129 to any accept",
                ping6(Inbound),
                "outbound 1, as outbound, half-open",
            ),
            (
                "in gre from any accept",
                flow(V4, 47, Outbound, Timeout::Other),
                "inbound 1, as inbound, established",
            ),
        ] {
            assert_eq!(decided(rules, &flow), expected, "{rules}\n{flow:?}");
        }
    }
}
