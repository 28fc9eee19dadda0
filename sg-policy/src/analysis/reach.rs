//! Whether the rules let one kind of packet pass from or to any address of a part of the address
//! space; and findings about what a node is cut off from where they do not.

use sg_common::protocol::{IPPROTO_ICMP as ICMP, IPPROTO_ICMPV6 as ICMPV6};

use crate::policy::{
    Action, Cover, Direction, Finding, Lint, Policy, Prefix, Protocol, Remote, Rule,
    is_whole_family, mask4, mask6,
};

const TCP: u8 = 6;
const SSH: u16 = 22;
/// Where a control plane's API server usually listens.
const API_SERVER: u16 = 6443;
/// Where a node's kubelet listens: what a node or pod that belongs to the cluster has to reach.
const KUBELET: u16 = 10250;

/// A packet without its addresses.
#[derive(Clone, Copy)]
struct Probe {
    direction: Direction,
    protocol: u8,
    /// The destination port, or the ICMP type.
    number: u16,
}

impl Probe {
    fn tcp(direction: Direction, port: u16) -> Probe {
        Probe {
            direction,
            protocol: TCP,
            number: port,
        }
    }

    fn is_matched(self, rule: &Rule) -> bool {
        let is_protocol = match rule.protocol {
            Protocol::All => true,
            Protocol::Number(number) => number == self.protocol,
        };
        let is_port = |(first, last): &(u16, u16)| (*first..=*last).contains(&self.number);
        is_protocol
            && rule.direction == self.direction
            && rule
                .ports
                .as_ref()
                .is_none_or(|ports| ports.iter().any(is_port))
            && rule.icmp.is_none_or(|icmp| {
                u16::from(icmp.kind) == self.number && matches!(icmp.code, None | Some(0))
            })
    }

    /// True when the packet passes from or to at least one address that is not in `aside`.
    fn passes_outside(self, policy: &Policy, aside: &Cover) -> bool {
        let mut closed = aside.clone();
        let mut dropped = Vec::new();
        for rule in policy.rules.iter().filter(|rule| self.is_matched(rule)) {
            // What is only watched is closed too: it is to be dropped.
            if rule.action != Action::Accept {
                dropped.push(Cover::of(&rule.remote));
                continue;
            }
            closed = closed.and(&std::mem::take(&mut dropped));
            // An address that an earlier rule has accepted would have been found there.
            if !closed.covers(&Cover::of(&rule.remote)) {
                return true;
            }
        }
        false
    }
}

fn v4(octets: [u8; 4], len: u8) -> Prefix<u32> {
    let bits = u32::from_be_bytes(octets) & mask4(len);
    Prefix { bits, len }
}

fn v6(first: u16, len: u8) -> Prefix<u128> {
    let bits = (u128::from(first) << 112) & mask6(len);
    Prefix { bits, len }
}

fn cover(v4: &[Prefix<u32>], v6: &[Prefix<u128>]) -> Cover {
    Cover::of(&Remote {
        v4: v4.to_vec(),
        v6: v6.to_vec(),
    })
}

const WHOLE4: Prefix<u32> = Prefix { bits: 0, len: 0 };
const WHOLE6: Prefix<u128> = Prefix { bits: 0, len: 0 };

/// What no node can reach through: RFC 1918, 3927, 6598 and 4193, and link-local addresses.
fn private() -> (Vec<Prefix<u32>>, Vec<Prefix<u128>>) {
    let v4 = vec![
        v4([10, 0, 0, 0], 8),
        shared_addresses(),
        v4([169, 254, 0, 0], 16),
        v4([172, 16, 0, 0], 12),
        v4([192, 168, 0, 0], 16),
    ];
    (v4, vec![v6(0xfc00, 7), v6(0xfe80, 10)])
}

/// 100.64.0.0/10, which some clouds give to pods and nodes (RFC 6598).
fn shared_addresses() -> Prefix<u32> {
    v4([100, 64, 0, 0], 10)
}

/// The finding for a policy by which nobody can open an SSH session with the node, or in a cluster
/// only those that may send everything: its pods and nodes.
pub(crate) fn ssh(policy: &Policy, is_cluster: bool) -> Option<Finding> {
    let probe = Probe::tcp(Direction::Inbound, SSH);
    let message = if !probe.passes_outside(policy, &Cover::default()) {
        "no rule lets anybody reach SSH (tcp 22): no new session with this node can be opened"
    } else if is_cluster && !probe.passes_outside(policy, &sends_everything(policy)) {
        "no rule lets anybody but pods and nodes reach SSH (tcp 22): nobody else can open a session \
         with this node"
    } else {
        return None;
    };
    let help = match is_cluster {
        true => "name who administers the node: `--set admin=...`",
        false => "see to another way in, or name who administers the node in a rule for tcp 22",
    };
    Some(Finding::warning(Lint::SshClosed, message).help(help))
}

/// The finding for a policy that has IPv6 rules and turns essential traffic off, and by which no
/// neighbour of the node can be found (RFC 4861).
pub(crate) fn neighbours(policy: &Policy) -> Option<Finding> {
    const NAMES: [(&str, u16); 2] = [
        ("neighbour-solicitation", 135),
        ("neighbour-advertisement", 136),
    ];
    let has_v6 = |rule: &Rule| rule.action == Action::Accept && !rule.remote.v6.is_empty();
    if policy.essential || !policy.rules.iter().any(has_v6) {
        return None;
    }
    let not_v6 = cover(&[WHOLE4], &[]);
    let mut closed = Vec::new();
    for direction in Direction::BOTH {
        for (name, number) in NAMES {
            let probe = Probe {
                direction,
                protocol: ICMPV6,
                number,
            };
            if !probe.passes_outside(policy, &not_v6) {
                closed.push(format!("{name} {}", direction.name()));
            }
        }
    }
    if closed.is_empty() {
        return None;
    }
    let message = format!(
        "`essential: false`, and no rule accepts neighbour discovery ({}): without it the node finds no \
         IPv6 neighbour, and none finds it",
        closed.join(", ")
    );
    let help = "accept icmpv6 135 and 136 from and to the addresses of the link, in both directions; its \
                router's advertisements are type 134";
    Some(Finding::note(Lint::NeighboursClosed, message).help(help))
}

/// The addresses from which rules accept all protocols, all of IPv4 and all of IPv6 aside.
fn sends_everything(policy: &Policy) -> Cover {
    let rules = policy.rules_of(Direction::Inbound).filter(|rule| {
        rule.action == Action::Accept
            && rule.protocol == Protocol::All
            && !is_whole_family(&rule.remote)
    });
    let covers: Vec<Cover> = rules.map(|rule| Cover::of(&rule.remote)).collect();
    Cover::default().and(&covers)
}

/// Findings about what a policy for a node of a cluster cuts off in most clusters.
pub(crate) fn cluster(policy: &Policy, findings: &mut Vec<Finding>) {
    let kubelet = Probe::tcp(Direction::Inbound, KUBELET);
    let ten = cover(&[v4([10, 0, 0, 0], 8)], &[]);
    let is_wide = policy.rules.iter().any(|rule| {
        rule.action == Action::Accept
            && kubelet.is_matched(rule)
            && Cover::of(&rule.remote).covers(&ten)
    });
    // A policy that names the cluster's own ranges needs no note about other ranges.
    if is_wide {
        let shared = cover(&[shared_addresses()], &[]);
        if !kubelet.passes_outside(policy, &shared.complement()) {
            findings.push(
                Finding::note(
                    Lint::SharedAddressesClosed,
                    "nodes and pods with addresses of 100.64.0.0/10 are cut off: no rule for pods \
                     or nodes has them",
                )
                .help("name the cluster's own ranges: `--set pods=...` and `--set nodes=...`"),
            );
        }
        let global = cover(&[], &[v6(0x2000, 3)]);
        if !kubelet.passes_outside(policy, &global.complement()) {
            findings.push(
                Finding::note(
                    Lint::GlobalIpv6Closed,
                    "nodes and pods with global IPv6 addresses are cut off: no rule for pods or \
                     nodes has them",
                )
                .help("name the cluster's own ranges: `--set pods=...` and `--set nodes=...`"),
            );
        }
    }
    let (private4, private6) = private();
    let private = cover(&private4, &private6);
    let api_server = Probe::tcp(Direction::Outbound, API_SERVER);
    if !api_server.passes_outside(policy, &private) {
        findings.push(
            Finding::note(
                Lint::ApiServerClosed,
                "an API server at a public address cannot be reached on port 6443: outbound tcp \
                 6443 is accepted to private addresses at most",
            )
            .help("name the control plane's addresses among the nodes: `--set nodes=...`"),
        );
    }
    let is_closed = |direction| {
        let echo4 = Probe {
            direction,
            protocol: ICMP,
            number: 8,
        };
        let echo6 = Probe {
            direction,
            protocol: ICMPV6,
            number: 128,
        };
        !echo4.passes_outside(policy, &cover(&private4, &[WHOLE6]))
            && !echo6.passes_outside(policy, &cover(&[WHOLE4], &private6))
    };
    let what = match (
        is_closed(Direction::Inbound),
        is_closed(Direction::Outbound),
    ) {
        (false, false) => return,
        (true, true) => "the node answers no ping from public addresses, and cannot ping them",
        (true, false) => "the node answers no ping from public addresses",
        (false, true) => "the node cannot ping public addresses",
    };
    findings.push(
        Finding::note(Lint::PingClosed, format!("{what}: no rule accepts the echo requests"))
            .help("a monitor that pings the node can be named in a rule: `protocol: icmp, icmp: {type: echo-request}`"),
    );
}
