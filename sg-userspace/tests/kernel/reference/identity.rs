//! The tuple of a flow (K6), and the packets that the rules are asked about: the packet itself, and
//! its reply.

use std::net::IpAddr;

use sg_common::verdict::Direction;
use sg_policy::oracle;

use super::parse::{Datagram, Transport};

/// The tuple of a flow, with local and remote end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FlowKey {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum By {
    Ports {
        local: u16,
        remote: u16,
    },
    /// ICMP queries: the type of the request, whether the request is inbound, and the identifier.
    Query {
        request: u8,
        asked_inbound: bool,
        identifier: u16,
    },
    Addresses,
}

/// A packet with local and remote end instead of source and destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) direction: Direction,
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) transport: Transport,
}

/// The (local, remote) pair of a packet in `direction`, from its (source, destination).
pub(crate) fn ends<T>(direction: Direction, source: T, destination: T) -> (T, T) {
    match direction {
        Direction::Inbound => (destination, source),
        Direction::Outbound => (source, destination),
    }
}

/// Types of requests and their replies, for IPv6 or not (RFC 792, RFC 950, RFC 4443, RFC 4620).
const QUERIES: [(bool, u8, u8); 6] = [
    (false, 8, 0),
    (false, 13, 14),
    (false, 15, 16),
    (false, 17, 18),
    (true, 128, 129),
    (true, 139, 140),
];

impl Seen {
    pub(crate) fn new(
        direction: Direction,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        transport: Transport,
    ) -> Self {
        let (local, remote) = ends(direction, source, destination);
        Seen {
            direction,
            local,
            remote,
            protocol,
            transport,
        }
    }

    /// The types of the request and of the reply, and whether this packet is the request.
    fn query(&self) -> Option<(u8, u8, bool)> {
        let Transport::Icmp { kind, .. } = self.transport else {
            return None;
        };
        QUERIES
            .into_iter()
            .filter(|(v6, ..)| *v6 == self.remote.is_ipv6())
            .find(|(_, request, answer)| kind == *request || kind == *answer)
            .map(|(_, request, answer)| (request, answer, kind == request))
    }

    /// The tuple of the packet's flow, or `None` for ICMP that is neither request nor reply.
    pub(crate) fn flow_key(&self) -> Option<FlowKey> {
        let by = match self.transport {
            Transport::Tcp {
                source,
                destination,
                ..
            }
            | Transport::Udp {
                source,
                destination,
            }
            | Transport::Sctp {
                source,
                destination,
            } => {
                let (local, remote) = ends(self.direction, source, destination);
                By::Ports { local, remote }
            }
            Transport::Icmp { identifier, .. } => {
                let (request, _, is_request) = self.query()?;
                By::Query {
                    request,
                    asked_inbound: (self.direction == Direction::Inbound) == is_request,
                    identifier,
                }
            }
            Transport::Other => By::Addresses,
        };
        Some(FlowKey {
            local: self.local,
            remote: self.remote,
            protocol: self.protocol,
            by,
        })
    }

    pub(crate) fn tcp_flags(&self) -> u8 {
        match self.transport {
            Transport::Tcp { flags, .. } => flags,
            _ => 0,
        }
    }

    /// K9: whether the packet may open a flow. Replies and resets do not.
    pub(crate) fn may_open(&self) -> bool {
        const RST: u8 = 4;
        match self.transport {
            Transport::Icmp { .. } => self.query().is_some_and(|(.., is_request)| is_request),
            _ => self.tcp_flags() & RST == 0,
        }
    }

    /// The packet as the rules of its direction see it.
    pub(crate) fn question(&self) -> oracle::Packet {
        let (port, icmp) = match self.transport {
            Transport::Tcp { destination, .. }
            | Transport::Udp { destination, .. }
            | Transport::Sctp { destination, .. } => (destination, (0, 0)),
            Transport::Icmp { kind, code, .. } => (0, (kind, code)),
            Transport::Other => (0, (0, 0)),
        };
        oracle::Packet {
            direction: self.direction,
            remote: self.remote,
            protocol: self.protocol,
            port,
            icmp,
        }
    }

    /// The reply to this packet as the rules of the other direction see it.
    pub(crate) fn reply_question(&self) -> oracle::Packet {
        let (port, icmp) = match self.transport {
            Transport::Tcp { source, .. }
            | Transport::Udp { source, .. }
            | Transport::Sctp { source, .. } => (source, (0, 0)),
            Transport::Icmp { .. } => match self.query() {
                Some((_, answer, true)) => (0, (answer, 0)),
                Some((request, _, false)) => (0, (request, 0)),
                None => (0, (0, 0)),
            },
            Transport::Other => (0, (0, 0)),
        };
        oracle::Packet {
            direction: self.direction.opposite(),
            remote: self.remote,
            protocol: self.protocol,
            port,
            icmp,
        }
    }
}

/// Identifies the datagram of a fragment that crosses the interface in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FragmentKey {
    pub(crate) direction: Direction,
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) identification: u32,
    pub(crate) protocol: u8,
}

impl FragmentKey {
    pub(crate) fn new(direction: Direction, datagram: Datagram) -> Self {
        let (local, remote) = ends(direction, datagram.source, datagram.destination);
        FragmentKey {
            direction,
            local,
            remote,
            identification: datagram.identification,
            protocol: datagram.protocol,
        }
    }
}
