//! Seeded generators of rules and packets for tests and benchmarks. Rules come as lines of text,
//! so that a failing case can be read and pasted.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use sg_common::verdict::Direction;

use crate::oracle;
pub use crate::oracle::{kind_and_number, packet_of};
use crate::policy::{Policy, Prefix, Protocol};

/// What a generated rule list is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub rules: usize,
    /// Share of IPv6 rules, in percent.
    pub ipv6: u8,
    /// Only inbound rules, of protocols whose packets nftables can match just as well.
    pub inbound_only: bool,
}

/// Random rules: nested and overlapping prefixes, ranges and lists of them, port lists and ranges,
/// every protocol, accept and drop mixed.
pub fn rules(rng: &mut Rng, shape: Shape) -> String {
    let mut text = String::new();
    // A few networks that most rules are inside of, so that they nest and overlap.
    let seeds4: Vec<u32> = (0..8).map(|_| rng.u32(..)).collect();
    let seeds6: Vec<u128> = (0..4)
        .map(|_| 0x2001_0db8 << 96 | u128::from(rng.u64(..)) << 32)
        .collect();
    for _ in 0..shape.rules {
        let inbound = shape.inbound_only || rng.u8(..3) < 2;
        let v6 = rng.u8(..100) < shape.ipv6;
        let mut remotes = remote(rng, v6, &seeds4, &seeds6);
        if remotes != "any" && rng.u8(..8) == 0 {
            let another = remote(rng, v6, &seeds4, &seeds6);
            if another != "any" && another != remotes {
                remotes = format!("{remotes},{another}");
            }
        }
        let protocol = match rng.u8(..12) {
            0..=4 => format!("tcp{}", ports(rng)),
            5..=7 => format!("udp{}", ports(rng)),
            8 => format!("sctp{}", ports(rng)),
            9 => icmp(rng, v6),
            10 => "all".to_owned(),
            _ if !shape.inbound_only && rng.bool() => match rng.u8(..) {
                // ICMP has rules of its own above.
                1 | 58 => "esp".to_owned(),
                // In IPv6 these are extension headers and never the protocol.
                0 | 43 | 44 | 51 | 60 if v6 => "esp".to_owned(),
                number => number.to_string(),
            },
            _ => rng
                .choice(["gre", "esp", "47", "89", "112"])
                .unwrap_or("gre")
                .to_owned(),
        };
        let _ = writeln!(
            text,
            "{} {protocol} {} {remotes} {}",
            if inbound { "in" } else { "out" },
            if inbound { "from" } else { "to" },
            if rng.bool() { "accept" } else { "drop" },
        );
    }
    text
}

/// A random policy file with everything that one may have: settings, sets that nest, groups, and
/// rules with names and descriptions that YAML could take for something else. `name` is in the
/// names of its groups, so that several of different names can be one policy; their sets have the
/// same names.
pub fn policy_file(rng: &mut Rng, name: &str) -> String {
    let mut text = String::from("# A random policy.\n");
    if rng.bool() {
        let _ = writeln!(text, "name: {name}");
    }
    if rng.u8(..3) == 0 {
        let _ = writeln!(text, "description: {}", awkward(rng));
    }
    // Files of one policy must agree, so that settings depend on nothing that differs.
    if name == "a" {
        settings(rng, &mut text);
    }
    let seeds = Seeds {
        v4: (0..4).map(|_| rng.u32(..)).collect(),
        v6: (0..2)
            .map(|_| 0x2001_0db8 << 96 | u128::from(rng.u64(..)))
            .collect(),
    };
    sets(rng, &seeds, &mut text);
    match rng.usize(..4) {
        0 | 1 => text.push_str(&lists(rng, &seeds, "")),
        groups => {
            text.push_str("groups:\n");
            for group in 0..groups {
                let _ = writeln!(text, "  - name: {name} group {group}");
                if rng.bool() {
                    let _ = writeln!(text, "    description: {}", awkward(rng));
                }
                text.push_str(&lists(rng, &seeds, "    "));
            }
        }
    }
    text
}

/// The networks that most rules of a file are inside of.
struct Seeds {
    v4: Vec<u32>,
    v6: Vec<u128>,
}

impl Seeds {
    fn remote(&self, rng: &mut Rng, v6: bool) -> String {
        format!("{:?}", remote(rng, v6, &self.v4, &self.v6))
    }
}

/// The address sets that every file has.
const SETS: [&str; 4] = ["alpha", "beta", "gamma", "everyone"];

fn sets(rng: &mut Rng, seeds: &Seeds, text: &mut String) {
    text.push_str("address-sets:\n");
    for (index, set) in SETS.into_iter().enumerate() {
        let mut entries: Vec<String> = (0..rng.usize(..5))
            .map(|_| {
                let v6 = rng.bool();
                seeds.remote(rng, v6)
            })
            .collect();
        if set == "everyone" {
            entries = vec!["0.0.0.0/1".to_owned(), "128.0.0.0/1".to_owned()];
        } else if index > 0 && rng.bool() {
            entries.push(SETS[rng.usize(..index)].to_owned());
        }
        let _ = writeln!(text, "  {set}: [{}]", entries.join(", "));
    }
    let list = port_list(rng);
    let _ = writeln!(
        text,
        "port-sets:\n  web: [80, 443]\n  some: [web, {list}]\n  closed: []"
    );
}

fn port_list(rng: &mut Rng) -> String {
    match ports(rng).trim() {
        "" => "0-65535".to_owned(),
        list => list.to_owned(),
    }
}

/// The lists of rules of both directions; sometimes one is missing, or ends with a rule that drops
/// the rest.
fn lists(rng: &mut Rng, seeds: &Seeds, indent: &str) -> String {
    let mut text = String::new();
    for (direction, side) in [("inbound", "from"), ("outbound", "to")] {
        if rng.u8(..5) == 0 {
            continue;
        }
        let _ = writeln!(text, "{indent}{direction}:");
        for _ in 0..rng.usize(1..5) {
            let _ = writeln!(text, "{indent}  - {}", one_rule(rng, seeds, side));
        }
        if rng.bool() {
            let whole = rng
                .choice(["any", "0.0.0.0/0", "everyone"])
                .unwrap_or("any");
            let log = if rng.bool() { ", log: true" } else { "" };
            let _ = writeln!(
                text,
                "{indent}  - {{protocol: all, {side}: {whole}, action: drop{log}}}"
            );
        }
    }
    text
}

fn one_rule(rng: &mut Rng, seeds: &Seeds, side: &str) -> String {
    let v6 = rng.bool();
    let literal = seeds.remote(rng, v6);
    let set = SETS[rng.usize(..SETS.len())];
    let (protocol, remote) = match rng.u8(..8) {
        0..=3 => {
            let protocol = rng.choice(["tcp", "udp", "sctp"]).unwrap_or("tcp");
            let list = match rng.u8(..4) {
                0 => String::new(),
                1 => ", ports: [some, 8080]".to_owned(),
                2 => format!(
                    ", ports: {}",
                    rng.choice(["web", "closed"]).unwrap_or("web")
                ),
                _ => format!(", ports: \"{}\"", port_list(rng)),
            };
            (format!("{protocol}{list}"), format!("[{literal}, {set}]"))
        }
        4 => {
            let kind = rng.u8(..20);
            let name = if v6 { "icmpv6" } else { "icmp" };
            (format!("{name}, icmp: {{type: {kind}, code: 1}}"), literal)
        }
        5 => ("gre".to_owned(), set.to_owned()),
        6 => ("112".to_owned(), literal),
        _ => ("all".to_owned(), set.to_owned()),
    };
    let action = if rng.bool() { "accept" } else { "drop" };
    let mut more = String::new();
    if rng.u8(..3) == 0 {
        more.push_str(", log: true");
    }
    if rng.u8(..3) == 0 {
        let _ = write!(more, ", name: {}", awkward(rng));
    }
    if rng.u8(..3) == 0 {
        let _ = write!(more, ", description: {}", awkward(rng));
    }
    format!("{{protocol: {protocol}, {side}: {remote}, action: {action}{more}}}")
}

fn settings(rng: &mut Rng, text: &mut String) {
    for (key, values) in [
        ("trailing-deny", &["defer", "honour"][..]),
        ("essential", &["true", "false"]),
        ("non-ip", &["accept", "arp-only"]),
        ("established", &["revalidate", "keep", "flush"]),
        ("log-no-match", &["true", "false", "inbound", "outbound"]),
        (
            "guard",
            &[
                "[{protocol: tcp, ports: [22, 80-90], from: any, description: us}]",
                "[{protocol: icmp, from: 10.0.0.0/8}, {protocol: udp, ports: 53, from: [192.0.2.1-192.0.2.9, '2001:db8::/32']}]",
            ],
        ),
        (
            "timeouts",
            &["{udp: 31, tcp-established: 1d}", "{icmp: 90}"],
        ),
    ] {
        if rng.u8(..3) == 0
            && let Some(value) = rng.choice(values)
        {
            let _ = writeln!(text, "{key}: {value}");
        }
    }
}

/// Text that has to be quoted, or nearly, in single quotes.
fn awkward(rng: &mut Rng) -> String {
    let parts = [
        "yes", "no", "22", ": ", "#", "'", "\"", "\\", "- ", "a", "{b}", "größe", "\u{feff}", "&x",
        "*", "!", "%", "@", "`", ",", "null", "~",
    ];
    let text: String = (0..rng.usize(1..4))
        .map(|_| *rng.choice(parts.iter()).unwrap_or(&"a"))
        .collect();
    match text.trim() {
        "" => "x".to_owned(),
        text => format!("'{}'", text.replace('\'', "''")),
    }
}

fn remote(rng: &mut Rng, v6: bool, seeds4: &[u32], seeds6: &[u128]) -> String {
    match rng.u8(..12) {
        0 => "any".to_owned(),
        1 if v6 => "::/0".to_owned(),
        1 => "0.0.0.0/0".to_owned(),
        2 if !v6 => range4(rng, seeds4),
        _ if v6 => prefix6(rng, seeds6),
        _ => prefix4(rng, seeds4),
    }
}

fn prefix4(rng: &mut Rng, seeds: &[u32]) -> String {
    let seed = seeds[rng.usize(..seeds.len())];
    let len = *rng
        .choice(&[6, 8, 12, 15, 16, 17, 20, 23, 24, 25, 28, 31, 32])
        .unwrap_or(&24);
    // Keep the first bits of the seed, so that shorter prefixes contain longer ones.
    let noise = rng.u32(..).checked_shr(rng.u32(4..32)).unwrap_or(0);
    let bits = (seed ^ noise) & u32::MAX.checked_shl(32 - len).unwrap_or(0);
    format!("{}/{len}", Ipv4Addr::from(bits))
}

/// A range that is no prefix as a rule.
fn range4(rng: &mut Rng, seeds: &[u32]) -> String {
    let noise = rng.u32(..).checked_shr(rng.u32(4..32)).unwrap_or(0);
    let first = seeds[rng.usize(..seeds.len())] ^ noise;
    let len = rng.u32(..).checked_shr(rng.u32(8..32)).unwrap_or(0);
    let last = first.saturating_add(len);
    format!("{}-{}", Ipv4Addr::from(first), Ipv4Addr::from(last))
}

fn prefix6(rng: &mut Rng, seeds: &[u128]) -> String {
    let seed = seeds[rng.usize(..seeds.len())];
    let len = *rng
        .choice(&[16, 32, 48, 56, 64, 65, 96, 127, 128])
        .unwrap_or(&64);
    let noise = rng.u128(..).checked_shr(rng.u32(24..128)).unwrap_or(0);
    let bits = (seed ^ noise) & u128::MAX.checked_shl(128 - len).unwrap_or(0);
    format!("{}/{len}", Ipv6Addr::from(bits))
}

fn ports(rng: &mut Rng) -> String {
    let mut list = Vec::new();
    for _ in 0..rng.usize(..4) {
        let first = port(rng);
        match rng.u8(..3) {
            0 => list.push(first.to_string()),
            1 => list.push(format!("{first}-{}", first.saturating_add(rng.u16(..20)))),
            _ => list.push(format!("{first}-{}", rng.u16(first..))),
        }
    }
    match list.as_slice() {
        [] => String::new(),
        list => format!(" {}", list.join(",")),
    }
}

/// A port, mostly one of a few, and sometimes an extreme.
fn port(rng: &mut Rng) -> u16 {
    match rng.u8(..4) {
        0 => *rng
            .choice(&[0, 1, 22, 53, 80, 255, 256, 443, 65535])
            .unwrap_or(&22),
        1 => rng.u16(1..1024),
        _ => rng.u16(..),
    }
}

fn icmp(rng: &mut Rng, v6: bool) -> String {
    let name = if v6 { "icmpv6" } else { "icmp" };
    match rng.u8(..3) {
        0 => name.to_owned(),
        1 => format!("{name} {}", rng.u8(..20)),
        _ => format!("{name} {}/{}", rng.u8(..20), rng.u8(..4)),
    }
}

/// A random packet, most of the time at or just beyond the edge of some rule.
pub fn packet(rng: &mut Rng, policy: &Policy) -> oracle::Packet {
    let rule = match policy.rules.len() {
        0 => None,
        n => Some(&policy.rules[rng.usize(..n)]),
    };
    let direction = match rule {
        Some(rule) if rng.u8(..8) != 0 => rule.direction,
        _ if rng.bool() => Direction::Inbound,
        _ => Direction::Outbound,
    };
    let remote = rule
        .filter(|_| rng.u8(..8) != 0)
        .and_then(|rule| {
            let (v4, v6) = (&rule.remote.v4, &rule.remote.v6);
            match (v4.is_empty(), v6.is_empty()) {
                (true, true) => None,
                (false, true) => Some(IpAddr::from(Ipv4Addr::from(edge4(rng, v4)))),
                (true, false) => Some(IpAddr::from(Ipv6Addr::from(edge6(rng, v6)))),
                (false, false) if rng.bool() => Some(Ipv4Addr::from(edge4(rng, v4)).into()),
                (false, false) => Some(Ipv6Addr::from(edge6(rng, v6)).into()),
            }
        })
        .unwrap_or_else(|| match rng.u8(..4) {
            0 => Ipv6Addr::from(rng.u128(..)).into(),
            _ => Ipv4Addr::from(rng.u32(..)).into(),
        });
    let protocol = match rule.map(|r| r.protocol) {
        Some(Protocol::Number(number)) if rng.u8(..8) != 0 => number,
        _ => *rng.choice(&[6, 17, 132, 1, 58, 47, 50, 89]).unwrap_or(&6),
    };
    // Sometimes at the edge of another rule's ports: what the tables of two prefixes have in
    // common ends there.
    let ports_of = match policy.rules.len() {
        n @ 1.. if rng.u8(..4) == 0 => Some(&policy.rules[rng.usize(..n)]),
        _ => rule,
    };
    let ports = ports_of
        .and_then(|r| r.ports.as_ref())
        .filter(|ports| !ports.is_empty() && rng.u8(..8) != 0);
    let port = match ports {
        None => rng.u16(..),
        Some(ports) => {
            let (first, last) = ports[rng.usize(..ports.len())];
            *rng.choice(&[first, last, first.wrapping_sub(1), last.wrapping_add(1)])
                .unwrap_or(&first)
        }
    };
    let icmp = match rule.and_then(|r| r.icmp) {
        Some(m) if rng.u8(..8) != 0 => (m.kind, m.code.unwrap_or_else(|| rng.u8(..4))),
        _ => (rng.u8(..20), rng.u8(..4)),
    };
    oracle::Packet {
        direction,
        remote,
        protocol,
        port,
        icmp,
    }
}

fn edge4(rng: &mut Rng, prefixes: &[Prefix<u32>]) -> u32 {
    let p = prefixes[rng.usize(..prefixes.len())];
    let size = u32::MAX.checked_shr(p.len.into()).unwrap_or(0);
    match rng.u8(..5) {
        0 => p.bits,
        1 => p.bits | size,
        2 => p.bits.wrapping_sub(1),
        3 => (p.bits | size).wrapping_add(1),
        _ => p.bits | rng.u32(..=size),
    }
}

fn edge6(rng: &mut Rng, prefixes: &[Prefix<u128>]) -> u128 {
    let p = prefixes[rng.usize(..prefixes.len())];
    let size = u128::MAX.checked_shr(p.len.into()).unwrap_or(0);
    match rng.u8(..5) {
        0 => p.bits,
        1 => p.bits | size,
        2 => p.bits.wrapping_sub(1),
        3 => (p.bits | size).wrapping_add(1),
        _ => p.bits | rng.u128(..=size),
    }
}
