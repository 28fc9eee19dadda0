//! Where IPv4 and IPv6 differ: the address lookup, the keys of fragments and the maps they
//! are in, essential traffic. Everything else is written, and checked by the verifier, once.

use aya_ebpf::bindings::BPF_ANY;
use sg_common::{
    fragment::{FragmentKey4, FragmentKey6, FragmentValue},
    lookup::{self, POINTER},
    protocol::{IPPROTO_IGMP, Kind},
};

use crate::{
    maps::{AsLoaded, FRAGMENTS4, FRAGMENTS6, Form, KernelTables},
    packet::Packet,
};

// Message types of RFC 4861, RFC 2710 and RFC 3810.
const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;
const MLD_QUERY: u8 = 130;
const MLD_DONE: u8 = 132;
const MLD2_REPORT: u8 = 143;

/// First ten bits of fe80::/10.
const LINK_LOCAL: u32 = 0xfe80 >> 6;

/// The class of an IPv4 address; `None` if the tables are not there.
#[inline(always)]
pub(crate) fn class4<F: Form>(address: u32) -> Option<u32> {
    lookup::class4(&KernelTables::<F>::GET, address)
}

/// The class of an IPv6 address in wire order, in the range of a leaf of the IPv4 table, so that the
/// verifier walks what follows once for both.
#[inline(always)]
pub(crate) fn class6<F: Form>(address: [u32; 4]) -> Option<u32> {
    let half = |high, low| u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low));
    let [a, b, c, d] = address;
    let tables = KernelTables::<F>::GET;
    Some(lookup::class6(&tables, half(a, b), half(c, d))? & !POINTER)
}

/// The class of the remote address; no row has the number that stands for "the tables are not there".
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_class(p: *const Packet) -> u32 {
    if p.is_null() {
        return u32::MAX;
    }
    // SAFETY: not null, and every caller passes a whole packet.
    let p = unsafe { &*p };
    if p.is_v6() {
        return class6::<AsLoaded>(p.remote).unwrap_or(u32::MAX);
    }
    class4::<AsLoaded>(u32::from_be(p.remote[0])).unwrap_or(u32::MAX)
}

#[inline(always)]
fn fragment_key4(p: &Packet) -> FragmentKey4 {
    FragmentKey4 {
        local: p.local[0],
        remote: p.remote[0],
        identification: p.fragment_id,
        protocol: p.fragment_protocol,
        direction: p.direction,
        zero: [0; 2],
    }
}

#[inline(always)]
fn fragment_key6(p: &Packet) -> FragmentKey6 {
    FragmentKey6 {
        local: p.local,
        remote: p.remote,
        identification: p.fragment_id,
        protocol: p.fragment_protocol,
        direction: p.direction,
        zero: [0; 2],
    }
}

/// What is remembered of the first fragment of the packet's datagram.
#[inline(always)]
pub(crate) fn fragment(p: &Packet) -> Option<*mut FragmentValue> {
    if p.is_v6() {
        FRAGMENTS6.get_ptr_mut(fragment_key6(p))
    } else {
        FRAGMENTS4.get_ptr_mut(fragment_key4(p))
    }
}

/// Remembers a first fragment, in place of an older one of that name. A table without room for it
/// costs its datagram, and nothing else.
#[inline(always)]
pub(crate) fn insert_fragment(p: &Packet, value: &FragmentValue) {
    let _ = if p.is_v6() {
        FRAGMENTS6.insert(fragment_key6(p), value, BPF_ANY.into())
    } else {
        FRAGMENTS4.insert(fragment_key4(p), value, BPF_ANY.into())
    };
}

/// SPEC K5, but for the fragment check. `source` is the sender's address, `ports` are the sender's and the
/// receiver's.
///
/// - A DHCP server's answer: from 67 to 68 (RFC 2131), or to 546 from 547 or from the same link, where the
///   server may use any port (RFC 8415 section 7.2 names those on which they listen, and no more).
/// - Neighbour discovery that no router can have forwarded: hop limit 255 (RFC 4861).
/// - MLD from a link-local address, or from none as long as the host has none yet (RFC 3590).
/// - IGMP that no router will forward: TTL 1 (RFC 2236, RFC 3376).
#[inline(always)]
pub(crate) fn is_essential(p: &Packet, source: &[u32; 4], ports: (u16, u16)) -> bool {
    let number = (p.number >> 8) as u8;
    if !p.is_v6() {
        return match p.kind {
            UDP => ports == (67, 68),
            OTHER => number == IPPROTO_IGMP && p.hop_limit == 1,
            _ => false,
        };
    }
    match p.kind {
        UDP => ports.1 == 546 && (ports.0 == 547 || is_link_local(source)),
        ICMP => match number {
            ROUTER_SOLICITATION..=REDIRECT => p.hop_limit == 255,
            MLD_QUERY..=MLD_DONE | MLD2_REPORT => is_link_local(source) || is_unspecified(source),
            _ => false,
        },
        _ => false,
    }
}

const UDP: u8 = Kind::Udp as u8;
const ICMP: u8 = Kind::Icmp as u8;
const OTHER: u8 = Kind::Other as u8;

#[inline(always)]
fn is_link_local(address: &[u32; 4]) -> bool {
    u32::from_be(address[0]) >> 22 == LINK_LOCAL
}

#[inline(always)]
fn is_unspecified(address: &[u32; 4]) -> bool {
    let [a, b, c, d] = address;
    a | b | c | d == 0
}
