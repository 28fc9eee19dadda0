//! ICMP errors from real network stacks: errors about packets that the node did not send are
//! dropped, and the node's own errors are sent.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use etherparse::PacketBuilder;
use sg_policy::policy::rules_from_lines;
use socket2::{Domain, Protocol, Socket, Type};

use crate::line::{Family, Line};
use crate::path_mtu::{narrow_line, path_mtu};
use crate::sandbox::sandbox;
use crate::service::{PATIENCE, Service, Transport, again, any, is_answered};
use sg_testbed::wait_for;

/// Proves K8: a router's error about a packet that another host sent with the node's address is
/// dropped, while the node talks to the same remote.
#[test]
fn errors_about_packets_that_the_node_never_sent_are_dropped() {
    sandbox(|sandbox| {
        let line = narrow_line();
        for scope in ["all", "left", "right"] {
            let setting = format!("net/ipv4/conf/{scope}/rp_filter");
            line.routers[1].set(&setting, "0");
        }
        let rules = "out udp 53 to any accept";
        let enforced = line.enforce(sandbox, &rules_from_lines(rules));
        let _service = Service::start(&line.remote, &[(Transport::Udp, 53)]);
        for (dropped, family) in (1..).zip(Family::BOTH) {
            let remote = line.remote_address(family);
            let service = SocketAddr::new(remote, 53);
            assert!(is_answered(&line.node, Transport::Udp, service, PATIENCE));

            // Too large for the link between the routers, whatever address it is sent to.
            let packet = forged(line.node_address(family), neighbour(&line, family));
            line.remote
                .inside(|| send_raw(&packet, neighbour(&line, family)));
            wait_for("the router's error", PATIENCE, || {
                enforced.reason("in no-match") >= dropped
            });
            assert_eq!(enforced.reason("in no-match"), dropped, "{family:?}");
            assert_eq!(enforced.reason("in related"), 0, "{family:?}");
            assert_eq!(path_mtu(&line.node, remote), None, "{family:?}");
            assert!(is_answered(&line.node, Transport::Udp, service, PATIENCE));
        }
        enforced.assert_adds_up();
    });
}

/// An address next to the node's.
fn neighbour(line: &Line, family: Family) -> IpAddr {
    match line.node_address(family) {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 76).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) + 76).into()),
    }
}

/// A datagram of 1,400 bytes that must not be fragmented.
fn forged(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let payload = [0; 1352];
    let mut packet = Vec::new();
    let written = builder.udp(40_000, 9).write(&mut packet, &payload);
    written.expect("a vector takes everything");
    packet
}

/// Sends a packet with the IP header that it has.
pub(crate) fn send_raw(packet: &[u8], to: IpAddr) {
    let to = SocketAddr::new(to, 0);
    let raw = Some(Protocol::from(libc::IPPROTO_RAW));
    let socket = Socket::new(Domain::for_address(to), Type::RAW, raw).expect("root may do this");
    socket.send_to(packet, &to.into()).expect("a route");
}

/// Proves K8 outbound: the node reports that a port is unreachable if the rules accept packets to
/// it, although they accept nothing outbound.
#[test]
fn the_nodes_own_errors_leave_it() {
    sandbox(|sandbox| {
        let line = Line::new(1);
        let enforced = line.enforce(sandbox, &rules_from_lines("in udp 53 from any accept"));
        for (told, family) in (1..).zip(Family::BOTH) {
            let to = SocketAddr::new(line.node_address(family), 53);
            let refused = line.remote.inside(|| {
                let socket = UdpSocket::bind(any(to.ip())).expect("a free port");
                socket.connect(to).expect("a route");
                socket.set_read_timeout(Some(PATIENCE)).expect("an option");
                socket.send(b"is anybody there?").expect("a route");
                again(|| socket.recv(&mut [0; 1])).expect_err("there is no listener")
            });
            assert_eq!(
                refused.kind(),
                io::ErrorKind::ConnectionRefused,
                "{family:?}"
            );
            assert_eq!(enforced.reason("out related"), told, "{family:?}");
        }
        enforced.assert_adds_up();
    });
}
