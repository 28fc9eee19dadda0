//! The packet that an ICMP error quotes (K8). By RFC 792 and RFC 4443 at least its IP header and 8
//! more bytes are there.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use sg_common::verdict::Direction;

use super::identity::Seen;
use super::parse::{Chain, Numbers, SCTP, TCP, Transport, UDP, icmp, icmp_of, ports};

/// Whether the type is one of the errors: unreachable, time exceeded, parameter problem, and packet
/// too big in IPv6.
pub(crate) fn is_error(address: IpAddr, kind: u8) -> bool {
    match address {
        IpAddr::V4(_) => [3, 11, 12].contains(&kind),
        IpAddr::V6(_) => [1, 2, 3, 4].contains(&kind),
    }
}

/// The packet in `direction` that the error quotes in `bytes`, or `None` if the quote does not
/// identify it.
pub(crate) fn quoted(is_v6: bool, direction: Direction, bytes: &[u8]) -> Option<Seen> {
    let (source, destination, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) = if is_v6 {
        let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
        let payload = &bytes[header.slice().len()..];
        let chain = Chain::walk(header.next_header().0, payload).ok()?;
        if chain.fragment.is_some_and(|f| f.offset > 0) {
            return None;
        }
        (
            header.source_addr().into(),
            header.destination_addr().into(),
            chain.protocol,
            chain.rest(payload),
        )
    } else {
        let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
        if header.fragments_offset().value() > 0 {
            return None;
        }
        (
            header.source_addr().into(),
            header.destination_addr().into(),
            header.protocol().0,
            &bytes[header.slice().len()..],
        )
    };
    let start = rest.get(..8)?;
    let transport = if [TCP, UDP, SCTP].contains(&protocol) {
        let (source, destination) = ports(start);
        match protocol {
            TCP => Transport::Tcp {
                source,
                destination,
                flags: 0,
                numbers: Numbers::default(),
            },
            UDP => Transport::Udp {
                source,
                destination,
            },
            _ => Transport::Sctp {
                source,
                destination,
            },
        }
    } else if protocol == icmp_of(source) {
        icmp(start)
    } else {
        Transport::Other
    };
    let seen = Seen::new(direction, source, destination, protocol, transport);
    // Of ICMP only queries and replies belong to flows.
    seen.flow_key().map(|_| seen)
}
