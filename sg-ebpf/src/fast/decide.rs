//! The fast path: decides TCP and UDP right behind an IPv4 or IPv6 header, without tags or
//! options, and counts them as the slow path would, in fewer steps. All other frames it leaves to
//! the slow path.
//!
//! Nearly nothing is a call: where the kernel guards returns against speculation, each costs as
//! much as reading all headers.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};
use sg_common::{
    concern::{Concern, concern},
    essential::{DHCP_CLIENT, DHCPV6_CLIENT},
    flow_table::{Word as _, may_have},
    lookup::{Tables as _, column_entry, column_index, is_pointer, verdict_below},
    program::{HAS_BSS_TABLES, HAS_FLOWS},
    protocol::{IPPROTO_TCP, IPPROTO_UDP, Kind},
    verdict::{Direction, Verdict},
};

use super::flow::{self, Fate, IS_V6, Names, Step};
use super::frame::{Beginning, Frame};
use crate::bpf::bytes::{ETH_P_IP, ETH_P_IPV6, Stop, at, field, parsed};
use crate::bpf::hook::Hook;
use crate::bpf::maps::{self, Generic, KernelTables, Specialised, Variant};
use crate::bpf::word::SharedWord;
use crate::conntrack::table::Flows;
use crate::outcome::Outcome;
use crate::packet::ends;
use crate::{classes, count, events, rules};

/// What [`decide`] returns: that the slow path has to decide, or the verdict, or that conntrack
/// goes on.
pub(crate) const NOT_PLAIN: u32 = 0;
pub(crate) const DROPPED: u32 = 1;
pub(crate) const ACCEPTED: u32 = 2;
pub(crate) const IS_TO_TRACK: u32 = 3;

/// The frame is not plain: the slow path decides it, also if it is malformed.
const NO: Stop = parsed::MALFORMED;

/// What the headers say.
struct Plain {
    class: u32,
    transport: Transport,
}

/// What every packet needs of TCP's header or UDP's. There are few registers: what only some
/// packets need is in [`Rest`].
struct Transport {
    /// A [`Kind`], TCP or UDP.
    kind: u64,
    /// The source port, and below it the destination. Opaque to the compiler, which would combine
    /// swaps and shifts to what takes more instructions.
    ports: u64,
    /// Where the column of this kind begins.
    column: u32,
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

/// What only some packets need of their headers, which read it anew.
struct Rest {
    is_v6: u64,
    /// TCP's, or none.
    flags: u64,
    /// Bytes of all headers up to its end.
    headers: u64,
}

impl Rest {
    /// Reads them from a frame that is plain, with a transport header of `kind`. Without branches,
    /// so that the verifier has one path to explore.
    #[inline(always)]
    fn of<H: Hook>(hook: &H, kind: u64) -> Result<Self, Stop> {
        const _: () = assert!(ETH_P_IP.to_be() >> 7 & 1 == 0 && ETH_P_IPV6.to_be() >> 7 & 1 == 1);
        let frame = at::<Frame<Ipv4Hdr>, H>(hook, 0)?;
        // SAFETY: an address inside what `at` has compared with the end of the packet. Read a
        // second time, since the verifier knows what the first value was compared with, and
        // would explore what follows for each family.
        let ether_type = unsafe {
            (&raw const (*frame).ethernet.ether_type)
                .cast::<u16>()
                .read_volatile()
        };
        let is_v6 = u64::from(ether_type) >> 7 & 1;
        let ip_end =
            (EthHdr::LEN + Ipv4Hdr::LEN) as u64 + is_v6 * (Ipv6Hdr::LEN - Ipv4Hdr::LEN) as u64;
        let header = at::<Beginning, H>(hook, ip_end as usize)?;
        // All ones for TCP.
        let of_tcp = kind.wrapping_sub(1);
        Ok(Rest {
            is_v6,
            flags: u64::from(field!(header, flags as u8)) & of_tcp,
            headers: ip_end + (Beginning::len(header) & of_tcp | UdpHdr::LEN as u64 & !of_tcp),
        })
    }
}

/// What names the flow of the packet.
#[inline(always)]
fn names<H: Hook>(hook: &H, transport: &Transport, is_v6: u64) -> Result<Names, Stop> {
    let frame = at::<Frame<Ipv4Hdr>, H>(hook, 0)?;
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let header = unsafe { &raw const (*frame).ip };
    const { assert!(Kind::Tcp as u8 == 0 && Kind::Udp as u8 == 1) };
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

const ACCEPT_BIT: u64 = Verdict::ACCEPT_BIT as u64;

#[inline(always)]
pub(crate) fn decide<H: Hook>(hook: &H) -> u32 {
    // Compiled twice, and the kernel removes the variant that the constant does not choose. It
    // could not remove single tests of that constant whose two sides meet again.
    let decided = if maps::has() == HAS_FLOWS | HAS_BSS_TABLES {
        plain::<H, Specialised>(hook)
    } else if maps::is_traced() || events::is_watched() {
        // See `Variant::counts_events`.
        Err(NO)
    } else {
        plain::<H, Generic>(hook)
    };
    decided.unwrap_or(NOT_PLAIN)
}

#[inline(always)]
fn plain<H: Hook, F: Variant>(hook: &H) -> Result<u32, Stop> {
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
    let entry = tables.word(t.column.wrapping_add(p.class)).ok_or(NO)?;
    let verdict = verdict_below(&tables, entry, direction, t.destination());
    // Many paths lead to a verdict. Without this the verifier would explore what follows once for
    // each of them.
    let mut wide_verdict = SharedWord::forget(verdict.0.into(), t.ports);
    const LOG_BIT: u64 = Verdict::LOG_BIT as u64;
    const { assert!(ACCEPT_BIT > LOG_BIT) };
    let is_drop = wide_verdict < ACCEPT_BIT;
    let is_logged = F::has_logs() && SharedWord::opaque(wide_verdict) & LOG_BIT != 0;
    // The slow path writes its event. What is dropped may still belong to a flow, which has none.
    if is_logged && !is_drop {
        return Err(NO);
    }
    let mut concern = match F::has_flows() {
        true => concern_of_flows::<H, F>(&p, is_drop),
        false => Concern::None as u64,
    };
    if F::may_have_cut() {
        // As above.
        concern = SharedWord::forget(concern, t.ports);
        wide_verdict = SharedWord::forget(wide_verdict, t.ports);
    }
    let verdict = Verdict(wide_verdict as u32);
    if concern != Concern::None as u64 {
        let rest = Rest::of(hook, t.kind)?;
        let names = names(hook, t, rest.is_v6)?;
        let step = Step {
            class: p.class,
            verdict,
            is_drop: match F::may_have_cut() {
                true => concern == Concern::MayReply as u64,
                false => is_drop,
            },
            is_passed: F::may_have_cut() && concern == Concern::MayBeCut as u64,
            flags: rest.flags,
            headers: rest.headers,
        };
        match flow::ask(hook, &names, &step)? {
            Fate::ByRules => (),
            Fate::ByFlow(_) if F::only_remembers() => return Ok(ACCEPTED),
            Fate::ByFlow(packed) => {
                let outcome = Outcome::unpack(packed);
                if F::has_logs() && outcome.is_logged() {
                    return Err(NO);
                }
                count::count(hook, 0, rest.headers as u32, &outcome);
                return Ok(decided(outcome.passes()));
            }
            // The scratch has not all that its event needs.
            Fate::Unknown if is_logged => return Err(NO),
            Fate::Unknown => return Ok(IS_TO_TRACK),
        }
    }
    if F::only_remembers() {
        return Ok(ACCEPTED);
    }
    if is_logged {
        return Err(NO);
    }
    by_rules::<H, F>(hook, t, verdict)
}

/// Counts a packet for the rule or the reason that decides it, unless an event of it is to be
/// written.
#[inline(always)]
fn by_rules<H: Hook, F: Variant>(hook: &H, t: &Transport, verdict: Verdict) -> Result<u32, Stop> {
    let Some(slot) = count::slot(verdict.slot()) else {
        return Ok(decided(verdict.is_accept()));
    };
    // The whole packet is readable: `transport` has compared its end.
    let headers = || Rest::of(hook, t.kind).map_or(0, |rest| rest.headers);
    // Asked anew, of a number that the verifier knows nothing of: it would explore what comes
    // before once for drops and once for all else.
    if F::counts_events() && SharedWord::opaque(verdict.0.into()) & ACCEPT_BIT == 0 {
        let tick = events::closed_in(hook, slot).ok_or(NO)?;
        if tick != 0 {
            count::count_suppressed(hook, headers, slot, || events::end_if_over(tick));
            return Ok(DROPPED);
        }
    }
    count::count_plain(hook, headers, slot);
    Ok(decided(verdict.is_accept()))
}

#[inline(always)]
const fn decided(is_accepted: bool) -> u32 {
    if is_accepted { ACCEPTED } else { DROPPED }
}

/// What the flow table has to do with a packet. A number, since the verifier is to forget it.
#[inline(always)]
fn concern_of_flows<H: Hook, F: Variant>(p: &Plain, is_drop: bool) -> u64 {
    let concern = concern(!is_drop, F::may_have_cut, || {
        passes_reply::<F>(p, H::DIRECTION.opposite())
    });
    match concern {
        Concern::None | Concern::Remembered => return concern as u64,
        Concern::MayReply | Concern::MayBeCut => {}
    }
    match may_have(&Flows, p.transport.name(H::DIRECTION)) {
        true => concern as u64,
        false => Concern::None as u64,
    }
}

/// Whether the other direction's rules pass the reply by themselves. Most such rules say so for all
/// ports.
#[inline(always)]
fn passes_reply<F: Variant>(p: &Plain, opposite: Direction) -> bool {
    let kind = p.transport.kind as u8;
    let Some(entry) = column_entry(&KernelTables::<F>::GET, p.class, opposite, kind) else {
        return false;
    };
    if is_pointer(entry) {
        return rules::ask(p.class, opposite, kind, p.transport.source() as u16).is_accept();
    }
    Verdict(entry as u32).is_accept()
}

#[inline(always)]
fn ipv4<H: Hook, F: Variant>(hook: &H, frame: *const Frame<Ipv4Hdr>) -> Result<Plain, Stop> {
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
    let class = classes::class4::<F>(u32::from_be(remote)).ok_or(NO)?;
    Ok(Plain { class, transport })
}

#[inline(always)]
fn ipv6<H: Hook, F: Variant>(hook: &H) -> Result<Plain, Stop> {
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
    let class = classes::class6::<F>(remote).ok_or(NO)?;
    Ok(Plain { class, transport })
}

/// The transport header of a packet that ends at `end`.
#[inline(always)]
fn transport<I, H: Hook>(
    hook: &H,
    frame: *const Frame<I>,
    protocol: u8,
    end: u64,
    dhcp_client: u16,
) -> Result<Transport, Stop> {
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let header = unsafe { &raw const (*frame).transport };
    let ports = SharedWord::opaque(u32::from_be(field!(header, ports as u32)).into());
    let mut headers = (EthHdr::LEN + size_of::<I>()) as u64;
    let column = |kind: Kind| maps::shape().column(column_index(H::DIRECTION, kind as u8));
    let transport;
    // TCP first. The numbers of UDP are in the range of those of TCP, so that the verifier then
    // has nothing more to explore for UDP.
    if protocol == IPPROTO_TCP {
        let len = Beginning::len(header);
        if len < TcpHdr::LEN as u64 {
            return Err(NO);
        }
        headers += len;
        transport = Transport {
            kind: SharedWord::forget(Kind::Tcp as u64, ports),
            ports,
            column: SharedWord::forget(column(Kind::Tcp).into(), ports) as u32,
        };
    } else if protocol == IPPROTO_UDP {
        transport = Transport {
            kind: Kind::Udp as u64,
            ports,
            column: column(Kind::Udp),
        };
        if transport.destination() == u64::from(dhcp_client) && maps::accepts_essential() {
            return Err(NO);
        }
        headers += UdpHdr::LEN as u64;
        // UDP's length is at least its header's, and at most what the packet has: one comparison
        // for both. It is wrong only if the packet ends within the header, which is checked below.
        let beyond_header = Beginning::udp_len(header).wrapping_sub(UdpHdr::LEN as u64);
        if beyond_header > end.wrapping_sub(headers) {
            return Err(NO);
        }
    } else {
        return Err(NO);
    }
    if headers > end || end > (hook.end() - hook.start()) as u64 {
        return Err(NO);
    }
    Ok(transport)
}
