//! Flows and fragments that use both interfaces of an attachment.

use sg_userspace::observe::flows::flows;

use super::{UPLINKS, put, uplinks};
use crate::frames::{Frame, frame};
use crate::sandbox::{RawSender, sandbox};
use crate::watching::{assert_adds_up, only, read_when, under};

/// Proves K1 and K6: for each protocol and both families, replies to packets that leave by one
/// uplink are accepted at the other, and replies to packets that enter by one may leave by the
/// other. Nothing else is accepted. Proves A2 for each interface.
#[test]
fn a_flow_may_use_both_interfaces() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        put(
            "out tcp 443 to any accept
             out udp 53 to any accept
             out icmp 8 to any accept
             out icmpv6 128 to any accept
             out gre to any accept
             in tcp 22 from any accept
             in udp 500 from any accept",
            &options,
        );
        let near = UPLINKS.map(|(near, _)| RawSender::new(near));
        let far = UPLINKS.map(|(_, far)| RawSender::new(far));
        let mut sent = [[0u64; 2]; 2];
        let (mut replies, mut dropped) = ([[0u64; 2]; 2], [0u64; 2]);
        for (v4, v6) in [
            ("192.0.2.1", "198.51.100.7"),
            ("2001:db8::1", "2001:db8:9::7"),
        ] {
            let end = |address: &str, port: u16| match address.contains(':') {
                true => format!("[{address}]:{port}"),
                false => format!("{address}:{port}"),
            };
            let (a, b) = (v4, v6);
            let (ask, answer) = match a.contains(':') {
                true => (128, 129),
                false => (8, 0),
            };
            // Requests and replies, first for outbound requests and then for inbound ones.
            let outbound = [
                (
                    format!("tcp {} > {} syn", end(a, 4000), end(b, 443)),
                    format!("tcp {} > {} syn ack", end(b, 443), end(a, 4000)),
                ),
                (
                    format!("udp {} > {}", end(a, 4000), end(b, 53)),
                    format!("udp {} > {}", end(b, 53), end(a, 4000)),
                ),
                (
                    format!("icmp {a} > {b} {ask}/0 id 7"),
                    format!("icmp {b} > {a} {answer}/0 id 7"),
                ),
                (format!("proto 47 {a} > {b}"), format!("proto 47 {b} > {a}")),
            ];
            let inbound = [
                (
                    format!("tcp {} > {} syn", end(b, 5000), end(a, 22)),
                    format!("tcp {} > {} syn ack", end(a, 22), end(b, 5000)),
                ),
                (
                    format!("udp {} > {}", end(b, 5000), end(a, 500)),
                    format!("udp {} > {}", end(a, 500), end(b, 5000)),
                ),
            ];
            for (request, reply) in &outbound {
                // Without the request its reply is dropped.
                far[1].send(frame(reply).bytes());
                sent[1][0] += 1;
                dropped[1] += 1;
                read_when(sandbox, "up1", |c| c.totals[0].packets == sent[1][0]);
                assert!(near[0].send(frame(request).bytes()), "{request}");
                far[1].send(frame(reply).bytes());
                far[0].send(frame(reply).bytes());
                sent[0][1] += 1;
                sent[1][0] += 1;
                sent[0][0] += 1;
                replies[1][0] += 1;
                replies[0][0] += 1;
            }
            for (request, reply) in &inbound {
                assert!(
                    !near[1].send(frame(reply).bytes()),
                    "{reply} before it was asked for"
                );
                sent[1][1] += 1;
                far[0].send(frame(request).bytes());
                sent[0][0] += 1;
                read_when(sandbox, "up0", |c| c.totals[0].packets == sent[0][0]);
                assert!(near[1].send(frame(reply).bytes()), "{reply}");
                sent[1][1] += 1;
                replies[1][1] += 1;
            }
        }
        for (i, (name, _)) in UPLINKS.into_iter().enumerate() {
            let c = read_when(sandbox, name, |c| c.totals[0].packets == sent[i][0]);
            assert_adds_up(&c, sent[i][0], sent[i][1]);
            for (direction, expected) in [("outbound", replies[i][0]), ("inbound", replies[i][1])] {
                let rules = c
                    .rules
                    .iter()
                    .filter(|rule| rule.direction.name() == direction);
                let counted: u64 = rules.map(|rule| rule.reply_packets).sum();
                assert_eq!(counted, expected, "{name}: replies of {direction} rules");
            }
            assert_eq!(under(&c, "no-match")[0], dropped[i], "{name}");
        }
        // The table is the same for both interfaces.
        let [a, b] = ["up0", "up1"].map(|name| flows(&only(sandbox, name)).unwrap().len());
        assert_eq!((a, b), (12, 12));
    });
}

/// Proves K1 and K4: the first fragment of a datagram comes by one interface and the rest by the
/// other.
#[test]
fn fragments_of_one_datagram_may_come_by_both_interfaces() {
    sandbox(|sandbox| {
        let options = uplinks(sandbox);
        put("in udp 53 from any accept", &options);
        let far = UPLINKS.map(|(_, far)| RawSender::new(far));
        let fragment = |id: u16, is_first: bool| -> [Frame; 2] {
            let (units, more) = if is_first { (0, true) } else { (4, false) };
            [
                frame("udp 198.51.100.1:4000 > 192.0.2.1:53").fragment4(id, units, more),
                frame("udp [2001:db8::9]:4000 > [2001:db8::1]:53").fragment6(
                    id.into(),
                    units,
                    more,
                ),
            ]
        };
        for first in fragment(7, true) {
            far[0].send(first.bytes());
        }
        read_when(sandbox, "up0", |c| c.totals[0].packets == 2);
        for rest in fragment(7, false).iter().chain(&fragment(8, false)) {
            far[1].send(rest.bytes());
        }
        let c = read_when(sandbox, "up1", |c| c.totals[0].packets == 4);
        assert_eq!(
            c.rules[0].packets, 2,
            "those whose first ones came by the other"
        );
        assert_eq!(under(&c, "fragment"), [2, 0]);
    });
}
