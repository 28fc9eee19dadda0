//! Large transfers under a policy: every byte arrives, with segmentation offload as well.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::scope;

use fastrand::Rng;
use sg_policy::policy::rules_from_lines;
use sg_userspace::observe::counters::RuleCounters;

use crate::enforced::Counter;
use crate::line::{Family, Line, NIC};
use crate::sandbox::{run, sandbox};
use crate::service::{PATIENCE, again};
use sg_testbed::Host;

const SIZE: usize = 50_000_000;
const BLOCK: usize = 65_536;

const RULES: &str = "in tcp 5001-5002 from any accept\nout tcp 5003-5004 to any accept";

/// Which end of a connection sends the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
}

/// Opens a connection between two hosts, sends `size` random bytes over it, and compares them at
/// the other end. Fails if the transfer stalls.
#[track_caller]
pub(crate) fn transfer(client: &Host, server: &Host, at: SocketAddr, sender: Sender, size: usize) {
    let listener = server.inside(|| TcpListener::bind(at));
    let listener = listener.expect("a free port");
    let connected = client.inside(|| TcpStream::connect_timeout(&at, PATIENCE));
    let opened = connected.unwrap_or_else(|e| panic!("connecting to {at}: {e}"));
    let (accepted, _) = listener.accept().expect("a connection that is open");
    let (from, to) = match sender {
        Sender::Client => (opened, accepted),
        Sender::Server => (accepted, opened),
    };
    let received = scope(|scope| {
        scope.spawn(move || send(from, at, size));
        receive(to, at)
    });
    assert_eq!(received, size, "bytes of {at} that arrived");
}

/// A transfer in each direction and family: inbound to the ports 5001 and 5002, outbound to 5003
/// and 5004.
#[track_caller]
pub(crate) fn transfer_all_ways(line: &Line, size: usize) {
    for (port, family) in (5001..).zip(Family::BOTH) {
        let inbound = SocketAddr::new(line.node_address(family), port);
        transfer(&line.remote, &line.node, inbound, Sender::Client, size);
        let outbound = SocketAddr::new(line.remote_address(family), port + 2);
        transfer(&line.node, &line.remote, outbound, Sender::Client, size);
    }
}

/// A generator of the bytes, which are the same at both ends of a connection.
fn bytes(at: SocketAddr) -> Rng {
    Rng::with_seed(at.port().into())
}

fn send(mut stream: TcpStream, at: SocketAddr, size: usize) {
    stream.set_write_timeout(Some(PATIENCE)).expect("an option");
    let (mut bytes, mut block) = (bytes(at), vec![0; BLOCK]);
    let mut rest = size;
    while rest > 0 {
        let len = rest.min(BLOCK);
        bytes.fill(&mut block);
        let sent = stream.write_all(&block[..len]);
        sent.unwrap_or_else(|e| panic!("{rest} of {size} bytes of {at} cannot be sent: {e}"));
        rest -= len;
    }
}

/// Receives and compares the bytes. Returns how many have arrived.
fn receive(mut stream: TcpStream, at: SocketAddr) -> usize {
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let (mut bytes, mut expected, mut block) = (bytes(at), vec![0; BLOCK], vec![0; BLOCK]);
    let mut received = 0;
    loop {
        // Reads whole blocks, because the generator fills whole blocks.
        let mut filled = 0;
        while filled < BLOCK {
            match again(|| stream.read(&mut block[filled..])) {
                Ok(len @ 1..) => filled += len,
                _ => break,
            }
        }
        bytes.fill(&mut expected);
        let (got, sent) = (&block[..filled], &expected[..filled]);
        assert!(got == sent, "{at}: other bytes, after {received} good ones");
        received += filled;
        if filled < BLOCK {
            return received;
        }
    }
}

/// Proves K6 and A2 with segmentation offload: 50 MB arrive complete in each direction and family,
/// and the counters have the packets on the wire.
#[test]
fn large_transfers_arrive_whole_and_are_counted_whole() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let enforced = line.enforce(sandbox, &rules_from_lines(RULES));
        // Most drivers have this on by default.
        run("ethtool", &["-K", NIC, "gro", "on"]);
        // Packets that the stack receives, after GRO.
        let joined = Counter::new("inet", "hook input", "meta l4proto tcp");

        transfer_all_ways(&line, SIZE);
        enforced.assert_adds_up();
        let (inbound, outbound) = (enforced.rule("in 1"), enforced.rule("out 1"));
        assert_on_the_wire(&inbound, 2 * SIZE, 1514);
        assert_on_the_wire(&outbound, 2 * SIZE, 1514);

        // The test only means something if packets were segmented and joined.
        let (left, whole) = enforced.left();
        assert!(left > 5 * whole, "{left} packets left in {whole}");
        let arrived = inbound.packets + outbound.reply_packets;
        let joined = joined.read();
        assert!(
            arrived > 2 * joined,
            "{arrived} packets arrived in {joined}"
        );
    });
}

/// Proves K6 and A2 for packets longer than the length field of IP can express. The kernel makes
/// them for devices that segment them (BIG TCP).
#[test]
fn large_transfers_arrive_whole_with_big_tcp() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let enforced = line.enforce(sandbox, &rules_from_lines(RULES));
        for host in [&line.node, &line.remote] {
            host.ip(&format!("link set dev {NIC} gso_max_size 185000"));
        }
        let hook = format!("hook egress device {NIC}");
        let big = Counter::new("netdev", &hook, "meta length > 65600");

        // Debian's `ip` has the setting for IPv6 only.
        let outbound = SocketAddr::new(line.remote_address(Family::V6), 5003);
        transfer(&line.node, &line.remote, outbound, Sender::Client, SIZE);
        enforced.assert_adds_up();
        // The counted bytes include the jumbo payload option, as the kernel's own counts do.
        assert_on_the_wire(&enforced.rule("out 1"), SIZE, 1514 + 8);
        assert!(big.read() > 0, "no packet was larger than 64 KiB");
    });
}

/// Checks that all data was counted, in packets of at most the link's MTU and an Ethernet header.
#[track_caller]
pub(crate) fn assert_on_the_wire(rule: &RuleCounters, size: usize, largest: u64) {
    assert!(rule.bytes > size as u64, "{rule:?}");
    assert!(rule.bytes <= rule.packets * largest, "{rule:?}");
    assert!(rule.reply_packets > 0, "{rule:?}");
}
