//! The policies that are measured, and the packets that each is measured with. Everything is drawn
//! from seeds, apart from the rows that read `SG_DATA`.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use sg_bench_ebpf::Target;
use sg_policy::policy::{Policy, PolicyInput, load, load_text, rules_from_lines};

use crate::frames::{TCP, UDP};
use crate::nftables::Ruleset;
use crate::object::Traffic;

/// All ports.
const PORTS: u32 = 1 << 16;
/// Half of the packets.
const HALF: u32 = 1 << 15;
const ALWAYS: u32 = 1 << 16;

/// The last rule of most policies here: the node may open connections, so that the programs keep
/// state.
const OUTBOUND: &str = "out all to any accept\n";
/// The last rule of policies for outbound packets: others may open connections to the node.
const INBOUND: &str = "in all from any accept\n";

/// A policy, and what arrives.
pub(crate) struct Workload {
    pub(crate) policy: Policy,
    pub(crate) traffic: Traffic,
    pub(crate) note: String,
    /// Measure this in place of the policy.
    pub(crate) peer: Option<Peer>,
}

/// What is measured in place of the enforcer.
pub(crate) enum Peer {
    Nftables(Ruleset),
    /// xdp-filter with these addresses.
    XdpFilter(Vec<Ipv4Addr>),
}

/// UDP from anywhere to any port.
pub(crate) const ANYWHERE: Target = Target {
    base: [0; 4],
    mask: [u32::MAX; 4],
    port_base: 0,
    port_span: PORTS,
    port_or: 0,
    protocol: UDP,
};

pub(crate) fn uniform() -> Traffic {
    Traffic::Random4 {
        other: ANYWHERE,
        targets: Vec::new(),
        share: 0,
    }
}

/// Remote addresses that no private network contains.
fn public(ports: (u32, u32), protocol: u32) -> Traffic {
    let blocks = [
        (16 << 24, 4),
        (32 << 24, 3),
        (64 << 24, 2),
        (128 << 24, 3),
        (208 << 24, 4),
    ];
    within(&blocks, ports, protocol)
}

/// Remote addresses of private networks.
fn private(ports: (u32, u32), protocol: u32) -> Traffic {
    within(
        &[(10 << 24, 8), (0xac10 << 16, 12), (0xc0a8 << 16, 16)],
        ports,
        protocol,
    )
}

/// Remote addresses inside these prefixes, and ports: the first, and how many.
fn within(prefixes: &[(u32, u32)], ports: (u32, u32), protocol: u32) -> Traffic {
    let inside = |&(network, len)| inside4(network, len, ports.0, ports.1, 0, protocol);
    Traffic::Random4 {
        other: ANYWHERE,
        targets: prefixes.iter().map(inside).collect(),
        share: ALWAYS,
    }
}

pub(crate) fn builtin(name: &str) -> Result<Policy> {
    let loaded = load(&[PolicyInput::Builtin(name.into())], &[]);
    Ok(loaded.map_err(|e| anyhow::anyhow!("{e}"))?.policy)
}

pub(crate) fn tke_drop() -> Result<Workload> {
    Ok(Workload {
        policy: builtin("tke")?,
        traffic: public((1000, 29_000), UDP),
        peer: None,
        note: "UDP, public sources, ports 1000-29999".into(),
    })
}

/// As [`tke_drop`], with a candidate beside the policy.
pub(crate) fn tke_candidate_drop() -> Result<Workload> {
    let workload = tke_drop()?;
    Ok(Workload {
        note: format!("as live/tke/drop, half of it differs; {}", workload.note),
        ..workload
    })
}

/// The template with a rule more, which matches half of the public addresses.
pub(crate) fn tke_candidate() -> Result<Policy> {
    let rule = "- {protocol: udp, ports: 1000-29999, from: 0.0.0.0/1, action: accept}";
    let tke = sg_policy::policy::builtin("tke").context("the template is missing")?;
    let rules = format!("inbound:\n  {rule}\n");
    let text = tke.text.replacen("inbound:\n", &rules, 1);
    let loaded = load_text("candidate.yaml", &text, None, &[]);
    Ok(loaded.map_err(|e| anyhow::anyhow!("{e}"))?.policy)
}

pub(crate) fn tke_accept() -> Result<Workload> {
    Ok(Workload {
        policy: builtin("tke")?,
        traffic: public((30_000, 2768), UDP),
        peer: None,
        note: "UDP, public sources, ports 30000-32767".into(),
    })
}

/// What the template lets out, and whose replies it accepts: no flow entry.
pub(crate) fn tke_out() -> Result<Workload> {
    Ok(Workload {
        policy: builtin("tke")?,
        traffic: private((0, PORTS), UDP),
        peer: None,
        note: "UDP to private destinations, any port".into(),
    })
}

/// What the template lets out to destinations whose replies it does not accept: each packet begins
/// a flow, and finds the table full of others without a reply.
pub(crate) fn new_flows_out() -> Result<Workload> {
    Ok(Workload {
        policy: builtin("tke")?,
        traffic: public((0, PORTS), UDP),
        peer: None,
        note: "UDP to public destinations, each packet of a new flow that takes another's place"
            .into(),
    })
}

/// One rule with so many ports, each with a closed one beside it, and packets to all ports.
pub(crate) fn ports(count: u16) -> Result<Workload> {
    let apart = u16::MAX / count;
    let ports: Vec<String> = (0..count).map(|i| (i * apart + 7).to_string()).collect();
    let rule = format!("in udp {} from any accept\n{OUTBOUND}", ports.join(","));
    Ok(Workload {
        policy: rules_from_lines(&rule),
        traffic: uniform(),
        peer: None,
        note: "UDP from anywhere to any port".into(),
    })
}

/// Bare SYNs that the template drops.
pub(crate) fn flood() -> Result<Workload> {
    Ok(Workload {
        policy: builtin("tke")?,
        traffic: public((1000, 29_000), TCP),
        peer: None,
        note: "TCP SYN, public sources, ports 1000-29999".into(),
    })
}

/// Every packet begins a flow, and finds the table full of others without a reply.
pub(crate) fn new_flows() -> Result<Workload> {
    Ok(Workload {
        policy: rules_from_lines("in udp from any accept"),
        traffic: uniform(),
        peer: None,
        note: "UDP from anywhere, each packet of a new flow that takes another's place".into(),
    })
}

/// Each rule with a CIDR and a range of ports of its own. Half of the packets come from inside
/// some rule's CIDR, and none has a port of its rule: everything ends in the final drop.
pub(crate) fn rules(count: u32) -> Result<Workload> {
    let (inbound, targets) = rule_lines(count, "in", "from");
    Ok(Workload {
        policy: rules_from_lines(&(inbound + OUTBOUND)),
        traffic: beside_rules(targets),
        peer: None,
        note: "UDP, half from inside some rule's CIDR, all to ports of no rule".into(),
    })
}

/// As [`rules`], for outbound packets.
pub(crate) fn rules_out(count: u32) -> Result<Workload> {
    let (outbound, targets) = rule_lines(count, "out", "to");
    Ok(Workload {
        policy: rules_from_lines(&(outbound + INBOUND)),
        traffic: beside_rules(targets),
        peer: None,
        note: "UDP, half to inside some rule's CIDR, all to ports of no rule".into(),
    })
}

fn rule_lines(count: u32, direction: &str, remote: &str) -> (String, Vec<Target>) {
    let mut rng = Rng::with_seed(0x0072_756c_6573 + u64::from(count));
    let mut text = String::new();
    let mut targets = Vec::new();
    for _ in 0..count {
        let (network, len) = prefix4(&mut rng, 16..=32);
        // Ranges lie in the lower half of each thousand of ports, packets in the upper one.
        let first = rng.u16(..) & !0x3ff | rng.u16(..256);
        let last = first + rng.u16(1..256);
        let _ = writeln!(
            text,
            "{direction} udp {first}-{last} {remote} {}/{len} accept",
            Ipv4Addr::from(network)
        );
        targets.push(inside4(network, len, 0, PORTS, 0x200, UDP));
    }
    (text, targets)
}

fn beside_rules(targets: Vec<Target>) -> Traffic {
    Traffic::Random4 {
        other: Target {
            port_or: 0x200,
            ..ANYWHERE
        },
        targets,
        share: HALF,
    }
}

/// One rule with that many prefixes.
pub(crate) fn prefixes(count: u32, folder: &Path) -> Result<Workload> {
    let mut rng = Rng::with_seed(0x7072_6566 + u64::from(count));
    let mut seen = std::collections::HashSet::new();
    let mut text = String::new();
    while seen.len() < count as usize {
        let (network, len) = prefix4(&mut rng, 16..=32);
        if seen.insert((network, len)) {
            let _ = writeln!(text, "{}/{len}", Ipv4Addr::from(network));
        }
    }
    Ok(Workload {
        policy: blocklist(folder, &format!("prefixes-{count}"), &text)?,
        traffic: uniform(),
        peer: None,
        note: "UDP, sources over all of IPv4; /16 to /32, all lengths alike".into(),
    })
}

/// One rule with that many single addresses, which cannot be aggregated.
pub(crate) fn hosts(count: u32, folder: &Path) -> Result<Workload> {
    let mut rng = Rng::with_seed(0x686f_7374 + u64::from(count));
    let mut text = String::new();
    for _ in 0..count {
        let _ = writeln!(text, "{}", Ipv4Addr::from(rng.u32(..)));
    }
    Ok(Workload {
        policy: blocklist(folder, &format!("hosts-{count}"), &text)?,
        traffic: uniform(),
        peer: None,
        note: "UDP, sources over all of IPv4; scattered /32".into(),
    })
}

pub(crate) fn prefixes6(count: u32, folder: &Path) -> Result<Workload> {
    let mut rng = Rng::with_seed(0x7072_6536 + u64::from(count));
    let mut text = String::new();
    let mut targets = Vec::new();
    for _ in 0..count {
        let len = if rng.u8(..4) == 0 {
            128
        } else {
            rng.u32(32..=64)
        };
        let bits = 0x2 << 124 | rng.u128(..) >> 3;
        let bits = bits & u128::MAX << (128 - len);
        let _ = writeln!(text, "{}/{len}", Ipv6Addr::from(bits));
        let host = u128::MAX.checked_shr(len).unwrap_or(0);
        targets.push(Target {
            base: words6(bits),
            mask: words6(host),
            ..ANYWHERE
        });
    }
    let other = Target {
        base: words6(0x2 << 124),
        mask: words6(u128::MAX >> 3),
        ..ANYWHERE
    };
    Ok(Workload {
        policy: blocklist(folder, &format!("prefixes6-{count}"), &text)?,
        traffic: Traffic::Random6 {
            other,
            targets,
            share: HALF,
        },
        peer: None,
        note: "UDP, half from inside some prefix, half from 2000::/3; /32 to /64, a quarter /128"
            .into(),
    })
}

/// Replies of the node in flows that others opened: the rules do not accept them.
pub(crate) fn flow_out(flows: u32) -> Result<Workload> {
    Ok(Workload {
        policy: rules_from_lines(&format!("out tcp 22 to any accept\n{INBOUND}")),
        traffic: Traffic::Reply4 { flows },
        peer: None,
        note: format!("UDP replies in {flows} flows at random"),
    })
}

/// Replies in flows that the node opened: the rules do not accept them.
pub(crate) fn flow(flows: u32) -> Result<Workload> {
    Ok(Workload {
        policy: rules_from_lines(&format!("in tcp 22 from any accept\n{OUTBOUND}")),
        traffic: Traffic::Reply4 { flows },
        peer: None,
        note: format!("UDP replies in {flows} flows at random"),
    })
}

/// The blocklist of the data folder.
pub(crate) fn ipsum(data: &Path, folder: &Path) -> Result<Workload> {
    let path = data.join("ipsum.txt");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let addresses = text
        .lines()
        .filter_map(|line| line.trim().parse::<Ipv4Addr>().ok());
    let targets: Vec<Target> = addresses
        .map(|address| inside4(address.into(), 32, 0, PORTS, 0, UDP))
        .collect();
    Ok(Workload {
        peer: None,
        note: format!("UDP, half from one of {} listed addresses", targets.len()),
        policy: blocklist(folder, "ipsum", &text)?,
        traffic: Traffic::Random4 {
            other: ANYWHERE,
            targets,
            share: HALF,
        },
    })
}

/// A rule set of the data folder: source, destination ports and protocol of each line. All of them
/// drop, so that there is one floor.
pub(crate) fn classbench(name: &str, data: &Path) -> Result<Workload> {
    let (rules, targets) = classbench_rules(name, data)?;
    Ok(Workload {
        peer: None,
        note: format!(
            "{} rules; half of the packets match one; TCP as SYN",
            targets.len()
        ),
        policy: rules_from_lines(&(rules + OUTBOUND)),
        traffic: Traffic::Random4 {
            other: ANYWHERE,
            targets,
            share: HALF,
        },
    })
}

/// A rule set of the data folder as a policy file.
pub(crate) fn classbench_file(name: &str, data: &Path, folder: &Path) -> Result<PathBuf> {
    let (rules, _) = classbench_rules(name, data)?;
    let mut yaml = format!("name: {name}\ninbound:\n");
    for line in rules.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (ports, source) = match words[..] {
            [_, _, ports, _, source, _] => (format!(", ports: {ports}"), source),
            [_, _, _, source, _] => (String::new(), source),
            _ => anyhow::bail!("`{line}` is no rule"),
        };
        let protocol = words[1];
        let _ = writeln!(
            yaml,
            "- {{protocol: {protocol}{ports}, from: {source}, action: drop}}"
        );
    }
    yaml.push_str("outbound:\n- {protocol: all, to: any, action: accept}\n");
    let path = folder.join(format!("{name}.yaml"));
    std::fs::write(&path, yaml).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Rules as lines, and where packets that match them come from.
fn classbench_rules(name: &str, data: &Path) -> Result<(String, Vec<Target>)> {
    let path = data.join("classbench").join(format!("{name}.rules"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut rules = String::new();
    let mut targets = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let place = || format!("{}:{number}: unexpected columns", path.display());
        let words: Vec<&str> = line.trim_start_matches('@').split_whitespace().collect();
        let [source, _, _, ":", _, first, ":", last, protocol, ..] = words[..] else {
            anyhow::bail!(place());
        };
        let (value, mask) = protocol.split_once('/').with_context(place)?;
        let value = u32::from_str_radix(value.trim_start_matches("0x"), 16).with_context(place)?;
        let ports: (u32, u32) = (first.parse()?, last.parse()?);
        let (network, len) = source.split_once('/').with_context(place)?;
        let network: u32 = network.parse::<Ipv4Addr>().with_context(place)?.into();
        let len: u32 = len.parse().with_context(place)?;
        let service = match (mask, value) {
            ("0x00", _) => "all".to_owned(),
            (_, TCP) => format!("tcp {first}-{last}"),
            (_, UDP) => format!("udp {first}-{last}"),
            (_, number) => number.to_string(),
        };
        let _ = writeln!(rules, "in {service} from {source} drop");
        let protocol = if value == TCP && mask != "0x00" {
            TCP
        } else {
            UDP
        };
        targets.push(inside4(
            network,
            len,
            ports.0,
            ports.1 - ports.0 + 1,
            0,
            protocol,
        ));
    }
    Ok((rules, targets))
}

/// One rule that drops what is listed.
fn blocklist(folder: &Path, name: &str, list: &str) -> Result<Policy> {
    let (file, yaml) = blocklist_files(folder, name, list)?;
    let loaded = load_text(&file.display().to_string(), &yaml, Some(folder), &[]);
    Ok(loaded.map_err(|e| anyhow::anyhow!("{e}"))?.policy)
}

/// Writes the list, and the policy that names it.
pub(crate) fn blocklist_files(folder: &Path, name: &str, list: &str) -> Result<(PathBuf, String)> {
    let set = folder.join(format!("{name}.txt"));
    std::fs::write(&set, list).with_context(|| set.display().to_string())?;
    let yaml = format!(
        "name: {name}\n\
         address-sets:\n  blocked: {{file: {name}.txt}}\n\
         inbound:\n\
         - {{protocol: all, from: blocked, action: drop}}\n\
         outbound:\n\
         - {{protocol: all, to: any, action: accept}}\n"
    );
    let file = folder.join(format!("{name}.yaml"));
    std::fs::write(&file, &yaml).with_context(|| file.display().to_string())?;
    Ok((file, yaml))
}

fn prefix4(rng: &mut Rng, lens: std::ops::RangeInclusive<u32>) -> (u32, u32) {
    let len = rng.u32(lens);
    (rng.u32(..) & u32::MAX << (32 - len), len)
}

fn inside4(
    network: u32,
    len: u32,
    port_base: u32,
    port_span: u32,
    port_or: u32,
    protocol: u32,
) -> Target {
    Target {
        base: [network, 0, 0, 0],
        mask: [u32::MAX.checked_shr(len).unwrap_or(0), 0, 0, 0],
        port_base,
        port_span,
        port_or,
        protocol,
    }
}

fn words6(bits: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
}
