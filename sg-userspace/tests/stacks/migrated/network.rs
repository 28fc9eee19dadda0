//! A node between a neighbour, by which it reaches everything, and a host behind it. Packets are
//! sent with any source, and what arrives is seen where a program would see it: on the node by raw
//! sockets, to which the kernel gives what has passed its chain `input`, and on the other two by
//! packet sockets.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sg_testbed::{Host, wait_for};
use socket2::{Domain, Protocol, Socket, Type};

use super::NIC;
use super::packets::{
    BEHIND, MULTICAST_DNS, NODE, NODE_MAC, Packet, ROUTER, ROUTER_MAC, Way, bytes, number,
};
use crate::sandbox::RawSender;
use crate::service::PATIENCE;

/// How long nothing more must arrive.
const QUIET: Duration = Duration::from_millis(300);

/// After how many packets the sockets are read, so that none overflows.
const AT_ONCE: usize = 16;

/// The protocols of the packets: TCP, UDP, GRE, ICMP, IGMP and ICMPv6.
const IPV4: [i32; 5] = [6, 17, 47, 1, 2];
const IPV6: [i32; 4] = [6, 17, 47, 58];

/// What became of the packets, by their numbers.
pub(super) struct Fates {
    pub(super) passed: Vec<bool>,
    /// Those of which the program that sent them was told that it may not.
    pub(super) refused: Vec<Packet>,
}

pub(super) struct Network {
    _hosts: [Host; 2],
    /// Keeps the node in the group.
    _member: UdpSocket,
    from_remote: RawSender,
    from_node: [Socket; 2],
    at_node: Vec<Socket>,
    at_remote: Socket,
    behind: Socket,
}

impl Network {
    /// The node is the calling thread's.
    pub(super) fn new() -> Network {
        let (node, remote, behind) = (Host::here(), Host::new(), Host::new());
        node.hush();
        node.join(NIC, &remote, NIC);
        node.join("inside", &behind, NIC);
        node.set("net/ipv4/ip_forward", "1");
        node.set("net/ipv6/conf/all/forwarding", "1");
        for interface in ["all", NIC, "inside"] {
            node.set(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
        }
        node.ip(&format!("link set {NIC} address {} up", text(NODE_MAC)));
        node.ip("link set inside up");
        remote.ip(&format!("link set {NIC} address {} up", text(ROUTER_MAC)));
        behind.ip(&format!("link set {NIC} address {} up", text(BEHIND_MAC)));
        for (host, interface) in [
            (&node, NIC),
            (&node, "inside"),
            (&remote, NIC),
            (&behind, NIC),
        ] {
            host.wait_for_carrier(interface);
        }
        for words in [
            format!("address add {}/24 dev {NIC}", NODE.0),
            format!("address add {}/64 dev {NIC} nodad", NODE.1),
            "address add 10.78.0.1/24 dev inside".to_owned(),
            "address add fd00:78::1/64 dev inside nodad".to_owned(),
            format!(
                "neighbour add {} lladdr {} dev {NIC}",
                ROUTER.0,
                text(ROUTER_MAC)
            ),
            format!(
                "neighbour add {} lladdr {} dev {NIC}",
                ROUTER.1,
                text(ROUTER_MAC)
            ),
            format!(
                "neighbour add {} lladdr {} dev inside",
                BEHIND.0,
                text(BEHIND_MAC)
            ),
            format!(
                "neighbour add {} lladdr {} dev inside",
                BEHIND.1,
                text(BEHIND_MAC)
            ),
            format!("route add default via {}", ROUTER.0),
            format!("-6 route add default via {}", ROUTER.1),
        ] {
            node.ip(&words);
        }
        // Until then what is for the node would be forwarded.
        let own = format!("local {} dev {NIC}", NODE.1);
        wait_for("the node's own address", PATIENCE, || {
            node.ip("-6 route show table local").contains(&own)
        });
        let member = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
        let joined = member.join_multicast_v4(&MULTICAST_DNS, &NODE.0);
        joined.expect("it has the address");
        let raw = |domain, protocol| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)));
            reader(socket)
        };
        let of_ipv4 = IPV4.map(|protocol| raw(Domain::IPV4, protocol));
        let of_ipv6 = IPV6.map(|protocol| raw(Domain::IPV6, protocol));
        let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
        let frames = || {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(everything)));
            reader(socket)
        };
        Network {
            from_remote: remote.inside(|| RawSender::new(NIC)),
            from_node: [Domain::IPV4, Domain::IPV6].map(|domain| raw(domain, libc::IPPROTO_RAW)),
            at_node: of_ipv4.into_iter().chain(of_ipv6).collect(),
            at_remote: remote.inside(frames),
            behind: behind.inside(frames),
            _member: member,
            _hosts: [remote, behind],
        }
    }

    /// Sends the packets in their order. The last one has to arrive.
    pub(super) fn send_all(&self, packets: &[Packet]) -> Fates {
        let mut passed = vec![false; packets.len()];
        let mut refused = Vec::new();
        for (at, packet) in packets.iter().enumerate() {
            if let Err(error) = self.send(packets, at) {
                assert_eq!(
                    error.raw_os_error(),
                    Some(libc::EPERM),
                    "{packet:?}: {error}"
                );
                refused.push(*packet);
            }
            if at % AT_ONCE == 0 {
                self.read(packets, &mut passed);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let mut quiet_since = Instant::now();
        while !passed[packets.len() - 1] || quiet_since.elapsed() < QUIET {
            if self.read(packets, &mut passed) {
                quiet_since = Instant::now();
            }
            assert!(Instant::now() < deadline, "the last packet does not arrive");
            std::thread::sleep(Duration::from_millis(5));
        }
        Fates { passed, refused }
    }

    fn send(&self, packets: &[Packet], number: usize) -> io::Result<()> {
        let Packet { way, remote, .. } = packets[number];
        let packet = bytes(packets, number);
        if way == Way::Outbound {
            let socket = &self.from_node[usize::from(remote.is_ipv6())];
            let to = SocketAddr::new(remote, 0);
            return socket.send_to(&packet, &to.into()).map(|_| ());
        }
        let kind: u16 = if remote.is_ipv4() { 0x0800 } else { 0x86dd };
        let frame = [&NODE_MAC[..], &ROUTER_MAC, &kind.to_be_bytes(), &packet].concat();
        assert!(self.from_remote.send(&frame), "nothing holds it up");
        Ok(())
    }

    /// Notes what has arrived where it was to. True if anything has.
    fn read(&self, packets: &[Packet], passed: &mut [bool]) -> bool {
        let at_node = self.at_node.iter().map(|socket| (socket, Way::Inbound));
        let elsewhere = [
            (&self.at_remote, Way::Outbound),
            (&self.behind, Way::Forwarded),
        ];
        let mut has_any = false;
        let mut buffer = [0; 2048];
        for (mut socket, way) in at_node.chain(elsewhere) {
            // It has nothing more, which is an error.
            while let Ok(length) = socket.read(&mut buffer) {
                let number = number(&buffer[..length]).filter(|number| *number < packets.len());
                if let Some(number) = number.filter(|number| packets[*number].way == way) {
                    has_any |= !passed[number];
                    passed[number] = true;
                }
            }
        }
        has_any
    }
}

const BEHIND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A socket that is asked and does not wait.
fn reader(socket: io::Result<Socket>) -> Socket {
    let socket = socket.expect("root may have it");
    socket.set_nonblocking(true).expect("our own socket");
    socket
}
