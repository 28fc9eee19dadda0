//! When a TCP flow becomes established, segment by segment with sequence numbers: every variant of
//! the handshake, and what a spoofer can try who does not see the replies.

use sg_common::flow::{FlowKind, Timeout};
use sg_common::verdict::{Direction, FIRST_RULE_SLOT};
use sg_policy::compile::Budget;
use sg_policy::compile_policy;
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::flow_tables::{FlowTable, monotonic_now};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::programs::Programs;

use crate::frames::{Frame, frame};
use crate::sandbox::sandbox;
use crate::support::{pinned_maps, run_hook};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The side that sends inbound.
    Client,
    Server,
}

use Side::{Client, Server};

/// The sender, the flags, the sequence number, the acknowledged number, and the length of the data.
type Segment = (Side, u8, u32, u32, u16);

const HALF: FlowKind = FlowKind::HalfOpen;
const WHOLE: FlowKind = FlowKind::Established;

/// The initial sequence numbers of client and server.
const C: u32 = 1000;
const S: u32 = 0xffff_fff0;

/// A description, and the segments, each with the flow's kind and state after it.
type Story = (&'static str, &'static [(Segment, FlowKind, Timeout)]);

const STORIES: &[Story] = {
    use Timeout::*;
    const AFTER_S: u32 = S + 1;
    &[
        (
            "as it should be",
            &[
                ((Client, SYN, C, 0, 0), HALF, TcpSynSent),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, AFTER_S, 0), WHOLE, TcpEstablished),
                ((Server, ACK, AFTER_S, C + 1, 10), WHOLE, TcpEstablished),
                ((Client, FIN | ACK, C + 1, AFTER_S, 0), WHOLE, TcpFinWait),
            ],
        ),
        (
            "the ACK is lost, and data does as well; so does a FIN, which ends it",
            &[
                ((Client, SYN, C, 0, 0), HALF, TcpSynSent),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpSynRecv),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, AFTER_S, 100), WHOLE, TcpEstablished),
            ],
        ),
        (
            "opened and closed at once",
            &[
                ((Client, SYN, C, 0, 0), HALF, TcpSynSent),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpSynRecv),
                ((Client, FIN | ACK, C + 1, AFTER_S, 0), HALF, TcpFinWait),
            ],
        ),
        (
            "blind segments before, between and after, which break nothing",
            &[
                ((Client, SYN, C, 0, 0), HALF, TcpSynSent),
                ((Client, ACK, C + 1, AFTER_S, 0), HALF, TcpSynSent),
                ((Client, ACK, C + 1, 0, 0), HALF, TcpSynSent),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, S, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, AFTER_S + 1, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, 0, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, u32::MAX, 0), HALF, TcpSynRecv),
                ((Client, FIN | ACK, C + 1, 7, 0), HALF, TcpSynRecv),
                ((Client, FIN, C + 1, AFTER_S, 0), HALF, TcpSynRecv),
                ((Client, SYN, C + 9, 0, 0), HALF, TcpSynRecv),
                // The server's reply to such a segment (RFC 5961) has its current numbers.
                ((Server, ACK, AFTER_S, C + 1, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, AFTER_S, 0), WHOLE, TcpEstablished),
                ((Client, ACK, C + 1, 7, 0), WHOLE, TcpEstablished),
            ],
        ),
        (
            "the server begins again, with another number",
            &[
                ((Client, SYN, C, 0, 0), HALF, TcpSynSent),
                ((Server, SYN | ACK, 77, C + 1, 0), HALF, TcpSynRecv),
                ((Client, SYN, C, 0, 0), HALF, TcpSynRecv),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, 78, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, AFTER_S, 0), WHOLE, TcpEstablished),
            ],
        ),
        (
            "TCP Fast Open (RFC 7413): data on the SYN, and a reply before the ACK, which covers both",
            &[
                ((Client, SYN, C, 0, 100), HALF, TcpSynSent),
                ((Server, SYN | ACK, S, C + 101, 0), HALF, TcpSynRecv),
                ((Server, ACK, AFTER_S, C + 101, 50), HALF, TcpSynRecv),
                (
                    (Client, ACK, C + 101, AFTER_S.wrapping_add(50), 0),
                    WHOLE,
                    TcpEstablished,
                ),
            ],
        ),
        (
            "data on the SYN-ACK",
            &[
                ((Client, SYN, C, 0, 100), HALF, TcpSynSent),
                ((Server, SYN | ACK, S, C + 101, 8), HALF, TcpSynRecv),
                (
                    (Client, ACK, C + 101, AFTER_S.wrapping_add(8), 0),
                    WHOLE,
                    TcpEstablished,
                ),
            ],
        ),
        (
            "a reply that was forged from the server's address, at the worst moment: the server's next one mends it",
            &[
                ((Client, SYN, C, 0, 0), HALF, TcpSynSent),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpSynRecv),
                ((Server, SYN | ACK, 5, C + 1, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, AFTER_S, 20), HALF, TcpSynRecv),
                ((Server, ACK, AFTER_S, C + 21, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 21, AFTER_S, 20), WHOLE, TcpEstablished),
            ],
        ),
        (
            "refused, and tried again",
            &[
                ((Client, SYN, C, 0, 0), HALF, TcpSynSent),
                ((Server, RST | ACK, 0, C + 1, 0), HALF, TcpClose),
                ((Client, ACK, C + 1, 1, 0), HALF, TcpClose),
                ((Client, SYN, C, 0, 0), HALF, TcpSynSent),
                ((Client, ACK, C + 1, 1, 0), HALF, TcpSynSent),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, AFTER_S, 0), WHOLE, TcpEstablished),
            ],
        ),
        (
            "taken up in the middle",
            &[
                ((Client, ACK, C, 5, 0), HALF, TcpEstablished),
                ((Client, ACK, C, 5, 10), HALF, TcpEstablished),
                ((Server, ACK, 5, C + 10, 0), WHOLE, TcpEstablished),
            ],
        ),
        (
            "a blind segment before the SYN, so that the flow seems to have been taken up in the middle",
            &[
                ((Client, ACK, C, 5, 0), HALF, TcpEstablished),
                ((Client, SYN, C, 0, 0), HALF, TcpEstablished),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpEstablished),
                ((Server, RST, 5, 0, 0), HALF, TcpClose),
                ((Server, SYN | ACK, S, C + 1, 0), HALF, TcpClose),
            ],
        ),
        (
            "taken up with the SYN-ACK of the side that counts as the client: the other side has to be there",
            &[
                ((Client, SYN | ACK, C, S, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, 0, 0), HALF, TcpSynRecv),
                ((Server, ACK, S, C + 1, 0), HALF, TcpSynRecv),
                ((Client, ACK, C + 1, S, 7), WHOLE, TcpEstablished),
            ],
        ),
    ]
};

/// The frame of a segment. Untagged it takes the fast path, with a tag the slow path.
fn bytes(segment: Segment, port: u16, is_v6: bool, has_tag: bool) -> Frame {
    let (side, flags, sequence, acknowledged, data) = segment;
    let (client, server) = match is_v6 {
        false => (format!("198.51.100.7:{port}"), "192.0.2.1:80".to_owned()),
        true => (
            format!("[2001:db8:5::7]:{port}"),
            "[2001:db8::1]:80".to_owned(),
        ),
    };
    let (from, to) = match side {
        Client => (client, server),
        Server => (server, client),
    };
    // Offsets differ by the length of the IP header, 20 or 40 bytes.
    let (ip, length_at, extra) = match is_v6 {
        false => (20, 2, 40),
        true => (40, 4, 20),
    };
    let length = extra + data;
    let mut frame = frame(&format!("tcp {from} > {to}"))
        .set(length_at, &length.to_be_bytes())
        .set(ip + 4, &sequence.to_be_bytes())
        .set(ip + 8, &acknowledged.to_be_bytes())
        .set(ip + 13, &[flags]);
    frame = frame.padded(100);
    match has_tag {
        true => frame.vlan(0x8100, 7),
        false => frame,
    }
}

/// Proves K9: in all these stories the flow becomes established with the right segment and not
/// earlier, in both families and on both paths.
#[test]
fn a_flow_is_established_by_the_right_acknowledgement_alone() {
    sandbox(|sandbox| {
        let policy = rules_from_lines("in tcp 80 from any accept");
        let compiled =
            compile_policy(&policy, &[FIRST_RULE_SLOT], Budget::default()).expect("tables fit");
        let (shared, pins) = pinned_maps(sandbox, 256);
        let mut programs = Programs::load(&compiled, &Generation::of(&policy, 1), &shared)
            .unwrap_or_else(|e| panic!("{e}"));
        let table = FlowTable::open(&pins, &Timeout::defaults()).unwrap_or_else(|e| panic!("{e}"));
        let mut port = 4000;
        for (story, steps) in STORIES {
            for (is_v6, has_tag) in [(false, false), (true, false), (false, true), (true, true)] {
                port += 1;
                for (number, (segment, kind, state)) in (1..).zip(*steps) {
                    let direction = match segment.0 {
                        Client => Direction::Inbound,
                        Server => Direction::Outbound,
                    };
                    let frame = bytes(*segment, port, is_v6, has_tag);
                    let accepted = run_hook(&mut programs, direction, frame.bytes(), 1);
                    let place = format!("{story}, segment {number}, IPv6 {is_v6}, tag {has_tag}");
                    assert!(accepted.unwrap_or_else(|e| panic!("{e:?}")), "{place}");
                    let mut found = Vec::new();
                    table.each(monotonic_now(), |flow| {
                        if flow.remote_port == port {
                            found.push((flow.kind, flow.value.state));
                        }
                    });
                    assert_eq!(found, [(*kind, *state as u8)], "{place}");
                }
            }
        }
    });
}
