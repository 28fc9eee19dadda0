//! Bytes → headers: Ethernet with up to two VLAN tags, IPv4, IPv6, transport.
//! A frame that cannot be parsed is an error with its reason; nothing unparsable goes on.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    vlan::VlanHdr,
};
use sg_common::{
    fragment::{LONGEST_DATAGRAM, SCTP_HEADER, TCP_HEADER},
    protocol::{IPPROTO_SCTP, IPPROTO_TCP, is_ipv6_extension},
};

use super::{extension, transport::transport};
use crate::{
    bpf::{
        bytes::{ETH_P_IP, ETH_P_IPV6, LONGEST_SAID, Stop, at, field, parsed, parsed::MALFORMED},
        hook::Hook,
        twins::twins,
    },
    packet::{Packet, ends},
};

// As `ETH_P_IP`.
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_OFFSET: u16 = 0x1fff;

twins! {
    /// Parses a frame into `out`. Returns one of [`parsed`]'s numbers.
    pub(crate) fn parse_frame(out: *mut Packet) -> u32 = parse_into as sg_parse_xdp, sg_parse_tc;
}

#[inline(always)]
fn parse_into<H: Hook>(hook: &H, out: *mut Packet) -> u32 {
    if out.is_null() {
        return MALFORMED;
    }
    // SAFETY: not null, and the only caller passes a whole `Packet`.
    let out = unsafe { &mut *out };
    out.direction = H::DIRECTION as u8;
    // An attempt before this one may have left it set.
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
        let skipped = skip_tags(hook);
        if skipped > u64::from(u32::MAX) {
            return Err(parsed::UNREADABLE);
        }
        ether_type = skipped as u16;
        offset = EthHdr::LEN + (skipped >> 16) as usize % 16;
    }
    // Through memory behind a pointer, where the verifier forgets whether there was a tag: it
    // explores the rest once instead of twice.
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
    // Through memory again, for the two families. The masks change nothing, since headers take
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

twins! {
    /// See [`skip_vlans`].
    fn skip_tags() -> u64 = skip_vlans as sg_skip_vlans_xdp, sg_skip_vlans_tc;
}

/// Skips one or two VLAN tags behind the addresses. Returns the bytes skipped in bits 16-31 and
/// the type behind them in bits 0-15, or a larger number when a tag is cut off.
#[inline(always)]
fn skip_vlans<H: Hook>(hook: &H) -> u64 {
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

/// What a length field of zero means, if the field counts from `offset` on: all the rest of the
/// frame, if that is more than the field could say; else zero.
///
/// The kernel joins the segments of a TCP connection, or leaves them joined until a device
/// segments them, to packets of up to 512 KiB (BIG TCP). It writes zero into the field then
/// (`iph_set_totlen` in include/net/ip.h, `ipv6_gro_complete` in net/ipv6/ip6_offload.c), with or
/// without a jumbo payload option in IPv6, and reads zero as the frame's length (`skb_ip_totlen`,
/// `ipv6_payload_len`) if its own record says that the packet is joined. XDP does not see that
/// record. But no wire carries frames of that length, so that the length says the same; a short
/// frame that claims zero comes from a wire, and is malformed.
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
    if is_ipv6_extension(protocol) {
        let walked = extension::walk(hook, payload.offset as u32, protocol.into(), out);
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

/// Judges a fragment of `len` bytes that is not the first: it begins at `offset` of its datagram.
/// A fragment that begins inside the header by which the first one was judged would overwrite it
/// (RFC 1858 section 3). One that ends beyond the longest datagram would overflow the buffer of
/// its receiver.
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
