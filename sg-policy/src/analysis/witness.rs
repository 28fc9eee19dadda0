//! A packet out of a cell: one that a person would send, and that the rules decide.

use std::fmt;
use std::net::IpAddr;

use sg_common::protocol::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IGMP, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, Kind,
    icmp_number, is_ipv6_extension, kind_of, other_number,
};
use sg_common::verdict::Direction;

use crate::oracle::Packet;
use crate::policy::{Endpoint, Protocol, Witness, protocol_name};

/// Ports to which DHCP servers answer (RFC 2131, RFC 8415): such packets may be essential traffic.
const DHCP: [u16; 2] = [68, 546];
/// Router and neighbour discovery with redirects (RFC 4861), and multicast listeners (RFC 2710,
/// RFC 3810).
const ESSENTIAL_ICMPV6: [u8; 9] = [130, 131, 132, 133, 134, 135, 136, 137, 143];
/// Generic routing encapsulation, a protocol without ports that people know.
const GRE: u8 = 47;

/// The packet with the given number, if there is one.
pub(super) fn packet(
    direction: Direction,
    remote: IpAddr,
    kind: Kind,
    number: u16,
) -> Option<Packet> {
    let [high, low] = number.to_be_bytes();
    let mut packet = Packet {
        direction,
        remote,
        protocol: high,
        port: 0,
        icmp: (0, 0),
    };
    match kind {
        Kind::Tcp => (packet.protocol, packet.port) = (IPPROTO_TCP, number),
        Kind::Udp => (packet.protocol, packet.port) = (IPPROTO_UDP, number),
        Kind::Sctp => (packet.protocol, packet.port) = (IPPROTO_SCTP, number),
        Kind::Icmp => {
            packet.protocol = match remote.is_ipv6() {
                false => IPPROTO_ICMP,
                true => IPPROTO_ICMPV6,
            };
            packet.icmp = (high, low);
        }
        Kind::Other if kind_of(high, remote.is_ipv6()) != Kind::Other => return None,
        Kind::Other if remote.is_ipv6() && is_ipv6_extension(high) => return None,
        Kind::Other => {}
    }
    Some(packet)
}

/// Whether such packets can be essential traffic, which passes whatever the rules say (SPEC K5).
pub(super) fn may_be_essential(packet: &Packet) -> bool {
    match packet.protocol {
        IPPROTO_UDP => DHCP.contains(&packet.port),
        IPPROTO_IGMP => packet.remote.is_ipv4(),
        IPPROTO_ICMPV6 => packet.remote.is_ipv6() && ESSENTIAL_ICMPV6.contains(&packet.icmp.0),
        _ => false,
    }
}

/// A packet with one of the numbers from `first` to `last`, if there is one; if it can be, one
/// that is not essential traffic, and that people know.
pub(super) fn choose(
    direction: Direction,
    remote: IpAddr,
    kind: Kind,
    (first, last): (u16, u16),
) -> Option<Packet> {
    let known: &[u16] = match (kind, remote.is_ipv6()) {
        (Kind::Tcp, _) => &[443, 22, 80, 8080],
        (Kind::Udp, _) => &[53, 443, 123],
        (Kind::Sctp, _) => &[2905],
        (Kind::Icmp, false) => &[icmp_number(8, 0)],
        (Kind::Icmp, true) => &[icmp_number(128, 0)],
        (Kind::Other, _) => &[other_number(GRE)],
    };
    // A protocol or an ICMP type is the high byte of its number.
    let stride = match kind {
        Kind::Icmp | Kind::Other => 256,
        _ => 1,
    };
    let next = (u32::from(first) / stride + 1) * stride;
    let others = (next..=last.into()).step_by(stride as usize).take(256);
    // Ports 0 and 1 are seldom seen.
    let low = (kind.has_ports() && first <= 1).then_some(last);
    let numbers = known
        .iter()
        .copied()
        .chain(low)
        .chain([first])
        .filter(|number| (first..=last).contains(number))
        .chain(others.map(|number| number as u16));
    let mut packets = numbers.filter_map(|number| packet(direction, remote, kind, number));
    let one = packets.next()?;
    match may_be_essential(&one) {
        false => Some(one),
        true => packets
            .find(|packet| !may_be_essential(packet))
            .or(Some(one)),
    }
}

impl From<&Packet> for Witness {
    fn from(packet: &Packet) -> Self {
        let kind = kind_of(packet.protocol, packet.remote.is_ipv6());
        let (icmp_type, icmp_code) = packet.icmp;
        Witness {
            direction: packet.direction,
            protocol: packet.protocol,
            remote: packet.remote,
            port: kind.has_ports().then_some(packet.port),
            icmp_type: (kind == Kind::Icmp).then_some(icmp_type),
            icmp_code: (kind == Kind::Icmp).then_some(icmp_code),
        }
    }
}

impl fmt::Display for Witness {
    /// The last words of a command of `explain`: `inbound tcp 192.0.2.7 198.51.100.1:22`. The
    /// node's own address, which no rule looks at, is one for documentation (RFC 5737, RFC 3849).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = match self.remote {
            IpAddr::V4(_) => IpAddr::from([198, 51, 100, 1]),
            IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        };
        let protocol = match (self.icmp_type, self.icmp_code) {
            (Some(icmp_type), Some(code)) => format!(
                "{}:{icmp_type}/{code}",
                protocol_name(Protocol::Number(self.protocol))
            ),
            // ICMP of the other family is a protocol like others.
            _ if [IPPROTO_ICMP, IPPROTO_ICMPV6].contains(&self.protocol) => {
                self.protocol.to_string()
            }
            _ => protocol_name(Protocol::Number(self.protocol)),
        };
        let end = |address: IpAddr, is_destination: bool| {
            Endpoint::new(address, self.port.filter(|_| is_destination))
        };
        let is_inbound = self.direction == Direction::Inbound;
        write!(
            f,
            "{} {protocol} {} {}",
            self.direction.name(),
            end(self.remote, !is_inbound),
            end(local, is_inbound),
        )
    }
}
