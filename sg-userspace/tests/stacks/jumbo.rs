//! Links with frames larger than a page: the inbound program sees only the first of several
//! buffers, and has to judge and count the whole frame.

use std::net::{SocketAddr, UdpSocket};

use sg_policy::policy::rules_from_lines;

use crate::enforced::Enforced;
use crate::line::{Family, Line, NIC};
use crate::sandbox::{Sandbox, sandbox};
use crate::service::{PATIENCE, again, any};
use crate::transfer::{assert_on_the_wire, transfer_all_ways};
use sg_testbed::Host;

const RULES: &str = "in tcp 5001-5002 from any accept
    in udp 6001 from any accept
    out tcp 5003-5004 to any accept
    out udp 6002 to any accept";

const SIZE: usize = 5_000_000;
const DATAGRAMS: u64 = 20;

/// Proves K3, K6 and A2 for frames in several buffers: TCP data and datagrams arrive complete and
/// unfragmented, and every byte is counted.
#[test]
fn jumbo_frames_are_judged_and_counted_whole() {
    sandbox(|sandbox| {
        let (line, enforced) = line(sandbox, 9000);
        assert_datagrams_are_counted(&line, &enforced, 8900);
        transfer_all_ways(&line, SIZE);
        enforced.assert_adds_up();
        for rule in ["in 1", "out 1"] {
            let rule = enforced.rule(rule);
            assert_on_the_wire(&rule, 2 * SIZE, 9014);
            // The test only means something if the frames were large.
            assert!(rule.bytes > rule.packets * 4096, "{rule:?}");
        }
    });
}

/// Proves K3 and A2 for the largest packets that are not jumbograms of IPv6.
#[test]
fn the_largest_frames_are_judged_and_counted_whole() {
    sandbox(|sandbox| {
        let (line, enforced) = line(sandbox, 65_535);
        assert_datagrams_are_counted(&line, &enforced, 65_487);
        enforced.assert_adds_up();
    });
}

fn line(sandbox: &Sandbox, mtu: u32) -> (Line, Enforced) {
    let line = Line::new(0);
    for host in [&line.node, &line.remote] {
        host.ip(&format!("link set dev {NIC} mtu {mtu}"));
    }
    let enforced = line.enforce(sandbox, &rules_from_lines(RULES));
    assert_eq!(enforced.status().xdp_mode.name(), "native");
    (line, enforced)
}

#[track_caller]
fn assert_datagrams_are_counted(line: &Line, enforced: &Enforced, size: usize) {
    for family in Family::BOTH {
        let (node, remote) = (line.node_address(family), line.remote_address(family));
        // The headers of Ethernet, IP and UDP.
        let headers = if family == Family::V4 { 42 } else { 62 };
        for (from, to, address, rule) in [
            (
                &line.remote,
                &line.node,
                SocketAddr::new(node, 6001),
                "in 2",
            ),
            (
                &line.node,
                &line.remote,
                SocketAddr::new(remote, 6002),
                "out 2",
            ),
        ] {
            let before = enforced.rule(rule);
            datagrams(from, to, address, size);
            let after = enforced.rule(rule);
            let counted = (after.packets - before.packets, after.bytes - before.bytes);
            let sent = (DATAGRAMS, DATAGRAMS * (size as u64 + headers));
            assert_eq!(counted, sent, "{rule}, {family:?}");
        }
    }
    // No datagram was fragmented.
    assert_eq!(enforced.reason("in fragment"), 0);
    assert_eq!(enforced.reason("in malformed"), 0);
}

/// Sends datagrams of `size` bytes one after the other. Each must arrive.
#[track_caller]
fn datagrams(from: &Host, to: &Host, address: SocketAddr, size: usize) {
    let server = to.inside(|| UdpSocket::bind(address)).expect("a free port");
    server.set_read_timeout(Some(PATIENCE)).expect("an option");
    let client = from.inside(|| UdpSocket::bind(any(address.ip())));
    let client = client.expect("a free port");
    from.inside(|| client.connect(address)).expect("a route");
    let mut heard = vec![0; size + 1];
    for n in 0..DATAGRAMS {
        let words = vec![n as u8; size];
        client.send(&words).expect("the datagram is sent");
        let len = again(|| server.recv(&mut heard));
        let len = len.unwrap_or_else(|e| panic!("datagram {n} to {address}: {e}"));
        assert!(
            heard[..len] == words,
            "datagram {n} to {address} is what was sent"
        );
    }
}
