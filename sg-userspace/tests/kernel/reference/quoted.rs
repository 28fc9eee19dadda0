//! The packet that an ICMP error is about, as far as the error quotes it (SPEC K8; RFC 792 and
//! RFC 4443: its headers and at least 8 bytes behind them).

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use sg_common::verdict::Direction;

use super::identity::Seen;
use super::parse::{Chain, Numbers, SCTP, TCP, Transport, UDP, icmp, icmp_of, ports};

/// Unreachable, time exceeded, parameter problem, and for IPv6 packet too big.
pub(crate) fn is_error(address: IpAddr, kind: u8) -> bool {
    match address {
        IpAddr::V4(_) => [3, 11, 12].contains(&kind),
        IpAddr::V6(_) => [1, 2, 3, 4].contains(&kind),
    }
}

/// What `bytes` in an error about a packet in `direction` quote; `None` if that cannot be told.
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
    // Errors are sent about queries and answers, not about other ICMP.
    seen.flow_key().map(|_| seen)
}
