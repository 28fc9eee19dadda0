//! The quick way of plain packets: TCP or UDP right behind an IPv4 or IPv6 header, without tags or
//! options. Decides and counts them as the long way would, in fewer steps, or leaves them alone.
//!
//! Everything stays in registers, and nothing is a call: where the kernel guards returns against
//! speculation, each costs as much as reading all headers. Only packets of flows are written down as
//! a `Packet`, in a function of its own.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};
use sg_common::{
    tables::{IPPROTO_TCP, IPPROTO_UDP, Kind, judge},
    tcp,
    verdict::Verdict,
};

use crate::{
    classify, count, family,
    hook::Hook,
    maps::{self, KernelTables},
    outcome::Outcome,
    packet::{ETH_P_IP, ETH_P_IPV6, Packet, Stop, at, ends, field, parsed},
    verifier::forget,
};

/// What [`decide`] returns: nothing decided, or what became of the packet.
pub(crate) const NOT_PLAIN: u32 = 0;
pub(crate) const DROPPED: u32 = 1;
pub(crate) const ACCEPTED: u32 = 2;

/// Whatever is not plain goes the long way, malformed packets too.
const NO: Stop = parsed::MALFORMED;

/// The ports on which the answers of DHCP arrive, which may be essential traffic.
const DHCP_CLIENT: u16 = 68;
const DHCPV6_CLIENT: u16 = 546;

/// As much of a TCP header as has fields to look at. Nearly every UDP packet is as long; a shorter
/// one goes the long way.
#[repr(C)]
struct Transport {
    source: u16,
    destination: u16,
    numbers: [u8; 8],
    data_offset: u8,
    flags: u8,
}

/// What the IP header says.
struct Ip {
    class: u32,
    protocol: u8,
    /// Bytes behind the header.
    payload: u16,
}

#[inline(always)]
pub(crate) fn decide<H: Hook>(hook: &H) -> u32 {
    plain(hook).unwrap_or(NOT_PLAIN)
}

#[inline(always)]
fn plain<H: Hook>(hook: &H) -> Result<u32, Stop> {
    let direction = H::DIRECTION;
    let ethernet = at::<EthHdr, H>(hook, 0)?;
    let unknown = u64::from(field!(ethernet, dst_addr as u32));
    let ether_type = u16::from_be(field!(ethernet, ether_type as u16));
    let ip = match ether_type {
        ETH_P_IP => ipv4(hook)?,
        ETH_P_IPV6 => ipv6(hook)?,
        _ => return Err(NO),
    };
    // 1 for IPv6, whose type alone has this bit.
    let v6 = forget(u64::from(ether_type >> 15), unknown) as usize & 1;
    let offset = EthHdr::LEN + Ipv4Hdr::LEN + v6 * (Ipv6Hdr::LEN - Ipv4Hdr::LEN);
    let end = offset + usize::from(ip.payload);

    // A set in a word, after which the verifier does not know which of the two it is.
    const SET: u64 = 1 << IPPROTO_TCP | 1 << IPPROTO_UDP;
    let protocol = ip.protocol;
    if protocol >= 64 || SET >> protocol & 1 == 0 {
        return Err(NO);
    }
    // 0 for TCP, which is 6, and 1 for UDP, which is 17: the numbers of `Kind`.
    let kind = usize::from(protocol >> 4 & 1);
    let is_tcp = kind.wrapping_sub(1);
    let header = at::<Transport, H>(hook, offset)?;
    let source = u16::from_be(field!(header, source as u16));
    let destination = u16::from_be(field!(header, destination as u16));
    let data_offset = (field!(header, data_offset as u8) >> 4) as usize * 4;
    let header_len = data_offset & is_tcp | UdpHdr::LEN & !is_tcp;
    let shortest = TcpHdr::LEN & is_tcp | UdpHdr::LEN & !is_tcp;
    let flags = field!(header, flags as u8) & is_tcp as u8;
    let headers = offset + header_len;
    if header_len < shortest || headers > end || end > hook.end() - hook.start() {
        return Err(NO);
    }
    let dhcp_client = DHCP_CLIENT + v6 as u16 * (DHCPV6_CLIENT - DHCP_CLIENT);
    if maps::accepts_essential() && kind != 0 && destination == dhcp_client {
        return Err(NO);
    }

    let row = maps::row(ip.class).ok_or(NO)?;
    let verdict = judge(&KernelTables, row, direction, kind as u8, destination);
    if maps::has_logging_rules() && verdict.is_logged() {
        return Err(NO);
    }
    let needs_flow = maps::has_flows()
        && if verdict.is_accept() {
            // Where the other direction's rules pass the replies by themselves there is nothing to
            // remember.
            let answer = judge(&KernelTables, row, direction.opposite(), kind as u8, source);
            !answer.is_accept()
        } else {
            flags & (tcp::SYN | tcp::ACK) != tcp::SYN
        };
    let mut outcome = Outcome::rule(verdict);
    if maps::has_flows() && forget(needs_flow.into(), unknown) & 1 != 0 {
        outcome = Outcome::unpack(hook.plain_flow(ip.class, verdict.0));
    }
    count::count(hook, end as u32, headers as u32, &outcome);
    Ok(if outcome.is_accepted() {
        ACCEPTED
    } else {
        DROPPED
    })
}

#[inline(always)]
fn ipv4<H: Hook>(hook: &H) -> Result<Ip, Stop> {
    /// Version 4, and no options.
    const PLAIN: u8 = 0x45;
    /// More fragments, or an offset.
    const FRAGMENT: u16 = 0x3fff_u16.to_be();
    let header = at::<Ipv4Hdr, H>(hook, EthHdr::LEN)?;
    let total = u16::from_be(field!(header, tot_len as u16));
    if field!(header, vihl as u8) != PLAIN
        || field!(header, frags as u16) & FRAGMENT != 0
        || usize::from(total) < Ipv4Hdr::LEN
    {
        return Err(NO);
    }
    let source = field!(header, src_addr as u32);
    let destination = field!(header, dst_addr as u32);
    let (_, remote) = ends(H::DIRECTION, source, destination);
    Ok(Ip {
        class: family::class4(u32::from_be(remote)).ok_or(NO)?,
        protocol: field!(header, proto as u8),
        payload: total - Ipv4Hdr::LEN as u16,
    })
}

#[inline(always)]
fn ipv6<H: Hook>(hook: &H) -> Result<Ip, Stop> {
    let header = at::<Ipv6Hdr, H>(hook, EthHdr::LEN)?;
    if field!(header, vcf as u8) >> 4 != 6 {
        return Err(NO);
    }
    let source = field!(header, src_addr as [u32; 4]);
    let destination = field!(header, dst_addr as [u32; 4]);
    let (_, remote) = ends(H::DIRECTION, source, destination);
    Ok(Ip {
        class: family::class6(remote),
        protocol: field!(header, next_hdr as u8),
        payload: u16::from_be(field!(header, payload_len as u16)),
    })
}

/// Last stage, for packets whose fate the flow table knows or that it has to remember. Returns an
/// [`Outcome`], packed.
#[inline(always)]
pub(crate) fn flow<H: Hook>(hook: &H, class: u32, verdict: u32) -> u64 {
    let mut packet = Packet::EMPTY;
    match read(hook, &mut packet) {
        Ok(()) => classify::with_flows(H::DIRECTION, &packet, class, Verdict(verdict)).pack(),
        Err(_) => Outcome::rule(Verdict(verdict)).pack(),
    }
}

/// Writes down a packet that is known to be plain.
#[inline(always)]
fn read<H: Hook>(hook: &H, packet: &mut Packet) -> Result<(), Stop> {
    let ether_type = u16::from_be(field!(at::<EthHdr, H>(hook, 0)?, ether_type as u16));
    let (header, protocol);
    if ether_type == ETH_P_IP {
        let ip = at::<Ipv4Hdr, H>(hook, EthHdr::LEN)?;
        let source = field!(ip, src_addr as u32);
        let destination = field!(ip, dst_addr as u32);
        (packet.local[0], packet.remote[0]) = ends(H::DIRECTION, source, destination);
        protocol = field!(ip, proto as u8);
        header = at::<Transport, H>(hook, EthHdr::LEN + Ipv4Hdr::LEN)?;
    } else {
        let ip = at::<Ipv6Hdr, H>(hook, EthHdr::LEN)?;
        let source = field!(ip, src_addr as [u32; 4]);
        let destination = field!(ip, dst_addr as [u32; 4]);
        (packet.local, packet.remote) = ends(H::DIRECTION, source, destination);
        packet.v6 = 1;
        protocol = field!(ip, next_hdr as u8);
        header = at::<Transport, H>(hook, EthHdr::LEN + Ipv6Hdr::LEN)?;
    }
    let source = u16::from_be(field!(header, source as u16));
    let destination = u16::from_be(field!(header, destination as u16));
    (packet.local_port, packet.remote_port) = ends(H::DIRECTION, source, destination);
    packet.number = destination;
    packet.return_number = source;
    packet.protocol = protocol;
    // TCP is 6 and UDP 17.
    packet.kind = protocol >> 4;
    if packet.kind == Kind::Tcp as u8 {
        packet.tcp_flags = field!(header, flags as u8);
    }
    packet.is_trackable = 1;
    packet.opens = packet.tcp_flags >> 2 & 1 ^ 1;
    packet.direction = H::DIRECTION as u8;
    Ok(())
}
