//! Messages of the kernel, complete, cut and damaged, and the flows that they become.

use super::*;

// Messages of a Linux 6.18 router that translates 10.0.0.2 to 198.51.100.1 and fd00:a::2 to
// 2001:db8::1, for connections to 198.51.100.7 and 2001:db8::7.
/// From port 5000 to port 443, established.
const TCP4: &str = "\
    020000003400018014000180080001000a00000208000200c63364071c0002800500010006000000060002\
    00138800000600030001bb0000340002801400018008000100c633640708000200c63364011c0002800500\
    0100060000000600020001bb00000600030013880000080003000000019e080008000000000008000c0024\
    7539c308000b0000000001080007000006977e300004802c0001800500010003000000050002000a000000\
    050003000a00000006000400230000000600050023000000";
/// From port 5000 to port 443 over IPv6, established.
const TCP6: &str = "\
    0a0000004c0001802c00018014000300fd00000a0000000000000000000000021400040020010db8000000\
    0000000000000000071c000280050001000600000006000200138800000600030001bb00004c0002802c00\
    01801400030020010db80000000000000000000000071400040020010db80000000000000000000000011c\
    00028005000100060000000600020001bb00000600030013880000080003000000019e0800080000000000\
    08000c009550bedb08000b0000000001080007000006977e300004802c0001800500010003000000050002\
    000a000000050003000a00000006000400230000000600050023000000";
/// From port 5353 to port 53, with a reply.
const UDP4: &str = "\
    020000003400018014000180080001000a00000208000200c63364071c0002800500010011000000060002\
    0014e900000600030000350000340002801400018008000100c633640708000200c63364011c0002800500\
    01001100000006000200003500000600030014e90000080003000000019a080008000000000008000c00a0\
    56ad3108000b0000000001080007000000001c";
/// From port 5354 to port 99, without a reply.
const UDP4_UNANSWERED: &str = "\
    020000003400018014000180080001000a00000208000200c63364071c0002800500010011000000060002\
    0014ea00000600030000630000340002801400018008000100c633640708000200c63364011c0002800500\
    01001100000006000200006300000600030014ea00000800030000000198080008000000000008000c0028\
    f34f6108000b0000000001080007000000001c";
/// Echo with identifier 77, with a reply.
const PING4: &str = "\
    020000003c00018014000180080001000a00000208000200c6336407240002800500010001000000060004\
    00004d0000050005000800000005000600000000003c0002801400018008000100c633640708000200c633\
    640124000280050001000100000006000400004d0000050005000000000005000600000000000800030000\
    00019a080008000000000008000c000f60ad5f08000b0000000001080007000000001d";
/// Echo with identifier 78, with a reply.
const PING6: &str = "\
    0a000000540001802c00018014000300fd00000a0000000000000000000000021400040020010db8000000\
    00000000000000000724000280050001003a00000006000700004e00000500080080000000050009000000\
    0000540002802c0001801400030020010db80000000000000000000000071400040020010db80000000000\
    0000000000000124000280050001003a00000006000700004e000005000800810000000500090000000000\
    080003000000019a080008000000000008000c0074c85c9f08000b0000000001080007000000001d";

fn bytes(hex: &str) -> Vec<u8> {
    let (digits, _) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.iter().map(byte).collect()
}

/// All of these messages, for fuzzing.
pub(in crate::kernel::seed) fn samples() -> Vec<Vec<u8>> {
    [TCP4, TCP6, UDP4, UDP4_UNANSWERED, PING4, PING6]
        .map(bytes)
        .to_vec()
}

fn own(addresses: &[&str]) -> HashSet<IpAddr> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

/// Each flow as `in|out LOCAL PORT REMOTE PORT STATE [replied]`.
fn seen(entry: &Entry, own: &HashSet<IpAddr>) -> Vec<String> {
    let line = |f: Existing| {
        let originator = match f.originator {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        };
        let replied = match (f.has_seen_reply, f.is_ours) {
            (true, _) => " replied",
            (false, true) => " ours",
            (false, false) => "",
        };
        let Key {
            local,
            remote,
            local_port,
            remote_port,
            ..
        } = f.key;
        let state = f.state.name();
        format!("{originator} {local} {local_port} {remote} {remote_port} {state}{replied}")
    };
    flows(entry, own).map(line).collect()
}

/// Proves K12: a forwarded connection becomes a flow before destination NAT and one after source
/// NAT.
#[test]
fn an_entry_is_what_either_side_sees_of_it() {
    let router = own(&["10.0.0.1", "198.51.100.1", "fd00:a::1", "2001:db8::1"]);
    for (hex, expected) in [
        (
            TCP4,
            &[
                "in 198.51.100.7 443 10.0.0.2 5000 tcp-established replied",
                "out 198.51.100.1 5000 198.51.100.7 443 tcp-established replied",
            ][..],
        ),
        (
            TCP6,
            &[
                "in 2001:db8::7 443 fd00:a::2 5000 tcp-established replied",
                "out 2001:db8::1 5000 2001:db8::7 443 tcp-established replied",
            ],
        ),
        (
            UDP4,
            &[
                "in 198.51.100.7 53 10.0.0.2 5353 udp-stream replied",
                "out 198.51.100.1 5353 198.51.100.7 53 udp-stream replied",
            ],
        ),
        (
            UDP4_UNANSWERED,
            &[
                "in 198.51.100.7 99 10.0.0.2 5354 udp",
                "out 198.51.100.1 5354 198.51.100.7 99 udp",
            ],
        ),
        (
            PING4,
            &[
                "in 198.51.100.7 77 10.0.0.2 264 icmp replied",
                "out 198.51.100.1 77 198.51.100.7 8 icmp replied",
            ],
        ),
        (
            PING6,
            &[
                "in 2001:db8::7 78 fd00:a::2 384 icmp replied",
                "out 2001:db8::1 78 2001:db8::7 128 icmp replied",
            ],
        ),
    ] {
        let entry = read(&bytes(hex)).expect(hex);
        assert_eq!(seen(&entry, &router), expected, "{hex}");
    }
}

/// Proves K12: a connection of the host itself becomes one flow, whether the host is client or
/// server.
#[test]
fn one_of_our_own_addresses_is_never_the_remote_end() {
    let entry = read(&bytes(TCP4)).expect("an entry");
    let server = seen(&entry, &own(&["198.51.100.7", "198.51.100.1"]));
    let inbound = "in 198.51.100.7 443 10.0.0.2 5000 tcp-established replied";
    assert_eq!(server, [inbound]);
    let client = seen(&entry, &own(&["10.0.0.2"]));
    let outbound = "out 198.51.100.1 5000 198.51.100.7 443 tcp-established replied";
    assert_eq!(client, [outbound]);
}

/// Proves K12: a request under way becomes a flow for either interface, and a closed connection
/// becomes none.
#[test]
fn attempts_are_flows_and_remains_are_not() {
    let none = HashSet::new();
    let entry = read(&bytes(TCP4)).expect("an entry");
    for (number, expected) in [
        (1, Some("tcp-syn-sent")),
        (2, Some("tcp-syn-recv")),
        (3, Some("tcp-established")),
        (4, Some("tcp-fin-wait")),
        (5, Some("tcp-close-wait")),
        (6, Some("tcp-last-ack")),
        (7, Some("tcp-time-wait")),
        (9, Some("tcp-syn-sent2")),
        (0, None),
        (8, None),
        (10, None),
        (255, None),
    ] {
        let mut entry = entry;
        entry.tcp_state = Some(number);
        let states: Vec<_> = flows(&entry, &none).map(|f| f.state.name()).collect();
        let twice: Vec<_> = expected.into_iter().flat_map(|s| [s, s]).collect();
        assert_eq!(states, twice, "state {number}");
    }
    let mut attempt = entry;
    attempt.status &= !IPS_SEEN_REPLY;
    let originators: Vec<_> = flows(&attempt, &none).map(|f| f.originator).collect();
    assert_eq!(originators, Direction::BOTH);
    assert!(flows(&attempt, &none).all(|f| !f.has_seen_reply && !f.is_ours));
    let ours: Vec<_> = flows(&attempt, &own(&["10.0.0.2"])).collect();
    assert_eq!(ours.len(), 1);
    assert!(ours[0].is_ours && ours[0].originator == Direction::Outbound);
    let mut dying = entry;
    dying.status |= IPS_DYING;
    assert_eq!(flows(&dying, &none).count(), 0);
}

#[test]
fn other_protocols_go_by_their_addresses() {
    let mut entry = read(&bytes(UDP4)).expect("an entry");
    (entry.original.protocol, entry.reply.protocol) = (47, 47);
    let found = seen(&entry, &own(&["10.0.0.2"]));
    assert_eq!(found, ["out 198.51.100.1 0 198.51.100.7 0 other replied"]);
    // An ICMP type that is neither a request nor a reply.
    let mut unreachable = read(&bytes(PING4)).expect("an entry");
    unreachable.original.icmp_type = 3;
    assert_eq!(flows(&unreachable, &HashSet::new()).count(), 0);
}

#[test]
fn cut_or_broken_answers_never_panic() {
    for hex in [TCP4, TCP6, UDP4, UDP4_UNANSWERED, PING4, PING6] {
        let whole = bytes(hex);
        let expected = read(&whole).expect("an entry");
        let mut cut_off = 0;
        for end in 0..whole.len() {
            match read(&whole[..end]) {
                // The entry can be parsed without its last attributes.
                Some(entry) => assert_eq!(entry.original, expected.original),
                None => cut_off += 1,
            }
        }
        assert!(cut_off > whole.len() / 2, "{cut_off} of {}", whole.len());
        for position in 0..whole.len() {
            for value in [0, 1, 3, 4, 5, 0x7f, 0x80, 0xff] {
                let mut broken = whole.clone();
                broken[position] = value;
                if let Some(entry) = read(&broken) {
                    assert!(flows(&entry, &HashSet::new()).count() <= 2);
                }
            }
        }
    }
}
