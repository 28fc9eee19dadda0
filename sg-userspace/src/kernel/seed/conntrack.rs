//! Reads the kernel's connection tracking table (ctnetlink) as flows: the host's own, forwarded and
//! translated connections.

use std::collections::HashSet;
use std::net::IpAddr;
use std::{fs, io};

use netlink_sys::protocols::NETLINK_NETFILTER;
use sg_common::flow::Timeout;
use sg_common::icmp;
use sg_common::protocol::Kind;
use sg_common::verdict::Direction;

use super::super::machine::netlink::{self, attribute};
use super::existing::{Existing, Key};

/// Holds the number of entries of the current network namespace. The file does not exist if the
/// kernel does not track connections.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

// include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const NFNL_SUBSYS_CTNETLINK: u16 = libc::NFNL_SUBSYS_CTNETLINK as u16;
const IPCTNL_MSG_CT_GET: u16 = 1;
/// `struct nfgenmsg`: family (zero for all), version, resource.
const FAMILY_HEADER: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

// include/uapi/linux/netfilter/nf_conntrack_common.h.
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_DYING: u32 = 1 << 9;

/// The tuple of one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    icmp_id: u16,
    icmp_type: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    original: Tuple,
    reply: Tuple,
    status: u32,
    tcp_state: Option<u8>,
    /// Seconds until the entry expires.
    expires: u32,
}

/// All entries of the current network namespace. Without any, the kernel is not asked, since that
/// would load the module.
pub(super) fn list() -> io::Result<Vec<Entry>> {
    let count = fs::read_to_string(COUNT).unwrap_or_default();
    let mut entries = Vec::new();
    if !matches!(count.trim(), "" | "0") {
        let get = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
        netlink::dump(NETLINK_NETFILTER, get, &[0; FAMILY_HEADER], |payload| {
            entries.extend(read(payload));
        })?;
    }
    Ok(entries)
}

/// Parses one entry. `None` if the message is not complete.
pub(super) fn read(payload: &[u8]) -> Option<Entry> {
    let attributes = payload.get(FAMILY_HEADER..)?;
    let number = |kind| attribute(attributes, kind)?.first_chunk().copied();
    let tcp_state = attribute(attributes, CTA_PROTOINFO)
        .and_then(|info| attribute(info, CTA_PROTOINFO_TCP))
        .and_then(|tcp| attribute(tcp, CTA_PROTOINFO_TCP_STATE))
        .and_then(|state| state.first().copied());
    Some(Entry {
        original: tuple(attribute(attributes, CTA_TUPLE_ORIG)?)?,
        reply: tuple(attribute(attributes, CTA_TUPLE_REPLY)?)?,
        status: u32::from_be_bytes(number(CTA_STATUS)?),
        tcp_state,
        expires: number(CTA_TIMEOUT).map_or(0, u32::from_be_bytes),
    })
}

fn tuple(attributes: &[u8]) -> Option<Tuple> {
    let addresses = attribute(attributes, CTA_TUPLE_IP)?;
    let protocol = attribute(attributes, CTA_TUPLE_PROTO)?;
    let address = |v4, v6| match attribute(addresses, v4) {
        Some(v4) => Some(IpAddr::from(*v4.first_chunk::<4>()?)),
        None => Some(IpAddr::from(
            *attribute(addresses, v6)?.first_chunk::<16>()?,
        )),
    };
    let port = |kind| {
        let value = attribute(protocol, kind).and_then(|v| v.first_chunk());
        value.map_or(0, |v| u16::from_be_bytes(*v))
    };
    let byte = |kind| attribute(protocol, kind).and_then(|v| v.first().copied());
    let either = |v4, v6| byte(v4).or_else(|| byte(v6)).unwrap_or(0);
    Some(Tuple {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        protocol: byte(CTA_PROTO_NUM)?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
        icmp_id: port(CTA_PROTO_ICMP_ID) | port(CTA_PROTO_ICMPV6_ID),
        icmp_type: either(CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMPV6_TYPE),
    })
}

/// The flows that an entry may be on the interface.
///
/// If the connection came in by the interface, its packets are seen there before destination NAT,
/// with the original tuple. If it goes out by the interface, they are seen after source NAT, with
/// the reversed reply tuple. Which of the two it is depends on routes that may change, and it can
/// be both, so both flows are entered. Only one of the host's own addresses is never the remote
/// end. The superfluous flow does no harm: no packet on this interface has its tuple unless it is
/// forged, and then it could have been forged for the right flow as well.
///
/// A connection without a reply may be a request under way or an attack, so the rules are asked
/// about it ([`super::decide`]). If the source of the request is one of the host's own addresses,
/// the host has sent it, since the kernel accepts no packet from outside with such a source.
pub(super) fn flows(entry: &Entry, own: &HashSet<IpAddr>) -> impl Iterator<Item = Existing> {
    let is_ours = own.contains(&entry.original.source);
    Direction::BOTH
        .map(|originator| flow(entry, originator, is_ours))
        .into_iter()
        .flatten()
        .filter(|flow| flow.key.can_be_on_the_wire(own))
}

/// How the tuple of a translated connection looks to a socket, with how it looks on the wire: once
/// for the side that opened it, and once for the side that it was opened to. Only protocols with
/// ports, since only these have sockets.
pub(super) fn translations(entry: &Entry) -> impl Iterator<Item = (Key, Key)> {
    let Entry {
        original, reply, ..
    } = entry;
    let key = |local: (IpAddr, u16), remote: (IpAddr, u16)| Key {
        local: local.0,
        remote: remote.0,
        local_port: local.1,
        remote_port: remote.1,
        protocol: original.protocol,
    };
    let from = |tuple: &Tuple| (tuple.source, tuple.source_port);
    let to = |tuple: &Tuple| (tuple.destination, tuple.destination_port);
    let outward = (
        key(from(original), to(original)),
        key(to(reply), from(reply)),
    );
    let inward = (
        key(from(reply), to(reply)),
        key(to(original), from(original)),
    );
    let has_ports = original.source_port != 0 || original.destination_port != 0;
    [outward, inward]
        .into_iter()
        .filter(move |(inside, wire)| has_ports && inside != wire)
}

fn flow(entry: &Entry, originator: Direction, is_ours: bool) -> Option<Existing> {
    if entry.status & IPS_DYING != 0 {
        return None;
    }
    let original = &entry.original;
    let (tuple, local, remote) = match originator {
        Direction::Inbound => (original, original.destination, original.source),
        Direction::Outbound => (&entry.reply, entry.reply.destination, entry.reply.source),
    };
    let has_seen_reply = entry.status & IPS_SEEN_REPLY != 0;
    let mut key = Key {
        local,
        remote,
        local_port: tuple.destination_port,
        remote_port: tuple.source_port,
        protocol: tuple.protocol,
    };
    if key.local.is_ipv4() != key.remote.is_ipv4() {
        return None;
    }
    let state = match key.kind() {
        Kind::Tcp => tcp_state(entry.tcp_state)?,
        Kind::Udp if has_seen_reply => Timeout::UdpStream,
        Kind::Udp => Timeout::Udp,
        Kind::Sctp => Timeout::Sctp,
        Kind::Icmp => {
            // The original tuple is that of the request on either interface.
            let (request, true) = icmp::query(key.remote.is_ipv6().into(), original.icmp_type)?
            else {
                return None;
            };
            key.local_port = tuple.icmp_id;
            let asked_inbound = u16::from(originator == Direction::Inbound);
            key.remote_port = icmp::flow_port(request, asked_inbound);
            Timeout::Icmp
        }
        Kind::Other => {
            // Flows of other protocols are keyed by addresses alone. The kernel's keys of GRE are
            // ignored.
            (key.local_port, key.remote_port) = (0, 0);
            Timeout::Other
        }
    };
    Some(Existing {
        key,
        originator,
        is_originator_known: true,
        state,
        has_seen_reply,
        is_ours,
        recency: entry.expires,
    })
}

/// The timeout for a TCP state of the kernel (`enum tcp_conntrack`). An entry without a state
/// belongs to a connection whose packets bypass connection tracking.
fn tcp_state(state: Option<u8>) -> Option<Timeout> {
    Some(match state {
        None | Some(3) => Timeout::TcpEstablished,
        Some(1) => Timeout::TcpSynSent,
        Some(2) => Timeout::TcpSynRecv,
        Some(4) => Timeout::TcpFinWait,
        Some(5) => Timeout::TcpCloseWait,
        Some(6) => Timeout::TcpLastAck,
        Some(7) => Timeout::TcpTimeWait,
        Some(9) => Timeout::TcpSynSent2,
        // NONE, CLOSE, and values that are no states.
        Some(_) => return None,
    })
}

#[cfg(test)]
pub(super) mod tests;
