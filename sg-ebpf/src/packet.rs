//! Bytes → headers: Ethernet with up to two VLAN tags, IPv4, IPv6, transport.
//! A frame that cannot be parsed is an error with its reason; nothing unparsable goes on.

use core::mem::offset_of;

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
    flow_entry::FlowKey,
    fragment::{LONGEST_DATAGRAM, SCTP_HEADER, TCP_HEADER},
    protocol::{
        IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, Kind, icmp_answer,
        icmp_is_error, icmp_number, icmp_query, other_number,
    },
    tcp,
    verdict::Direction,
};

use crate::{extension::is_extension_header, hook::Hook};

// IEEE 802 numbers, as include/uapi/linux/if_ether.h has them.
pub(crate) const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

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
/// What the rules and the flow table need of an IP packet.
///
/// Parsing writes it through a pointer, from a function that the verifier checks once by itself:
/// everything behind parsing then sees plain unknown numbers, and is checked once too instead of
/// once for each way in which a packet can be built.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Packet {
    /// Addresses as words whose bytes in memory are those on the wire; IPv4 uses the first.
    pub(crate) local: [u32; 4],
    pub(crate) remote: [u32; 4],
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) protocol: u8,
    /// 1 for IPv6.
    pub(crate) v6: u8,
    zero: u16,
    /// The number that the rules of this packet's direction are asked for: the destination port,
    /// the ICMP type and code, or the protocol.
    pub(crate) number: u16,
    /// The number that the rules of the other direction are asked for, were this packet answered.
    pub(crate) return_number: u16,
    /// Bytes of all headers, repeated in every segment of an offloaded packet.
    pub(crate) headers: u32,
    /// Where in the frame the IP packet ends.
    pub(crate) claimed: u32,
    /// Of a fragment: the datagram's identification, and the protocol that belongs to its name.
    pub(crate) fragment_id: u32,
    pub(crate) fragment_protocol: u8,
    /// 1 for a first fragment: it is decided by its ports, but is never essential traffic.
    pub(crate) is_fragment: u8,
    /// A [`Kind`].
    pub(crate) kind: u8,
    pub(crate) hop_limit: u8,
    pub(crate) tcp_flags: u8,
    /// 1 if the packet belongs to a flow, if there is one.
    pub(crate) is_trackable: u8,
    /// 1 if it may open a flow (an answer or a reset never does).
    pub(crate) opens: u8,
    /// A [`Direction`].
    pub(crate) direction: u8,
    /// 1 for an ICMP error about another packet, which it quotes.
    pub(crate) is_error: u8,
    /// Of a later fragment, where it belongs in its datagram, in units of eight bytes.
    pub(crate) fragment_offset: u16,
    /// TCP's, of a packet whose flow may be asked for.
    pub(crate) numbers: Numbers,
}

/// TCP's numbers, as far as a handshake is followed.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Numbers {
    /// What the segment acknowledges.
    pub(crate) acknowledged: u32,
    /// What acknowledges all of the segment.
    pub(crate) next: u32,
}

impl Numbers {
    pub(crate) const NONE: Numbers = Numbers {
        acknowledged: 0,
        next: 0,
    };

    /// As one number, which functions can take.
    #[inline(always)]
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.acknowledged) | u64::from(self.next) << 32
    }

    #[inline(always)]
    pub(crate) fn unpack(packed: u64) -> Self {
        Numbers {
            acknowledged: packed as u32,
            next: (packed >> 32) as u32,
        }
    }

    /// Of a segment with that header, whose numbers begin at `numbers`, and so many bytes of data.
    #[inline(always)]
    pub(crate) fn of(numbers: [u32; 2], flags: u8, data: u32) -> Self {
        let [sequence, acknowledged] = numbers.map(u32::from_be);
        // SYN is bit 1 and FIN bit 0: each takes a number of its own (RFC 9293 section 3.4).
        let marks = u32::from((flags & tcp::SYN) / tcp::SYN) + u32::from(flags & tcp::FIN);
        Numbers {
            acknowledged,
            next: sequence.wrapping_add(data).wrapping_add(marks),
        }
    }
}

// A packet begins with the key of its flow, so that there is no copy of that on the stack.
const _: () = assert!(
    offset_of!(Packet, local) == 0
        && offset_of!(Packet, remote) == offset_of!(FlowKey, addresses) + 16
        && offset_of!(Packet, local_port) == offset_of!(FlowKey, name)
        && offset_of!(Packet, remote_port) == offset_of!(FlowKey, name) + 2
        && offset_of!(Packet, protocol) == offset_of!(FlowKey, name) + 4
        && offset_of!(Packet, v6) == offset_of!(FlowKey, name) + 5
        && offset_of!(Packet, zero) == offset_of!(FlowKey, name) + 6
        && align_of::<Packet>() == align_of::<FlowKey>()
);

impl Packet {
    /// The key of the packet's flow.
    #[inline(always)]
    pub(crate) fn flow_key(&self) -> &FlowKey {
        // SAFETY: `repr(C)`, and the fields of the key come first, as was asserted above; plain
        // integers.
        unsafe { &*core::ptr::from_ref(self).cast::<FlowKey>() }
    }

    /// The words of that key, which fill the front of a packet.
    #[inline(always)]
    pub(crate) fn flow_key_words(&self) -> [u64; 5] {
        const _: () = assert!(size_of::<FlowKey>() == size_of::<[u64; 5]>());
        // SAFETY: as above.
        unsafe { *core::ptr::from_ref(self).cast() }
    }

    /// Makes it a plain packet with that flow's key and so many bytes of headers; whatever only the rules
    /// ask for is left as it is.
    #[inline(always)]
    pub(crate) fn set_plain(&mut self, key: &FlowKey, numbers: Numbers, headers: u32) {
        // SAFETY: as in `flow_key`.
        unsafe { *core::ptr::from_mut(self).cast::<FlowKey>() = *key };
        self.numbers = numbers;
        self.headers = headers;
        self.claimed = 0;
        self.is_fragment = 0;
    }

    pub(crate) const EMPTY: Packet = Packet {
        local: [0; 4],
        remote: [0; 4],
        local_port: 0,
        remote_port: 0,
        protocol: 0,
        v6: 0,
        zero: 0,
        number: 0,
        return_number: 0,
        headers: 0,
        claimed: 0,
        fragment_id: 0,
        fragment_protocol: 0,
        is_fragment: 0,
        kind: 0,
        hop_limit: 0,
        tcp_flags: 0,
        is_trackable: 0,
        opens: 0,
        direction: 0,
        is_error: 0,
        fragment_offset: 0,
        numbers: Numbers::NONE,
    };

    #[inline(always)]
    pub(crate) fn direction(&self) -> Direction {
        if self.direction == Direction::Inbound as u8 {
            Direction::Inbound
        } else {
            Direction::Outbound
        }
    }

    #[inline(always)]
    pub(crate) fn is_first_fragment(&self) -> bool {
        self.is_fragment != 0
    }

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
    /// IPv4 or IPv6.
    pub(crate) const IP: u32 = 0;
    /// Neither IPv4 nor IPv6, nor ARP.
    pub(crate) const OTHER: u32 = 1;
    /// Headers lie outside the readable bytes.
    pub(crate) const UNREADABLE: u32 = 2;
    pub(crate) const MALFORMED: u32 = 3;
    /// A later fragment, which has no ports.
    pub(crate) const LATER_FRAGMENT: u32 = 4;
    pub(crate) const ARP: u32 = 5;
}

/// Why parsing stopped: one of [`parsed`]'s numbers.
pub(crate) type Stop = u32;

use parsed::MALFORMED;

/// The verifier wants every offset into a packet below 65,536, with the bytes read there. Headers
/// cannot reach this far: twice eight extension headers of 2,048 bytes are the longest chain.
pub(crate) const FURTHEST: u32 = 60_000;

/// Where a `T` begins, if all of it is readable.
#[inline(always)]
pub(crate) fn at<T, H: Hook>(hook: &H, offset: usize) -> Result<*const T, Stop> {
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

pub(crate) use field;

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
    // SAFETY: not null, and the only caller passes a whole `Packet`.
    let out = unsafe { &mut *out };
    out.direction = H::DIRECTION as u8;
    // What an attempt before this one may have left.
    out.is_fragment = 0;
    match parse(hook, out) {
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
    // By way of memory behind a pointer, where the verifier forgets whether there was a tag: it
    // walks the rest once instead of twice.
    out.headers = offset as u32;
    // SAFETY: a field of a live value.
    let offset = (unsafe { core::ptr::read_volatile(&raw const out.headers) } & 0x1f) as usize;
    let payload = match ether_type {
        ETH_P_IP => ipv4(hook, offset, out)?,
        ETH_P_IPV6 => ipv6(hook, offset, out)?,
        // An IP packet behind a third tag must not pass as "not IP".
        other if is_vlan(other) => return Err(MALFORMED),
        ETH_P_ARP => return Ok(parsed::ARP),
        _ => return Ok(parsed::OTHER),
    };
    // By way of memory again, for the two families. The masks change nothing, since headers take
    // less than 17 KiB.
    out.headers = payload.offset as u32;
    out.claimed = (payload.offset + payload.len) as u32;
    out.fragment_offset = (payload.fragment_offset / 8) as u16;
    // SAFETY: fields of a live value.
    let (offset, end, fragment_offset) = unsafe {
        (
            (core::ptr::read_volatile(&raw const out.headers) & 0x7fff) as usize,
            core::ptr::read_volatile(&raw const out.claimed) as usize,
            core::ptr::read_volatile(&raw const out.fragment_offset) as usize * 8,
        )
    };
    let len = end.wrapping_sub(offset) & 0xf_ffff;
    let readable = hook.end() - hook.start();
    if end > readable && end > hook.frame_len() as usize {
        return Err(MALFORMED);
    }
    if fragment_offset != 0 {
        return later_fragment(out.fragment_protocol, fragment_offset, len);
    }
    transport(hook, offset, len, out)?;
    Ok(parsed::IP)
}

/// What an IP header carries: where it begins in the frame, and how long it claims to be.
struct Payload {
    offset: usize,
    len: usize,
    /// Of a later fragment, where it belongs in its datagram; zero for everything else.
    fragment_offset: usize,
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
    if hook.has_tag_beside() {
        // As if the third tag stood in the frame.
        return (VlanHdr::LEN as u64) << 16 | u64::from(ether_type);
    }
    let Ok(inner) = at::<VlanHdr, H>(hook, EthHdr::LEN + VlanHdr::LEN) else {
        return CUT_OFF;
    };
    let ether_type = u16::from_be(field!(inner, ether_type as u16));
    (2 * VlanHdr::LEN as u64) << 16 | u64::from(ether_type)
}

/// The most that a length field of 16 bits can say.
const LONGEST_SAID: usize = u16::MAX as usize;

/// What a length field of zero means in a frame that begins `offset` bytes before what the field counts:
/// all the rest, if that is more than the field could say; else zero.
///
/// The kernel joins the segments of a TCP connection, or leaves them joined until a device segments them, to
/// packets of up to 512 KiB (BIG TCP). It writes zero into the field then (`iph_set_totlen` in
/// include/net/ip.h, `ipv6_gro_complete` in net/ipv6/ip6_offload.c), with or without a jumbo payload option
/// in IPv6, and reads zero as the frame's length (`skb_ip_totlen`, `ipv6_payload_len`) if its own record says
/// that the packet is joined. XDP does not see that record. But no wire carries frames of that length, so that
/// the length tells the same; a short frame that claims zero comes from a wire, and is malformed.
#[inline(always)]
fn unsaid_len<H: Hook>(hook: &H, offset: usize) -> usize {
    let len = (hook.frame_len() as usize).wrapping_sub(offset) & 0xf_ffff;
    if len > LONGEST_SAID { len } else { 0 }
}

#[inline(always)]
fn ipv4<H: Hook>(hook: &H, offset: usize, out: &mut Packet) -> Result<Payload, Stop> {
    let header = at::<Ipv4Hdr, H>(hook, offset)?;
    let vihl = field!(header, vihl as u8);
    let header_len = ((vihl & 0x0f) as usize) * 4;
    let mut total_len = u16::from_be(field!(header, tot_len as u16)) as usize;
    if total_len == 0 {
        total_len = unsaid_len(hook, offset);
    }
    if vihl >> 4 != 4 || header_len < Ipv4Hdr::LEN || total_len < header_len {
        return Err(MALFORMED);
    }
    let protocol = field!(header, proto as u8);
    let fragment = u16::from_be(field!(header, frags as u16));
    let source = field!(header, src_addr as u32);
    let destination = field!(header, dst_addr as u32);
    (out.local[0], out.remote[0]) = ends(H::DIRECTION, source, destination);
    out.protocol = protocol;
    out.hop_limit = field!(header, ttl as u8);
    let fragment_offset = (fragment & IPV4_OFFSET) as usize * 8;
    if fragment & (IPV4_OFFSET | IPV4_MORE_FRAGMENTS) != 0 {
        out.fragment_id = u16::from_be(field!(header, id as u16)).into();
        out.fragment_protocol = protocol;
        out.is_fragment = 1;
    }
    Ok(Payload {
        offset: offset + header_len,
        len: total_len - header_len,
        fragment_offset,
    })
}

#[inline(always)]
fn ipv6<H: Hook>(hook: &H, offset: usize, out: &mut Packet) -> Result<Payload, Stop> {
    let header = at::<Ipv6Hdr, H>(hook, offset)?;
    let mut payload_len = u16::from_be(field!(header, payload_len as u16)) as usize;
    if payload_len == 0 {
        payload_len = unsaid_len(hook, offset + Ipv6Hdr::LEN);
    }
    if field!(header, vcf as u8) >> 4 != 6 {
        return Err(MALFORMED);
    }
    let mut protocol = field!(header, next_hdr as u8);
    out.hop_limit = field!(header, hop_limit as u8);
    let source = field!(header, src_addr as [u32; 4]);
    let destination = field!(header, dst_addr as [u32; 4]);
    (out.local, out.remote) = ends(H::DIRECTION, source, destination);
    out.v6 = 1;
    let mut payload = Payload {
        offset: offset + Ipv6Hdr::LEN,
        len: payload_len,
        fragment_offset: 0,
    };
    if is_extension_header(protocol) {
        let walked = hook.walk_extension_headers(payload.offset as u32, protocol.into(), out);
        let skipped = (walked >> 16) as usize & 0x7fff;
        if skipped > payload_len {
            return Err(MALFORMED);
        }
        payload.offset += skipped;
        payload.len -= skipped;
        match (walked >> 32) as u32 {
            0 => protocol = walked as u8,
            // The offset is where the protocol is otherwise, in units of eight bytes.
            parsed::LATER_FRAGMENT => payload.fragment_offset = (walked & 0x1fff) as usize * 8,
            stop => return Err(stop),
        }
    }
    out.protocol = protocol;
    Ok(payload)
}

/// What a fragment of `len` bytes is that begins at `offset`, not zero, of its datagram. One that
/// starts inside what the first fragment was judged by would overwrite it (RFC 1858 section 3);
/// one that ends beyond the longest datagram would overflow whoever assembles it.
#[inline(always)]
fn later_fragment(protocol: u8, offset: usize, len: usize) -> Result<u32, Stop> {
    let judged = match protocol {
        IPPROTO_TCP => TCP_HEADER,
        IPPROTO_SCTP => SCTP_HEADER,
        _ => 0,
    };
    if offset < judged || offset + len > LONGEST_DATAGRAM {
        Err(MALFORMED)
    } else {
        Ok(parsed::LATER_FRAGMENT)
    }
}

/// (local, remote) of the (source, destination) of a packet in `direction`.
#[inline(always)]
pub(crate) fn ends<A>(direction: Direction, source: A, destination: A) -> (A, A) {
    match direction {
        Direction::Inbound => (destination, source),
        Direction::Outbound => (source, destination),
    }
}

/// The transport header at `at_offset`, of which the IP packet claims `len` bytes.
#[inline(always)]
fn transport<H: Hook>(
    hook: &H,
    at_offset: usize,
    len: usize,
    out: &mut Packet,
) -> Result<(), Stop> {
    let fits = |size: usize| if len < size { Err(MALFORMED) } else { Ok(()) };
    out.is_trackable = 1;
    out.opens = 1;
    let protocol = out.protocol;
    let icmp_protocol = if out.is_v6() {
        IPPROTO_ICMPV6
    } else {
        IPPROTO_ICMP
    };
    let header_len = match protocol {
        IPPROTO_TCP => {
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
            out.opens = u8::from(flags & tcp::RST == 0);
            header_len
        }
        IPPROTO_UDP => {
            fits(UdpHdr::LEN)?;
            let header = at::<UdpHdr, H>(hook, at_offset)?;
            let said = u16::from_be(field!(header, len as u16)) as usize;
            if !is_udp_len(hook, said, len, out) {
                return Err(MALFORMED);
            }
            ports(H::DIRECTION, Kind::Udp as u8, header.cast(), out);
            UdpHdr::LEN
        }
        IPPROTO_SCTP => {
            fits(SctpHdr::LEN)?;
            let header = at::<SctpHdr, H>(hook, at_offset)?;
            ports(H::DIRECTION, Kind::Sctp as u8, header.cast(), out);
            SctpHdr::LEN
        }
        _ if protocol == icmp_protocol => {
            fits(Icmpv4Hdr::LEN)?;
            icmp(at(hook, at_offset)?, out);
            Icmpv4Hdr::LEN
        }
        _ => {
            other(protocol, out);
            0
        }
    };
    out.headers = (at_offset + header_len) as u32;
    Ok(())
}

/// Whether a UDP header may say that its datagram has `said` bytes, in a packet that carries `len`: as
/// `udp_error` in net/netfilter/nf_conntrack_proto_udp.c has it, which sees datagrams once they are whole. Of
/// a first fragment only the least is known. What the kernel will cut into segments itself may say anything,
/// and so may a packet that is longer than the field can say (RFC 2675 section 4: zero).
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

/// Set in the remote port of an ICMP flow whose requests come in: pings in both directions with
/// the same identifier are two flows, and a request is never taken for an answer.
const ASKED_INBOUND: u16 = 1 << 8;

#[inline(always)]
pub(crate) fn icmp(header: *const Icmpv4Hdr, out: &mut Packet) {
    let (kind, code) = (field!(header, type_ as u8), field!(header, code as u8));
    out.number = icmp_number(kind, code);
    out.local_port = u16::from_be(field!(header, data as u16));
    sg_icmp(out);
}

/// What a message means, given its type and code (`number`), family and direction. Queries and
/// their answers form a flow by identifier (local port) and request type (remote port); no other
/// message belongs to a flow of its own. Checked by the verifier once, hence a function of its own.
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
    let query = icmp_query(v6, kind);
    let (request, is_request) = query.unwrap_or((0, false));
    let return_kind = if is_request {
        icmp_answer(request)
    } else {
        request
    };
    out.kind = Kind::Icmp as u8;
    out.return_number = icmp_number(return_kind, 0);
    // `Inbound` is 0 and `Outbound` is 1: requests that come in and answers that go out.
    let asked_inbound = u16::from(out.direction) ^ u16::from(is_request);
    out.remote_port = u16::from(request) | (asked_inbound * ASKED_INBOUND);
    out.is_trackable = query.is_some().into();
    out.opens = is_request.into();
    out.is_error = icmp_is_error(v6, kind).into();
    0
}
