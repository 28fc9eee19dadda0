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
    flow_table::{Word as _, may_have},
    lookup::{POINTER, column_entry, is_pointer, verdict_below},
    protocol::{IPPROTO_TCP, IPPROTO_UDP},
    stage::{HAS_FLOWS, HAS_NEAR_TABLES},
    tcp,
    verdict::{Direction, Verdict},
};

use crate::{
    classify, count, family,
    flow_maps::Flows,
    hook::Hook,
    maps::{self, AsLoaded, Form, KernelTables, Usual},
    outcome::Outcome,
    packet::{ETH_P_IP, ETH_P_IPV6, Stop, at, ends, field, parsed},
    quick_flow::{self, Fate, IS_V6, Names, Step},
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
const DHCP_CLIENT: u64 = 68;
const DHCPV6_CLIENT: u64 = 546;

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
    kind: u64,
    /// Ports, here and in all that follows wide and with no known history: the compiler would combine
    /// swaps and shifts to what takes more instructions.
    source: u64,
    destination: u64,
    /// TCP's, or none.
    flags: u64,
    /// Bytes of all headers.
    headers: u64,
    /// In wire order.
    ether_type: u64,
    /// The addresses of IPv4 in wire order. Those of IPv6 are too many to be kept.
    local: u64,
    remote: u64,
}

impl Plain {
    /// The halves of its flow's name.
    #[inline(always)]
    fn name(&self, direction: Direction) -> [u64; 2] {
        const _: () = assert!(ETH_P_IP.to_be() >> 7 & 1 == 0 && ETH_P_IPV6.to_be() >> 7 & 1 == 1);
        let is_v6 = self.ether_type >> 7 & 1;
        let (local, remote) = ends(direction, self.source, self.destination);
        let protocol = TCP + self.kind * (UDP - TCP);
        [local | remote << 16, protocol | (is_v6 * IS_V6)]
    }
}

const TCP: u64 = IPPROTO_TCP as u64;
const UDP: u64 = IPPROTO_UDP as u64;

#[inline(always)]
pub(crate) fn decide<H: Hook>(hook: &H) -> u32 {
    // Written twice, and the kernel removes the form that the constant does not choose: it cannot remove a
    // question whose answers go on at one place.
    let decided = if maps::has() == HAS_FLOWS | HAS_NEAR_TABLES {
        plain::<H, Usual>(hook)
    } else {
        plain::<H, AsLoaded>(hook)
    };
    decided.unwrap_or(NOT_PLAIN)
}

#[inline(always)]
fn plain<H: Hook, F: Form>(hook: &H) -> Result<u32, Stop> {
    const IP: u16 = ETH_P_IP.to_be();
    const IPV6: u16 = ETH_P_IPV6.to_be();
    let direction = H::DIRECTION;
    let frame = at::<Frame<Ipv4Hdr>, H>(hook, 0)?;
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let ethernet = unsafe { &raw const (*frame).ethernet };
    let p = match field!(ethernet, ether_type as u16) {
        IP => ipv4::<H, F>(hook, frame)?,
        IPV6 => ipv6::<H, F>(hook)?,
        _ => return Err(NO),
    };

    let tables = KernelTables::<F>::GET;
    let entry = column_entry(&tables, p.class, direction, p.kind as u8).ok_or(NO)?;
    let verdict = verdict_below(&tables, entry, direction, p.destination);
    let verdict = Verdict(verdict.0 & !POINTER);
    // Below both of its flags: it neither accepts nor asks for an event.
    let is_drop = verdict.0 < Verdict::LOG_BIT;
    if !is_drop && verdict.is_logged() {
        return Err(NO);
    }
    if F::has_flows() && is_for_flows::<H, F>(&p, is_drop) {
        let names = Names {
            name: p.name(direction),
            addresses4: [p.local, p.remote],
        };
        let step = Step {
            class: p.class,
            verdict,
            is_drop,
            flags: p.flags,
            headers: p.headers,
        };
        match quick_flow::ask(hook, &names, &step)? {
            Fate::ByRules => (),
            Fate::ByFlow(packed) => {
                let outcome = Outcome::unpack(packed);
                count::count(hook, 0, p.headers as u32, &outcome);
                return Ok(answer(outcome.is_accepted()));
            }
            Fate::Unknown => return Ok(IS_TO_TRACK),
        }
    }
    // That the whole packet can be read was looked at.
    count::count_plain(hook, p.headers, verdict.slot());
    Ok(answer(!is_drop))
}

#[inline(always)]
const fn answer(is_accepted: bool) -> u32 {
    if is_accepted { ACCEPTED } else { DROPPED }
}

/// Whether the flow table has to be asked, or told.
#[inline(always)]
fn is_for_flows<H: Hook, F: Form>(p: &Plain, is_drop: bool) -> bool {
    const HANDSHAKE: u64 = (tcp::SYN | tcp::ACK) as u64;
    const BARE_SYN: u64 = tcp::SYN as u64;
    if is_drop {
        let (local_port, _) = ends(H::DIRECTION, p.source, p.destination);
        p.flags & HANDSHAKE != BARE_SYN && may_have(&Flows, local_port)
    } else {
        !passes_answer::<F>(p, H::DIRECTION.opposite())
    }
}

/// Whether the other direction's rules pass the replies by themselves: then there is nothing to
/// remember. Most such rules say so for all ports.
#[inline(always)]
fn passes_answer<F: Form>(p: &Plain, opposite: Direction) -> bool {
    let kind = p.kind as u8;
    let Some(entry) = column_entry(&KernelTables::<F>::GET, p.class, opposite, kind) else {
        return false;
    };
    if is_pointer(entry) {
        return classify::ask(p.class, opposite, kind, p.source as u16).is_accept();
    }
    Verdict(entry).is_accept()
}

#[inline(always)]
fn ipv4<H: Hook, F: Form>(hook: &H, frame: *const Frame<Ipv4Hdr>) -> Result<Plain, Stop> {
    /// Version 4, and no options.
    const PLAIN: u8 = 0x45;
    /// More fragments, or an offset.
    const FRAGMENT: u16 = 0x3fff_u16.to_be();
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let header = unsafe { &raw const (*frame).ip };
    if field!(header, vihl as u8) != PLAIN || field!(header, frags as u16) & FRAGMENT != 0 {
        return Err(NO);
    }
    let end = EthHdr::LEN as u64 + u64::from(u16::from_be(field!(header, tot_len as u16)));
    let protocol = field!(header, proto as u8);
    let (local, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as u32),
        field!(header, dst_addr as u32),
    );
    let mut p = transport(hook, frame, protocol, end, DHCP_CLIENT)?;
    (p.local, p.remote) = (local.into(), remote.into());
    p.class = family::class4::<F>(u32::from_be(remote)).ok_or(NO)?;
    Ok(p)
}

#[inline(always)]
fn ipv6<H: Hook, F: Form>(hook: &H) -> Result<Plain, Stop> {
    let frame = at::<Frame<Ipv6Hdr>, H>(hook, 0)?;
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let header = unsafe { &raw const (*frame).ip };
    if field!(header, vcf as u8) >> 4 != 6 {
        return Err(NO);
    }
    let payload = u64::from(u16::from_be(field!(header, payload_len as u16)));
    let end = (EthHdr::LEN + Ipv6Hdr::LEN) as u64 + payload;
    let protocol = field!(header, next_hdr as u8);
    let (_, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as [u32; 4]),
        field!(header, dst_addr as [u32; 4]),
    );
    let mut p = transport(hook, frame, protocol, end, DHCPV6_CLIENT)?;
    p.class = family::class6::<F>(remote).ok_or(NO)?;
    Ok(p)
}

/// The transport header of a packet that ends at `end`; the class is yet to be found. Which of the two it
/// is decides by arithmetic: traffic is mixed, and a wrong guess of the processor dear.
#[inline(always)]
fn transport<I, H: Hook>(
    hook: &H,
    frame: *const Frame<I>,
    protocol: u8,
    end: u64,
    dhcp_client: u64,
) -> Result<Plain, Stop> {
    // 6 and 17: the fifth bit tells them apart.
    let number = u64::from(protocol);
    let kind = SharedWord::opaque(number >> 4 & 1);
    if number != TCP + kind * (UDP - TCP) {
        return Err(NO);
    }
    let destination = u16::from_be(field!(frame, destination as u16));
    let destination = SharedWord::opaque(destination.into());
    if destination == dhcp_client && maps::accepts_essential() {
        return Err(NO);
    }
    // All ones for TCP, or zero.
    let is_tcp = kind.wrapping_sub(1);
    let tcp_len = u64::from(field!(frame, data_offset as u8)) >> 2 & 0x3c & is_tcp;
    if tcp_len + kind * (TcpHdr::LEN as u64) < TcpHdr::LEN as u64 {
        return Err(NO);
    }
    let offset = (EthHdr::LEN + size_of::<I>()) as u64;
    let headers = offset + tcp_len + kind * UdpHdr::LEN as u64;
    let flags = SharedWord::opaque(u64::from(field!(frame, flags as u8)) & is_tcp);
    if headers > end || end > (hook.end() - hook.start()) as u64 {
        return Err(NO);
    }
    let source = u16::from_be(field!(frame, source as u16));
    // SAFETY: `at` has compared it with the end of the packet. Read anew, since the verifier knows what it
    // was compared with, and both families go on together.
    let ether_type = unsafe {
        (&raw const (*frame).ethernet.ether_type)
            .cast::<u16>()
            .read_volatile()
    };
    Ok(Plain {
        class: 0,
        kind,
        source: SharedWord::opaque(source.into()),
        destination,
        flags,
        headers,
        ether_type: ether_type.into(),
        local: 0,
        remote: 0,
    })
}
