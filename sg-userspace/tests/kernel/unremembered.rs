//! Connections that had no flow entry because the rules accepted both directions, when the next
//! policy does not.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sg_policy::policy::{Established, rules_from_lines};
use socket2::{Domain, Socket, Type};

use crate::hosts::Pair;
use crate::sandbox::sandbox;
use crate::seed::{NODE4, NODE6, Node, PEER4, PEER6, at};

/// Under these rules neither connections to the node nor those from it need an entry.
const BOTH_WAYS: &str = "in tcp 22 from any accept
    in all from 192.0.2.0/24 accept
    in all from 2001:db8::/64 accept
    out all to any accept";

/// The index of each end in a pair: the client has connected to the server.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// Opens connections under one policy and replaces it by `next`. For one inbound connection, one
/// outbound and datagrams, it compares whether data passes: first from the remote, then from the
/// node.
#[track_caller]
fn assert_becomes(
    next: &str,
    established: Established,
    inbound: [bool; 2],
    outbound: [bool; 2],
    datagrams: [bool; 2],
) {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        node.apply(&rules_from_lines(BOTH_WAYS));
        let incoming = [NODE4, NODE6].map(|address| node.inbound(address));
        let outgoing = [PEER4, PEER6].map(|address| node.outbound(address));
        let asked = [PEER4, PEER6].map(|address| node.udp(address));
        assert_eq!(node.flows().len(), 0, "none needs an entry");

        let mut policy = rules_from_lines(next);
        policy.established = established;
        node.apply(&policy);
        let carries = |pair: &Pair, ends: [usize; 2], expected: [bool; 2]| {
            [0, 1].map(|turn| pair.carries_from(ends[turn], expected[turn]))
        };
        for pair in &incoming {
            let found = carries(pair, [CLIENT, SERVER], inbound);
            assert_eq!(found, inbound, "inbound, {established:?}, {next:?}");
        }
        for pair in &outgoing {
            let found = carries(pair, [SERVER, CLIENT], outbound);
            assert_eq!(found, outbound, "outbound, {established:?}, {next:?}");
        }
        for pair in &asked {
            let found = carries(pair, [SERVER, CLIENT], datagrams);
            assert_eq!(found, datagrams, "UDP, {established:?}, {next:?}");
        }
        assert_eq!(node.counted("seeded"), [0, 0]);
    });
}

/// Proves K7 and K11: with `keep` these connections go on until they end.
#[test]
fn connections_without_entries_are_kept() {
    let all = [true; 2];
    assert_becomes("", Established::Keep, all, all, all);
    assert_becomes("out all to any accept", Established::Keep, all, all, all);
    assert_becomes("in all from any accept", Established::Keep, all, all, all);
}

/// Proves K7 and K11: with `revalidate` they are judged by the rules of the direction that opened
/// them, whichever end sends first.
#[test]
fn connections_without_entries_are_judged_again() {
    let (all, none) = ([true; 2], [false; 2]);
    assert_becomes("", Established::Revalidate, none, none, none);
    assert_becomes(
        "in tcp 22 from any accept",
        Established::Revalidate,
        all,
        none,
        none,
    );
    assert_becomes(
        "out tcp 443 to any accept\nout udp to any accept",
        Established::Revalidate,
        none,
        all,
        all,
    );
}

/// Proves K7 and K11: `flush` applies to them, too. TCP segments are dropped in both directions
/// even if the rules would accept them, and UDP flows can begin again.
#[test]
fn connections_without_entries_are_flushed() {
    let none = [false; 2];
    assert_becomes("", Established::Flush, none, none, none);
    assert_becomes(
        "out all to any accept",
        Established::Flush,
        none,
        none,
        [false, true],
    );
}

/// Proves K7: connections that need no entry before and after a change get none.
#[test]
fn connections_that_still_need_no_entry_get_none() {
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        let all = rules_from_lines("in all from any accept\nout all to any accept");
        node.apply(&all);
        let pairs = [node.inbound(NODE4), node.outbound(PEER6), node.udp(PEER4)];
        // Another policy with the same meaning.
        let again = rules_from_lines(
            "in all from any accept\nout tcp to any accept\nout all to any accept",
        );
        let applied = node.apply(&again);
        assert_eq!(applied.seeded, None);
        assert!(!applied.first.state.has_flows, "no flows are looked up");
        assert_eq!(node.flows().len(), 0);
        pairs.iter().for_each(Pair::goes_on);
    });
}

/// Proves K11: a flow that is half-open in the table, and whose sockets are found as well, is not
/// entered a second time while a policy without flows comes and goes. The node has another socket
/// at the same port, so the sockets alone would suggest that the flow was opened from outside.
#[test]
fn a_half_open_flow_is_there_once() {
    const UDP_OUT: &str = "out udp 53 to any accept";
    const ALL: &str = "in all from any accept\nout all to any accept";
    sandbox(|sandbox| {
        let node = Node::new(sandbox);
        node.apply(&rules_from_lines(UDP_OUT));
        let there = at(PEER4, 53);
        let server = node
            .peer
            .inside(|| UdpSocket::bind(&there))
            .expect("port 53");
        let at_port = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
            socket.set_reuse_port(true).expect("an option");
            let any: SocketAddr = "0.0.0.0:5353".parse().expect("an address");
            socket.bind(&any.into()).expect("a free port");
            UdpSocket::from(socket)
        };
        let (_other, client) = (at_port(), at_port());
        client.connect(&there).expect("a route");
        let patience = Some(Duration::from_secs(20));
        client.set_read_timeout(patience).expect("an option");
        server.set_read_timeout(patience).expect("an option");
        let begun = Instant::now();
        client.send(b"?").expect("it leaves");
        let (_, from) = server.recv_from(&mut [0]).expect("a question");
        let opened = |node: &Node| -> Vec<(&str, &str)> {
            let all = node.flows().into_iter();
            let udp = all.filter(|flow| flow.protocol == 17);
            udp.map(|flow| (flow.kind.name(), flow.opened.name()))
                .collect()
        };
        assert_eq!(opened(&node), [("half-open", "outbound")]);
        node.apply(&rules_from_lines(ALL));
        node.apply(&rules_from_lines(UDP_OUT));
        assert_eq!(opened(&node), [("half-open", "outbound")]);
        server.send_to(b"!", from).expect("it leaves");
        client.recv(&mut [0]).expect("a reply");
        assert_eq!(node.counted("revoked"), [0, 0]);
        // On a slow machine the reply comes so late that the flow is established by it.
        let kinds: &[&str] = match begun.elapsed() < Duration::from_secs(2) {
            true => &["half-open"],
            false => &["half-open", "established"],
        };
        let found = opened(&node);
        assert!(
            matches!(found[..], [(kind, "outbound")] if kinds.contains(&kind)),
            "{found:?}"
        );
    });
}
