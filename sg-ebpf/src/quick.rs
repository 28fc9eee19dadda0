//! The quick way of plain packets: TCP or UDP right behind an IPv4 or IPv6 header, without tags or
//! options. Decides and counts them as the long way would, in fewer steps, or leaves them alone.
//!
//! Nearly nothing is a call: where the kernel guards returns against speculation, each costs as much as
//! reading all headers.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};
use sg_common::{
    flow_entry::FlowKey,
    flow_table::Word as _,
    lookup::{column_entry, is_pointer, verdict_below},
    protocol::{IPPROTO_TCP, IPPROTO_UDP},
    tcp,
    verdict::{Direction, Verdict},
};

use crate::{
    classify, count, family, flow_maps,
    hook::Hook,
    maps::{self, KernelTables},
    outcome::Outcome,
    packet::{ETH_P_IP, ETH_P_IPV6, Stop, at, ends, field, parsed},
    quick_flow::{self, Step},
    verifier::forget,
    word::SharedWord,
};

/// What [`decide`] returns: nothing decided, or what became of the packet, or which program goes on.
pub(crate) const NOT_PLAIN: u32 = 0;
pub(crate) const DROPPED: u32 = 1;
pub(crate) const ACCEPTED: u32 = 2;
pub(crate) const IS_TO_TRACK: u32 = 3;

/// Whatever is not plain goes the long way, malformed packets too.
const NO: Stop = parsed::MALFORMED;

/// The ports on which the answers of DHCP arrive, which may be essential traffic.
const DHCP_CLIENT: u16 = 68;
const DHCPV6_CLIENT: u16 = 546;

/// The frame of a plain packet with its header of type `I`, as far as there are fields to look at.
/// Nearly every UDP packet is that long; a shorter one goes the long way.
#[repr(C, packed)]
struct Frame<I> {
    ethernet: EthHdr,
    ip: I,
    source: u16,
    destination: u16,
    numbers: [u8; 8],
    data_offset: u8,
    flags: u8,
}

/// What the headers say.
struct Plain {
    class: u32,
    /// 0 for TCP, 1 for UDP: the numbers of `Kind`.
    kind: usize,
    source: u16,
    destination: u16,
    /// TCP's, or none.
    flags: u8,
    /// Bytes of all headers.
    headers: usize,
    /// What is known of the hash of its flow: the sum over the addresses of IPv4 (those of IPv6 are too
    /// many to be kept for it), and what else names it.
    sum: u64,
    name: u64,
}

#[inline(always)]
pub(crate) fn decide<H: Hook>(hook: &H) -> u32 {
    plain(hook).unwrap_or(NOT_PLAIN)
}

#[inline(always)]
fn plain<H: Hook>(hook: &H) -> Result<u32, Stop> {
    let direction = H::DIRECTION;
    let ethernet = at::<EthHdr, H>(hook, 0)?;
    // Whatever the kernel does not know when it loads the program: all 64 bits of it.
    let unknown = field!(ethernet, dst_addr as u64);
    let p = match u16::from_be(field!(ethernet, ether_type as u16)) {
        ETH_P_IP => ipv4(hook, unknown)?,
        ETH_P_IPV6 => ipv6(hook, unknown)?,
        _ => return Err(NO),
    };

    let entry = column_entry(&KernelTables, p.class, direction, p.kind as u8).ok_or(NO)?;
    let verdict = verdict_below(&KernelTables, entry, direction, p.destination);
    if maps::has_logging_rules() && verdict.is_logged() {
        return Err(NO);
    }
    let needs_flow = maps::has_flows()
        && if verdict.is_accept() {
            !passes_answer(&p, direction.opposite())
        } else {
            p.flags & (tcp::SYN | tcp::ACK) != tcp::SYN
        };
    // Whether it accepts was asked, and is asked again below: two ways to walk between.
    let verdict = Verdict(SharedWord::opaque(verdict.0.into()) as u32);
    let mut outcome = Outcome::rule(verdict);
    if maps::has_flows() && forget(needs_flow.into(), unknown) & 1 != 0 {
        let sum = match p.name & FlowKey::IS_V6 {
            0 => p.sum,
            _ => quick_flow::sum6(hook)?,
        };
        let hash = quick_flow::hash(forget(sum, unknown), p.name);
        if verdict.is_accept() || flow_maps::may_be_there(hash) {
            let step = Step {
                name: p.name,
                hash,
                class: p.class,
                verdict,
                headers: p.headers as u32,
            };
            match quick_flow::flow(hook, &step, unknown)? {
                Some(packed) => outcome = Outcome::unpack(packed),
                None => return Ok(IS_TO_TRACK),
            }
        }
    }
    // That the whole packet can be read was looked at.
    count::count(hook, 0, p.headers as u32, &outcome);
    Ok(if outcome.is_accepted() {
        ACCEPTED
    } else {
        DROPPED
    })
}

/// Whether the other direction's rules pass the replies by themselves: then there is nothing to
/// remember. Most such rules say so for all ports.
#[inline(always)]
fn passes_answer(p: &Plain, opposite: Direction) -> bool {
    let Some(entry) = column_entry(&KernelTables, p.class, opposite, p.kind as u8) else {
        return false;
    };
    if is_pointer(entry) {
        return classify::ask(p.class, opposite, p.kind as u8, p.source).is_accept();
    }
    Verdict(entry).is_accept()
}

#[inline(always)]
fn ipv4<H: Hook>(hook: &H, unknown: u64) -> Result<Plain, Stop> {
    /// Version 4, and no options.
    const PLAIN: u8 = 0x45;
    /// More fragments, or an offset.
    const FRAGMENT: u16 = 0x3fff_u16.to_be();
    let frame = at::<Frame<Ipv4Hdr>, H>(hook, 0)?;
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let header = unsafe { &raw const (*frame).ip };
    if field!(header, vihl as u8) != PLAIN || field!(header, frags as u16) & FRAGMENT != 0 {
        return Err(NO);
    }
    let end = EthHdr::LEN + usize::from(u16::from_be(field!(header, tot_len as u16)));
    let protocol = field!(header, proto as u8);
    let (local, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as u32),
        field!(header, dst_addr as u32),
    );
    let mut sum = 0;
    if maps::has_flows() {
        sum = forget(quick_flow::sum4(local, remote), unknown);
    }
    let mut p = transport(hook, frame, protocol, end, false, unknown)?;
    p.sum = sum;
    p.class = family::class4(u32::from_be(remote)).ok_or(NO)?;
    Ok(p)
}

#[inline(always)]
fn ipv6<H: Hook>(hook: &H, unknown: u64) -> Result<Plain, Stop> {
    let frame = at::<Frame<Ipv6Hdr>, H>(hook, 0)?;
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let header = unsafe { &raw const (*frame).ip };
    if field!(header, vcf as u8) >> 4 != 6 {
        return Err(NO);
    }
    let payload = usize::from(u16::from_be(field!(header, payload_len as u16)));
    let end = EthHdr::LEN + Ipv6Hdr::LEN + payload;
    let protocol = field!(header, next_hdr as u8);
    let (_, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as [u32; 4]),
        field!(header, dst_addr as [u32; 4]),
    );
    let mut p = transport(hook, frame, protocol, end, true, unknown)?;
    p.class = family::class6(remote).ok_or(NO)?;
    Ok(p)
}

/// The transport header of a packet that ends at `end`; the class is yet to be found.
#[inline(always)]
fn transport<I, H: Hook>(
    hook: &H,
    frame: *const Frame<I>,
    protocol: u8,
    end: usize,
    is_v6: bool,
    unknown: u64,
) -> Result<Plain, Stop> {
    let offset = EthHdr::LEN + size_of::<I>();
    // Without what the comparisons below tell the verifier, which walks what follows them once then.
    let named = forget(protocol.into(), unknown);
    // TCP is 6, UDP is 17.
    let kind = (named >> 4) as usize & 1;
    let destination = u16::from_be(field!(frame, destination as u16));
    let (header_len, flags) = if protocol == IPPROTO_TCP {
        let header_len = (field!(frame, data_offset as u8) >> 4) as usize * 4;
        if header_len < TcpHdr::LEN {
            return Err(NO);
        }
        (header_len, field!(frame, flags as u8))
    } else if protocol == IPPROTO_UDP {
        let dhcp_client = if is_v6 { DHCPV6_CLIENT } else { DHCP_CLIENT };
        if destination == dhcp_client && maps::accepts_essential() {
            return Err(NO);
        }
        (UdpHdr::LEN, 0)
    } else {
        return Err(NO);
    };
    let headers = offset + forget(header_len as u64, unknown) as usize;
    let flags = forget(flags.into(), unknown) as u8;
    if headers > end || end > hook.end() - hook.start() {
        return Err(NO);
    }
    let source = u16::from_be(field!(frame, source as u16));
    let (local, remote) = ends(H::DIRECTION, source, destination);
    let name = match maps::has_flows() {
        true => FlowKey::name(local, remote, named as u8, is_v6),
        false => 0,
    };
    Ok(Plain {
        class: 0,
        kind,
        source,
        destination,
        flags,
        headers,
        sum: 0,
        name: forget(name, unknown),
    })
}
