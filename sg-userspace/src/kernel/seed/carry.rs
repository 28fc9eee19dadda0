//! Decides which flows get an entry when a policy is replaced that needed none for them. Pure.

use std::net::IpAddr;

use sg_common::concern::needs_no_entry;
use sg_common::flow::{FlowKind, FlowValue};
use sg_common::protocol::Kind;
use sg_common::verdict::{Direction, Verdict};

use super::decide::{entry, kind_of};
use super::existing::Existing;

/// The kind and the entry of `flow`, if it gets one. `before` and `after` evaluate the rules of the
/// two policies, as the packet path does. `epoch` is that of the earlier policy.
///
/// The earlier rules accepted both the flow's packets and its replies, so it had no entry (K7), and
/// the later rules do not accept both. It now gets the entry that the earlier policy would have
/// made. Whether it is kept or judged again is then decided as for all other flows (K11).
pub(in crate::kernel) fn carry(
    flow: &Existing,
    before: impl Fn(Direction, IpAddr, Kind, u16) -> Verdict,
    after: impl Fn(Direction, IpAddr, Kind, u16) -> Verdict,
    epoch: u32,
    now: u64,
) -> Option<(FlowKind, FlowValue)> {
    let key = &flow.key;
    let kind = key.kind();
    let number = |direction| key.number(direction, flow.originator);
    let was = |direction| before(direction, key.remote, kind, number(direction));
    let is = |direction| after(direction, key.remote, kind, number(direction));
    let admission = was(flow.originator);
    let opposite = flow.originator.opposite();
    let needed_none = needs_no_entry(admission.is_accept(), || was(opposite).is_accept());
    let needs_none =
        || needs_no_entry(is(flow.originator).is_accept(), || is(opposite).is_accept());
    if !needed_none || needs_none() {
        return None;
    }
    let value = FlowValue {
        slot: admission.slot(),
        generation: epoch,
        ..entry(flow, now)
    };
    let value = value.admitted(flow.originator, flow.opened_by());
    Some((kind_of(flow, kind), value))
}

#[cfg(test)]
mod tests {
    use sg_common::flow::Timeout;
    use sg_common::protocol::IPPROTO_TCP;
    use sg_common::verdict::FIRST_RULE_SLOT;

    use super::super::existing::Key;
    use super::*;
    use sg_policy::compile::{Budget, Compiled};
    use sg_policy::compile_policy;
    use sg_policy::policy::rules_from_lines;

    fn compiled(rules: &str) -> Compiled {
        let policy = rules_from_lines(rules);
        let slots: Vec<u32> = (FIRST_RULE_SLOT..).take(policy.rules.len()).collect();
        compile_policy(&policy, &slots, Budget::default()).unwrap()
    }

    /// Proves K7 and K11: a flow without an entry gets one when the next policy needs it.
    #[test]
    fn what_passed_by_rules_is_written_down_when_it_no_longer_does() {
        use Direction::{Inbound, Outbound};
        const BOTH: &str = "in tcp 22 from any accept\nout all to any accept";
        for (before, after, originator, expected) in [
            (BOTH, "", Inbound, Some(0)),
            (BOTH, "", Outbound, Some(1)),
            (BOTH, "out all to any accept", Inbound, Some(0)),
            (BOTH, "in all from any accept", Outbound, Some(1)),
            // The flow needs no entry under either policy.
            (BOTH, BOTH, Inbound, None),
            (
                BOTH,
                "in all from any accept\nout tcp 5000 to any accept",
                Outbound,
                None,
            ),
            // The flow has an entry already, or no rule admitted it.
            ("in tcp 22 from any accept", "", Inbound, None),
            ("out all to any accept", "", Outbound, None),
            ("", "in tcp 22 from any accept", Inbound, None),
        ] {
            let flow = Existing {
                key: Key {
                    local: "192.0.2.1".parse().unwrap(),
                    remote: "198.51.100.7".parse().unwrap(),
                    local_port: 22,
                    remote_port: 5000,
                    protocol: IPPROTO_TCP,
                },
                originator,
                is_originator_known: true,
                state: Timeout::TcpEstablished,
                has_seen_reply: true,
                is_ours: false,
                recency: 0,
            };
            let [old, new] = [before, after].map(compiled);
            let found = carry(
                &flow,
                |direction, remote, kind, number| old.decide(direction, remote, kind, number),
                |direction, remote, kind, number| new.decide(direction, remote, kind, number),
                6,
                1000,
            );
            let slot = found.map(|(kind, value)| {
                assert_eq!(kind, FlowKind::Established);
                assert_eq!((value.generation, value.last_seen), (6, 1000));
                assert_eq!(
                    (value.originator, value.is_seeded()),
                    (originator as u8, false)
                );
                assert_eq!(value.opened_by(), Some(originator));
                value.slot - FIRST_RULE_SLOT
            });
            assert_eq!(
                slot, expected,
                "{before:?} → {after:?}, opened {originator:?}"
            );
        }
    }
}
