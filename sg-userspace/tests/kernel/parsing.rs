//! Tables of frames, as in `packets`: tags, headers that are skipped, and what is malformed (K3, K4).

// Each row is on one line, to keep the tables readable.
#![cfg_attr(rustfmt, rustfmt_skip)]

use sg_policy::policy::NonIp;

use crate::frames::{Frame, frame, non_ip};
use crate::packets::NODE;
use crate::support::{Enforcer, rows_of, table};

/// Proves K2.
#[test]
fn tags_are_skipped_and_other_frames_pass() {
    let ssh = || frame("tcp 198.51.100.1:40000 > 192.0.2.1:22 syn");
    let mysql = || frame("tcp 198.51.100.1:40000 > 192.0.2.1:3306 syn");
    table(
        NODE,
        &[
            ("one tag", "in", ssh().vlan(0x8100, 7), "accept in 1"),
            ("one tag, closed port", "in", mysql().vlan(0x8100, 7), "drop no-match"),
            ("two tags", "in", ssh().vlan(0x8100, 7).vlan(0x88a8, 8), "accept in 1"),
            ("two tags, closed port", "in", mysql().vlan(0x8100, 7).vlan(0x88a8, 8), "drop no-match"),
            ("two tags, outbound", "out", frame("tcp 192.0.2.1:1 > 198.51.100.1:2 syn").vlan(0x8100, 7).vlan(0x8100, 8), "accept out 1"),
            ("three tags hide what is behind them", "in", ssh().vlan(0x8100, 7).vlan(0x8100, 8).vlan(0x88a8, 9), "drop malformed"),
            ("ARP", "in", non_ip(0x0806), "accept non-ip"),
            ("LLDP", "out", non_ip(0x88cc), "accept non-ip"),
            ("a length instead of a type, as in STP", "in", non_ip(38), "accept non-ip"),
            ("ARP behind a tag", "in", non_ip(0x0806).vlan(0x8100, 7), "accept non-ip"),
            ("ARP behind two", "out", non_ip(0x0806).vlan(0x8100, 7).vlan(0x88a8, 8), "accept non-ip"),
            ("ARP behind three", "in", non_ip(0x0806).vlan(0x8100, 7).vlan(0x8100, 8).vlan(0x88a8, 9), "drop malformed"),
            ("IPv6 in an IPv4 frame", "in", frame("tcp [2001:db8::9]:1 > [2001:db8::1]:22 syn").set(0, &[0x65]).ethertype(0x0800), "drop malformed"),
        ],
    );
}

/// Proves P10: with `arp-only`, of all frames that are not IP only ARP passes, in both directions
/// and behind tags.
#[test]
fn other_frames_than_arp_are_dropped_where_the_policy_says_so() {
    let mut policy = sg_policy::policy::rules_from_lines(NODE);
    policy.non_ip = NonIp::ArpOnly;
    rows_of(
        &mut Enforcer::of(policy),
        &[
            ("ARP", "in", non_ip(0x0806), "accept non-ip"),
            ("ARP, outbound", "out", non_ip(0x0806), "accept non-ip"),
            ("ARP behind a tag", "in", non_ip(0x0806).vlan(0x8100, 7), "accept non-ip"),
            ("ARP behind two", "in", non_ip(0x0806).vlan(0x8100, 7).vlan(0x88a8, 8), "accept non-ip"),
            ("ARP behind three", "in", non_ip(0x0806).vlan(0x8100, 7).vlan(0x8100, 8).vlan(0x88a8, 9), "drop malformed"),
            ("reverse ARP is another protocol", "in", non_ip(0x8035), "drop non-ip"),
            ("LLDP", "out", non_ip(0x88cc), "drop non-ip"),
            ("LLDP behind a tag", "in", non_ip(0x88cc).vlan(0x8100, 7), "drop non-ip"),
            ("a length instead of a type, as in STP", "in", non_ip(38), "drop non-ip"),
            ("PPPoE, which may carry IP", "in", non_ip(0x8864), "drop non-ip"),
            ("a tag of an old type", "in", frame("tcp 198.51.100.1:40000 > 192.0.2.1:22 syn").vlan(0x9100, 7), "drop non-ip"),
            ("the service's port is open all the same", "in", frame("tcp 198.51.100.1:40000 > 192.0.2.1:22 syn"), "accept in 1"),
            ("and essential traffic is", "in", frame("icmp fe80::9 > ff02::1 135/0").set(7, &[255]), "accept essential"),
        ],
    );
}

/// Proves K3 for IPv4.
#[test]
fn ipv4_options_are_skipped_and_broken_headers_dropped() {
    let ssh = || frame("tcp 198.51.100.1:40000 > 192.0.2.1:22 syn");
    table(
        NODE,
        &[
            ("with options", "in", ssh().ipv4_options(&[1; 4]), "accept in 1"),
            ("with as many as fit", "in", ssh().ipv4_options(&[1; 40]), "accept in 1"),
            ("a closed port behind options", "in", frame("tcp 198.51.100.1:22 > 192.0.2.1:3306 syn").ipv4_options(&[1; 8]), "drop no-match"),
            ("version 5", "in", ssh().set(0, &[0x55]), "drop malformed"),
            ("a header of four words", "in", ssh().set(0, &[0x44]), "drop malformed"),
            ("a header longer than the packet", "in", ssh().set(0, &[0x4f]).set(2, &[0, 44]), "drop malformed"),
            ("a length shorter than the header", "in", ssh().set(2, &[0, 19]), "drop malformed"),
            ("a length beyond the frame", "in", ssh().set(2, &[0xff, 0xff]), "drop malformed"),
            ("a TCP header cut off by the length", "in", ssh().set(2, &[0, 39]), "drop malformed"),
            ("a TCP data offset of four words", "in", ssh().set(32, &[0x40]), "drop malformed"),
            ("a TCP data offset beyond the packet", "in", ssh().set(32, &[0xf0]), "drop malformed"),
            ("a UDP header cut off by the length", "in", frame("udp 10.0.0.1:1 > 192.0.2.1:53").set(2, &[0, 27]), "drop malformed"),
            ("an ICMP header cut off by the length", "in", frame("icmp 10.0.0.1 > 192.0.2.1 8/0").set(2, &[0, 27]), "drop malformed"),
            ("an SCTP header cut off by the length", "in", frame("sctp 10.0.0.1:1 > 192.0.2.1:2").set(2, &[0, 31]), "drop malformed"),
            ("padding behind the packet is no harm", "in", ssh().padded(20), "accept in 1"),
            ("a length of zero in a frame that a wire may carry", "in", ssh().set(2, &[0, 0]), "drop malformed"),
            ("outbound too", "out", ssh().set(2, &[0, 0]), "drop malformed"),
        ],
    );
}

/// Proves K3: the length field of UDP is checked as connection tracking checks it.
#[test]
fn a_udp_length_that_does_not_fit_its_packet_is_malformed() {
    let dns = || frame("udp 198.51.100.1:40000 > 192.0.2.1:53");
    let tagged = || dns().vlan(0x8100, 7);
    let dns6 = || frame("udp [2001:db8::1]:40000 > [2001:db8:5::1]:53");
    let payload = u8::try_from(dns().bytes().len() - 14 - 20 - 8).unwrap();
    // The offsets of the length field in an untagged frame.
    const V4: usize = 20 + 4;
    const V6: usize = 40 + 4;
    table(
        NODE,
        &[
            ("all of the payload", "in", dns().set(V4, &[0, 8 + payload]), "accept in 2"),
            ("less of it, the rest is padding", "in", dns().set(V4, &[0, 7 + payload]), "accept in 2"),
            ("none of it", "in", dns().set(V4, &[0, 8]), "accept in 2"),
            ("less than the header", "in", dns().set(V4, &[0, 7]), "drop malformed"),
            ("zero", "in", dns().set(V4, &[0, 0]), "drop malformed"),
            ("one byte more than there is", "in", dns().set(V4, &[0, 9 + payload]), "drop malformed"),
            ("into the frame's padding", "in", dns().set(V4, &[0, 9 + payload]).padded(20), "drop malformed"),
            ("the most that it can say", "in", dns().set(V4, &[0xff, 0xff]), "drop malformed"),
            ("behind a tag, all of it", "in", tagged(), "accept in 2"),
            ("behind a tag, more than there is", "in", dns().set(V4, &[0, 9 + payload]).vlan(0x8100, 7), "drop malformed"),
            ("behind options", "in", dns().set(V4, &[0, 9 + payload]).ipv4_options(&[1; 8]), "drop malformed"),
            ("a first fragment has less than it says", "in", dns().set(V4, &[0x10, 0]).fragment4(5, 0, true), "accept in 2"),
            ("but not less than a header", "in", dns().set(V4, &[0, 7]).fragment4(6, 0, true), "drop malformed"),
            ("which is remembered of neither", "in", dns().fragment4(6, 3, false), "drop fragment"),
            ("IPv6", "out", dns6().set(V6, &[0, 8 + payload]), "accept out 1"),
            ("less than the header", "out", dns6().set(V6, &[0, 7]), "drop malformed"),
            ("zero is for jumbograms", "out", dns6().set(V6, &[0, 0]), "drop malformed"),
            ("more than there is", "out", dns6().set(V6, &[0, 9 + payload]), "drop malformed"),
            ("behind extension headers", "out", dns6().set(V6, &[0, 9 + payload]).extension(60, vec![0; 8]), "drop malformed"),
            ("an IPv6 first fragment", "out", dns6().set(V6, &[0x10, 0]).fragment6(5, 0, true), "accept out 1"),
            ("an atomic fragment is whole", "out", dns6().set(V6, &[0, 9 + payload]).extension(44, vec![0; 8]), "drop malformed"),
        ],
    );
}

/// Proves K3 for frames that the kernel has joined from many packets (GRO). They are longer than a
/// 16-bit field can express, so the field is zero and the length of the frame counts.
#[test]
fn a_length_of_zero_means_the_whole_of_a_joined_frame() {
    const LONGEST: usize = 65_535;
    // Pads the frame so that it has `len` bytes from offset `from` on.
    let long = |frame: Frame, from: usize, len: usize| {
        let there = frame.bytes().len() - 14 - from;
        frame.padded(len - there)
    };
    let ssh = |len| long(frame("tcp 198.51.100.1:40000 > 192.0.2.1:22 ack").set(2, &[0, 0]), 0, len);
    let mysql = |len| long(frame("tcp 198.51.100.1:40000 > 192.0.2.1:3306 ack").set(2, &[0, 0]), 0, len);
    let six = |port: u16| frame(&format!("tcp [2001:db8::9]:40000 > [2001:db8::1]:{port} ack"));
    // A hop-by-hop header with the option that carries the length of the payload (RFC 2675).
    let jumbo = vec![0, 0, 0xc2, 4, 0, 1, 0, 8];
    let ssh6 = |len| long(six(22).set(4, &[0, 0]), 40, len);
    let jumbogram = |port, len| long(six(port).extension(0, jumbo.clone()).set(4, &[0, 0]), 40, len);
    let dns = frame("udp [2001:db8::9]:40000 > [2001:db8::1]:53").set(44, &[0, 0]).extension(0, jumbo.clone()).set(4, &[0, 0]);
    table(
        "in tcp 22 from any accept\nin udp 53 from any accept",
        &[
            ("one byte too many for the field", "in", ssh(LONGEST + 1), "accept in 1"),
            ("as many as the field can say", "in", ssh(LONGEST), "drop malformed"),
            ("more", "in", ssh(70_000), "accept in 1"),
            ("a closed port", "in", mysql(70_000), "drop no-match"),
            ("behind a tag", "in", ssh(70_000).vlan(0x8100, 7), "accept in 1"),
            ("IPv6 without an option", "in", ssh6(LONGEST + 1), "accept in 1"),
            ("as many as the field can say", "in", ssh6(LONGEST), "drop malformed"),
            ("with a jumbo payload option", "in", jumbogram(22, 70_000), "accept in 1"),
            ("a closed port", "in", jumbogram(3306, 70_000), "drop no-match"),
            ("the option in a frame that a wire may carry", "in", jumbogram(22, 9000), "drop malformed"),
            ("a datagram whose length says nothing either", "in", long(dns.clone(), 40, 70_000), "accept in 2"),
            ("but not in a short frame", "in", dns, "drop malformed"),
        ],
    );
}

/// Proves K3: a frame that ends inside a header is dropped, wherever it ends.
#[test]
fn a_frame_cut_anywhere_before_the_end_is_malformed() {
    for (text, header) in [
        ("tcp 10.0.0.1:40000 > 192.0.2.1:22 syn", 14 + 20 + 20),
        ("tcp [2001:db8::9]:1 > [2001:db8::1]:22 syn", 14 + 40 + 20),
        ("udp 10.0.0.1:40000 > 192.0.2.1:22", 14 + 20 + 8),
        ("icmp 10.0.0.1 > 192.0.2.1 8/0 id 9", 14 + 20 + 8),
    ] {
        let whole = frame(text);
        let mut enforcer = Enforcer::new(NODE);
        // The kernel runs no program on a frame shorter than an Ethernet header.
        for len in 14..whole.bytes().len() {
            for (direction, name) in [
                (sg_common::verdict::Direction::Inbound, "inbound"),
                (sg_common::verdict::Direction::Outbound, "outbound"),
            ] {
                // The kernel refuses or pads shorter frames in outbound test runs.
                if name == "outbound" && len < header {
                    continue;
                }
                let decision = enforcer.send(direction, whole.clone().cut(len).bytes());
                assert_eq!(
                    (decision.accept, decision.counter.as_str()),
                    (false, "malformed"),
                    "{text} cut to {len} bytes, {name}"
                );
            }
        }
    }
}

/// Proves K3 for IPv6.
#[test]
fn ipv6_extension_headers_are_walked() {
    let ssh = || frame("tcp [2001:db8::9]:40000 > [2001:db8::1]:22 syn");
    let mysql = || frame("tcp [2001:db8::9]:40000 > [2001:db8::1]:3306 syn");
    let options = |units: u8| {
        let mut header = vec![0; 8 * (units as usize + 1)];
        header[1] = units;
        header
    };
    let authentication = || {
        let mut header = vec![0; 24];
        header[1] = 4;
        header
    };
    let eight = |frame: Frame| (0..8).fold(frame, |f, _| f.extension(60, options(0)));
    table(
        NODE,
        &[
            ("hop-by-hop", "in", ssh().extension(0, options(0)), "accept in 1"),
            ("hop-by-hop, closed port", "in", mysql().extension(0, options(0)), "drop no-match"),
            ("routing", "in", ssh().extension(43, options(2)), "accept in 1"),
            ("destination options of 2 KiB", "in", ssh().extension(60, options(255)), "accept in 1"),
            ("authentication, whose length is in words", "in", ssh().extension(51, authentication()), "accept in 1"),
            ("authentication, closed port", "in", mysql().extension(51, authentication()), "drop no-match"),
            ("of twelve bytes, the least", "in", ssh().extension(51, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "accept in 1"),
            ("of eight", "in", ssh().extension(51, vec![0; 8]), "drop malformed"),
            ("of eight, behind options", "in", ssh().extension(51, vec![0; 8]).extension(60, options(0)), "drop malformed"),
            ("in IPv4 it is a transport protocol like others", "in", frame("proto 51 10.0.0.1 > 192.0.2.1"), "accept in 3"),
            ("an atomic fragment", "in", ssh().extension(44, vec![0; 8]), "accept in 1"),
            ("several", "in", ssh().extension(51, authentication()).extension(43, options(1)).extension(0, options(0)), "accept in 1"),
            ("eight", "in", eight(ssh()), "accept in 1"),
            ("eight, closed port", "in", eight(mysql()), "drop no-match"),
            ("nine", "in", eight(ssh()).extension(60, options(0)), "drop malformed"),
            ("one that ends behind the packet", "in", ssh().extension(60, options(0)).set(41, &[200]), "drop malformed"),
            ("version 4", "in", ssh().set(0, &[0x40]), "drop malformed"),
            ("a payload beyond the frame", "in", ssh().set(4, &[0xff, 0]), "drop malformed"),
            ("a TCP header cut off by the length", "in", ssh().set(4, &[0, 19]), "drop malformed"),
            ("ICMP for IPv4 is no echo here", "in", frame("proto 1 2001:db8::9 > 2001:db8::1"), "drop no-match"),
        ],
    );
}

/// Proves K4 for IPv4: later fragments follow the first one by (source, destination, protocol, id),
/// whatever its verdict was.
#[test]
fn later_fragments_follow_their_first() {
    let ssh = || frame("tcp 198.51.100.1:40000 > 192.0.2.1:22 syn");
    let mysql = || frame("tcp 198.51.100.1:40000 > 192.0.2.1:3306 syn");
    let dns = || frame("udp 198.51.100.1:40000 > 192.0.2.1:53");
    let banned = || frame("udp 203.0.113.1:40000 > 192.0.2.1:5000");
    table(
        NODE,
        &[
            ("the first, by its ports", "in", ssh().fragment4(7, 0, true), "accept in 1"),
            ("the next", "in", mysql().fragment4(7, 3, true), "accept in 1"),
            ("the last", "in", mysql().fragment4(7, 6, false), "accept in 1"),
            ("one of another datagram", "in", ssh().fragment4(8, 3, true), "drop fragment"),
            ("of another protocol", "in", dns().fragment4(7, 3, true), "drop fragment"),
            ("from another source", "in", frame("tcp 198.51.100.2:40000 > 192.0.2.1:22 ack").fragment4(7, 3, true), "drop fragment"),
            ("to another destination", "in", frame("tcp 198.51.100.1:40000 > 192.0.2.2:22 ack").fragment4(7, 3, true), "drop fragment"),
            ("in the other direction", "out", frame("tcp 192.0.2.1:22 > 198.51.100.1:40000 ack").fragment4(7, 3, true), "drop fragment"),
            ("a first one that is dropped", "in", mysql().fragment4(9, 0, true), "drop no-match"),
            ("and the next", "in", mysql().fragment4(9, 3, false), "drop no-match"),
            ("dropped by a rule", "in", banned().fragment4(9, 0, true), "drop in 5"),
            ("and the next", "in", banned().fragment4(9, 3, false), "drop in 5"),
            ("the name is used again, and accepted", "in", dns().fragment4(9, 0, true), "accept in 2"),
            ("and the next follows that", "in", dns().fragment4(9, 3, false), "accept in 2"),
            ("\"don't fragment\" is no fragment", "in", ssh().set(6, &[0x40, 0]), "accept in 1"),
            ("outbound", "out", frame("udp 192.0.2.1:5000 > 203.0.113.1:40000").fragment4(9, 0, true), "accept out 1"),
            ("and the next", "out", frame("udp 192.0.2.1:9 > 203.0.113.1:9").fragment4(9, 3, true), "accept out 1"),
            ("its reply, by the flow table", "in", banned().fragment4(10, 0, true), "accept out 1 reply"),
            ("and the next", "in", frame("udp 203.0.113.1:9 > 192.0.2.1:9").fragment4(10, 3, false), "accept out 1 reply"),
        ],
    );
}

/// Proves K4 for IPv6: other extension headers may stand before and after the fragment header.
#[test]
fn ipv6_fragments_follow_their_first() {
    let ssh = || frame("tcp [2001:db8::9]:40000 > [2001:db8::1]:22 syn");
    let options = || vec![0; 8];
    table(
        NODE,
        &[
            ("later, unknown", "in", ssh().fragment6(70_000, 3, true), "drop fragment"),
            ("the first", "in", ssh().fragment6(70_000, 0, true), "accept in 1"),
            ("the next", "in", ssh().fragment6(70_000, 3, true), "accept in 1"),
            ("with hop-by-hop options in front", "in", ssh().fragment6(70_000, 6, false).extension(0, options()), "accept in 1"),
            ("an id that differs above 16 bits", "in", ssh().fragment6(70_000 - 65_536, 3, true), "drop fragment"),
            ("a first one with options behind the fragment header", "in", ssh().extension(60, options()).fragment6(5, 0, true), "accept in 1"),
            ("its next carries no ports at all", "in", ssh().extension(60, options()).fragment6(5, 9, false), "accept in 1"),
            ("the same id, but of plain TCP", "in", ssh().fragment6(5, 9, false), "drop fragment"),
            ("atomic: nothing has been cut", "in", ssh().fragment6(6, 0, false), "accept in 1"),
            ("and nothing follows it", "in", ssh().fragment6(6, 3, false), "drop fragment"),
            ("an atomic header in front of a first fragment", "in", ssh().fragment6(11, 0, true).fragment6(10, 0, false), "accept in 1"),
            ("a fragment of a fragment", "in", ssh().fragment6(12, 0, true).fragment6(13, 0, true), "drop malformed"),
        ],
    );
}

/// Proves K4 against fragments that overlap or hide the headers that were judged.
#[test]
fn fragments_that_hide_what_was_judged_are_malformed() {
    let tcp = || frame("tcp 198.51.100.1:40000 > 192.0.2.1:22 ack");
    let udp = || frame("udp 198.51.100.1:40000 > 192.0.2.1:53");
    let sctp = || frame("sctp 10.0.0.1:40000 > 192.0.2.1:5000");
    let tcp6 = || frame("tcp [2001:db8::9]:40000 > [2001:db8::1]:22 ack");
    table(
        NODE,
        &[
            ("a first fragment shorter than the TCP header", "in", tcp().fragment4(1, 0, true).set(2, &[0, 36]), "drop malformed"),
            ("shorter than the UDP header", "in", udp().fragment4(1, 0, true).set(2, &[0, 27]), "drop malformed"),
            ("IPv6, shorter than the TCP header", "in", tcp6().fragment6(1, 0, true).set(4, &[0, 27]), "drop malformed"),
            ("the first", "in", tcp().fragment4(2, 0, true), "accept in 1"),
            ("one inside the TCP header", "in", tcp().fragment4(2, 1, false), "drop malformed"),
            ("the last byte of the TCP header", "in", tcp().fragment4(2, 2, false), "drop malformed"),
            ("just behind it", "in", tcp().fragment4(2, 3, false), "accept in 1"),
            ("the first of SCTP", "in", sctp().fragment4(2, 0, true), "accept in 3"),
            ("one inside the SCTP header", "in", sctp().fragment4(2, 1, false), "drop malformed"),
            ("just behind it", "in", sctp().fragment4(2, 2, false), "accept in 3"),
            ("the first of UDP", "in", udp().fragment4(2, 0, true), "accept in 2"),
            ("behind the UDP header", "in", udp().fragment4(2, 1, false), "accept in 2"),
            ("up to the longest datagram", "in", udp().fragment4(2, 8187, false), "accept in 2"),
            ("one that ends beyond it", "in", udp().fragment4(2, 8188, false), "drop malformed"),
            ("IPv6, inside the TCP header", "in", tcp6().fragment6(2, 1, false), "drop malformed"),
            ("IPv6, beyond the longest datagram", "in", tcp6().fragment6(2, 8191, false), "drop malformed"),
        ],
    );
}
