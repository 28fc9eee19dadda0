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
    lookup::{column_entry, is_pointer, verdict_below},
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
    ports: u32,
    numbers: [u8; 8],
    data_offset: u8,
    flags: u8,
}

/// What the headers say.
struct Plain {
    class: u32,
    transport: Transport,
}

/// TCP's header or UDP's.
struct Transport {
    /// 0 for TCP, 1 for UDP: the numbers of `Kind`.
    kind: u64,
    /// The source port, and below it the destination, with no known history: the compiler would combine
    /// swaps and shifts to what takes more instructions.
    ports: u64,
    /// TCP's, or none.
    flags: u64,
    /// Bytes of all headers up to its end.
    headers: u64,
}

impl Transport {
    #[inline(always)]
    fn destination(&self) -> u64 {
        self.ports & 0xffff
    }

    #[inline(always)]
    fn source(&self) -> u64 {
        self.ports >> 16
    }

    /// The lower half of its flow's name.
    #[inline(always)]
    fn name(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Inbound => self.ports,
            Direction::Outbound => self.source() | self.destination() << 16,
        }
    }
}

/// What names the flow of the packet. Read anew, as most packets are decided without.
#[inline(always)]
fn names<H: Hook>(hook: &H, transport: &Transport) -> Result<Names, Stop> {
    const _: () = assert!(ETH_P_IP.to_be() >> 7 & 1 == 0 && ETH_P_IPV6.to_be() >> 7 & 1 == 1);
    let frame = at::<Frame<Ipv4Hdr>, H>(hook, 0)?;
    // SAFETY: addresses inside what `at` has compared with the end of the packet.
    let (ethernet, header) = unsafe { (&raw const (*frame).ethernet, &raw const (*frame).ip) };
    // SAFETY: as above. A reading of its own, since the verifier knows what the first one was compared with,
    // and both families go on together.
    let ether_type = unsafe {
        (&raw const (*ethernet).ether_type)
            .cast::<u16>()
            .read_volatile()
    };
    let is_v6 = u64::from(ether_type) >> 7 & 1;
    let protocol = TCP + transport.kind * (UDP - TCP);
    let (local, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as u32),
        field!(header, dst_addr as u32),
    );
    Ok(Names {
        name: [transport.name(H::DIRECTION), protocol | (is_v6 * IS_V6)],
        addresses4: [local.into(), remote.into()],
    })
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
    let t = &p.transport;
    let entry = column_entry(&tables, p.class, direction, t.kind as u8).ok_or(NO)?;
    let verdict = verdict_below(&tables, entry, direction, t.destination());
    // There are many ways to a verdict, and the verifier would walk what follows once for each.
    let wide_verdict = SharedWord::forget(verdict.0.into(), t.ports);
    const LOG_BIT: u64 = Verdict::LOG_BIT as u64;
    // Below both of its flags: it neither accepts nor asks for an event.
    let is_drop = wide_verdict < LOG_BIT;
    // The compiler would look at that flag of what is dropped too.
    if !is_drop && SharedWord::opaque(wide_verdict) & LOG_BIT != 0 {
        return Err(NO);
    }
    let verdict = Verdict(wide_verdict as u32);
    if F::has_flows() && is_for_flows::<H, F>(&p, is_drop) {
        let names = names(hook, t)?;
        let step = Step {
            class: p.class,
            verdict,
            is_drop,
            flags: t.flags,
            headers: t.headers,
        };
        match quick_flow::ask(hook, &names, &step)? {
            Fate::ByRules => (),
            Fate::ByFlow(packed) => {
                let outcome = Outcome::unpack(packed);
                count::count(hook, 0, t.headers as u32, &outcome);
                return Ok(answer(outcome.is_accepted()));
            }
            Fate::Unknown => return Ok(IS_TO_TRACK),
        }
    }
    // That the whole packet can be read was looked at.
    count::count_plain(hook, t.headers, verdict.slot());
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
        let name = p.transport.name(H::DIRECTION);
        p.transport.flags & HANDSHAKE != BARE_SYN && may_have(&Flows, name)
    } else {
        !passes_answer::<F>(p, H::DIRECTION.opposite())
    }
}

/// Whether the other direction's rules pass the replies by themselves: then there is nothing to
/// remember. Most such rules say so for all ports.
#[inline(always)]
fn passes_answer<F: Form>(p: &Plain, opposite: Direction) -> bool {
    let kind = p.transport.kind as u8;
    let Some(entry) = column_entry(&KernelTables::<F>::GET, p.class, opposite, kind) else {
        return false;
    };
    if is_pointer(entry) {
        return classify::ask(p.class, opposite, kind, p.transport.source() as u16).is_accept();
    }
    Verdict(entry as u32).is_accept()
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
    let (_, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as u32),
        field!(header, dst_addr as u32),
    );
    let transport = transport(hook, frame, protocol, end, DHCP_CLIENT)?;
    let class = family::class4::<F>(u32::from_be(remote)).ok_or(NO)?;
    Ok(Plain { class, transport })
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
    let transport = transport(hook, frame, protocol, end, DHCPV6_CLIENT)?;
    let class = family::class6::<F>(remote).ok_or(NO)?;
    Ok(Plain { class, transport })
}

/// The transport header of a packet that ends at `end`.
#[inline(always)]
fn transport<I, H: Hook>(
    hook: &H,
    frame: *const Frame<I>,
    protocol: u8,
    end: u64,
    dhcp_client: u64,
) -> Result<Transport, Stop> {
    let ports = SharedWord::opaque(u32::from_be(field!(frame, ports as u32)).into());
    let offset = (EthHdr::LEN + size_of::<I>()) as u64;
    let mut transport = Transport {
        kind: 0,
        ports,
        flags: 0,
        headers: offset,
    };
    // TCP first: of UDP, whose numbers are among those that it may have, the verifier then walks nothing more.
    if protocol == IPPROTO_TCP {
        let len = u64::from(field!(frame, data_offset as u8)) >> 2 & 0x3c;
        if len < TcpHdr::LEN as u64 {
            return Err(NO);
        }
        transport.headers += len;
        transport.flags = field!(frame, flags as u8).into();
        transport.kind = SharedWord::forget(0, ports);
    } else if protocol == IPPROTO_UDP {
        if transport.destination() == dhcp_client && maps::accepts_essential() {
            return Err(NO);
        }
        transport.headers += UdpHdr::LEN as u64;
        transport.kind = 1;
    } else {
        return Err(NO);
    }
    if transport.headers > end || end > (hook.end() - hook.start()) as u64 {
        return Err(NO);
    }
    Ok(transport)
}
