//! IPv6 neighbour discovery, duplicate address detection and router advertisements of the kernel's
//! own stacks, under a policy that denies everything.

use std::net::IpAddr;
use std::thread::{scope, sleep};

use crate::enforced::{Enforced, policy};
use crate::line::{Family, Line, NIC};
use crate::sandbox::{Sandbox, sandbox};
use crate::service::{PATIENCE, SILENCE};
use crate::tools::{Daemon, tool};
use sg_testbed::{Host, wait_for};

const NOTHING: &str = "{inbound: [], outbound: []}";
const NOTHING_AT_ALL: &str = "{essential: false, inbound: [], outbound: []}";

/// Proves K5 and K2: the hosts resolve each other's addresses by neighbour discovery and ARP,
/// although no other packet passes.
#[test]
fn neighbours_are_found_under_a_policy_that_denies_everything() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let enforced = line.enforce(sandbox, &policy(NOTHING));
        assert_eq!(search(&line, Family::V4), [true; 2]);
        assert_eq!(search(&line, Family::V6), [true; 2]);
        assert!(enforced.reason("in essential") > 0);
        assert!(enforced.reason("out essential") > 0);
        enforced.assert_adds_up();
    });
}

/// Proves K5 and K2: without essential traffic only ARP resolves addresses.
#[test]
fn ipv6_neighbours_are_not_found_without_essential_traffic() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let enforced = line.enforce(sandbox, &policy(NOTHING_AT_ALL));
        assert_eq!(search(&line, Family::V4), [true; 2]);
        assert_eq!(search(&line, Family::V6), [false; 2]);
        assert_eq!(enforced.reason("in essential"), 0);
        assert_eq!(enforced.reason("out essential"), 0);
        enforced.assert_adds_up();
    });
}

/// The remote and the node send each other packets that must not pass. Returns whether each has
/// resolved the other's link-layer address.
fn search(line: &Line, family: Family) -> [bool; 2] {
    let (node, remote) = (line.node_address(family), line.remote_address(family));
    scope(|scope| {
        let searches = [(&line.remote, node), (&line.node, remote)].map(|(host, other)| {
            scope.spawn(move || {
                let pinged = ["-n", "-c", "1", "-W", "1", &other.to_string()];
                assert!(!tool(host, "ping", &pinged).is_success, "{other} replies");
                is_found(host, other)
            })
        });
        searches.map(|search| search.join().expect("a search ends"))
    })
}

/// Whether a host has resolved the link-layer address of its neighbour. Waits until it has or gives
/// up.
fn is_found(host: &Host, neighbour: IpAddr) -> bool {
    let mut entry = String::new();
    wait_for("an end of the search", PATIENCE, || {
        entry = host.ip(&format!("neighbour show to {neighbour} dev {NIC}"));
        entry.contains("lladdr") || entry.contains("FAILED")
    });
    entry.contains("lladdr")
}

/// Proves K5: the node detects that another host has its address. Without essential traffic it does
/// not.
#[test]
fn duplicate_addresses_are_detected_under_a_policy_that_denies_everything() {
    for (rules, is_detected) in [(NOTHING, true), (NOTHING_AT_ALL, false)] {
        sandbox(|sandbox| {
            let line = Line::new(0);
            let _enforced = line.enforce(sandbox, &policy(rules));
            line.node.set("net/ipv6/conf/eth0/dad_transmits", "1");
            let taken = line.remote_address(Family::V6);
            line.node.ip(&format!("address add {taken}/64 dev {NIC}"));
            let mut address = String::new();
            wait_for("an end of the detection", PATIENCE, || {
                address = line.node.ip(&format!("address show dev {NIC} to {taken}"));
                address.contains("dadfailed") || !address.contains("tentative")
            });
            assert!(address.contains("2001:db8::2/64"), "{address}");
            assert_eq!(
                address.contains("dadfailed"),
                is_detected,
                "{rules}: {address}"
            );
        });
    }
}

/// Proves K5: a router advertisement configures an address and a route under a policy that denies
/// everything.
#[test]
fn router_advertisements_configure_the_node() {
    sandbox(|sandbox| {
        let (line, _router, enforced) = advertised_to(sandbox, NOTHING);
        wait_for("an address", 2 * PATIENCE, || is_configured(&line.node));
        let routes = line.node.ip("-6 route show default");
        assert!(routes.contains("proto ra"), "{routes}");
        assert!(enforced.reason("in essential") > 0);
        enforced.assert_adds_up();
    });
}

/// Proves K5: without essential traffic the rules decide about router advertisements.
#[test]
fn router_advertisements_are_dropped_without_essential_traffic() {
    sandbox(|sandbox| {
        let rules = "
            essential: false
            inbound: [{protocol: icmpv6, icmp: {type: 134}, from: any, action: drop}]
            outbound: [{protocol: all, to: any, action: accept}]";
        let (line, _router, enforced) = advertised_to(sandbox, rules);
        wait_for("an advertisement", 2 * PATIENCE, || {
            enforced.rule("in 1").packets > 0
        });
        sleep(SILENCE);
        assert!(!is_configured(&line.node));
        enforced.assert_adds_up();
    });
}

/// A node without addresses, which solicits routers, next to a router.
fn advertised_to(sandbox: &Sandbox, rules: &str) -> (Line, Daemon, Enforced) {
    let line = Line::new(0);
    let enforced = line.enforce_bare(sandbox, &policy(rules));
    let arguments = ["--enable-ra", "--dhcp-range=2001:db8::,ra-only"];
    let mut router = Daemon::dnsmasq(&line.remote, &arguments);
    let ready = "router advertisement enabled";
    wait_for("the router", PATIENCE, || router.said().contains(ready));
    line.node.set("net/ipv6/conf/eth0/accept_ra", "1");
    line.node
        .set("net/ipv6/conf/eth0/router_solicitations", "3");
    line.node.ip(&format!("link set {NIC} up"));
    line.wait_for_carriers();
    (line, router, enforced)
}

fn is_configured(node: &Host) -> bool {
    let addresses = node.ip(&format!("-6 address show dev {NIC} scope global"));
    addresses.contains("inet6 2001:db8:") && addresses.contains("dynamic")
}
