//! Essential traffic, which passes whatever the rules say, because a node has no network without
//! it (SPEC K5). The packet path asks, and `explain`.

use crate::protocol::{IPPROTO_IGMP, Kind};

// Message types of RFC 4861, RFC 2710 and RFC 3810.
const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;
const MLD_QUERY: u8 = 130;
const MLD_DONE: u8 = 132;
const MLD2_REPORT: u8 = 143;

// Ports of RFC 2131 and RFC 8415.
const DHCP_SERVER: u16 = 67;
/// Where the replies of DHCP servers arrive.
pub const DHCP_CLIENT: u16 = 68;
/// As [`DHCP_CLIENT`], of DHCPv6.
pub const DHCPV6_CLIENT: u16 = 546;
const DHCPV6_SERVER: u16 = 547;

/// The hop limit of neighbour discovery that no router has forwarded (RFC 4861).
pub const NEIGHBOUR_HOP_LIMIT: u8 = 255;
/// The TTL of IGMP that no router will forward (RFC 2236, RFC 3376).
pub const IGMP_TTL: u8 = 1;

/// First ten bits of fe80::/10.
const LINK_LOCAL: u32 = 0xfe80 >> 6;

/// The headers that decide whether a packet is essential.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// Whether the addresses are IPv6.
    pub is_v6: bool,
    /// A [`Kind`] as a number.
    pub kind: u8,
    /// The number that the rules are asked about: see [`Kind`].
    pub number: u16,
    /// IPv6's hop limit, IPv4's TTL.
    pub hop_limit: u8,
    /// The sender's address, as words whose bytes in memory are those on the wire.
    pub source: &'a [u32; 4],
    /// The sender's port and the receiver's, in host order.
    pub ports: (u16, u16),
}

/// Whether a packet is essential. A fragment never is: callers have looked at that.
///
/// - A DHCP server's reply: from 67 to 68 (RFC 2131), or to 546 from 547 or from the same link,
///   where the server may use any port (RFC 8415 section 7.2 names those on which they listen, and
///   no more).
/// - Neighbour discovery that no router can have forwarded: hop limit 255 (RFC 4861).
/// - MLD from a link-local address, or from none as long as the host has none yet (RFC 3590).
/// - IGMP that no router will forward: TTL 1 (RFC 2236, RFC 3376).
#[inline(always)]
pub fn is_essential(p: &Headers<'_>) -> bool {
    let high = (p.number >> 8) as u8;
    if !p.is_v6 {
        return match p.kind {
            UDP => p.ports == (DHCP_SERVER, DHCP_CLIENT),
            OTHER => high == IPPROTO_IGMP && p.hop_limit == IGMP_TTL,
            _ => false,
        };
    }
    match p.kind {
        UDP => {
            p.ports.1 == DHCPV6_CLIENT && (p.ports.0 == DHCPV6_SERVER || is_link_local(p.source))
        }
        ICMP => match high {
            ROUTER_SOLICITATION..=REDIRECT => p.hop_limit == NEIGHBOUR_HOP_LIMIT,
            MLD_QUERY..=MLD_DONE | MLD2_REPORT => {
                is_link_local(p.source) || is_unspecified(p.source)
            }
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

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;
    use crate::protocol::{icmp_number, other_number};

    fn words(address: &str) -> (bool, [u32; 4]) {
        match address.parse().unwrap() {
            IpAddr::V4(a) => (false, [u32::from_ne_bytes(a.octets()), 0, 0, 0]),
            IpAddr::V6(a) => {
                let octets = a.octets();
                let (words, _) = octets.as_chunks::<4>();
                (true, core::array::from_fn(|i| u32::from_ne_bytes(words[i])))
            }
        }
    }

    const ROUTED: &str = "2001:db8::1";
    const LINK: &str = "fe80::1";
    const V4: &str = "192.0.2.1";

    /// Proves K5: every message that it names, and its neighbours, which are not essential.
    #[test]
    fn what_a_node_has_no_network_without() {
        let udp = |from, to| (Kind::Udp, to, (from, to));
        let v6 = |kind| (Kind::Icmp, icmp_number(kind, 0), (0, 0));
        let igmp = (Kind::Other, other_number(IPPROTO_IGMP), (0, 0));
        #[rustfmt::skip]
        let table = [
            (V4,     udp(67, 68),    64, true),
            (V4,     udp(68, 67),    64, false),
            (V4,     udp(53, 68),    64, false),
            (V4,     udp(547, 546),  64, false),
            (ROUTED, udp(547, 546),  64, true),
            (ROUTED, udp(5000, 546), 64, false),
            (LINK,   udp(5000, 546), 64, true),
            (LINK,   udp(546, 547),  64, false),
            (ROUTED, udp(67, 68),    64, false),
            (V4,     (Kind::Tcp, 68, (67, 68)), 64, false),
            (V4,     igmp,            1, true),
            (V4,     igmp,            2, false),
            (ROUTED, igmp,            1, false),
            (V4,     (Kind::Other, other_number(3), (0, 0)), 1, false),
            (ROUTED, v6(132),       255, false),
            (ROUTED, v6(133),       255, true),
            (ROUTED, v6(135),       255, true),
            (ROUTED, v6(137),       255, true),
            (ROUTED, v6(138),       255, false),
            (ROUTED, v6(135),       254, false),
            (ROUTED, v6(128),       255, false),
            (LINK,   v6(130),         1, true),
            (LINK,   v6(132),         1, true),
            (LINK,   v6(143),         1, true),
            ("::",   v6(143),         1, true),
            (LINK,   v6(129),         1, false),
            (LINK,   v6(144),         1, false),
            (V4,     v6(133),       255, false),
        ];
        for (source, (kind, number, ports), hop_limit, expected) in table {
            let (is_v6, source) = words(source);
            let headers = Headers {
                is_v6,
                kind: kind as u8,
                number,
                hop_limit,
                source: &source,
                ports,
            };
            assert_eq!(is_essential(&headers), expected, "{headers:?}");
        }
    }

    /// The fast path, which decides TCP and UDP, leaves to the slow path what goes to these ports
    /// and may be essential: nothing else of TCP and UDP is.
    #[test]
    fn of_tcp_and_udp_only_the_replies_of_dhcp_are_essential() {
        for source in [V4, ROUTED, LINK, "::"] {
            let (is_v6, source) = words(source);
            let client = if is_v6 { DHCPV6_CLIENT } else { DHCP_CLIENT };
            for kind in [Kind::Tcp, Kind::Udp] {
                for to in 0..=u16::MAX {
                    for from in [67, 68, 546, 547, 5000] {
                        let headers = Headers {
                            is_v6,
                            kind: kind as u8,
                            number: to,
                            hop_limit: 255,
                            source: &source,
                            ports: (from, to),
                        };
                        if is_essential(&headers) {
                            assert_eq!((kind, to), (Kind::Udp, client));
                        }
                    }
                }
            }
        }
    }
}
