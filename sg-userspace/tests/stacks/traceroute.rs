//! `traceroute` from the node through two routers, with no inbound ICMP rule.

use sg_policy::policy::rules_from_lines;

use crate::line::{End, Family, Line, address};
use crate::sandbox::sandbox;
use crate::tools::tool;

/// Proves K8: time-exceeded errors of the routers and the port-unreachable error of the destination
/// about the node's datagrams pass.
#[test]
fn udp_probes_show_every_hop() {
    assert_all_hops_seen("out udp 33434-33534 to any accept", &[]);
}

/// Proves K6 and K8: the same for echo requests, with an echo reply from the destination.
#[test]
fn icmp_probes_show_every_hop() {
    let rules = "out icmp 8 to any accept\nout icmpv6 128 to any accept";
    assert_all_hops_seen(rules, &["--icmp"]);
}

#[track_caller]
fn assert_all_hops_seen(rules: &str, method: &[&str]) {
    sandbox(|sandbox| {
        let line = Line::new(2);
        let enforced = line.enforce(sandbox, &rules_from_lines(rules));
        for family in Family::BOTH {
            let remote = line.remote_address(family).to_string();
            let arguments = [
                "-n",
                "-q",
                "1",
                "-w",
                "2",
                "-m",
                "5",
                family.option(),
                &remote,
            ];
            let said = tool(&line.node, "traceroute", &[method, &arguments].concat());
            assert!(said.is_success, "{}", said.text);
            let hops: Vec<String> = (0..=2)
                .map(|segment| address(segment, End::Far, family).to_string())
                .collect();
            assert_eq!(seen(&said.text), hops, "{}", said.text);
        }
        let related = enforced.reason("in related");
        assert!(
            related >= 4,
            "{related} errors of two routers for two families"
        );
        assert_eq!(enforced.reason("in no-match"), 0);
        enforced.assert_adds_up();
    });
}

/// The second word of each numbered line: an address, or a star.
fn seen(text: &str) -> Vec<&str> {
    let lines = text.lines().map(|line| line.split_whitespace());
    let hops = lines.filter_map(|mut words| words.next()?.parse::<u8>().ok().and(words.next()));
    hops.collect()
}
