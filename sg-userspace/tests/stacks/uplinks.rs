//! A node with two uplinks to a router, under one policy, with real sockets: what leaves by one may
//! be answered by the other, and the kernel may spread connections over both (ECMP).

use std::net::SocketAddr;

use sg_common::verdict::{Direction, Reason};
use sg_policy::policy::rules_from_lines;
use sg_testbed::Host;
use sg_userspace::kernel::{ApplyOptions, apply};
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::counters::{Counters, counters};

use crate::sandbox::{Sandbox, sandbox};
use crate::service::{PATIENCE, SILENCE, Service, Transport, is_answered};
use crate::tools::tool;

use Transport::{Tcp, Udp};

/// The node's own addresses, and the router's, which belong to no uplink.
pub(crate) const NODE: [&str; 2] = ["10.8.0.1", "fd00:8::1"];
pub(crate) const ROUTER: [&str; 2] = ["10.9.0.1", "fd00:9::1"];

const RULES: &str = "
    out tcp 5001 to any accept
    out udp 5001 to any accept
    out icmp 8 to any accept
    out icmpv6 128 to any accept
    in tcp 6001 from any accept
    in udp 6001 from any accept";

/// The node and the router, joined twice.
pub(crate) fn joined() -> (Host, Host) {
    let (node, router) = (Host::here(), Host::new());
    node.hush();
    for host in [&node, &router] {
        // Packets come by another interface than the one to their sender.
        for which in ["all", "default"] {
            host.set(&format!("net/ipv4/conf/{which}/rp_filter"), "0");
        }
        host.set("net/ipv4/fib_multipath_hash_policy", "1");
        host.set("net/ipv6/fib_multipath_hash_policy", "1");
    }
    for (i, (near, far)) in [("up0", "far0"), ("up1", "far1")].into_iter().enumerate() {
        node.join(near, &router, far);
        for (host, name, end) in [(&node, near, 1), (&router, far, 2)] {
            host.ip(&format!("address add 10.0.{i}.{end}/24 dev {name}"));
            host.ip(&format!("address add fd00:{i}::{end}/64 dev {name} nodad"));
            host.ip(&format!("link set {name} up"));
        }
    }
    for (host, own) in [(&node, NODE), (&router, ROUTER)] {
        host.ip(&format!("address add {}/32 dev lo", own[0]));
        host.ip(&format!("address add {}/128 dev lo nodad", own[1]));
    }
    node.wait_for_carrier("up0");
    node.wait_for_carrier("up1");
    router.wait_for_carrier("far0");
    router.wait_for_carrier("far1");
    (node, router)
}

/// Routes to the other host over these uplinks; its packets have the host's own address.
pub(crate) fn route(host: &Host, own: [&str; 2], to: [&str; 2], end: usize, uplinks: &[usize]) {
    let name = match end {
        1 => "up",
        _ => "far",
    };
    let other = 3 - end;
    for (i, prefix) in [32, 128].into_iter().enumerate() {
        let gateway = |uplink: usize| match i {
            0 => format!("10.0.{uplink}.{other}"),
            _ => format!("fd00:{uplink}::{other}"),
        };
        let hops = uplinks.iter().map(|uplink| match uplinks.len() {
            1 => format!("via {} dev {name}{uplink}", gateway(*uplink)),
            _ => format!("nexthop via {} dev {name}{uplink}", gateway(*uplink)),
        });
        let hops: Vec<String> = hops.collect();
        let (own, to) = (own[i], to[i]);
        host.ip(&format!(
            "route replace {to}/{prefix} src {own} {}",
            hops.join(" ")
        ));
    }
}

fn read(sandbox: &Sandbox) -> [Counters; 2] {
    ["up0", "up1"].map(|name| {
        let found = attached(sandbox.bpffs(), &Scope::Interface(name.into()));
        let one = found.unwrap_or_else(|e| panic!("{e}")).remove(0);
        counters(&one).unwrap_or_else(|e| panic!("{e}"))
    })
}

/// TCP, UDP and pings of both hosts in both families, and what is not allowed.
fn exchange(node: &Host, router: &Host, times: u16) {
    for i in 0..2 {
        let to =
            |address: &str, port: u16| SocketAddr::new(address.parse().expect("an address"), port);
        for transport in [Tcp, Udp] {
            for _ in 0..times {
                assert!(
                    is_answered(node, transport, to(ROUTER[i], 5001), PATIENCE),
                    "{transport:?} to {}",
                    ROUTER[i]
                );
                assert!(
                    is_answered(router, transport, to(NODE[i], 6001), PATIENCE),
                    "{transport:?} to {}",
                    NODE[i]
                );
            }
        }
        let ping = tool(node, "ping", &["-c2", "-i0.2", "-W20", ROUTER[i]]);
        assert!(ping.is_success, "{}", ping.text);
        assert!(!is_answered(router, Tcp, to(NODE[i], 6002), SILENCE));
    }
}

/// Proves K1, K6 and K7 for real connections: out by one uplink and in by the other, and spread
/// over both. Of each kind of packet every interface counts those that passed it.
#[test]
fn connections_use_both_uplinks() {
    sandbox(|sandbox| {
        let (node, router) = joined();
        let options = ApplyOptions {
            bpffs: sandbox.bpffs().to_owned(),
            max_flows: Some(4096),
            ..ApplyOptions::on(&["up0", "up1"])
        };
        apply(&rules_from_lines(RULES), &options).unwrap_or_else(|e| panic!("{e}"));
        let _services = [
            Service::start(&router, &[(Tcp, 5001), (Udp, 5001)]),
            Service::start(&node, &[(Tcp, 6001), (Udp, 6001), (Tcp, 6002)]),
        ];
        let used = |direction: Direction| {
            read(sandbox).map(|one| {
                let replies = |rule: &sg_userspace::observe::counters::RuleCounters| match rule
                    .direction
                    == direction
                {
                    true => rule.packets,
                    false => rule.reply_packets,
                };
                one.rules.iter().map(replies).sum::<u64>()
            })
        };
        // Asymmetric: the node sends by the first, and is sent to by the second.
        route(&node, NODE, ROUTER, 1, &[0]);
        route(&router, ROUTER, NODE, 2, &[1]);
        exchange(&node, &router, 2);
        let ([inbound0, inbound1], [outbound0, outbound1]) =
            (used(Direction::Inbound), used(Direction::Outbound));
        assert_eq!(
            (inbound0, outbound1),
            (0, 0),
            "neither direction uses the other uplink"
        );
        assert!(
            inbound1 > 40 && outbound0 > 40,
            "{inbound1} and {outbound0} packets"
        );

        // Spread by ports, each direction for itself.
        route(&node, NODE, ROUTER, 1, &[0, 1]);
        route(&router, ROUTER, NODE, 2, &[0, 1]);
        exchange(&node, &router, 12);
        let ([inbound0, _], [_, outbound1]) = (used(Direction::Inbound), used(Direction::Outbound));
        assert!(
            inbound0 > 10 && outbound1 > 10,
            "{inbound0} and {outbound1} packets"
        );
        for one in read(sandbox) {
            let broken = one
                .reasons
                .iter()
                .filter(|row| matches!(row.reason, Reason::Malformed | Reason::Incomplete));
            assert_eq!(broken.map(|row| row.packets).sum::<u64>(), 0);
        }
    });
}
