//! Bytes → headers: Ethernet with up to two VLAN tags, IPv4, the IPv6 header chain, transport.
//! A frame that cannot be parsed is an error with its reason; nothing unparsable goes on.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use network_types::{
    eth::EthHdr,
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    sctp::SctpHdr,
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
};
use sg_common::{
    tables::{
        IPPROTO_AH, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, Kind,
        icmp_answer, icmp_number, icmp_query, other_number,
    },
    tcp,
    verdict::Direction,
};

use crate::hook::Hook;

// IEEE 802 numbers, as include/uapi/linux/if_ether.h has them.
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

// IPv6 extension headers (RFC 8200 section 4; AH: RFC 4302).
const NEXTHDR_HOP: u8 = 0;
const NEXTHDR_ROUTING: u8 = 43;
const NEXTHDR_FRAGMENT: u8 = 44;
const NEXTHDR_DEST: u8 = 60;
/// More extension headers than this are malformed (SPEC K3).
const MAX_EXTENSION_HEADERS: usize = 8;

/// What every IPv6 extension header begins with; `fragment` is the fragment header's.
#[repr(C)]
struct ExtensionHeader {
    next: u8,
    length: u8,
    fragment: u16,
    rest: u32,
}

/// A TCP header by its bytes: the library has offset and flags as bit fields.
#[repr(C)]
struct TcpStart {
    ports: [u8; 4],
    numbers: [u8; 8],
    data_offset: u8,
    flags: u8,
    rest: [u8; 6],
}

const _: () = assert!(size_of::<TcpStart>() == TcpHdr::LEN);

const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_OFFSET: u16 = 0x1fff;
const IPV6_MORE_FRAGMENTS: u16 = 1;
const IPV6_OFFSET: u16 = 0xfff8;

/// What the rules and the flow table need of an IP packet.
///
/// Parsing writes it through a pointer, from a function that the verifier checks once by itself:
/// everything behind parsing then sees plain unknown numbers, and is checked once too instead of
/// once for each way in which a packet can be built.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Packet {
    /// Addresses as words whose bytes in memory are those on the wire; IPv4 uses the first.
    pub(crate) local: [u32; 4],
    pub(crate) remote: [u32; 4],
    /// The number that the rules of this packet's direction are asked for: the destination port,
    /// the ICMP type and code, or the protocol.
    pub(crate) number: u16,
    /// The number that the rules of the other direction are asked for, were this packet answered.
    pub(crate) return_number: u16,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    /// Bytes of all headers, repeated in every segment of an offloaded packet.
    pub(crate) headers: u32,
    pub(crate) protocol: u8,
    /// A [`Kind`].
    pub(crate) kind: u8,
    pub(crate) hop_limit: u8,
    pub(crate) tcp_flags: u8,
    /// 1 for a first fragment: it is decided by its ports, but is never essential traffic.
    pub(crate) is_fragment: u8,
    /// 1 if the packet belongs to a flow, if there is one.
    pub(crate) is_trackable: u8,
    /// 1 if it may open a flow (an answer or a reset never does).
    pub(crate) opens: u8,
    /// 1 for IPv6.
    pub(crate) v6: u8,
}

impl Packet {
    pub(crate) const EMPTY: Packet = Packet {
        local: [0; 4],
        remote: [0; 4],
        number: 0,
        return_number: 0,
        local_port: 0,
        remote_port: 0,
        headers: 0,
        protocol: 0,
        kind: 0,
        hop_limit: 0,
        tcp_flags: 0,
        is_fragment: 0,
        is_trackable: 0,
        opens: 0,
        v6: 0,
    };

    #[inline(always)]
    pub(crate) fn is_v6(&self) -> bool {
        self.v6 != 0
    }

    #[inline(always)]
    pub(crate) fn is_kind(&self, kind: Kind) -> bool {
        self.kind == kind as u8
    }
}

/// What parsing found, as the number that its function returns.
pub(crate) mod parsed {
    use sg_common::verdict::Reason;

    /// IPv4 or IPv6.
    pub(crate) const IP: u32 = 0;
    /// Neither IPv4 nor IPv6.
    pub(crate) const OTHER: u32 = 2;
    /// Headers lie outside the readable bytes.
    pub(crate) const UNREADABLE: u32 = 3;
    pub(crate) const MALFORMED: u32 = 16 + Reason::Malformed as u32;
    pub(crate) const FRAGMENT: u32 = 16 + Reason::Fragment as u32;
}

/// Why parsing stopped: one of [`parsed`]'s numbers.
type Stop = u32;

use parsed::MALFORMED;

/// Where a `T` begins, if all of it is readable.
#[inline(always)]
fn at<T, H: Hook>(hook: &H, offset: usize) -> Result<*const T, Stop> {
    let start = hook.start() + offset;
    if start + size_of::<T>() > hook.end() {
        return Err(parsed::UNREADABLE);
    }
    Ok(start as *const T)
}

/// Reads a field of the header that `$pointer` from [`at`] points to, as a whole word where the
/// header has it as bytes: a BPF load takes any address, and byte by byte it would be four loads
/// and as many shifts.
macro_rules! field {
    ($pointer:expr, $field:ident as $type:ty) => {
        // SAFETY: `at` compared the whole header with the end of the packet, which is what the
        // verifier looks for too; every field type is plain integers.
        unsafe { *(&raw const (*$pointer).$field).cast::<$type>() }
    };
}

/// Parses a frame of the XDP hook into `out`. Returns one of [`parsed`]'s numbers.
///
/// Exported and never inlined, so that the verifier takes it for a function of its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_parse_xdp(ctx: *mut xdp_md, out: *mut Packet) -> u32 {
    parse_into(&XdpContext::new(ctx), out)
}

/// As [`sg_parse_xdp`], for the tc hook.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_parse_tc(ctx: *mut __sk_buff, out: *mut Packet) -> u32 {
    parse_into(&TcContext::new(ctx), out)
}

#[inline(always)]
fn parse_into<H: Hook>(hook: &H, out: *mut Packet) -> u32 {
    if out.is_null() {
        return MALFORMED;
    }
    // SAFETY: not null, and the only caller passes a whole `Packet` on its stack.
    match parse(hook, unsafe { &mut *out }) {
        Ok(found) => found,
        Err(stop) => stop,
    }
}

#[inline(always)]
fn parse<H: Hook>(hook: &H, out: &mut Packet) -> Result<u32, Stop> {
    let mut ether_type = u16::from_be(field!(at::<EthHdr, H>(hook, 0)?, ether_type as u16));
    let mut offset = EthHdr::LEN;
    if is_vlan(ether_type) {
        let skipped = H::skip_vlans(hook);
        if skipped > u64::from(u32::MAX) {
            return Err(parsed::UNREADABLE);
        }
        ether_type = skipped as u16;
        offset = EthHdr::LEN + (skipped >> 16) as usize % 16;
    }
    match ether_type {
        ETH_P_IP => ipv4(hook, offset, out).map(|()| parsed::IP),
        ETH_P_IPV6 => ipv6(hook, offset, out).map(|()| parsed::IP),
        // An IP packet behind a third tag must not pass as "not IP".
        other if is_vlan(other) => Err(MALFORMED),
        _ => Ok(parsed::OTHER),
    }
}

#[inline(always)]
fn is_vlan(ether_type: u16) -> bool {
    ether_type == ETH_P_8021Q || ether_type == ETH_P_8021AD
}

/// Skips one or two VLAN tags behind the addresses. Returns the bytes skipped in bits 16-31 and
/// the type behind them in bits 0-15, or a larger number when a tag is cut off.
#[inline(always)]
pub(crate) fn skip_vlans<H: Hook>(hook: &H) -> u64 {
    const CUT_OFF: u64 = 1 << 32;
    let Ok(outer) = at::<VlanHdr, H>(hook, EthHdr::LEN) else {
        return CUT_OFF;
    };
    let ether_type = u16::from_be(field!(outer, ether_type as u16));
    if !is_vlan(ether_type) {
        return (VlanHdr::LEN as u64) << 16 | u64::from(ether_type);
    }
    let Ok(inner) = at::<VlanHdr, H>(hook, EthHdr::LEN + VlanHdr::LEN) else {
        return CUT_OFF;
    };
    let ether_type = u16::from_be(field!(inner, ether_type as u16));
    (2 * VlanHdr::LEN as u64) << 16 | u64::from(ether_type)
}

/// Fails unless the frame holds the `len` bytes that the network header claims from `offset` on.
#[inline(always)]
fn claims<H: Hook>(hook: &H, offset: usize, len: usize) -> Result<(), Stop> {
    let readable = hook.end() - hook.start();
    if offset + len > readable && offset + len > hook.frame_len() as usize {
        return Err(MALFORMED);
    }
    Ok(())
}

#[inline(always)]
fn ipv4<H: Hook>(hook: &H, offset: usize, out: &mut Packet) -> Result<(), Stop> {
    let header = at::<Ipv4Hdr, H>(hook, offset)?;
    let vihl = field!(header, vihl as u8);
    let header_len = ((vihl & 0x0f) as usize) * 4;
    let mut total_len = u16::from_be(field!(header, tot_len as u16)) as usize;
    if total_len == 0 && hook.segments() > 1 {
        // Segmentation offload beyond 64 KiB leaves the field zero (BIG TCP).
        total_len = hook.frame_len() as usize - offset;
    }
    if vihl >> 4 != 4 || header_len < Ipv4Hdr::LEN || total_len < header_len {
        return Err(MALFORMED);
    }
    let protocol = field!(header, proto as u8);
    let fragment = u16::from_be(field!(header, frags as u16));
    let source = field!(header, src_addr as u32);
    let destination = field!(header, dst_addr as u32);
    (out.local[0], out.remote[0]) = ends::<H, _>(source, destination);
    out.protocol = protocol;
    out.hop_limit = field!(header, ttl as u8);
    claims(hook, offset, total_len)?;
    if fragment & IPV4_OFFSET != 0 {
        return Err(later_fragment(
            protocol,
            (fragment & IPV4_OFFSET) as usize * 8,
        ));
    }
    out.is_fragment = u8::from(fragment & IPV4_MORE_FRAGMENTS != 0);
    let at = offset + header_len;
    transport::<H, false>(hook, protocol, at, total_len - header_len, out)
}

#[inline(always)]
fn ipv6<H: Hook>(hook: &H, offset: usize, out: &mut Packet) -> Result<(), Stop> {
    let header = at::<Ipv6Hdr, H>(hook, offset)?;
    let mut payload_len = u16::from_be(field!(header, payload_len as u16)) as usize;
    if payload_len == 0 && hook.segments() > 1 {
        payload_len = hook.frame_len() as usize - offset - Ipv6Hdr::LEN;
    }
    if field!(header, vcf as u8) >> 4 != 6 {
        return Err(MALFORMED);
    }
    let mut protocol = field!(header, next_hdr as u8);
    out.hop_limit = field!(header, hop_limit as u8);
    let source = field!(header, src_addr as [u32; 4]);
    let destination = field!(header, dst_addr as [u32; 4]);
    (out.local, out.remote) = ends::<H, _>(source, destination);
    claims(hook, offset, Ipv6Hdr::LEN + payload_len)?;

    let mut at = offset + Ipv6Hdr::LEN;
    let mut rest = payload_len;
    if is_extension_header(protocol) {
        let walked = H::walk_extension_headers(hook, at as u32, protocol.into());
        if walked >> 32 != 0 {
            return Err((walked >> 32) as u32);
        }
        protocol = walked as u8;
        out.is_fragment = (walked >> 8) as u8 & 1;
        let skipped = (walked >> 16) as usize & 0xffff;
        if skipped > rest {
            return Err(MALFORMED);
        }
        rest -= skipped;
        // Eight headers of at most 2,048 bytes: the mask changes nothing but what the verifier
        // knows.
        at += skipped & 0x7fff;
    }
    out.protocol = protocol;
    transport::<H, true>(hook, protocol, at, rest, out)
}

#[inline(always)]
fn is_extension_header(protocol: u8) -> bool {
    matches!(
        protocol,
        NEXTHDR_HOP | NEXTHDR_ROUTING | NEXTHDR_DEST | NEXTHDR_FRAGMENT | IPPROTO_AH
    )
}

/// Walks the IPv6 header chain from `offset` on, where a header of type `protocol` begins. Returns
/// in bits 0-7 the protocol behind it, in bit 8 whether this is a first fragment, in bits 16-31
/// the bytes skipped; or one of [`parsed`]'s numbers in the high half when it cannot go on.
#[inline(always)]
pub(crate) fn walk_extension_headers<H: Hook>(hook: &H, offset: u32, protocol: u32) -> u64 {
    let stop = |why: Stop| u64::from(why) << 32;
    let offset = (offset & 0x7f) as usize;
    let mut protocol = protocol as u8;
    let mut is_fragment = 0;
    let mut skipped = 0usize;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension_header(protocol) {
            break;
        }
        // Every extension header is at least this long, and the fragment header just this.
        let start = match at::<ExtensionHeader, H>(hook, offset + skipped) {
            Ok(start) => start,
            Err(why) => return stop(why),
        };
        let next = field!(start, next as u8);
        let length = field!(start, length as u8) as usize;
        skipped += match protocol {
            NEXTHDR_FRAGMENT => {
                let fragment = u16::from_be(field!(start, fragment as u16));
                if fragment & IPV6_OFFSET != 0 {
                    return stop(later_fragment(next, (fragment & IPV6_OFFSET) as usize));
                }
                is_fragment |= fragment & IPV6_MORE_FRAGMENTS;
                8
            }
            IPPROTO_AH => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        protocol = next;
    }
    if is_extension_header(protocol) {
        return stop(MALFORMED);
    }
    u64::from(protocol) | u64::from(is_fragment) << 8 | (skipped as u64) << 16
}

/// A fragment that starts inside the TCP header overwrites flags that were judged already
/// (RFC 1858 section 3); any other later fragment carries no ports to judge.
#[inline(always)]
fn later_fragment(protocol: u8, offset: usize) -> Stop {
    if protocol == IPPROTO_TCP && offset < TcpHdr::LEN {
        MALFORMED
    } else {
        parsed::FRAGMENT
    }
}

/// (local, remote) of (source, destination).
#[inline(always)]
fn ends<H: Hook, A>(source: A, destination: A) -> (A, A) {
    match H::DIRECTION {
        Direction::Inbound => (destination, source),
        Direction::Outbound => (source, destination),
    }
}

/// The transport header at `at_offset`, of which the IP packet claims `len` bytes.
#[inline(always)]
fn transport<H: Hook, const V6: bool>(
    hook: &H,
    protocol: u8,
    at_offset: usize,
    len: usize,
    out: &mut Packet,
) -> Result<(), Stop> {
    let fits = |size: usize| if len < size { Err(MALFORMED) } else { Ok(()) };
    out.v6 = V6.into();
    out.is_trackable = 1;
    out.opens = 1;
    let header_len = match protocol {
        IPPROTO_TCP => {
            fits(TcpHdr::LEN)?;
            let header = at::<TcpStart, H>(hook, at_offset)?;
            let header_len = (field!(header, data_offset as u8) >> 4) as usize * 4;
            if header_len < TcpHdr::LEN || header_len > len {
                return Err(MALFORMED);
            }
            ports::<H>(Kind::Tcp, header.cast(), out);
            let flags = field!(header, flags as u8);
            out.tcp_flags = flags;
            out.opens = u8::from(flags & tcp::RST == 0);
            header_len
        }
        IPPROTO_UDP => {
            fits(UdpHdr::LEN)?;
            ports::<H>(Kind::Udp, at::<UdpHdr, H>(hook, at_offset)?.cast(), out);
            UdpHdr::LEN
        }
        IPPROTO_SCTP => {
            fits(SctpHdr::LEN)?;
            ports::<H>(Kind::Sctp, at::<SctpHdr, H>(hook, at_offset)?.cast(), out);
            SctpHdr::LEN
        }
        _ if protocol == (if V6 { IPPROTO_ICMPV6 } else { IPPROTO_ICMP }) => {
            fits(Icmpv4Hdr::LEN)?;
            icmp::<H, V6>(at(hook, at_offset)?, out);
            Icmpv4Hdr::LEN
        }
        _ => {
            out.kind = Kind::Other as u8;
            out.number = other_number(protocol);
            out.return_number = other_number(protocol);
            0
        }
    };
    out.headers = (at_offset + header_len) as u32;
    Ok(())
}

/// What TCP, UDP and SCTP all begin with.
#[repr(C)]
struct Ports {
    source: u16,
    destination: u16,
}

#[inline(always)]
fn ports<H: Hook>(kind: Kind, header: *const Ports, out: &mut Packet) {
    let source = u16::from_be(field!(header, source as u16));
    let destination = u16::from_be(field!(header, destination as u16));
    (out.local_port, out.remote_port) = ends::<H, _>(source, destination);
    out.kind = kind as u8;
    out.number = destination;
    out.return_number = source;
}

/// Set in the remote port of an ICMP flow whose requests come in: pings in both directions with
/// the same identifier are two flows, and a request is never taken for an answer.
const ASKED_INBOUND: u16 = 1 << 8;

/// Queries and their answers form a flow by identifier (local port) and request type (remote
/// port); no other message belongs to a flow of its own.
#[inline(always)]
fn icmp<H: Hook, const V6: bool>(header: *const Icmpv4Hdr, out: &mut Packet) {
    let (kind, code) = (field!(header, type_ as u8), field!(header, code as u8));
    let query = icmp_query(V6, kind);
    let (request, is_request) = query.unwrap_or((0, false));
    let return_kind = if is_request {
        icmp_answer(V6, request)
    } else {
        request
    };
    out.kind = Kind::Icmp as u8;
    out.number = icmp_number(kind, code);
    out.return_number = icmp_number(return_kind, 0);
    out.local_port = u16::from_be(field!(header, data as u16));
    let is_inbound = matches!(H::DIRECTION, Direction::Inbound);
    out.remote_port = if is_inbound == is_request {
        u16::from(request) | ASKED_INBOUND
    } else {
        request.into()
    };
    out.is_trackable = query.is_some().into();
    out.opens = is_request.into();
}
