//! Reports of multicast group membership from the kernel's own stacks: IGMP, and MLD from a host
//! that has no address yet. Switches with snooping would cut off a host whose reports are dropped.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread::sleep;

use crate::enforced::{Counter, policy};
use crate::line::{Line, NIC};
use crate::sandbox::sandbox;
use crate::service::{PATIENCE, SILENCE};
use sg_testbed::wait_for;

const NOTHING: &str = "{inbound: [], outbound: []}";
const NOTHING_AT_ALL: &str = "{essential: false, inbound: [], outbound: []}";
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

/// Proves K5 for MLD: while a host checks its address for duplicates, it sends reports from the
/// unspecified address (RFC 3590).
#[test]
fn groups_are_reported_before_there_is_an_address() {
    for (rules, passes) in [(NOTHING, true), (NOTHING_AT_ALL, false)] {
        sandbox(|sandbox| {
            let line = Line::new(0);
            line.node
                .set(&format!("net/ipv6/conf/{NIC}/dad_transmits"), "1");
            let enforced = line.enforce_bare(sandbox, &policy(rules));
            let hook = format!("hook ingress device {NIC}");
            let expression = "ip6 saddr :: icmpv6 type mld2-listener-report";
            let heard = line
                .remote
                .inside(|| Counter::new("netdev", &hook, expression));
            line.node.ip(&format!("link set {NIC} up"));
            line.wait_for_carriers();
            let heard = || line.remote.inside(|| heard.read());
            if passes {
                wait_for("a report", PATIENCE, || heard() > 0);
                assert!(enforced.reason("out essential") > 0);
            } else {
                wait_for("a report that is dropped", PATIENCE, || {
                    enforced.reason("out no-match") > 0
                });
                sleep(SILENCE);
                assert_eq!(heard(), 0);
            }
        });
    }
}

/// Proves K5 for IGMP, in both directions.
#[test]
fn ipv4_groups_are_reported() {
    for (rules, passes) in [(NOTHING, true), (NOTHING_AT_ALL, false)] {
        sandbox(|sandbox| {
            let line = Line::new(0);
            let enforced = line.enforce(sandbox, &policy(rules));
            let hosts = [&line.node, &line.remote];
            let hook = format!("hook ingress device {NIC}");
            let heard = hosts.map(|host| {
                host.inside(|| Counter::new("netdev", &hook, "ip protocol igmp ip ttl 1"))
            });
            let addresses = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
            let _members: Vec<UdpSocket> = hosts
                .iter()
                .zip(addresses)
                .map(|(host, own)| {
                    host.inside(|| {
                        let socket = UdpSocket::bind((GROUP, 5000)).expect("a free port");
                        socket.join_multicast_v4(&GROUP, &own).expect("a group");
                        socket
                    })
                })
                .collect();
            let read = || -> Vec<u64> {
                let pairs = hosts.iter().zip(&heard);
                pairs
                    .map(|(host, heard)| host.inside(|| heard.read()))
                    .collect()
            };
            let reason = if passes { "essential" } else { "no-match" };
            let counted = |direction| enforced.reason(&format!("{direction} {reason}"));
            wait_for("a report each way", PATIENCE, || {
                counted("in") > 0 && counted("out") > 0
            });
            if passes {
                wait_for("both reports", PATIENCE, || read().iter().all(|n| *n > 0));
            } else {
                sleep(SILENCE);
                assert_eq!(read(), [0, 0]);
            }
            enforced.assert_adds_up();
        });
    }
}
