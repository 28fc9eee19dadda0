//! The attempts of the lab: which hosts talk to each other, and which packets the policy is asked
//! about. The addresses are those for documentation (RFC 5737, RFC 3849) and private ones.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP};
use sg_common::verdict::Direction;

use sg_userspace::observe::explain::{Question, Transport};

/// A host of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    /// The one that enforces the policy.
    Node,
    Outside,
    Inside,
    /// The next hop, which is on the node's own link as well.
    Neighbour,
}

impl Place {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Place::Node => "node",
            Place::Outside => "outside",
            Place::Inside => "inside",
            Place::Neighbour => "neighbour",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The protocol of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    /// A ping over IPv4.
    Icmp,
    /// A ping over IPv6.
    Icmpv6,
}

impl Protocol {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
            Protocol::Icmpv6 => "icmpv6",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An address of another host than the node, and the node's address of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) place: Place,
    pub(super) address: IpAddr,
    pub(super) node: IpAddr,
}

pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 2);
pub(super) const NODE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(super) const OUTSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(super) const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
pub(super) const INSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
/// A global and a unique local address.
pub(super) const NODE6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0xfd00, 0xdb8, 0, 0, 0, 0, 0, 2),
];
pub(super) const NEIGHBOUR6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10),
    Ipv6Addr::new(0xfd00, 0xdb8, 0, 0, 0, 0, 0, 0x10),
];

const PEERS: [Peer; 4] = [
    Peer {
        place: Place::Outside,
        address: IpAddr::V4(OUTSIDE),
        node: IpAddr::V4(NODE),
    },
    Peer {
        place: Place::Inside,
        address: IpAddr::V4(INSIDE),
        node: IpAddr::V4(NODE),
    },
    Peer {
        place: Place::Neighbour,
        address: IpAddr::V6(NEIGHBOUR6[0]),
        node: IpAddr::V6(NODE6[0]),
    },
    Peer {
        place: Place::Neighbour,
        address: IpAddr::V6(NEIGHBOUR6[1]),
        node: IpAddr::V6(NODE6[1]),
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Tcp(u16),
    Udp(u16),
    Ping,
}

/// SSH, a NodePort, a database, the port after the NodePorts; then a NodePort and a name server
/// over UDP.
const TO_NODE: [What; 7] = [
    What::Tcp(22),
    What::Tcp(30080),
    What::Tcp(3306),
    What::Tcp(32768),
    What::Udp(30053),
    What::Udp(53),
    What::Ping,
];

/// An image registry, a mail server (which many policies forbid) and a name server.
const FROM_NODE: [What; 4] = [What::Tcp(443), What::Tcp(25), What::Udp(53), What::Ping];

/// One attempt to get a reply through the node's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Try {
    /// A unique number, which is also the identifier of its echo requests.
    pub(super) number: u16,
    /// Inbound if the peer opens the flow, outbound if the node does.
    pub(super) direction: Direction,
    pub(super) peer: Peer,
    pub(super) what: What,
}

/// All attempts.
pub(super) fn tries(has_ipv6: bool) -> Vec<Try> {
    let directions = [
        (Direction::Inbound, &TO_NODE[..]),
        (Direction::Outbound, &FROM_NODE[..]),
    ];
    let mut tries = Vec::new();
    for (direction, list) in directions {
        for peer in PEERS {
            if peer.address.is_ipv6() && !has_ipv6 {
                continue;
            }
            for what in list {
                tries.push(Try {
                    number: tries.len() as u16 + 1,
                    direction,
                    peer,
                    what: *what,
                });
            }
        }
    }
    tries
}

impl Try {
    pub(super) fn from(&self) -> (Place, IpAddr) {
        match self.direction {
            Direction::Inbound => (self.peer.place, self.peer.address),
            Direction::Outbound => (Place::Node, self.peer.node),
        }
    }

    pub(super) fn to(&self) -> (Place, IpAddr) {
        match self.direction {
            Direction::Inbound => (Place::Node, self.peer.node),
            Direction::Outbound => (self.peer.place, self.peer.address),
        }
    }

    pub(super) const fn port(&self) -> Option<u16> {
        match self.what {
            What::Tcp(port) | What::Udp(port) => Some(port),
            What::Ping => None,
        }
    }

    pub(super) fn transport(&self) -> Protocol {
        match self.what {
            What::Tcp(_) => Protocol::Tcp,
            What::Udp(_) => Protocol::Udp,
            What::Ping if self.peer.address.is_ipv4() => Protocol::Icmp,
            What::Ping => Protocol::Icmpv6,
        }
    }

    /// The packet that opens the flow.
    pub(super) fn question(&self) -> Question {
        let kind = if self.peer.address.is_ipv4() { 8 } else { 128 };
        self.packet(self.direction, kind, None)
    }

    /// The first packet of the reply, to the port that the originator was given.
    pub(super) fn answer(&self, own_port: Option<u16>) -> Question {
        let kind = if self.peer.address.is_ipv4() { 0 } else { 129 };
        self.packet(self.direction.opposite(), kind, own_port)
    }

    fn packet(&self, direction: Direction, kind: u8, own_port: Option<u16>) -> Question {
        let (remote_port, local_port) = match self.direction {
            Direction::Inbound => (own_port, self.port()),
            Direction::Outbound => (self.port(), own_port),
        };
        Question {
            direction,
            transport: match self.what {
                What::Tcp(_) => Transport::Protocol(IPPROTO_TCP),
                What::Udp(_) => Transport::Protocol(IPPROTO_UDP),
                What::Ping => Transport::Icmp { kind, code: 0 },
            },
            remote: self.peer.address,
            remote_port,
            local: self.peer.node,
            local_port,
        }
    }
}

/// The services that the node (`Inbound`) or the other hosts (`Outbound`) must offer.
pub(super) fn services(direction: Direction) -> &'static [What] {
    match direction {
        Direction::Inbound => &TO_NODE,
        Direction::Outbound => &FROM_NODE,
    }
}
