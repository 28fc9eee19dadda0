//! A node that translates addresses for a pod behind it, as kube-proxy does. The policy uses the
//! addresses and ports on the wire: before destination NAT, and after source NAT.

use std::net::SocketAddr;

use sg_policy::policy::rules_from_lines;

use crate::line::{Family, Line, NIC};
use crate::sandbox::{run, sandbox};
use crate::service::{PATIENCE, SILENCE, Service, Transport, is_answered};
use sg_testbed::Host;

const PODS: [(&str, &str, &str); 2] = [
    ("ip", "10.244.0.1/24", "10.244.0.2"),
    ("ip6", "fd00:244::1/64", "fd00:244::2"),
];

/// A pod behind the node. Port 30080 of the node leads to its port 80, and its packets leave with
/// the node's address.
fn pod(node: &Host) -> Host {
    let pod = Host::new();
    node.join("pod", &pod, "eth0");
    node.ip("link set pod up");
    pod.ip("link set eth0 up");
    for (family, gateway, address) in PODS {
        node.ip(&format!("address add {gateway} dev pod nodad"));
        let (gateway, length) = gateway.split_once('/').expect("a prefix");
        pod.ip(&format!("address add {address}/{length} dev eth0 nodad"));
        pod.ip(&format!("route add default via {gateway}"));
        let to = match family {
            "ip" => format!("{address}:80"),
            _ => format!("[{address}]:80"),
        };
        let rules = format!(
            "table {family} kube {{
                chain services {{
                    type nat hook prerouting priority dstnat;
                    tcp dport 30080 dnat to {to};
                }}
                chain outwards {{
                    type nat hook postrouting priority srcnat;
                    oifname \"{NIC}\" masquerade;
                }}
            }}"
        );
        run("nft", &[&rules]);
    }
    node.set("net/ipv4/ip_forward", "1");
    node.set("net/ipv6/conf/all/forwarding", "1");
    node.wait_for_carrier("pod");
    pod
}

/// Proves K1 and K6: inbound packets are judged before destination NAT and outbound ones after
/// source NAT. The flow has the addresses on the wire in both directions.
#[test]
fn the_policy_is_about_addresses_on_the_wire() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        let rules = "in tcp 30080 from any accept
            in tcp 80 from any drop
            out tcp 443 to 10.0.0.0/24,2001:db8::/64 accept";
        let enforced = line.enforce(sandbox, &rules_from_lines(rules));
        let pod = pod(&line.node);
        let _services = [
            Service::start(&pod, &[(Transport::Tcp, 80)]),
            Service::start(
                &line.remote,
                &[(Transport::Tcp, 443), (Transport::Tcp, 444)],
            ),
        ];
        let ask = |host, to, port, patience| {
            is_answered(host, Transport::Tcp, SocketAddr::new(to, port), patience)
        };
        for family in Family::BOTH {
            let (node, remote) = (line.node_address(family), line.remote_address(family));
            assert!(
                ask(&line.remote, node, 30080, PATIENCE),
                "{family:?}: the pod's service"
            );
            assert!(
                ask(&pod, remote, 443, PATIENCE),
                "{family:?}: the pod's question"
            );
            assert!(
                !ask(&pod, remote, 444, SILENCE),
                "{family:?}: no rule accepts it"
            );
        }
        let (inbound, outbound) = (enforced.rule("in 1"), enforced.rule("out 1"));
        for rule in [inbound, outbound] {
            assert!(rule.packets > 0 && rule.reply_packets > 0, "{rule:?}");
        }
        assert_eq!(
            enforced.rule("in 2").packets,
            0,
            "the pod's own port was seen"
        );
        assert!(enforced.reason("out no-match") >= 2);
        enforced.assert_adds_up();
    });
}
