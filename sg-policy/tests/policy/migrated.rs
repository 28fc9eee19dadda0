//! docs/migrating.md: the policy of each section decides what the rules of the other tool decide.
//! iptables, nftables and ufw are loaded beside it by `sg-userspace/tests/stacks/migrated`. Here
//! are models of the two tools that no test can load, made of what their documents and sources say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;
use sg_common::verdict::{Action, Direction};
use sg_policy::oracle::{Packet, first_match};
use sg_policy::policy::Policy;

use crate::pages::{blocks, of_page, read};

const PAGE: &str = "docs/migrating.md";

/// A packet that opens a connection over TCP, or of UDP, and whether it passes.
type Question = (Direction, u8, &'static str, u16, bool);

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What each policy of docs/migrating.md decides, by its name: what the rules of the other tool
/// decide beside it.
fn migrated() -> Vec<(&'static str, Vec<Question>)> {
    let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
    let office = "198.51.100.9";
    let stranger = "203.0.113.9";
    vec![
        (
            "from-iptables",
            vec![
                (inbound, TCP, office, 22, true),
                (inbound, TCP, stranger, 22, false),
                (inbound, TCP, stranger, 443, true),
                (inbound, TCP, "192.0.2.66", 443, false),
                (inbound, UDP, stranger, 443, false),
                (outbound, TCP, stranger, 25, true),
            ],
        ),
        (
            "from-nftables",
            vec![
                (inbound, TCP, office, 22, true),
                (inbound, TCP, "2001:db8:10::9", 22, true),
                (inbound, TCP, stranger, 22, false),
                (inbound, TCP, stranger, 8080, true),
                (inbound, TCP, stranger, 8100, false),
                (inbound, UDP, "192.0.2.66", 443, false),
                (inbound, UDP, stranger, 443, true),
                (outbound, TCP, stranger, 25, false),
                (outbound, TCP, stranger, 443, true),
                (outbound, UDP, "192.0.2.53", 53, true),
                (outbound, UDP, stranger, 53, false),
            ],
        ),
        (
            "from-ufw",
            vec![
                (inbound, TCP, office, 22, true),
                (inbound, TCP, stranger, 22, false),
                (inbound, TCP, stranger, 80, true),
                (inbound, TCP, "2001:db8::9", 443, true),
                (inbound, UDP, stranger, 60001, true),
                (inbound, TCP, "192.0.2.66", 80, false),
                (outbound, TCP, stranger, 25, true),
            ],
        ),
        (
            "from-ingress-node-firewall",
            vec![
                (inbound, TCP, "10.9.1.7", 5432, true),
                (inbound, TCP, "10.9.1.7", 5433, false),
                (inbound, TCP, "10.9.1.7", 6000, true),
                (inbound, TCP, "10.9.1.7", 80, true),
                (inbound, TCP, "10.9.2.7", 5432, false),
                (inbound, TCP, stranger, 80, true),
                (outbound, TCP, stranger, 25, true),
            ],
        ),
        (
            "from-a-cloud",
            vec![
                (inbound, TCP, stranger, 443, true),
                (inbound, TCP, "2001:db8::9", 443, true),
                (inbound, TCP, office, 22, true),
                (inbound, TCP, stranger, 22, false),
                (inbound, TCP, "10.0.1.9", 5432, true),
                (inbound, TCP, "10.0.2.9", 5432, false),
                (outbound, TCP, stranger, 25, true),
            ],
        ),
    ]
}

#[test]
fn what_was_migrated_decides_what_the_page_says() {
    let policies = blocks(&read(PAGE), "yaml");
    let mut asked = BTreeSet::new();
    for text in &policies {
        let policy = of_page(PAGE, text).policy;
        let all = migrated();
        let (name, questions) = all
            .iter()
            .find(|(name, _)| *name == policy.name)
            .unwrap_or_else(|| panic!("nothing is asked of {}", policy.name));
        asked.insert(*name);
        for &(direction, protocol, remote, port, passes) in questions {
            let packet = Packet {
                direction,
                remote: remote.parse().unwrap(),
                protocol,
                port,
                icmp: (0, 0),
            };
            assert_eq!(accepts(&policy, &packet), passes, "{name}: {packet:?}");
        }
    }
    assert_eq!(asked.len(), migrated().len(), "{asked:?}");
}

fn accepts(policy: &Policy, packet: &Packet) -> bool {
    let rule = first_match(policy, packet);
    let action = rule.map_or(Action::Drop, |rule| policy.rules[rule].action);
    action == Action::Accept
}

/// The section with this heading.
#[track_caller]
fn section(heading: &str) -> String {
    let page = read(PAGE);
    let (_, rest) = page
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The only policy of a section.
#[track_caller]
fn policy_of(section: &str) -> Policy {
    let policies = blocks(section, "yaml");
    assert_eq!(policies.len(), 1, "{policies:?}");
    of_page(PAGE, &policies[0]).policy
}

/// An address and how many of its bits count.
type Prefix = (IpAddr, u32);

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').expect("a prefix");
    (address.parse().unwrap(), length.parse().unwrap())
}

/// The bits of an address, at the left end.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    }
}

fn contains((network, length): Prefix, address: IpAddr) -> bool {
    let other = bits(network) ^ bits(address);
    network.is_ipv4() == address.is_ipv4() && other.leading_zeros() >= length.min(128)
}

/// Packets from and to the edges of these networks and a stranger, at the edges of these ports, and
/// of protocols that have none.
fn packets(networks: &[Prefix], ports: &[u16]) -> Vec<Packet> {
    let mut remotes: BTreeSet<IpAddr> = ["203.0.113.9", "2001:db8:99::9"]
        .map(|address| address.parse().unwrap())
        .into();
    for &(first, length) in networks.iter().filter(|(_, length)| *length > 0) {
        let width = if first.is_ipv4() { 32 } else { 128 };
        let last = bits(first) | u128::MAX.checked_shr(length).unwrap_or(0);
        let step = 1 << (128 - width);
        let all = [bits(first) - step, bits(first), last, last.wrapping_add(1)];
        remotes.extend(all.map(|bits| match first {
            IpAddr::V4(_) => IpAddr::V4(((bits >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(bits.into()),
        }));
    }
    let mut all = Vec::new();
    for direction in [Direction::Inbound, Direction::Outbound] {
        for &remote in &remotes {
            let packet = |protocol, port, icmp| Packet {
                direction,
                remote,
                protocol,
                port,
                icmp,
            };
            for port in ports.iter().flat_map(|port| [port - 1, *port, port + 1]) {
                all.extend([TCP, UDP].map(|protocol| packet(protocol, port, (0, 0))));
            }
            let pings: [(u8, u8); 2] = if remote.is_ipv4() {
                [(1, 8), (1, 13)]
            } else {
                [(58, 128), (58, 130)]
            };
            all.extend(pings.map(|(protocol, kind)| packet(protocol, 0, (kind, 0))));
            all.push(packet(GRE, 0, (0, 0)));
        }
    }
    all
}

const GRE: u8 = 47;

/// Whether the program of ingress-node-firewall passes a packet: of the longest prefix that has its
/// source, the first rule by `order` that matches decides. What it does not parse passes, and so
/// does what no rule matches.
fn node_firewall_passes(manifest: &Value, packet: &Packet) -> bool {
    let parses = [1, TCP, UDP, 58, 132].contains(&packet.protocol);
    if packet.direction == Direction::Outbound || !parses {
        return true;
    }
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let mut best: Option<(u32, Vec<Value>)> = None;
    for item in list(&manifest["spec"]["ingress"]) {
        for source in list(&item["sourceCIDRs"]) {
            let source = prefix(source.as_str().unwrap());
            let is_longer = best.as_ref().is_none_or(|(length, _)| *length < source.1);
            if contains(source, packet.remote) && is_longer {
                best = Some((source.1, list(&item["rules"])));
            }
        }
    }
    let (_, mut rules) = best.unwrap_or_default();
    rules.sort_by_key(|rule| rule["order"].as_u64());
    let decides = |rule: &&Value| {
        let config = &rule["protocolConfig"];
        let Some(protocol) = config["protocol"].as_str() else {
            return true;
        };
        assert_eq!(protocol, "TCP", "the model knows no more");
        let ports = match &config["tcp"]["ports"] {
            Value::String(range) => {
                let (from, to) = range.split_once('-').expect("a range");
                // Without its last port.
                from.parse::<u16>().unwrap()..to.parse().unwrap()
            }
            port => {
                let port = port.as_u64().unwrap() as u16;
                port..port + 1
            }
        };
        packet.protocol == TCP && ports.contains(&packet.port)
    };
    let rule = rules.iter().find(decides);
    rule.is_none_or(|rule| rule["action"] == "Allow")
}

#[test]
fn the_policy_decides_as_ingress_node_firewall_documents() {
    let section = section("ingress-node-firewall");
    let manifest = &blocks(&section, "text")[0];
    let manifest: Value = serde_saphyr::from_str(manifest).expect("the manifest is YAML");
    let policy = policy_of(&section);
    let networks = [prefix("10.9.0.0/16"), prefix("10.9.1.0/24")];
    let (mut compared, mut more) = ([0, 0], 0);
    for packet in packets(&networks, &[25, 80, 5000, 5432, 6000]) {
        let there = node_firewall_passes(&manifest, &packet);
        let here = accepts(&policy, &packet);
        compared[usize::from(there)] += 1;
        // What has no ports and is no ICMP passes there whatever the rules say.
        if packet.protocol == GRE && there && !here {
            more += 1;
            continue;
        }
        assert_eq!(there, here, "{packet:?}");
    }
    assert!(compared.iter().all(|count| *count > 20), "{compared:?}");
    assert!(more > 0 && section.contains("everything else passes"));
}

/// Whether a row of a console's table accepts a packet. The rows have no order.
fn console_accepts(rows: &[Vec<String>], policy: &str, packet: &Packet) -> bool {
    rows.iter().any(|row| {
        let [direction, protocol, port, remotes] = &row[..] else {
            panic!("{row:?}")
        };
        let remotes = remotes.split(", ").map(|remote| match remote {
            "sg-application" => {
                let set = policy.split_once("sg-application: [").expect("the set").1;
                prefix(set.split_once(']').expect("a list").0)
            }
            other => prefix(other),
        });
        let is_of_protocol = match (protocol.as_str(), port.as_str()) {
            ("all", "all") => true,
            ("TCP", port) => packet.protocol == TCP && port.parse() == Ok(packet.port),
            ("ICMP", "echo request") => (packet.protocol, packet.icmp.0) == (1, 8),
            other => panic!("{other:?}"),
        };
        direction == packet.direction.name()
            && is_of_protocol
            && remotes
                .into_iter()
                .any(|remote| contains(remote, packet.remote))
    })
}

#[test]
fn the_policy_decides_as_a_cloud_documents() {
    let section = section("A cloud's console");
    let policy = policy_of(&section);
    let text = &blocks(&section, "yaml")[0];
    let rows: Vec<Vec<String>> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| row.split(" | ").map(str::to_owned).collect())
        .skip(1)
        .collect();
    assert!(rows.len() >= 5, "{rows:?}");
    let networks = [
        prefix("198.51.100.0/24"),
        prefix("10.0.1.0/24"),
        prefix("0.0.0.0/0"),
    ];
    let mut compared = [0, 0];
    for packet in packets(&networks, &[22, 80, 443, 5432]) {
        let there = console_accepts(&rows, text, &packet);
        assert_eq!(accepts(&policy, &packet), there, "{packet:?}");
        compared[usize::from(there)] += 1;
    }
    assert!(compared.iter().all(|count| *count > 50), "{compared:?}");
}
