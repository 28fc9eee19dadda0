//! The naive evaluator: walks the rules in order and takes the first that matches (SPEC P2).
//! Slow and obvious on purpose; the compiled tables and the kernel must always agree with it.

use std::net::IpAddr;

use sg_common::{
    protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP},
    verdict::Direction,
};

use crate::policy::{Policy, Protocol, Rule};

/// What the rules can see of a packet that opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Inbound if the node receives it, outbound if it sends it.
    pub direction: Direction,
    /// The address at the other end: source of an inbound packet, destination of an outbound one.
    pub remote: IpAddr,
    /// IANA number, after any IPv6 extension headers.
    pub protocol: u8,
    /// Destination port, for protocols that have one.
    pub port: u16,
    /// ICMP or ICMPv6 type and code.
    pub icmp: (u8, u8),
}

/// The first rule that matches, as an index into `policy.rules`; `None` means dropped by no match.
pub fn first_match(policy: &Policy, packet: &Packet) -> Option<usize> {
    policy.rules.iter().position(|rule| matches(rule, packet))
}

/// True when `rule` matches `packet`.
pub fn matches(rule: &Rule, packet: &Packet) -> bool {
    if rule.direction != packet.direction || !rule.remote.contains(packet.remote) {
        return false;
    }
    let number = match rule.protocol {
        Protocol::All => return true,
        Protocol::Number(number) => number,
    };
    if number != packet.protocol {
        return false;
    }
    let icmp = match packet.remote {
        IpAddr::V4(_) => IPPROTO_ICMP,
        IpAddr::V6(_) => IPPROTO_ICMPV6,
    };
    if let Some(wanted) = rule.icmp {
        return number == icmp
            && wanted.kind == packet.icmp.0
            && wanted.code.is_none_or(|code| code == packet.icmp.1);
    }
    match &rule.ports {
        Some(ranges) if matches!(number, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP) => ranges
            .iter()
            .any(|&(first, last)| (first..=last).contains(&packet.port)),
        _ => true,
    }
}
