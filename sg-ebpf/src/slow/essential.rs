//! Essential traffic, which passes whatever the rules say (SPEC K5).

use sg_common::protocol::{IPPROTO_IGMP, Kind};

use crate::packet::Packet;

// Message types of RFC 4861, RFC 2710 and RFC 3810.
const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;
const MLD_QUERY: u8 = 130;
const MLD_DONE: u8 = 132;
const MLD2_REPORT: u8 = 143;

/// First ten bits of fe80::/10.
const LINK_LOCAL: u32 = 0xfe80 >> 6;

/// SPEC K5, but for the fragment check. `source` is the sender's address, `ports` are the
/// sender's and the receiver's.
///
/// - A DHCP server's answer: from 67 to 68 (RFC 2131), or to 546 from 547 or from the same link,
///   where the server may use any port (RFC 8415 section 7.2 names those on which they listen, and
///   no more).
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
