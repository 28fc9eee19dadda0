//! Path MTU discovery through a link with a small MTU, without an inbound ICMP rule. The routers'
//! errors about the node's packets must reach it, because otherwise its large packets would be lost
//! without notice.

use std::net::SocketAddr;

use sg_policy::policy::rules_from_lines;

use crate::line::{Family, Line};
use crate::sandbox::sandbox;
use crate::transfer::{Sender, transfer};
use sg_testbed::Host;

const SIZE: usize = 5_000_000;
/// The smallest MTU of IPv6 is 1,280.
const NARROW: u32 = 1300;

/// The node, two routers and the remote host. The link between the routers has the small MTU, so
/// neither end knows about it.
pub(crate) fn narrow_line() -> Line {
    let line = Line::new(2);
    for (router, interface) in line.routers.iter().zip(["right", "left"]) {
        router.ip(&format!("link set {interface} mtu {NARROW}"));
    }
    line
}

/// Sends more than one packet from the node to the remote, in each family, and checks the path MTU
/// that the node has learned.
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

/// The path MTU that a host has learned for an address.
pub(crate) fn path_mtu(host: &Host, to: std::net::IpAddr) -> Option<u32> {
    let route = host.ip(&format!("route get {to}"));
    let mut words = route.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

/// Proves K8 for a tracked flow that the node has opened.
#[test]
fn the_path_mtu_of_an_outbound_connection_is_discovered() {
    assert_discovered("out tcp 5001 to any accept", true);
}

/// Proves K8 for a tracked flow that was opened from outside.
#[test]
fn the_path_mtu_of_an_inbound_connection_is_discovered() {
    assert_discovered("in tcp 5001 from any accept", false);
}

/// Proves K7 and K8 for traffic that the rules accept in both directions, so that there is no flow.
#[test]
fn the_path_mtu_of_a_connection_without_a_flow_is_discovered() {
    assert_discovered("in tcp from any accept\nout tcp to any accept", true);
}
