//! Requests that are under way while the policy changes, so that their replies come after it.
//! Addresses are translated, and connection tracking is active.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use sg_policy::policy::{Established, Policy, rules_from_lines};
use sg_userspace::kernel::apply;

use crate::hosts::{Host, address, again, gateway, nft, sysctl};
use crate::sandbox::{Sandbox, sandbox};
use crate::watching::{read, under};

const NODE: &str = "198.51.100.1";
const OUTSIDE: &str = "198.51.100.7";
const POD: &str = "10.244.0.2";
/// The address of a service, which no host has.
const SERVICE: &str = "10.96.0.10";
const NODE_PORT: u16 = 30053;

const PATIENCE: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_millis(300);

/// A node that translates addresses like a Kubernetes node. Its port 30053 leads to port 53 of a
/// pod, the address of the service to a host outside, and packets of pods leave with the node's
/// address.
struct Cluster<'a> {
    sandbox: &'a Sandbox,
    pod: Host,
    outside: Host,
}

impl<'a> Cluster<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let (pod, outside) = (Host::new(), Host::new());
        pod.connect("pod", "eth0");
        outside.connect("nic", "eth0");
        address("pod", "10.244.0.1/24");
        address("nic", &format!("{NODE}/24"));
        gateway(OUTSIDE);
        sysctl("ipv4/ip_forward", "1");
        nft(&format!(
            "table ip kube {{
                chain services {{
                    type nat hook prerouting priority dstnat;
                    udp dport {NODE_PORT} dnat to {POD}:53;
                    ip daddr {SERVICE} dnat to {OUTSIDE};
                }}
                chain local {{
                    type nat hook output priority -100;
                    ip daddr {SERVICE} dnat to {OUTSIDE};
                }}
                chain outwards {{
                    type nat hook postrouting priority srcnat;
                    oifname \"nic\" masquerade;
                }}
            }}"
        ));
        outside.inside(|| address("eth0", &format!("{OUTSIDE}/24")));
        pod.inside(|| {
            address("eth0", &format!("{POD}/24"));
            gateway("10.244.0.1");
        });
        Cluster {
            sandbox,
            pod,
            outside,
        }
    }

    fn apply(&self, policy: &Policy) {
        apply(policy, &self.sandbox.options("nic")).unwrap_or_else(|e| panic!("apply: {e}"));
    }

    fn seeded(&self) -> [u64; 2] {
        under(&read(self.sandbox, "nic"), "seeded")
    }

    /// A request from outside to the node's port.
    fn to_node_port(&self) -> Request {
        let server = self.pod.inside(|| bound(&format!("{POD}:53")));
        let client = self.outside.inside(|| bound("0.0.0.0:0"));
        Request::send(client, server, &format!("{NODE}:{NODE_PORT}"))
    }

    /// A request from the pod to the address of the service.
    fn to_service(&self) -> Request {
        let client = self.pod.inside(|| bound("0.0.0.0:0"));
        self.of_service(client, 53)
    }

    /// A request from the node to the address of the service.
    fn to_service_from_node(&self) -> Request {
        self.of_service(bound("0.0.0.0:0"), 54)
    }

    fn of_service(&self, client: UdpSocket, port: u16) -> Request {
        let server = self.outside.inside(|| bound(&format!("{OUTSIDE}:{port}")));
        Request::send(client, server, &format!("{SERVICE}:{port}"))
    }
}

fn bound(at: &str) -> UdpSocket {
    UdpSocket::bind(at).unwrap_or_else(|e| panic!("{at}: {e}"))
}

/// A request that has arrived, without a reply so far. Its sockets are not connected, so only
/// connection tracking knows about it.
struct Request {
    client: UdpSocket,
    server: UdpSocket,
    from: std::net::SocketAddr,
}

impl Request {
    fn send(client: UdpSocket, server: UdpSocket, to: &str) -> Request {
        client.send_to(b"?", to).expect("a request");
        server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (_, from) = again(|| server.recv_from(&mut [0; 8])).expect("the request arrives");
        Request {
            client,
            server,
            from,
        }
    }

    fn has_seen_reply(&self, patience: Duration) -> bool {
        // If the outbound hook drops the packet, some kernels report an error.
        let _ = self.server.send_to(b"!", self.from);
        self.client
            .set_read_timeout(Some(patience))
            .expect("a timeout");
        match again(|| self.client.recv_from(&mut [0; 8])) {
            Ok(_) => true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => panic!("{e}"),
        }
    }

    #[track_caller]
    fn goes_on(&self) {
        assert!(self.has_seen_reply(PATIENCE), "the reply is lost");
    }
}

/// Proves K12: a request under way at the first attachment gets its reply if a rule admits it.
#[test]
fn a_request_under_way_gets_its_reply_where_a_rule_admits_it() {
    sandbox(|sandbox| {
        let cluster = Cluster::new(sandbox);
        let inbound = cluster.to_node_port();
        let outbound = cluster.to_service();
        let own = cluster.to_service_from_node();
        cluster.apply(&rules_from_lines(
            "in udp 30053 from any accept
             out udp 53,54 to any accept",
        ));
        inbound.goes_on();
        outbound.goes_on();
        own.goes_on();
        assert_eq!(cluster.seeded(), [0, 0]);
    });
}

/// Proves K12: a request that no rule admits opens no flow, because its sender may be forged. A
/// request of the node itself is the exception.
#[test]
fn a_request_under_way_opens_nothing_that_no_rule_admits() {
    sandbox(|sandbox| {
        let cluster = Cluster::new(sandbox);
        let inbound = cluster.to_node_port();
        let outbound = cluster.to_service();
        let own = cluster.to_service_from_node();
        // The request is judged in its own direction. A rule that accepts the other direction does
        // not admit it.
        cluster.apply(&rules_from_lines("in tcp 22 from any accept"));
        assert!(!inbound.has_seen_reply(SILENCE));
        assert!(!outbound.has_seen_reply(SILENCE));
        assert_eq!(cluster.seeded(), [0, 0]);
        own.goes_on();
        let [there, back] = cluster.seeded();
        assert!(there > 0 && back == 0, "{there} inbound, {back} outbound");
    });
}

/// Proves K11 and K12: a request under way that needed no entry gets its reply after a change of
/// policy, too.
#[test]
fn a_request_under_way_gets_its_reply_across_a_change_of_policy() {
    sandbox(|sandbox| {
        let cluster = Cluster::new(sandbox);
        let everything = "in all from any accept\nout all to any accept";
        let next = "in udp 30053 from any accept\nout udp 53 to any accept";
        for established in [Established::Revalidate, Established::Keep] {
            cluster.apply(&rules_from_lines(everything));
            let inbound = cluster.to_node_port();
            let outbound = cluster.to_service();
            let mut policy = rules_from_lines(next);
            policy.established = established;
            cluster.apply(&policy);
            inbound.goes_on();
            outbound.goes_on();
        }
        cluster.apply(&rules_from_lines(everything));
        let inbound = cluster.to_node_port();
        let outbound = cluster.to_service();
        cluster.apply(&rules_from_lines("in tcp 22 from any accept"));
        assert!(!inbound.has_seen_reply(SILENCE));
        assert!(!outbound.has_seen_reply(SILENCE));
    });
}
