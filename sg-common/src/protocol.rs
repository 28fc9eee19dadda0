//! Protocol numbers and the 16-bit numbers by which packets are looked up: ports, ICMP messages,
//! protocols. Plain facts of the RFCs, shared by kernel and host.

/// What the 16-bit number of a port table means, by protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// TCP, by port.
    Tcp = 0,
    /// UDP, by port.
    Udp = 1,
    /// SCTP, by port.
    Sctp = 2,
    /// ICMP in a class of IPv4 addresses, ICMPv6 in one of IPv6: type in the high byte, code in
    /// the low one.
    Icmp = 3,
    /// Every other protocol: its number in the high byte, zero in the low one.
    Other = 4,
}

impl Kind {
    /// All of them, each at its number.
    pub const ALL: [Kind; 5] = [Kind::Tcp, Kind::Udp, Kind::Sctp, Kind::Icmp, Kind::Other];

    /// Whether its packets have ports.
    pub const fn has_ports(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Udp | Kind::Sctp)
    }
}

/// ICMP (RFC 792).
pub const IPPROTO_ICMP: u8 = 1;
/// IGMP (RFC 3376).
pub const IPPROTO_IGMP: u8 = 2;
/// TCP (RFC 9293).
pub const IPPROTO_TCP: u8 = 6;
/// UDP (RFC 768).
pub const IPPROTO_UDP: u8 = 17;
/// The authentication header (RFC 4302), in IPv6 an extension header.
pub const IPPROTO_AH: u8 = 51;
/// ICMPv6 (RFC 4443).
pub const IPPROTO_ICMPV6: u8 = 58;
/// SCTP (RFC 9260).
pub const IPPROTO_SCTP: u8 = 132;

// Extension headers of IPv6 (RFC 8200 section 4).
/// Hop-by-hop options.
pub const IPPROTO_HOPOPTS: u8 = 0;
/// The routing header.
pub const IPPROTO_ROUTING: u8 = 43;
/// The fragment header.
pub const IPPROTO_FRAGMENT: u8 = 44;
/// Destination options.
pub const IPPROTO_DSTOPTS: u8 = 60;

/// Whether this is the number of an IPv6 extension header. Such headers stand between the IPv6
/// header and that of the protocol.
#[inline(always)]
pub const fn is_ipv6_extension(protocol: u8) -> bool {
    // A set in a word: the verifier explores two branches where a list of numbers has five.
    const SET: u64 = 1 << IPPROTO_HOPOPTS
        | 1 << IPPROTO_ROUTING
        | 1 << IPPROTO_FRAGMENT
        | 1 << IPPROTO_AH
        | 1 << IPPROTO_DSTOPTS;
    protocol < 64 && SET >> protocol & 1 != 0
}

/// The kind of a protocol number in a packet of IPv4 or IPv6. ICMP belongs to IPv4 and ICMPv6 to
/// IPv6; in the other family each is a protocol of which nothing but the number is looked at.
#[inline(always)]
pub const fn kind_of(protocol: u8, is_v6: bool) -> Kind {
    let icmp = if is_v6 { IPPROTO_ICMPV6 } else { IPPROTO_ICMP };
    match protocol {
        IPPROTO_TCP => Kind::Tcp,
        IPPROTO_UDP => Kind::Udp,
        IPPROTO_SCTP => Kind::Sctp,
        _ if protocol == icmp => Kind::Icmp,
        _ => Kind::Other,
    }
}

/// The number by which a protocol other than TCP, UDP, SCTP and ICMP is looked up.
#[inline(always)]
pub const fn other_number(protocol: u8) -> u16 {
    (protocol as u16) << 8
}

/// The number by which an ICMP message is looked up.
#[inline(always)]
pub const fn icmp_number(kind: u8, code: u8) -> u16 {
    (kind as u16) << 8 | code as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every protocol number, in both families.
    #[test]
    fn the_kind_of_every_protocol() {
        for protocol in 0..=u8::MAX {
            let [v4, v6] = [false, true].map(|is_v6| kind_of(protocol, is_v6));
            let expected = match protocol {
                6 => [Kind::Tcp; 2],
                17 => [Kind::Udp; 2],
                132 => [Kind::Sctp; 2],
                1 => [Kind::Icmp, Kind::Other],
                58 => [Kind::Other, Kind::Icmp],
                _ => [Kind::Other; 2],
            };
            assert_eq!([v4, v6], expected, "protocol {protocol}");
        }
    }

    #[test]
    fn five_numbers_are_extension_headers() {
        for number in 0..=u8::MAX {
            let is_one = [0, 43, 44, 51, 60].contains(&number);
            assert_eq!(is_ipv6_extension(number), is_one, "{number}");
        }
    }
}
