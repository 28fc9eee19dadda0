//! Path MTU discovery through a narrow hop, with no inbound ICMP rule: the routers' errors about
//! the node's own packets must reach it, or its large packets vanish without a word.

use std::net::SocketAddr;

use sg_policy::policy::rules_from_lines;

use crate::host::Host;
use crate::line::{Family, Line};
use crate::sandbox::sandbox;
use crate::transfer::{Sender, transfer};

const SIZE: usize = 5_000_000;
/// Not less than IPv6 allows.
const NARROW: u32 = 1300;

/// The node, two routers, the remote host; the hop between the routers is narrow, so that neither
/// end knows of it.
pub(crate) fn narrow_line() -> Line {
    let line = Line::new(2);
    for (router, interface) in line.routers.iter().zip(["right", "left"]) {
        router.ip(&format!("link set {interface} mtu {NARROW}"));
    }
    line
}

/// Sends more than a packet from the node to the remote, over one connection in each family, and
/// looks at what the node learned.
#[track_caller]
fn assert_discovered(rules: &str, is_node_client: bool) {
    sandbox(|sandbox| {
        let line = narrow_line();
        let enforced = line.enforce(sandbox, &rules_from_lines(rules));
        for (related, family) in (1..).zip(Family::BOTH) {
            let (node, remote) = (line.node_address(family), line.remote_address(family));
            if is_node_client {
                let at = SocketAddr::new(remote, 5001);
                transfer(&line.node, &line.remote, at, Sender::Client, SIZE);
            } else {
                let at = SocketAddr::new(node, 5001);
                transfer(&line.remote, &line.node, at, Sender::Server, SIZE);
            }
            let learned = path_mtu(&line.node, remote);
            assert_eq!(learned, Some(NARROW), "{family:?}");
            let counted = enforced.reason("in related");
            assert!(counted >= related, "{family:?}: {counted} errors");
        }
        enforced.assert_adds_up();
    });
}

/// What a host has learned of the largest packet that gets to an address.
pub(crate) fn path_mtu(host: &Host, to: std::net::IpAddr) -> Option<u32> {
    let route = host.ip(&format!("route get {to}"));
    let mut words = route.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

/// Proves K8 for a tracked flow that the node opened.
#[test]
fn the_path_mtu_of_an_outbound_connection_is_discovered() {
    assert_discovered("out tcp 5001 to any accept", true);
}

/// Proves K8 for a tracked flow that was opened from outside.
#[test]
fn the_path_mtu_of_an_inbound_connection_is_discovered() {
    assert_discovered("in tcp 5001 from any accept", false);
}

/// Proves K7 and K8 for traffic that the rules accept in both directions, so that no flow is
/// remembered.
#[test]
fn the_path_mtu_of_a_connection_without_a_flow_is_discovered() {
    assert_discovered("in tcp from any accept\nout tcp to any accept", true);
}
