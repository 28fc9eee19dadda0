//! A node that forwards to a pod behind it, under a policy without outbound rules. Its ICMP errors
//! about packets that the inbound rules accept must be sent, because otherwise the senders' large
//! packets would be lost without notice.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use sg_policy::policy::rules_from_lines;

use crate::line::{Family, Line};
use crate::path_mtu::path_mtu;
use crate::sandbox::sandbox;
use crate::service::{PATIENCE, again, any};
use crate::tools::tool;
use crate::transfer::{Sender, transfer};
use sg_testbed::Host;

const SIZE: usize = 5_000_000;
/// The smallest MTU of IPv6 is 1,280.
const NARROW: u32 = 1300;

/// The gateway's address with its prefix length, the pod's address, and one that no host has.
const PODS: [(Family, &str, &str, &str); 2] = [
    (Family::V4, "10.244.0.1/24", "10.244.0.2", "10.244.0.77"),
    (Family::V6, "fd00:244::1/64", "fd00:244::2", "fd00:244::77"),
];

/// Only the node's end of the link has the small MTU, so the pod does not announce a smaller
/// segment size.
fn pod(node: &Host) -> Host {
    let pod = Host::new();
    node.join("pod", &pod, "eth0");
    node.ip(&format!("link set pod up mtu {NARROW}"));
    pod.ip("link set eth0 up");
    for (_, gateway, address, _) in PODS {
        node.ip(&format!("address add {gateway} dev pod nodad"));
        let (gateway, length) = gateway.split_once('/').expect("a prefix");
        pod.ip(&format!("address add {address}/{length} dev eth0 nodad"));
        pod.ip(&format!("route add default via {gateway}"));
    }
    for (setting, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv6/icmp/ratelimit", "0"),
    ] {
        node.set(setting, value);
    }
    node.wait_for_carrier("pod");
    pod.wait_for_carrier("eth0");
    pod
}

fn parsed(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// Proves K8 outbound, and K6: "fragmentation needed" and "packet too big" about forwarded packets
/// pass. The node sends them with its own address, and an upload to the pod finds the right packet
/// size.
#[test]
fn the_path_mtu_behind_the_node_is_discovered() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let rules = rules_from_lines("in tcp 5001 from any accept");
        let enforced = line.enforce(sandbox, &rules);
        let pod = pod(&line.node);
        for (related, (family, _, address, _)) in (1..).zip(PODS) {
            let at = SocketAddr::new(parsed(address), 5001);
            transfer(&line.remote, &pod, at, Sender::Client, SIZE);
            let learned = path_mtu(&line.remote, at.ip());
            assert_eq!(learned, Some(NARROW), "{family:?}");
            let counted = enforced.reason("out related");
            assert!(counted >= related, "{family:?}: {counted} errors");
        }
        assert_eq!(enforced.reason("out no-match"), 0);
        enforced.assert_adds_up();
    });
}

/// Proves K8 outbound: the node reports that the hop limit of a forwarded packet has expired, and
/// that its destination is unreachable.
#[test]
fn the_node_reports_what_it_cannot_forward() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let rules = rules_from_lines("in udp 53,33434-33534 from any accept");
        let enforced = line.enforce(sandbox, &rules);
        let _pod = pod(&line.node);
        for (family, _, address, nobody) in PODS {
            let options = [
                "-n",
                "-q",
                "1",
                "-w",
                "2",
                "-m",
                "3",
                family.option(),
                address,
            ];
            let said = tool(&line.remote, "traceroute", &options);
            let node = line.node_address(family).to_string();
            // One error comes from the node, and one from the pod, which has no listener at that
            // port.
            for hop in [node.as_str(), address] {
                let is_hop = |line: &str| line.split_whitespace().nth(1) == Some(hop);
                assert!(
                    said.text.lines().skip(1).any(is_hop),
                    "{hop}: {}",
                    said.text
                );
            }

            // A short interval, so that the node soon gives up looking for the missing neighbour.
            for ip in ["ipv4", "ipv6"] {
                let setting = format!("net/{ip}/neigh/pod/retrans_time_ms");
                line.node.set(&setting, "200");
            }
            let to = SocketAddr::new(parsed(nobody), 53);
            let refused = line.remote.inside(|| {
                let socket = UdpSocket::bind(any(to.ip())).expect("a free port");
                socket.connect(to).expect("a route");
                socket.set_read_timeout(Some(PATIENCE)).expect("an option");
                // Without this option the socket only reports errors that are final.
                match family {
                    Family::V4 => setsockopt(&socket, Ipv4RecvErr, &true),
                    Family::V6 => setsockopt(&socket, Ipv6RecvErr, &true),
                }
                .expect("an option");
                socket.send(b"is anybody there?").expect("a route");
                again(|| socket.recv(&mut [0; 1])).expect_err("no host has the address")
            });
            assert_eq!(
                refused.raw_os_error(),
                Some(libc::EHOSTUNREACH),
                "{refused}"
            );
        }
        assert_eq!(enforced.reason("out no-match"), 0);
        assert!(enforced.reason("out related") >= 6);
        enforced.assert_adds_up();
    });
}
