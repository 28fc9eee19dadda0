//! nftables, an independent implementation, counts for each rule the same packets as the enforcer,
//! on ingress and on egress. The packets have many addresses, and none belongs to a flow.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use sg_common::verdict::Direction;
use sg_policy::oracle;
use sg_policy::policy::{Policy, Protocol, Rule, rules_from_lines};
use sg_policy::testing::{self, Shape};
use sg_userspace::kernel::apply;
use sg_userspace::observe::attached::{Scope, attached};
use sg_userspace::observe::counters::{Counters, counters};

use crate::frames::{Frame, frame, other};
use crate::sandbox::{RawSender, run, sandbox};
use crate::support::rounds;

/// A frame with the addresses and ports of `packet`. Its local address is random, so that it
/// belongs to no flow.
fn frame_of(rng: &mut Rng, packet: &oracle::Packet) -> Frame {
    let local: IpAddr = match packet.remote {
        IpAddr::V4(_) => Ipv4Addr::from(rng.u32(..)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(rng.u128(..)).into(),
    };
    let opening = rng.u16(1024..);
    let (source, destination) = match packet.direction {
        Direction::Inbound => (packet.remote, local),
        Direction::Outbound => (local, packet.remote),
    };
    let with_ports = |name: &str, flags: &str| {
        let s = SocketAddr::new(source, opening);
        let d = SocketAddr::new(destination, packet.port);
        frame(&format!("{name} {s} > {d} {flags}"))
    };
    match (packet.protocol, packet.remote) {
        (6, _) => with_ports("tcp", "syn"),
        (17, _) => with_ports("udp", ""),
        (132, _) => with_ports("sctp", ""),
        (1, IpAddr::V4(_)) | (58, IpAddr::V6(_)) => frame(&format!(
            "icmp {source} > {destination} {}/{} id {opening}",
            packet.icmp.0, packet.icmp.1
        )),
        (number, _) => other(number, source, destination, &[0; 16]),
    }
}

/// The rule in the language of nftables, for a chain at an interface's ingress or egress. A rule
/// with several prefixes becomes several.
fn nft_rule(rule: &Rule) -> Vec<String> {
    let mut out = Vec::new();
    let side = match rule.direction {
        Direction::Inbound => "saddr",
        Direction::Outbound => "daddr",
    };
    let v4: Vec<String> = rule
        .remote
        .v4
        .iter()
        .map(|p| format!("ip {side} {}/{}", Ipv4Addr::from(p.bits), p.len))
        .collect();
    let v6: Vec<String> = rule
        .remote
        .v6
        .iter()
        .map(|p| format!("ip6 {side} {}/{}", Ipv6Addr::from(p.bits), p.len))
        .collect();
    for remote in v4.iter().chain(&v6) {
        let mut matches = remote.clone();
        if let Protocol::Number(number) = rule.protocol {
            let _ = write!(matches, " meta l4proto {number}");
            let name = match number {
                6 => "tcp",
                17 => "udp",
                _ => "sctp",
            };
            if let Some(ports) = &rule.ports {
                let list: Vec<String> = ports.iter().map(|(a, b)| format!("{a}-{b}")).collect();
                let _ = write!(matches, " {name} dport {{ {} }}", list.join(", "));
            }
            if let Some(icmp) = rule.icmp {
                let name = if number == 1 { "icmp" } else { "icmpv6" };
                let _ = write!(matches, " {name} type {}", icmp.kind);
                if let Some(code) = icmp.code {
                    let _ = write!(matches, " {name} code {code}");
                }
            }
        }
        out.push(matches);
    }
    out
}

/// Loads `policy` as nftables rules on `interface`. Those that a rule has become share its counter
/// `r<index>`.
fn load_nftables(policy: &Policy, direction: Direction, interface: &str) {
    let hook = match direction {
        Direction::Inbound => "ingress",
        Direction::Outbound => "egress",
    };
    let mut script = String::from("table netdev t {\n");
    for i in 0..policy.rules.len() {
        let _ = writeln!(script, "counter r{i} {{ }}");
    }
    let _ = writeln!(
        script,
        "chain c {{ type filter hook {hook} device \"{interface}\" priority 0; policy drop;"
    );
    for (i, rule) in policy.rules.iter().enumerate() {
        let verdict = rule.action.name();
        for matches in nft_rule(rule) {
            let _ = writeln!(script, "{matches} counter name r{i} {verdict}");
        }
    }
    script.push_str("}\n}\n");
    let file = tempfile::NamedTempFile::new().expect("a file for the rules");
    std::fs::write(file.path(), &script).expect("writing the rules");
    run("nft", &["-f", &file.path().to_string_lossy()]);
}

fn nftables_packets(rules: usize) -> Vec<u64> {
    let json = run("nft", &["-j", "list", "counters"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("nft prints JSON");
    let mut packets = vec![0; rules];
    for entry in json["nftables"].as_array().expect("a list") {
        let counter = &entry["counter"];
        if let Some(index) = counter["name"].as_str().and_then(|n| n.strip_prefix('r')) {
            let index: usize = index.parse().expect("our own names");
            packets[index] = counter["packets"].as_u64().expect("a number");
        }
    }
    packets
}

/// Sends the same packets through an interface with the policy attached and one with nftables.
/// Compares the counters of each rule, and on egress which packets have left.
fn same_as_nftables(policy: &Policy, direction: Direction, packets: usize, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let frames: Vec<Frame> = std::iter::repeat_with(|| {
        let packet = oracle::Packet {
            direction,
            ..testing::packet(&mut rng, policy)
        };
        frame_of(&mut rng, &packet)
    })
    .take(packets)
    .collect();

    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        sandbox.veth("nf0", "nf1");
        let applied = apply(policy, &sandbox.options("sg0"));
        applied.unwrap_or_else(|e| panic!("apply: {e}"));
        load_nftables(policy, direction, "nf0");
        let (ours, theirs) = match direction {
            Direction::Inbound => (RawSender::new("sg1"), RawSender::new("nf1")),
            Direction::Outbound => (RawSender::new("sg0"), RawSender::new("nf0")),
        };
        // A frame that is sent to the hook is lost where the receiver's queue is full. It is sent
        // again then. Where the hook is the sender's own, its verdict decides whether it leaves.
        let send = |by: &RawSender, frame: &Frame| {
            let mut attempts = 0;
            loop {
                let has_left = by.send(frame.bytes());
                if has_left || direction == Direction::Outbound || attempts == 10_000 {
                    return has_left;
                }
                attempts += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        for (i, frame) in frames.iter().enumerate() {
            let (ours, theirs) = (send(&ours, frame), send(&theirs, frame));
            assert_eq!(ours, theirs, "seed {seed}, packet {i}: whether it left");
            if i % 256 == 255 {
                // The receiving threads share the two cores. A pause keeps their queues from
                // overflowing.
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        }
        let scope = Scope::Interface("sg0".into());
        let read = || {
            let attached = attached(sandbox.bpffs(), &scope).expect("attached");
            counters(&attached[0]).expect("counters can be read")
        };
        let total = |counted: &Counters| counted.totals[direction as usize].packets;
        let mut counted = read();
        for _ in 0..3000 {
            if total(&counted) == packets as u64 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            counted = read();
        }
        assert_eq!(total(&counted), packets as u64, "every packet is counted");
        let rules = policy.rules.len();
        let ours: Vec<u64> = counted.rules.iter().map(|r| r.packets).collect();
        let theirs = nftables_packets(rules);
        let hit = ours.iter().filter(|n| **n > 0).count();
        assert!(hit > 0, "the packets match some rules");
        for i in 0..rules {
            assert_eq!(
                ours[i], theirs[i],
                "rule {} ({}), seed {seed}",
                policy.rules[i].position, policy.rules[i].summary
            );
        }
    });
}

/// 1,000 random rules of one direction, with nested prefixes and port ranges.
fn rules(direction: Direction, seed: u64) -> Policy {
    let shape = Shape {
        rules: 1000,
        ipv6: 25,
        inbound_only: true,
    };
    let text = testing::rules(&mut Rng::with_seed(seed), shape);
    let mut policy = rules_from_lines(&match direction {
        Direction::Inbound => text,
        Direction::Outbound => text.replace("in ", "out ").replace(" from ", " to "),
    });
    policy.essential = false;
    policy
}

/// Proves P2, P4, P5, K1 and A1 against an independent implementation, for inbound packets.
#[test]
fn each_inbound_rule_counts_what_the_same_rule_in_nftables_counts() {
    for seed in [11, 12] {
        let direction = Direction::Inbound;
        same_as_nftables(&rules(direction, seed), direction, rounds(20_000), seed);
    }
}

/// Proves P2, P4, P5, K1 and A1 against an independent implementation, for outbound packets.
#[test]
fn each_outbound_rule_counts_what_the_same_rule_in_nftables_counts() {
    for seed in [13, 14] {
        let direction = Direction::Outbound;
        same_as_nftables(&rules(direction, seed), direction, rounds(20_000), seed);
    }
}

/// Proves P2 and A1 with the ClassBench rule sets, which are read from `SG_DATA`. Without that
/// variable there is nothing to compare, and `cargo xtask test` reports it.
#[test]
fn classbench_rules_count_as_in_nftables() {
    let Some(data) = std::env::var_os("SG_DATA") else {
        return;
    };
    let path = std::path::Path::new(&data).join("classbench/acl1_1k.rules");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("SG_DATA is set, but {}: {e}", path.display()));
    let mut rules = String::new();
    for (i, line) in text.lines().enumerate() {
        let word: Vec<&str> = line.trim_start_matches('@').split_whitespace().collect();
        // The columns: source, destination, source ports, destination ports, protocol/mask, flags.
        let [source, _, _, ":", _, first, ":", last, protocol, ..] = word[..] else {
            panic!("{}:{}: unexpected columns", path.display(), i + 1);
        };
        let action = if i % 3 == 0 { "drop" } else { "accept" };
        let protocol = match protocol {
            "0x06/0xFF" => format!("tcp {first}-{last}"),
            "0x11/0xFF" => format!("udp {first}-{last}"),
            "0x01/0xFF" => "icmp".to_owned(),
            "0x00/0x00" => "all".to_owned(),
            other => panic!("{}:{}: protocol {other}", path.display(), i + 1),
        };
        let _ = writeln!(rules, "in {protocol} from {source} {action}");
    }
    same_as_nftables(
        &rules_from_lines(&rules),
        Direction::Inbound,
        rounds(20_000),
        5,
    );
}
