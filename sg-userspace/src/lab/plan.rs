//! The attempts of the lab: which hosts talk to each other, and which packets the policy is asked
//! about.
//!
//! Some hosts are always there, with addresses for documentation (RFC 5737, RFC 3849) and private
//! ones, and try a few services. Beside them each address set of the policy has a host of its own,
//! in each family of which no other host is in the set. It tries the ports of the policy's rules,
//! and so does a stranger of each family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::Serialize;
use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP};
use sg_common::verdict::Direction;
use sg_policy::policy::{self, NamedSet, Policy, Remote};

use sg_userspace::observe::explain::{Question, Transport};

/// A host of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The one that enforces the policy.
    Node,
    Outside,
    Inside,
    /// The next hop, which is on the node's own link as well.
    Neighbour,
}

impl Place {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Place::Node => "node",
            Place::Outside => "outside",
            Place::Inside => "inside",
            Place::Neighbour => "neighbour",
        }
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) place: Place,
    /// The name of the host, or that of the set that it is in.
    pub(super) name: Arc<str>,
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

/// The hosts that are always there.
const PEERS: [(Place, IpAddr, IpAddr); 4] = [
    (Place::Outside, IpAddr::V4(OUTSIDE), IpAddr::V4(NODE)),
    (Place::Inside, IpAddr::V4(INSIDE), IpAddr::V4(NODE)),
    (
        Place::Neighbour,
        IpAddr::V6(NEIGHBOUR6[0]),
        IpAddr::V6(NODE6[0]),
    ),
    (
        Place::Neighbour,
        IpAddr::V6(NEIGHBOUR6[1]),
        IpAddr::V6(NODE6[1]),
    ),
];

/// The most hosts of sets, and the most ports of rules that they try in each direction.
const SETS: usize = 24;
const PORTS: usize = 16;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Try {
    /// A unique number, which is also the identifier of its echo requests.
    pub(super) number: u16,
    /// Inbound if the peer opens the flow, outbound if the node does.
    pub(super) direction: Direction,
    pub(super) peer: Peer,
    pub(super) what: What,
}

/// The hosts and what they try.
pub(super) struct Plan {
    pub(super) tries: Vec<Try>,
    /// The addresses of sets, which the neighbour gets.
    pub(super) added: Vec<IpAddr>,
}

impl Plan {
    /// The plan for a policy.
    pub(super) fn of(policy: &Policy, has_ipv6: bool) -> Plan {
        let mut peers: Vec<Peer> = PEERS
            .into_iter()
            .filter(|(_, address, _)| address.is_ipv4() || has_ipv6)
            .map(|(place, address, node)| Peer {
                place,
                name: place.name().into(),
                address,
                node,
            })
            .collect();
        let strangers = peers.len();
        for group in &policy.groups {
            for set in &group.sets.addresses {
                add_hosts(&mut peers, set, has_ipv6);
            }
        }
        peers.truncate(strangers + SETS);
        let has_sets = peers.len() > strangers;
        let mut tries = Vec::new();
        for direction in Direction::BOTH {
            let usual = services_always(direction);
            let own = own_services(policy, direction);
            for (index, peer) in peers.iter().enumerate() {
                // One stranger of each family tries them too. Without hosts of sets there is nobody
                // whom a stranger differs from.
                let is_odd_one = [PEERS[1].1, PEERS[3].1].contains(&peer.address);
                let own = own.iter().filter(|_| has_sets && !is_odd_one);
                // The hosts of sets try the ports of rules, and one more that need not be of any
                // rule.
                let usual = match index < strangers {
                    true => usual,
                    false => &usual[..1],
                };
                let pings = [What::Ping];
                let all = usual.iter().chain(own).chain(&pings);
                let mut tried: Vec<What> = Vec::new();
                for what in all {
                    if tried.contains(what) {
                        continue;
                    }
                    tried.push(*what);
                    tries.push(Try {
                        number: tries.len() as u16 + 1,
                        direction,
                        peer: peer.clone(),
                        what: *what,
                    });
                }
            }
        }
        let added = peers.iter().skip(strangers).map(|peer| peer.address);
        Plan {
            added: added.collect(),
            tries,
        }
    }

    /// The services that the node (`Inbound`) or the other hosts (`Outbound`) must offer.
    pub(super) fn services(&self, direction: Direction) -> Vec<What> {
        let mut all: Vec<What> = Vec::new();
        for tried in self.tries.iter().filter(|it| it.direction == direction) {
            if !all.contains(&tried.what) {
                all.push(tried.what);
            }
        }
        all
    }
}

/// Adds a host for each family of a set of which no host is in it.
fn add_hosts(peers: &mut Vec<Peer>, set: &NamedSet<Remote>, has_ipv6: bool) {
    let has_one = |is_v4: bool| {
        let mut of_family = peers.iter().filter(|peer| peer.address.is_ipv4() == is_v4);
        of_family.any(|peer| set.value.contains(peer.address))
    };
    let v4 = set.value.v4.iter().filter(|_| !has_one(true));
    let v4 = v4.map(|prefix| Ipv4Addr::from(within(prefix.bits.into(), 32 - prefix.len) as u32));
    let v4 = v4.filter(|address| is_usable4(*address)).take(1);
    let v6 = set.value.v6.iter().filter(|_| has_ipv6 && !has_one(false));
    let v6 = v6.map(|prefix| Ipv6Addr::from(within(prefix.bits, 128 - prefix.len)));
    let v6 = v6.filter(|address| is_usable6(*address)).take(1);
    let v4 = v4.map(|address| (IpAddr::V4(address), IpAddr::V4(NODE)));
    let v6 = v6.map(|address| (IpAddr::V6(address), IpAddr::V6(NODE6[0])));
    let new: Vec<(IpAddr, IpAddr)> = v4.chain(v6).collect();
    peers.extend(new.into_iter().map(|(address, node)| Peer {
        place: Place::Neighbour,
        name: set.name.as_str().into(),
        address,
        node,
    }));
}

/// An address of a network with so many host bits that a host may have.
fn within(bits: u128, host_bits: u8) -> u128 {
    match host_bits {
        0 => bits,
        1 | 2 => bits + 1,
        _ => bits + 7,
    }
}

/// Whether a host can be added to the lab with this address: it is usable, and no host has it.
fn is_usable4(address: Ipv4Addr) -> bool {
    let taken = [
        NODE,
        NODE_GATEWAY,
        OUTSIDE,
        OUTSIDE_GATEWAY,
        INSIDE,
        INSIDE_GATEWAY,
    ];
    let is_special = address.is_loopback() || address.is_multicast() || address.is_broadcast();
    let first = address.octets()[0];
    !is_special && first != 0 && first < 240 && !taken.contains(&address)
}

fn is_usable6(address: Ipv6Addr) -> bool {
    let is_special = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    let is_link_local = address.segments()[0] & 0xffc0 == 0xfe80;
    let is_mapped = address.to_ipv4_mapped().is_some();
    let is_taken = NODE6.contains(&address) || NEIGHBOUR6.contains(&address);
    !is_special && !is_link_local && !is_mapped && !is_taken
}

/// The first ports of the policy's rules of a direction.
fn own_services(policy: &Policy, direction: Direction) -> Vec<What> {
    let mut found: Vec<What> = Vec::new();
    for rule in policy.rules_of(direction) {
        let ports = rule.ports.iter().flatten().map(|(first, _)| *first);
        for port in ports.filter(|port| *port != 0) {
            let what = match rule.protocol {
                policy::Protocol::Number(IPPROTO_TCP) => What::Tcp(port),
                policy::Protocol::Number(IPPROTO_UDP) => What::Udp(port),
                _ => continue,
            };
            if !found.contains(&what) && found.len() < PORTS {
                found.push(what);
            }
        }
    }
    found
}

/// What everybody tries.
fn services_always(direction: Direction) -> &'static [What] {
    match direction {
        Direction::Inbound => &TO_NODE,
        Direction::Outbound => &FROM_NODE,
    }
}

impl Try {
    pub(super) fn from(&self) -> (&str, IpAddr) {
        match self.direction {
            Direction::Inbound => (&self.peer.name, self.peer.address),
            Direction::Outbound => (Place::Node.name(), self.peer.node),
        }
    }

    pub(super) fn to(&self) -> (&str, IpAddr) {
        match self.direction {
            Direction::Inbound => (Place::Node.name(), self.peer.node),
            Direction::Outbound => (&self.peer.name, self.peer.address),
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
