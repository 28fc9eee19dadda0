//! The naive evaluator: walks the rules in order and takes the first that matches (SPEC P2).
//! Slow and obvious on purpose; the compiled tables and the kernel must always agree with it.

use std::net::IpAddr;

use sg_common::{
    protocol::{
        IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, Kind, icmp_number,
        other_number,
    },
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

/// True when `rule` matches `packet`. Addresses come last, for there may be many of them.
pub fn matches(rule: &Rule, packet: &Packet) -> bool {
    rule.direction == packet.direction
        && matches_number(rule, packet)
        && rule.remote.contains(packet.remote)
}

fn matches_number(rule: &Rule, packet: &Packet) -> bool {
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

/// The kind and number by which a packet is looked up.
pub fn kind_and_number(packet: &Packet) -> (Kind, u16) {
    let icmp = match packet.remote {
        IpAddr::V4(_) => IPPROTO_ICMP,
        IpAddr::V6(_) => IPPROTO_ICMPV6,
    };
    match packet.protocol {
        IPPROTO_TCP => (Kind::Tcp, packet.port),
        IPPROTO_UDP => (Kind::Udp, packet.port),
        IPPROTO_SCTP => (Kind::Sctp, packet.port),
        p if p == icmp => (Kind::Icmp, icmp_number(packet.icmp.0, packet.icmp.1)),
        p => (Kind::Other, other_number(p)),
    }
}

/// The packet that is looked up by that kind and number, if there is one: the inverse of
/// [`kind_and_number`]. The low byte of a protocol's number is not looked at; IPv6 extension
/// headers are no protocols.
pub fn packet_of(direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Option<Packet> {
    let [high, low] = number.to_be_bytes();
    let (protocol, port, icmp) = match kind {
        Kind::Tcp => (IPPROTO_TCP, number, (0, 0)),
        Kind::Udp => (IPPROTO_UDP, number, (0, 0)),
        Kind::Sctp => (IPPROTO_SCTP, number, (0, 0)),
        Kind::Icmp if remote.is_ipv4() => (IPPROTO_ICMP, 0, (high, low)),
        Kind::Icmp => (IPPROTO_ICMPV6, 0, (high, low)),
        Kind::Other if remote.is_ipv6() && [0, 43, 44, 51, 60].contains(&high) => return None,
        Kind::Other => (high, 0, (0, 0)),
    };
    let packet = Packet {
        direction,
        remote,
        protocol,
        port,
        icmp,
    };
    (kind_and_number(&packet).0 == kind).then_some(packet)
}
