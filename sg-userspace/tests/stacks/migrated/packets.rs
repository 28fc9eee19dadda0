//! The packets that are sent through both: at the edges of each network and range of ports that the
//! rules name, and of the kinds in which firewalls differ.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep};

use super::page::{Section, addresses, ports};

/// The node's own addresses, and those of a host behind it.
pub(super) const NODE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 77, 0, 1),
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1),
);
pub(super) const BEHIND: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 78, 0, 2),
    Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 2),
);
/// That of the neighbour by which the node reaches everything.
pub(super) const ROUTER: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 77, 0, 2),
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2),
);
/// The hardware addresses of the two.
pub(super) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Somebody whom no rule names.
const STRANGERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 9)),
];

/// The mark by which a packet is known where it arrives: its last bytes, before its number.
const MARK: [u8; 4] = *b"sg17";

/// The first of the ports that the packets come from, one for each.
const FIRST_PORT: u16 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the node itself.
    Inbound,
    /// To a host behind the node.
    Forwarded,
    /// From the node.
    Outbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Syn(u16),
    Udp(u16),
    Ping,
    /// Another ICMP query, which no rule names.
    Timestamp,
    Gre,
    /// The answer to what was sent before it: the packet of this number.
    AnswerTo(usize),
    /// As an answer looks, and nobody has asked.
    SynAckFrom(u16),
    UdpFrom(u16),
    Pong,
    /// A segment from the middle of a connection that nobody knows.
    AckTo(u16),
    /// A segment without flags, which no connection has.
    NoFlags(u16),
    /// An ICMP error about what nobody sent.
    Unreachable,
    DhcpAnswer,
    /// IGMP and MLD.
    GroupQuery,
    ListenerQuery,
    MulticastDns,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) way: Way,
    pub(super) remote: IpAddr,
    pub(super) kind: Kind,
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {}", self.way, self.kind, self.remote)
    }
}

/// All packets about the rules of a section, in the order in which they are sent.
pub(super) fn about(section: &Section) -> Vec<Packet> {
    let both = format!("{}{}", section.theirs, section.ours);
    let mut remotes = addresses(&both);
    remotes.extend(STRANGERS);
    let mut ports = ports(&section.ours);
    ports.extend([22, 25, 53, 443]);
    let mut all = Vec::new();
    for remote in remotes {
        for way in [Way::Inbound, Way::Outbound, Way::Forwarded] {
            // One that is accepted somewhere, and one that is not.
            let of_forwarded = BTreeSet::from([25, 443]);
            let ports = match way {
                Way::Forwarded => &of_forwarded,
                _ => &ports,
            };
            let plain = ports
                .iter()
                .flat_map(|port| [Kind::Syn(*port), Kind::Udp(*port)]);
            let plain = plain.chain([Kind::Ping, Kind::Gre]);
            all.extend(plain.map(|kind| Packet { way, remote, kind }));
        }
    }
    for remote in STRANGERS {
        let inbound = |kind| Packet {
            way: Way::Inbound,
            remote,
            kind,
        };
        for port in [22, 25, 443] {
            let of_nobody = [Kind::AckTo, Kind::NoFlags, Kind::SynAckFrom, Kind::UdpFrom];
            all.extend(of_nobody.map(|kind| inbound(kind(port))));
        }
        all.extend([Kind::Pong, Kind::Unreachable].map(inbound));
        let only = match remote {
            IpAddr::V4(_) => vec![
                Kind::Timestamp,
                Kind::DhcpAnswer,
                Kind::GroupQuery,
                Kind::MulticastDns,
            ],
            IpAddr::V6(_) => vec![Kind::ListenerQuery],
        };
        all.extend(only.into_iter().map(inbound));
    }
    // Answers to all that the node has sent.
    for number in 0..all.len() {
        let asked = all[number];
        if asked.way == Way::Outbound && asked.kind != Kind::Gre {
            all.push(Packet {
                way: Way::Inbound,
                remote: asked.remote,
                kind: Kind::AnswerTo(number),
            });
        }
    }
    // If this has arrived, so has all that was sent before it.
    all.push(LAST);
    all
}

/// A packet that all rules on the page accept.
const LAST: Packet = Packet {
    way: Way::Inbound,
    remote: STRANGERS[0],
    kind: Kind::Syn(443),
};

/// The number of the packet that these bytes end with.
pub(super) fn number(bytes: &[u8]) -> Option<usize> {
    let (rest, number) = bytes.split_last_chunk::<4>()?;
    rest.ends_with(&MARK)
        .then(|| u32::from_be_bytes(*number) as usize)
}

/// What follows the link's header of the packet of this number.
pub(super) fn bytes(all: &[Packet], number: usize) -> Vec<u8> {
    let Packet { way, remote, kind } = all[number];
    let (node, behind) = match remote {
        IpAddr::V4(_) => (IpAddr::V4(NODE.0), IpAddr::V4(BEHIND.0)),
        IpAddr::V6(_) => (IpAddr::V6(NODE.1), IpAddr::V6(BEHIND.1)),
    };
    let (from, to) = match (way, kind) {
        (Way::Inbound, Kind::GroupQuery) => (remote, Ipv4Addr::new(224, 0, 0, 1).into()),
        (Way::Inbound, Kind::MulticastDns) => (remote, MULTICAST_DNS.into()),
        (Way::Inbound, Kind::ListenerQuery) => (
            // Such a query comes from a neighbour.
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2).into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        ),
        (Way::Inbound, _) => (remote, node),
        (Way::Forwarded, _) => (remote, behind),
        (Way::Outbound, _) => (node, remote),
    };
    let hops = match kind {
        Kind::GroupQuery | Kind::ListenerQuery => 1,
        Kind::MulticastDns => 255,
        _ => 64,
    };
    let ip = || match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), hops),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), hops),
        _ => panic!("{kind:?} of two families"),
    };
    let marked = [&MARK[..], &(number as u32).to_be_bytes()].concat();
    let own = FIRST_PORT + number as u16;
    match kind {
        Kind::AnswerTo(asked) => {
            let port = FIRST_PORT + asked as u16;
            match all[asked].kind {
                Kind::Syn(service) => tcp(ip(), service, port, "sa", asked, &marked),
                Kind::Udp(service) => udp(ip(), service, port, &marked),
                Kind::Ping => echo(ip(), remote, false, asked, &marked),
                other => panic!("{other:?} has no answer"),
            }
        }
        Kind::Syn(port) => tcp(ip(), own, port, "s", number, &marked),
        Kind::SynAckFrom(port) => tcp(ip(), port, own, "sa", number, &marked),
        Kind::AckTo(port) => tcp(ip(), own, port, "a", number, &marked),
        Kind::NoFlags(port) => tcp(ip(), own, port, "", number, &marked),
        Kind::Udp(port) => udp(ip(), own, port, &marked),
        Kind::UdpFrom(port) => udp(ip(), port, own, &marked),
        Kind::DhcpAnswer => udp(ip(), 67, 68, &marked),
        Kind::MulticastDns => udp(ip(), 5353, 5353, &marked),
        Kind::Ping => echo(ip(), remote, true, number, &marked),
        Kind::Pong => echo(ip(), remote, false, number, &marked),
        Kind::Timestamp => {
            let times = [&[0; 12][..], &marked].concat();
            icmp(ip(), remote, 13, &times)
        }
        Kind::Unreachable => {
            // About a datagram from the node to the remote, which it has never sent.
            let about = match (node, remote) {
                (IpAddr::V4(node), IpAddr::V4(remote)) => {
                    PacketBuilder::ipv4(node.octets(), remote.octets(), 64)
                }
                (IpAddr::V6(node), IpAddr::V6(remote)) => {
                    PacketBuilder::ipv6(node.octets(), remote.octets(), 64)
                }
                _ => panic!("two families"),
            };
            let about = udp(about, 9999, 9999, &marked);
            icmp(ip(), remote, if remote.is_ipv4() { 3 } else { 1 }, &about)
        }
        Kind::Gre => {
            let payload = [&[0, 0, 8, 0][..], &marked].concat();
            other(ip(), IpNumber::GRE, &payload)
        }
        Kind::GroupQuery => {
            // Its checksum covers what is behind it too (RFC 2236, section 2).
            let mut query = [&[0x11, 0, 0, 0, 0, 0, 0, 0][..], &marked].concat();
            let sum = checksum(&query);
            query[2..4].copy_from_slice(&sum.to_be_bytes());
            other(ip(), IpNumber::IGMP, &query)
        }
        Kind::ListenerQuery => {
            let query = [&[0; 16][..], &marked].concat();
            icmp(ip(), remote, 130, &query)
        }
    }
}

/// The group of multicast DNS.
pub(super) const MULTICAST_DNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

type Ip = PacketBuilderStep<etherparse::IpHeaders>;

fn tcp(ip: Ip, from: u16, to: u16, flags: &str, number: usize, payload: &[u8]) -> Vec<u8> {
    // The number of an answer acknowledges that of what it answers.
    let mut tcp = ip.tcp(from, to, 1000 * number as u32, 1000);
    if flags.contains('s') {
        tcp = tcp.syn();
    }
    if flags.contains('a') {
        tcp = tcp.ack(1000 * number as u32 + 1);
    }
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, payload).expect("a vector takes all");
    bytes
}

fn udp(ip: Ip, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = ip.udp(from, to).write(&mut bytes, payload);
    written.expect("a vector takes all");
    bytes
}

fn echo(ip: Ip, remote: IpAddr, is_request: bool, number: usize, payload: &[u8]) -> Vec<u8> {
    let id = FIRST_PORT + number as u16;
    let mut bytes = Vec::new();
    let written = match (remote, is_request) {
        (IpAddr::V4(_), true) => ip.icmpv4_echo_request(id, 1).write(&mut bytes, payload),
        (IpAddr::V4(_), false) => ip.icmpv4_echo_reply(id, 1).write(&mut bytes, payload),
        (IpAddr::V6(_), true) => ip.icmpv6_echo_request(id, 1).write(&mut bytes, payload),
        (IpAddr::V6(_), false) => ip.icmpv6_echo_reply(id, 1).write(&mut bytes, payload),
    };
    written.expect("a vector takes all");
    bytes
}

/// A message with the code 0.
fn icmp(ip: Ip, remote: IpAddr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = match remote {
        IpAddr::V4(_) => ip.icmpv4_raw(kind, 0, [0; 4]).write(&mut bytes, rest),
        IpAddr::V6(_) => ip.icmpv6_raw(kind, 0, [0; 4]).write(&mut bytes, rest),
    };
    written.expect("a vector takes all");
    bytes
}

fn other(ip: Ip, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = ip.write(&mut bytes, protocol, payload);
    written.expect("a vector takes all");
    bytes
}

/// The sum of RFC 1071 over words.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
