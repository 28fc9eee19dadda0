//! Every node type of the lookup tables, in .bss and in array maps. Each case makes the compiler
//! use one on purpose, and kernel, compiled tables and oracle agree on packets at the edges of the
//! rules.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use sg_common::lookup::{NodeType, Shape};
use sg_common::protocol::Kind;
use sg_common::verdict::{Direction, FIRST_RULE_SLOT, Reason, reason_slot};
use sg_policy::compile::{Budget, Compiled};
use sg_policy::compile_policy;
use sg_policy::oracle;
use sg_policy::policy::{Policy, rules_from_lines};
use sg_policy::testing;
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::programs::Programs;
use sg_userspace::kernel::shared_maps::SharedMaps;

use crate::budget::stays_within_budget;
use crate::frames::frame;
use crate::sandbox::require_root;
use crate::support::{rounds, run_hook};

/// How many packets are sent for each policy in each placement.
const PACKETS: usize = 1500;

/// Random prefixes in 10.77.0.0/16.
fn in_one_16(rng: &mut Rng, len: u8, count: usize) -> String {
    let one = |rng: &mut Rng| {
        let bits = 0x0a4d_0000 | rng.u32(..1 << 16);
        let bits = bits & u32::MAX << (32 - u32::from(len));
        format!("{}/{len}", Ipv4Addr::from(bits))
    };
    let list: Vec<String> = (0..count).map(|_| one(rng)).collect();
    list.join(",")
}

fn anywhere(rng: &mut Rng, lens: std::ops::RangeInclusive<u32>, count: usize) -> Vec<String> {
    let one = |rng: &mut Rng| {
        let len = rng.u32(lens.clone());
        let bits = rng.u32(..) & u32::MAX << (32 - len);
        format!("{}/{len}", Ipv4Addr::from(bits))
    };
    (0..count).map(|_| one(rng)).collect()
}

fn anywhere6(rng: &mut Rng, lens: std::ops::RangeInclusive<u32>, count: usize) -> Vec<String> {
    let one = |rng: &mut Rng| {
        let len = rng.u32(lens.clone());
        let bits = 0x2 << 124 | rng.u128(..) >> 3;
        let bits = bits & u128::MAX << (128 - len);
        format!("{}/{len}", Ipv6Addr::from(bits))
    };
    (0..count).map(|_| one(rng)).collect()
}

/// One rule for each prefix, with random ports, so that every prefix has a class of its own.
fn rules_of_their_own(rng: &mut Rng, prefixes: &[String], ports: usize) -> String {
    let mut text = String::new();
    for prefix in prefixes {
        let ports: Vec<String> = (0..ports).map(|_| rng.u16(..).to_string()).collect();
        let action = if rng.bool() { "accept" } else { "drop" };
        let _ = writeln!(text, "in udp {} from {prefix} {action}", ports.join(","));
    }
    text + "in tcp from any accept\n"
}

/// Every other host of the first sixteen in a /24: more boundaries than a 10-key node has keys, at
/// each of the four 16-way nodes on the path to them.
fn eight_even(prefix: &str) -> Vec<String> {
    (0..8).map(|i| format!("{prefix}{}/32", 2 * i)).collect()
}

fn blocklist(prefixes: &[String]) -> String {
    format!(
        "in all from {} drop\nin udp from any accept\n",
        prefixes.join(",")
    )
}

fn has(types: u32, node_type: NodeType) -> bool {
    types & node_type.bit() != 0
}

/// A description, the rules, and a check that their tables have the node type that the description
/// names.
type Case = (&'static str, fn(&mut Rng) -> String, fn(&Shape) -> bool);

const CASES: &[Case] = &[
    (
        "2-key nodes for addresses, leaves narrow",
        |rng| blocklist(&anywhere(rng, 20..=32, 40)),
        |s| s.address_node_types == NodeType::Keys2.bit() && s.narrow == 1,
    ),
    (
        "10-key nodes for addresses, leaves narrow",
        |rng| blocklist(&[in_one_16(rng, 30, 5)]),
        |s| s.address_node_types == NodeType::Keys10.bit() && s.narrow == 1,
    ),
    (
        "16-way nodes for addresses, leaves narrow",
        |rng| blocklist(&[in_one_16(rng, 28, 30)]),
        |s| has(s.address_node_types, NodeType::Way16) && s.narrow == 1,
    ),
    (
        "256-way nodes for addresses, leaves narrow",
        |rng| blocklist(&[in_one_16(rng, 32, 300)]),
        |s| has(s.address_node_types, NodeType::Way256) && s.narrow == 1,
    ),
    (
        "four 16-way nodes in a row, leaves narrow",
        |_| blocklist(&eight_even("10.77.3.")),
        |s| s.address_node_types == NodeType::Way16.bit() && s.narrow == 1,
    ),
    (
        "four 16-way nodes in a row, of many classes",
        |rng| {
            let mut text = String::new();
            // Each host has other ports, and so a class of its own.
            for (i, host) in eight_even("10.77.3.").iter().enumerate() {
                let _ = writeln!(text, "in udp {} from {host} accept", 100 * i + 53);
            }
            let others = anywhere(rng, 12..=15, 12);
            text + &rules_of_their_own(rng, &others, 1)
        },
        |s| s.narrow == 0 && has(s.address_node_types, NodeType::Way16),
    ),
    (
        "more classes than narrow leaves can hold",
        |rng| {
            let prefixes = anywhere(rng, 17..=32, 60);
            rules_of_their_own(rng, &prefixes, 1)
        },
        |s| s.narrow == 0 && has(s.address_node_types, NodeType::Keys2),
    ),
    (
        "many classes in one /16",
        |rng| {
            let prefixes: Vec<String> = (0..80).map(|_| in_one_16(rng, 30, 1)).collect();
            rules_of_their_own(rng, &prefixes, 2)
        },
        |s| s.narrow == 0 && has(s.address_node_types, NodeType::Way256),
    ),
    (
        "many classes in some /16s",
        |rng| {
            let mut prefixes: Vec<String> = (0..4).map(|_| in_one_16(rng, 30, 1)).collect();
            prefixes.extend(anywhere(rng, 17..=32, 40));
            rules_of_their_own(rng, &prefixes, 1)
        },
        |s| s.narrow == 0 && has(s.address_node_types, NodeType::Keys10),
    ),
    (
        "256-way nodes for ports, as there are few tables",
        |rng| {
            let prefixes = anywhere(rng, 8..=16, 5);
            rules_of_their_own(rng, &prefixes, 3)
        },
        |s| has(s.port_node_types, NodeType::Way256) && !has(s.port_node_types, NodeType::Keys10),
    ),
    (
        "2-key and 10-key nodes for ports, as there are many tables",
        |rng| {
            let prefixes = anywhere(rng, 12..=24, 50);
            rules_of_their_own(rng, &prefixes, 4)
        },
        |s| has(s.port_node_types, NodeType::Keys10) && has(s.port_node_types, NodeType::Keys2),
    ),
    (
        "16-way nodes for ports",
        |rng| {
            let prefixes = anywhere(rng, 12..=24, 30);
            rules_of_their_own(rng, &prefixes, 20)
        },
        |s| has(s.port_node_types, NodeType::Way16),
    ),
    (
        "four 16-way nodes in a row for ports",
        |rng| {
            let ports = [2000, 2002, 2004, 2006, 2008, 2010, 2012, 2014];
            let mut text = String::new();
            // The first port tables begin with a 256-way node whatever they need, and these are
            // more.
            for (i, prefix) in anywhere(rng, 12..=24, 30).iter().enumerate() {
                let ports: Vec<String> = ports.iter().map(|p| (p + 16 * i).to_string()).collect();
                let _ = writeln!(text, "in udp {} from {prefix} accept", ports.join(","));
            }
            text
        },
        |s| has(s.port_node_types, NodeType::Way16),
    ),
    (
        "a cell of a 256-way node with one more boundary, at its last number",
        |_| {
            "in udp 1023 from 10.0.0.0/8 drop\n\
             in udp 900-2000 from 10.0.0.0/8,172.16.0.0/12 accept\n"
                .into()
        },
        |s| s.port_node_types & NodeType::Way256.bit() != 0,
    ),
    (
        "a cell of a 256-way node with one boundary less, at its last number",
        |_| {
            "in udp 900-2000 from 10.0.0.0/8,172.16.0.0/12 accept\n\
             in udp 2047 from 172.16.0.0/12 accept\n\
             in udp 1023 from 192.168.0.0/16 drop\n\
             in udp 900-2000 from 192.168.0.0/16 accept\n"
                .into()
        },
        |s| s.port_node_types & NodeType::Way256.bit() != 0,
    ),
    (
        "hosts, and another class for address zero than the first",
        |rng| {
            let rest = "in udp 1-30000 from 0.0.0.0/7 accept\nin udp from any drop\n";
            blocklist(&anywhere(rng, 32..=32, 270_000)).replace("in udp from any accept\n", rest)
        },
        |s| s.host_buckets > 0,
    ),
    (
        "hosts",
        |rng| blocklist(&anywhere(rng, 32..=32, 270_000)),
        |s| s.host_buckets > 0,
    ),
    (
        "hosts of more than one class, inside prefixes",
        |rng| {
            let hosts = anywhere(rng, 32..=32, 270_000);
            let (some, others) = hosts.split_at(130_000);
            format!(
                "in udp 1-100 from {} accept\n\
                 in udp 50-200 from {} drop\n\
                 in udp from {} accept\n",
                some.join(","),
                others.join(","),
                anywhere(rng, 8..=20, 100).join(",")
            )
        },
        |s| s.host_buckets > 0 && s.narrow == 1,
    ),
    (
        "a tree of one level",
        |_| "in udp from 2001:db8::/32,2001:db9::/64 accept\n".into(),
        |s| (s.depth6, s.index6, s.low_depth6) == (1, 0, 0),
    ),
    (
        "a tree of two levels, in every quarter of the addresses",
        |rng| {
            let mut prefixes = anywhere6(rng, 32..=64, 12);
            for quarter in ["1000::/5", "4000::/3", "9000::/6", "fc00::/7", "fe80::/10"] {
                prefixes.push(quarter.into());
            }
            blocklist(&prefixes)
        },
        |s| (s.depth6, s.index6, s.low_depth6) == (2, 0, 0),
    ),
    (
        "an index",
        |rng| blocklist(&anywhere6(rng, 24..=64, 800)),
        |s| s.index6 != 0 && s.depth6 >= 1,
    ),
    (
        "a deep tree",
        |rng| blocklist(&anywhere6(rng, 32..=64, 9000)),
        |s| s.index6 == 0 && s.depth6 >= 5,
    ),
    (
        "trees for low halves, down to the last bit",
        |rng| {
            let mut prefixes = anywhere6(rng, 65..=128, 100);
            for tail in ["1/128", "2/128", "4/127", "8/126", "fffe/127", "ffff/128"] {
                prefixes.push(format!("2001:db8::{tail}"));
            }
            prefixes.push("2001:db8:0:1:ffff:ffff:ffff:ffff/128".into());
            blocklist(&prefixes)
        },
        |s| s.low_depth6 >= 2,
    ),
    (
        "rules of their own for IPv6",
        |rng| {
            let mut prefixes = anywhere6(rng, 32..=128, 200);
            prefixes.extend(anywhere(rng, 8..=32, 20));
            rules_of_their_own(rng, &prefixes, 2)
        },
        |s| s.index6 != 0 && s.low_depth6 >= 1,
    ),
];

/// Proves P2 for every node type: the first match decides, whatever the tables look like.
#[test]
fn every_node_type_decides_as_the_oracle_does() {
    require_root();
    for (i, (what, rules, is_there)) in (0..).zip(CASES) {
        let mut rng = Rng::with_seed(i);
        let policy = rules_from_lines(&rules(&mut rng));
        let slots: Vec<u32> = (FIRST_RULE_SLOT..).take(policy.rules.len()).collect();
        let compiled = compile_policy(&policy, &slots, Budget::default());
        let compiled = compiled.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(is_there(&compiled.shape), "{what}: {:?}", compiled.shape);
        for is_in_bss in [true, false] {
            agree(what, &policy, &compiled, is_in_bss, &mut rng);
        }
    }
}

/// Sends UDP packets, which only rules can accept. Compares each verdict, and at the end all
/// counters.
fn agree(what: &str, policy: &Policy, compiled: &Compiled, is_in_bss: bool, rng: &mut Rng) {
    let shared = SharedMaps {
        counter_slots: FIRST_RULE_SLOT + policy.rules.len() as u32,
        max_flows: 64,
        ..SharedMaps::default()
    };
    let mut generation = Generation::of(policy, 1);
    generation.may_be_in_bss = is_in_bss;
    let programs = Programs::load(compiled, &generation, &shared);
    let mut programs = programs.unwrap_or_else(|e| panic!("{what}: {e}"));
    stays_within_budget(what, &programs);
    let counters = programs
        .counters()
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut expected = vec![0u64; shared.counter_slots as usize];
    for number in 0..rounds(PACKETS) {
        let mut packet = testing::packet(rng, policy);
        packet.direction = Direction::Inbound;
        packet.protocol = 17;
        // The ends of the address space are no rule's edge, so they are added.
        match number % 50 {
            0 => packet.remote = Ipv4Addr::UNSPECIFIED.into(),
            1 => packet.remote = Ipv4Addr::BROADCAST.into(),
            _ => {}
        }
        let port = rng.u16(1024..);
        let text = match packet.remote {
            IpAddr::V4(remote) => format!("udp {remote}:{port} > 192.0.2.1:{}", packet.port),
            IpAddr::V6(remote) => format!("udp [{remote}]:{port} > [2001:db8::1]:{}", packet.port),
        };
        // A DHCP reply is essential traffic, which no rule decides.
        if matches!(packet.port, 68 | 546) {
            continue;
        }
        let rule = oracle::first_match(policy, &packet);
        let slot = match rule {
            Some(rule) => FIRST_RULE_SLOT + rule as u32,
            None => reason_slot(Direction::Inbound, Reason::NoMatch),
        };
        let by_tables = compiled.decide(packet.direction, packet.remote, Kind::Udp, packet.port);
        assert_eq!(by_tables.slot(), slot, "{what}, tables: {text}");
        let accepted = run_hook(&mut programs, Direction::Inbound, frame(&text).bytes(), 1);
        let accepted = accepted.unwrap_or_else(|e| panic!("{what}: {e:?}"));
        assert_eq!(
            accepted,
            by_tables.is_accept(),
            "{what}, in .bss: {is_in_bss}, packet {number}: {text}"
        );
        expected[slot as usize] += 1;
    }
    let counted = counters.all().unwrap_or_else(|e| panic!("{what}: {e}"));
    for (slot, (counted, expected)) in counted.iter().zip(&expected).enumerate() {
        assert_eq!(
            counted.packets, *expected,
            "{what}, in .bss: {is_in_bss}: slot {slot}"
        );
    }
}
