//! Transport headers: TCP, UDP, SCTP, ICMP; of all other protocols the number.

use network_types::{icmp::Icmpv4Hdr, sctp::SctpHdr, tcp::TcpHdr, udp::UdpHdr};
use sg_common::{
    icmp::{flow_port, is_error, query, query_number},
    protocol::{Kind, icmp_number, kind_of, other_number},
    tcp,
    verdict::Direction,
};

use crate::{
    bpf::{
        bytes::{LONGEST_SAID, Stop, at, field, parsed::MALFORMED},
        hook::Hook,
    },
    packet::{Numbers, Packet, ends},
};

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

/// The transport header at `at_offset`, of which the IP packet claims `len` bytes.
#[inline(always)]
pub(crate) fn transport<H: Hook>(
    hook: &H,
    at_offset: usize,
    len: usize,
    out: &mut Packet,
) -> Result<(), Stop> {
    let fits = |size: usize| if len < size { Err(MALFORMED) } else { Ok(()) };
    out.is_trackable = 1;
    out.opens = 1;
    let protocol = out.protocol;
    let header_len = match kind_of(protocol, out.is_v6()) {
        Kind::Tcp => {
            fits(TcpHdr::LEN)?;
            let header = at::<TcpStart, H>(hook, at_offset)?;
            let header_len = (field!(header, data_offset as u8) >> 4) as usize * 4;
            if header_len < TcpHdr::LEN || header_len > len {
                return Err(MALFORMED);
            }
            ports(H::DIRECTION, Kind::Tcp as u8, header.cast(), out);
            let flags = field!(header, flags as u8);
            let data = (len - header_len) as u32;
            out.numbers = Numbers::of(field!(header, numbers as [u32; 2]), flags, data);
            out.tcp_flags = flags;
            out.opens = tcp::opens(flags);
            header_len
        }
        Kind::Udp => {
            fits(UdpHdr::LEN)?;
            let header = at::<UdpHdr, H>(hook, at_offset)?;
            let said = u16::from_be(field!(header, len as u16)) as usize;
            if !is_udp_len(hook, said, len, out) {
                return Err(MALFORMED);
            }
            ports(H::DIRECTION, Kind::Udp as u8, header.cast(), out);
            UdpHdr::LEN
        }
        Kind::Sctp => {
            fits(SctpHdr::LEN)?;
            let header = at::<SctpHdr, H>(hook, at_offset)?;
            ports(H::DIRECTION, Kind::Sctp as u8, header.cast(), out);
            SctpHdr::LEN
        }
        Kind::Icmp => {
            fits(Icmpv4Hdr::LEN)?;
            icmp(at(hook, at_offset)?, out);
            Icmpv4Hdr::LEN
        }
        Kind::Other => {
            other(protocol, out);
            0
        }
    };
    out.headers = (at_offset + header_len) as u32;
    Ok(())
}

/// Whether a UDP header may say that its datagram has `said` bytes, in a packet that carries
/// `len`: as `udp_error` in net/netfilter/nf_conntrack_proto_udp.c has it, which sees datagrams
/// once they are whole. Of a first fragment only the least is known. What the kernel will cut
/// into segments itself may say anything, and so may a packet that is longer than the field can
/// say (RFC 2675 section 4: zero).
#[inline(always)]
fn is_udp_len<H: Hook>(hook: &H, said: usize, len: usize, out: &Packet) -> bool {
    if len > LONGEST_SAID || hook.is_to_be_segmented() {
        return true;
    }
    said >= UdpHdr::LEN && (said <= len || out.is_first_fragment())
}

/// A protocol of which nothing but the number is looked at.
#[inline(always)]
pub(crate) fn other(protocol: u8, out: &mut Packet) {
    out.kind = Kind::Other as u8;
    out.number = other_number(protocol);
    out.return_number = other_number(protocol);
}

/// What TCP, UDP and SCTP all begin with.
#[repr(C)]
pub(crate) struct Ports {
    source: u16,
    destination: u16,
}

#[inline(always)]
pub(crate) fn ports(direction: Direction, kind: u8, header: *const Ports, out: &mut Packet) {
    let source = u16::from_be(field!(header, source as u16));
    let destination = u16::from_be(field!(header, destination as u16));
    (out.local_port, out.remote_port) = ends(direction, source, destination);
    out.kind = kind;
    out.number = destination;
    out.return_number = source;
}

#[inline(always)]
pub(crate) fn icmp(header: *const Icmpv4Hdr, out: &mut Packet) {
    let (kind, code) = (field!(header, type_ as u8), field!(header, code as u8));
    out.number = icmp_number(kind, code);
    out.local_port = u16::from_be(field!(header, data as u16));
    sg_icmp(out);
}

/// What a message means, given its type and code (`number`), family and direction. Queries and
/// their replies form a flow by identifier (local port) and request type (remote port); no other
/// message belongs to a flow of its own. An exported function, so that the verifier checks it
/// once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_icmp(out: *mut Packet) -> u32 {
    if out.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes a whole `Packet`.
    let out = unsafe { &mut *out };
    let kind = (out.number >> 8) as u8;
    let v6 = out.v6;
    let query = query(v6, kind);
    let (request, is_request) = query.unwrap_or((0, false));
    out.kind = Kind::Icmp as u8;
    out.return_number = query_number(request, !is_request);
    // `Inbound` is 0 and `Outbound` is 1: requests that come in and replies that go out.
    let asked_inbound = u16::from(out.direction) ^ u16::from(is_request);
    out.remote_port = flow_port(request, asked_inbound);
    out.is_trackable = query.is_some().into();
    out.opens = is_request.into();
    out.is_error = is_error(v6, kind).into();
    0
}
