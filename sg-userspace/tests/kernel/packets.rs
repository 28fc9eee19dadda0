//! Tables of packets: a description, a packet, the verdict, and the counter that must move.

// Each row is on one line, to keep the tables readable.
#![cfg_attr(rustfmt, rustfmt_skip)]

use crate::frames::{Frame, frame};
use crate::support::{Enforcer, rows_of, table};

/// The usual rules of a node: a service, a private network, and everything outbound.
pub(crate) const NODE: &str = "in tcp 22 from any accept
     in udp 53 from 0.0.0.0/0 accept
     in all from 10.0.0.0/8 accept
     in icmp 8/0 from 198.51.100.0/24 accept
     in all from 203.0.113.0/24 drop
     out all to any accept";

/// Proves P2 and A1.
#[test]
fn inbound_packets_are_judged_by_the_first_rule_that_matches() {
    table(
        NODE,
        &[
            ("the service's port is open", "in", frame("tcp 198.51.100.1:40000 > 192.0.2.1:22 syn"), "accept in 1"),
            ("over IPv6 too", "in", frame("tcp [2001:db8::9]:40000 > [2001:db8::1]:22 syn"), "accept in 1"),
            ("the port below is not", "in", frame("tcp 198.51.100.1:40000 > 192.0.2.1:21 syn"), "drop no-match"),
            ("the port above is not", "in", frame("tcp 198.51.100.1:40000 > 192.0.2.1:23 syn"), "drop no-match"),
            ("ports are the destination's", "in", frame("tcp 198.51.100.1:22 > 192.0.2.1:40000 syn"), "drop no-match"),
            ("a rule for one protocol leaves others alone", "in", frame("udp 198.51.100.1:40000 > 192.0.2.1:22"), "drop no-match"),
            ("0.0.0.0/0 is IPv4", "in", frame("udp 198.51.100.1:40000 > 192.0.2.1:53"), "accept in 2"),
            ("0.0.0.0/0 is not IPv6", "in", frame("udp [2001:db8::9]:40000 > [2001:db8::1]:53"), "drop no-match"),
            ("the private network may do anything", "in", frame("tcp 10.255.255.255:1 > 192.0.2.1:3306 syn"), "accept in 3"),
            ("SCTP included", "in", frame("sctp 10.0.0.0:1 > 192.0.2.1:36412"), "accept in 3"),
            ("and GRE", "in", frame("proto 47 10.0.0.1 > 192.0.2.1"), "accept in 3"),
            ("its neighbour may not", "in", frame("tcp 11.0.0.0:1 > 192.0.2.1:3306 syn"), "drop no-match"),
            ("an earlier accept beats a later drop", "in", frame("tcp 203.0.113.5:1 > 192.0.2.1:22 syn"), "accept in 1"),
            ("the drop counts what it drops", "in", frame("tcp 203.0.113.5:1 > 192.0.2.1:80 syn"), "drop in 5"),
            ("echo requests of one network", "in", frame("icmp 198.51.100.1 > 192.0.2.1 8/0 id 7"), "accept in 4"),
            ("of no other type", "in", frame("icmp 198.51.100.1 > 192.0.2.1 13/0 id 7"), "drop no-match"),
            ("nor code", "in", frame("icmp 198.51.100.1 > 192.0.2.1 8/1 id 7"), "drop no-match"),
        ],
    );
}

/// Proves P2 for outbound rules, which match remote ports and addresses.
#[test]
fn outbound_packets_are_judged_by_destination() {
    table(
        "out tcp 443 to 198.51.100.0/24 accept
         out udp 53 to any accept
         out all to 10.0.0.0/8 accept",
        &[
            ("to the named network and port", "out", frame("tcp 192.0.2.1:40000 > 198.51.100.1:443 syn"), "accept out 1"),
            ("to another network", "out", frame("tcp 192.0.2.1:40000 > 203.0.113.1:443 syn"), "drop no-match"),
            ("from that port", "out", frame("tcp 192.0.2.1:443 > 198.51.100.1:40000 syn"), "drop no-match"),
            ("to any name server", "out", frame("udp [2001:db8::1]:5000 > [2001:db8::53]:53"), "accept out 2"),
            ("to the private network", "out", frame("icmp 192.0.2.1 > 10.1.1.1 8/0 id 1"), "accept out 3"),
        ],
    );
}

/// Proves K6 and K7.
#[test]
fn replies_of_an_admitted_flow_pass_and_are_counted_for_its_rule() {
    table(
        NODE,
        &[
            ("a reply of another host is dropped", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 syn ack"), "drop no-match"),
            ("the node opens a connection", "out", frame("tcp 192.0.2.1:50000 > 198.51.100.7:443 syn"), "accept out 1"),
            ("and gets a reply", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 syn ack"), "accept out 1 reply"),
            ("it goes on", "out", frame("tcp 192.0.2.1:50000 > 198.51.100.7:443 ack"), "accept out 1"),
            ("in both directions", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 ack"), "accept out 1 reply"),
            ("another port of that host is no reply", "in", frame("tcp 198.51.100.7:444 > 192.0.2.1:50000 ack"), "drop no-match"),
            ("nor is another port of the node", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50001 ack"), "drop no-match"),
            ("nor another host", "in", frame("tcp 198.51.100.8:443 > 192.0.2.1:50000 ack"), "drop no-match"),
            ("nor UDP on the same ports", "in", frame("udp 198.51.100.7:443 > 192.0.2.1:50000"), "drop no-match"),
            ("UDP has flows of its own", "out", frame("udp 192.0.2.1:50000 > 198.51.100.7:123"), "accept out 1"),
            ("whose replies pass", "in", frame("udp 198.51.100.7:123 > 192.0.2.1:50000"), "accept out 1 reply"),
            ("over IPv6", "out", frame("udp [2001:db8::1]:50000 > [2001:db8::7]:123"), "accept out 1"),
            ("too", "in", frame("udp [2001:db8::7]:123 > [2001:db8::1]:50000"), "accept out 1 reply"),
            ("SCTP likewise", "out", frame("sctp 192.0.2.1:5000 > 198.51.100.7:36412"), "accept out 1"),
            ("and back", "in", frame("sctp 198.51.100.7:36412 > 192.0.2.1:5000"), "accept out 1 reply"),
            ("GRE by addresses", "out", frame("proto 47 192.0.2.1 > 198.51.100.7"), "accept out 1"),
            ("and back", "in", frame("proto 47 198.51.100.7 > 192.0.2.1"), "accept out 1 reply"),
            ("but not ESP", "in", frame("proto 50 198.51.100.7 > 192.0.2.1"), "drop no-match"),
        ],
    );
}

/// Proves K6 for ICMP: a reply belongs to the flow of its identifier, and only a request opens a
/// flow.
#[test]
fn echo_replies_pass_by_identifier() {
    table(
        NODE,
        &[
            ("the node pings", "out", frame("icmp 192.0.2.1 > 203.0.113.9 8/0 id 77"), "accept out 1"),
            ("and gets a reply", "in", frame("icmp 203.0.113.9 > 192.0.2.1 0/0 id 77"), "accept out 1 reply"),
            ("another identifier is no reply", "in", frame("icmp 203.0.113.9 > 192.0.2.1 0/0 id 78"), "drop in 5"),
            ("a request is no reply", "in", frame("icmp 203.0.113.9 > 192.0.2.1 8/0 id 77"), "drop in 5"),
            ("nor another kind of reply", "in", frame("icmp 203.0.113.9 > 192.0.2.1 14/0 id 77"), "drop in 5"),
            ("over IPv6 the node pings", "out", frame("icmp 2001:db8::1 > 2001:db8::9 128/0 id 5"), "accept out 1"),
            ("and gets a reply", "in", frame("icmp 2001:db8::9 > 2001:db8::1 129/0 id 5"), "accept out 1 reply"),
        ],
    );
}

/// Proves K9: only a rule accepts a bare SYN, never a flow.
#[test]
fn a_bare_syn_never_matches_a_flow() {
    table(
        NODE,
        &[
            ("the node opens a connection", "out", frame("tcp 192.0.2.1:50000 > 198.51.100.7:443 syn"), "accept out 1"),
            ("a SYN back on the same ports is dropped", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 syn"), "drop no-match"),
            ("with FIN as well", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 syn fin"), "drop no-match"),
            ("the reply still passes", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 syn ack"), "accept out 1 reply"),
            ("over IPv6 the node opens a connection", "out", frame("tcp [2001:db8::1]:50000 > [2001:db8::7]:443 syn"), "accept out 1"),
            ("a SYN back is dropped", "in", frame("tcp [2001:db8::7]:443 > [2001:db8::1]:50000 syn"), "drop no-match"),
            ("behind a tag too", "in", frame("tcp [2001:db8::7]:443 > [2001:db8::1]:50000 syn").vlan(0x8100, 7), "drop no-match"),
            ("and behind an extension header", "in", frame("tcp [2001:db8::7]:443 > [2001:db8::1]:50000 syn").extension(60, vec![0; 8]), "drop no-match"),
        ],
    );
}

/// Proves K9: a reset closes a flow and opens none. A SYN opens it again.
#[test]
fn resets_end_flows_and_open_none() {
    table(
        NODE,
        &[
            ("a reset leaves the node", "out", frame("tcp 192.0.2.1:50000 > 198.51.100.7:443 rst"), "accept out 1"),
            ("and its flow admits nothing", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 ack"), "drop no-match"),
            ("nor does a reset", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 rst"), "drop no-match"),
            ("the node opens a connection", "out", frame("tcp 192.0.2.1:50000 > 198.51.100.7:443 syn"), "accept out 1"),
            ("which is refused", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 rst ack"), "accept out 1 reply"),
            ("a SYN back is no reply", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 syn"), "drop no-match"),
            ("the node tries again from the same port", "out", frame("tcp 192.0.2.1:50000 > 198.51.100.7:443 syn"), "accept out 1"),
            ("and gets a reply", "in", frame("tcp 198.51.100.7:443 > 192.0.2.1:50000 syn ack"), "accept out 1 reply"),
        ],
    );
}

/// Proves K6 for flows opened from outside, although no outbound rule accepts anything.
#[test]
fn the_replies_of_a_service_need_no_outbound_rule() {
    table(
        "in tcp 22 from any accept",
        &[
            ("the node may open nothing", "out", frame("tcp 192.0.2.1:22 > 198.51.100.1:40000 ack"), "drop no-match"),
            ("a client comes", "in", frame("tcp 198.51.100.1:40000 > 192.0.2.1:22 syn"), "accept in 1"),
            ("and gets a reply", "out", frame("tcp 192.0.2.1:22 > 198.51.100.1:40000 syn ack"), "accept in 1 reply"),
            ("another client gets none", "out", frame("tcp 192.0.2.1:22 > 198.51.100.2:40000 syn ack"), "drop no-match"),
        ],
    );
}

/// Proves K8.
#[test]
fn icmp_errors_about_our_packets_are_related() {
    let rules = "in tcp 22 from any accept
         in icmp 3/1 from 10.0.0.0/8 accept
         out tcp 443 to any accept
         out udp to any accept
         out icmp 8 to any accept
         out icmpv6 128 to any accept";
    let ours = || frame("tcp 192.0.2.1:40000 > 203.0.113.7:443 syn");
    let ours6 = || frame("udp [2001:db8::1]:40000 > [2001:db8:7::7]:53");
    let through = || frame("tcp 203.0.113.7:50000 > 10.1.2.3:22 ack");
    let through6 = || frame("tcp [2001:db8:7::7]:50000 > [2001:db8:1::3]:22 ack");
    let smtp = || frame("tcp 192.0.2.1:40000 > 203.0.113.7:25 syn");
    let answer = || frame("tcp 192.0.2.1:22 > 203.0.113.7:50000 syn ack");
    let router = |packet: Frame, kind, code, len| packet.error("10.9.9.9", "192.0.2.1", (kind, code), len);
    let authentication = || {
        let mut header = vec![0; 24];
        header[1] = 4;
        header
    };
    let headers = |count: u32| (0..count).fold(ours6(), |f, _| f.extension(60, vec![0; 8]));
    let router6 = |packet: Frame, kind, code, len| packet.error("2001:db8:9::9", "2001:db8::1", (kind, code), len);
    table(
        rules,
        &[
            ("fragmentation needed, about what the rules accept", "in", router(ours(), 3, 4, 28), "accept related"),
            ("port unreachable", "in", router(ours(), 3, 3, 28), "accept related"),
            ("time exceeded", "in", router(ours(), 11, 0, 576), "accept related"),
            ("parameter problem", "in", router(ours(), 12, 0, 28), "accept related"),
            ("a rule is asked first", "in", router(ours(), 3, 1, 28), "accept in 2"),
            ("a redirect is no error about a packet", "in", router(ours(), 5, 1, 28), "drop no-match"),
            ("source quench is not used any more", "in", router(ours(), 4, 0, 28), "drop no-match"),
            ("about what the rules drop", "in", router(smtp(), 3, 4, 28), "drop no-match"),
            ("about a reply that no flow knows", "in", router(answer(), 3, 4, 28), "drop no-match"),
            ("a connection from outside", "in", frame("tcp 203.0.113.7:50000 > 192.0.2.1:22 syn"), "accept in 1"),
            ("about its reply", "in", router(answer(), 3, 4, 28), "accept related"),
            ("sent to another host than the sender", "in", ours().error("10.9.9.9", "192.0.2.2", (3, 4), 28), "drop no-match"),
            ("about a packet of another host", "in", router(frame("tcp 192.0.2.2:40000 > 203.0.113.7:443 syn"), 3, 4, 28), "drop no-match"),
            ("quoting options", "in", router(ours().ipv4_options(&[1; 12]), 3, 4, 40), "accept related"),
            ("with options itself", "in", router(ours(), 3, 4, 28).ipv4_options(&[1; 8]), "accept related"),
            ("behind two tags", "in", router(ours(), 3, 4, 28).vlan(0x8100, 1).vlan(0x88a8, 2), "accept related"),
            ("quoting seven bytes of the transport header", "in", router(ours(), 3, 4, 27), "drop no-match"),
            ("quoting no transport header", "in", router(ours(), 3, 4, 20), "drop no-match"),
            ("quoting half an IP header", "in", router(ours(), 3, 4, 10), "drop no-match"),
            ("quoting nothing", "in", router(ours(), 3, 4, 0), "drop no-match"),
            ("quoting version 6", "in", router(ours().set(0, &[0x65]), 3, 4, 28), "drop no-match"),
            ("quoting a header of 16 bytes", "in", router(ours().set(0, &[0x44]), 3, 4, 28), "drop no-match"),
            ("quoting a first fragment", "in", router(ours().fragment4(1, 0, true), 11, 1, 28), "accept related"),
            ("quoting a later fragment", "in", router(ours().fragment4(1, 3, true), 3, 4, 28), "drop no-match"),
            ("about a ping", "in", router(frame("icmp 192.0.2.1 > 203.0.113.7 8/0 id 5"), 11, 0, 28), "accept related"),
            ("about an error", "in", router(frame("icmp 192.0.2.1 > 203.0.113.7 3/4"), 11, 0, 28), "drop no-match"),
            ("a first fragment of an error", "in", router(ours(), 3, 3, 28).fragment4(77, 0, true), "accept related"),
            ("and the next", "in", router(ours(), 3, 3, 28).fragment4(77, 3, false), "accept related"),
            ("outbound, about what comes in", "out", frame("tcp 203.0.113.7:50000 > 192.0.2.1:22 syn").error("192.0.2.1", "203.0.113.7", (3, 10), 28), "accept related"),
            ("from the node as a router, about what goes through it", "out", through().error("192.0.2.1", "203.0.113.7", (3, 4), 28), "accept related"),
            ("from what is behind it", "out", through().error("10.1.2.9", "203.0.113.7", (11, 0), 28), "accept related"),
            ("to another than the sender of what it is about", "out", through().error("192.0.2.1", "203.0.113.8", (3, 4), 28), "drop no-match"),
            ("about what does not come in", "out", frame("tcp 203.0.113.7:50000 > 10.1.2.3:23 syn").error("192.0.2.1", "203.0.113.7", (3, 4), 28), "drop no-match"),
            ("sent to a third, from the end of what it is about", "out", through().error("10.1.2.3", "198.51.100.9", (3, 4), 28), "drop no-match"),
            ("IPv6, from the node as a router", "out", through6().error("2001:db8::1", "2001:db8:7::7", (2, 0), 48), "accept related"),
            ("to another than the sender", "out", through6().error("2001:db8::1", "2001:db8:7::8", (2, 0), 48), "drop no-match"),
            ("outbound, about what does not", "out", frame("tcp 203.0.113.7:50000 > 192.0.2.1:23 syn").error("192.0.2.1", "203.0.113.7", (3, 10), 28), "drop no-match"),
            ("IPv6 packet too big", "in", router6(ours6(), 2, 0, 48), "accept related"),
            ("unreachable", "in", router6(ours6(), 1, 4, 48), "accept related"),
            ("time exceeded", "in", router6(ours6(), 3, 0, 1232), "accept related"),
            ("parameter problem", "in", router6(ours6(), 4, 1, 48), "accept related"),
            ("no error message", "in", router6(ours6(), 5, 0, 48), "drop no-match"),
            ("quoting extension headers", "in", router6(ours6().extension(60, vec![0; 8]).extension(0, vec![0; 8]), 2, 0, 64), "accept related"),
            ("quoting an authentication header", "in", router6(ours6().extension(51, authentication()), 2, 0, 72), "accept related"),
            ("quoting an authentication header of eight bytes", "in", router6(ours6().extension(51, vec![0; 8]), 2, 0, 56), "drop no-match"),
            ("quoting eight extension headers", "in", router6(headers(8), 2, 0, 112), "accept related"),
            ("quoting nine", "in", router6(headers(9), 2, 0, 120), "drop no-match"),
            ("quoting more than it has", "in", router6(ours6().extension(60, vec![17, 200, 0, 0, 0, 0, 0, 0]), 2, 0, 64), "drop no-match"),
            ("behind two tags", "in", router6(ours6(), 2, 0, 48).vlan(0x8100, 1).vlan(0x88a8, 2), "accept related"),
            ("quoting a fragment header", "in", router6(ours6().fragment6(3, 0, true), 3, 1, 56), "accept related"),
            ("quoting a later fragment", "in", router6(ours6().fragment6(3, 3, true), 3, 1, 56), "drop no-match"),
            ("with extension headers itself", "in", router6(ours6(), 2, 0, 48).extension(60, vec![0; 8]), "accept related"),
            ("about a ping", "in", router6(frame("icmp 2001:db8::1 > 2001:db8:7::7 128/0 id 5"), 3, 0, 48), "accept related"),
            ("about what the rules drop", "in", router6(frame("tcp [2001:db8::1]:40000 > [2001:db8:7::7]:25 syn"), 2, 0, 60), "drop no-match"),
        ],
    );
}

/// Proves K5.
#[test]
fn essential_traffic_passes_whatever_the_rules_say() {
    let nd = |kind: u8| frame(&format!("icmp fe80::9 > ff02::1 {kind}/0")).set(7, &[255]);
    let mld = |source: &str, kind: u8| frame(&format!("icmp {source} > ff02::16 {kind}/0")).set(7, &[1]);
    let igmp = |text: &str, ttl: u8| frame(text).set(8, &[ttl]);
    let first_fragment = || nd(135).extension(44, vec![0, 0, 0, 1, 0, 0, 0, 9]);
    let rows = [
        ("a router solicitation", "out", nd(133), "accept essential"),
        ("a router advertisement", "in", nd(134), "accept essential"),
        ("a neighbour solicitation", "in", nd(135), "accept essential"),
        ("a neighbour advertisement", "out", nd(136), "accept essential"),
        ("a redirect", "in", nd(137), "accept essential"),
        ("one that was forwarded", "in", nd(135).set(7, &[254]), "drop no-match"),
        ("one in fragments (RFC 6980)", "in", first_fragment(), "drop no-match"),
        ("the types around them", "in", nd(138), "drop no-match"),
        ("an MLD query", "in", mld("fe80::1", 130), "accept essential"),
        ("an MLDv2 report", "out", mld("fe80::1", 143), "accept essential"),
        ("an MLD report of a host without an address", "out", mld("::", 143), "accept essential"),
        ("an older one", "in", mld("::", 131), "accept essential"),
        ("done", "in", mld("::", 132), "accept essential"),
        ("from almost no address", "in", mld("::1", 131), "drop no-match"),
        ("from the loopback of the other half", "in", mld("0:0:1::", 131), "drop no-match"),
        ("the type above", "in", mld("fe80::1", 144), "drop no-match"),
        ("an MLD query from afar", "in", mld("2001:db8::1", 130), "drop no-match"),
        ("at the end of link-local", "in", mld("febf:ffff::1", 131), "accept essential"),
        ("beyond link-local", "in", mld("fec0::1", 131), "drop no-match"),
        ("a DHCP server's reply", "in", frame("udp 192.0.2.254:67 > 192.0.2.1:68"), "accept essential"),
        ("not to another port", "in", frame("udp 192.0.2.254:67 > 192.0.2.1:69"), "drop no-match"),
        ("not from another port", "in", frame("udp 192.0.2.254:66 > 192.0.2.1:68"), "drop no-match"),
        ("not TCP", "in", frame("tcp 192.0.2.254:67 > 192.0.2.1:68 syn"), "drop no-match"),
        ("an IGMP report", "out", igmp("proto 2 192.0.2.1 > 224.0.0.22", 1), "accept essential"),
        ("an IGMP query", "in", igmp("proto 2 192.0.2.254 > 224.0.0.1", 1), "accept essential"),
        ("to one host", "in", igmp("proto 2 192.0.2.254 > 192.0.2.1", 1), "accept essential"),
        ("one that was or will be forwarded", "in", igmp("proto 2 192.0.2.254 > 224.0.0.1", 2), "drop no-match"),
        ("with no time left", "in", igmp("proto 2 192.0.2.254 > 224.0.0.1", 0), "drop no-match"),
        ("in fragments", "in", igmp("proto 2 192.0.2.254 > 224.0.0.1", 1).fragment4(3, 0, true), "drop no-match"),
        ("another protocol", "in", igmp("proto 3 192.0.2.254 > 224.0.0.1", 1), "drop no-match"),
        ("that number over IPv6", "in", frame("proto 2 fe80::1 > ff02::1").set(7, &[1]), "drop no-match"),
        ("a DHCPv6 server's reply", "in", frame("udp [fe80::1]:547 > [fe80::2]:546"), "accept essential"),
        ("from afar", "in", frame("udp [2001:db8::53]:547 > [2001:db8::2]:546"), "accept essential"),
        ("from another port on this link", "in", frame("udp [fe80::1]:40000 > [fe80::2]:546"), "accept essential"),
        ("from another port at the end of link-local", "in", frame("udp [febf:ffff::1]:1 > [fe80::2]:546"), "accept essential"),
        ("from another port beyond it", "in", frame("udp [fec0::1]:40000 > [fe80::2]:546"), "drop no-match"),
        ("from another port and afar", "in", frame("udp [2001:db8::53]:40000 > [2001:db8::2]:546"), "drop no-match"),
        ("to another port", "in", frame("udp [fe80::1]:547 > [fe80::2]:547"), "drop no-match"),
        ("to the server's port, from afar", "in", frame("udp [2001:db8::2]:546 > [2001:db8::53]:547"), "drop no-match"),
        ("not TCP", "in", frame("tcp [fe80::1]:547 > [fe80::2]:546 syn"), "drop no-match"),
        ("in fragments", "in", frame("udp [fe80::1]:547 > [fe80::2]:546").fragment6(3, 0, true), "drop no-match"),
        ("DHCPv6 ports over IPv4", "in", frame("udp 192.0.2.254:547 > 192.0.2.1:546"), "drop no-match"),
    ];
    table("", &rows);

    let mut off = sg_policy::policy::rules_from_lines("");
    off.essential = false;
    let off_rows = rows.map(|(sentence, direction, frame, _)| (sentence, direction, frame, "drop no-match"));
    rows_of(&mut Enforcer::of(off), &off_rows);
}

/// Proves P5: a rule for ICMP does not match ICMPv6, nor the reverse.
#[test]
fn icmp_rules_keep_to_their_family() {
    table(
        "in icmp from any accept\nin icmpv6 128 from any accept",
        &[
            ("ICMP", "in", frame("icmp 192.0.2.9 > 192.0.2.1 8/0"), "accept in 1"),
            ("ICMPv6", "in", frame("icmp 2001:db8::9 > 2001:db8::1 128/0"), "accept in 2"),
            ("another type of ICMPv6", "in", frame("icmp 2001:db8::9 > 2001:db8::1 1/0"), "drop no-match"),
            ("protocol 58 over IPv4", "in", frame("proto 58 192.0.2.9 > 192.0.2.1"), "drop no-match"),
        ],
    );
}
