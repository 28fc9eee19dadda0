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
}

/// ICMP (RFC 792).
pub const IPPROTO_ICMP: u8 = 1;
/// IGMP (RFC 3376).
pub const IPPROTO_IGMP: u8 = 2;
/// TCP (RFC 9293).
pub const IPPROTO_TCP: u8 = 6;
/// UDP (RFC 768).
pub const IPPROTO_UDP: u8 = 17;
/// The authentication header (RFC 4302).
pub const IPPROTO_AH: u8 = 51;
/// ICMPv6 (RFC 4443).
pub const IPPROTO_ICMPV6: u8 = 58;
/// SCTP (RFC 9260).
pub const IPPROTO_SCTP: u8 = 132;

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

/// The request type of an ICMP query or of its answer (RFC 792, RFC 950, RFC 4443, RFC 4620), and
/// whether this is the request. Messages that are neither belong to no flow. `v6` is 1 for ICMPv6.
#[inline(always)]
pub const fn icmp_query(v6: u8, kind: u8) -> Option<(u8, bool)> {
    // Sets as bits of a word, and the family as a number: the verifier walks three branches where
    // lists of types, one for each family, have two dozen.
    const REQUESTS: u64 = 1 << 8 | 1 << 13 | 1 << 15 | 1 << 17 | (1 << 0 | 1 << 11) << 32;
    const ANSWERS: u64 = 1 << 0 | 1 << 14 | 1 << 16 | 1 << 18 | (1 << 1 | 1 << 12) << 32;
    // ICMPv6 has its queries from 128 on.
    let index = kind.wrapping_sub((v6 & 1) << 7);
    if index >= 32 {
        return None;
    }
    let index = index | (v6 & 1) << 5;
    if REQUESTS >> index & 1 != 0 {
        Some((kind, true))
    } else if ANSWERS >> index & 1 != 0 {
        let request = if kind == 0 { 8 } else { kind - 1 };
        Some((request, false))
    } else {
        None
    }
}

/// The answer's type to a request's type of [`icmp_query`].
#[inline(always)]
pub const fn icmp_answer(request: u8) -> u8 {
    if request == 8 { 0 } else { request + 1 }
}

/// True for the messages that quote the packet they are about: unreachable (with it "fragmentation
/// needed"), time exceeded, parameter problem (RFC 792); unreachable, packet too big, time
/// exceeded, parameter problem (RFC 4443). `v6` is 1 for ICMPv6.
#[inline(always)]
pub const fn icmp_is_error(v6: u8, kind: u8) -> bool {
    const ERRORS: u64 = 1 << 3 | 1 << 11 | 1 << 12 | (1 << 1 | 1 << 2 | 1 << 3 | 1 << 4) << 32;
    kind < 32 && ERRORS >> (kind | (v6 & 1) << 5) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves K6 for ICMP: the pairs of RFC 792, RFC 950, RFC 4443 and RFC 4620, and no other.
    #[test]
    fn icmp_queries_and_their_answers() {
        let pairs = [
            (0, 8, 0),
            (0, 13, 14),
            (0, 15, 16),
            (0, 17, 18),
            (1, 128, 129),
            (1, 139, 140),
        ];
        for v6 in [0, 1] {
            for kind in 0..=u8::MAX {
                let expected = pairs.iter().find_map(|&(family, request, answer)| {
                    match (family == v6, kind == request, kind == answer) {
                        (true, true, _) => Some((request, true)),
                        (true, _, true) => Some((request, false)),
                        _ => None,
                    }
                });
                assert_eq!(icmp_query(v6, kind), expected, "v6 {v6}, type {kind}");
            }
        }
        for (_, request, answer) in pairs {
            assert_eq!(icmp_answer(request), answer);
        }
    }

    /// Proves K8, as far as it names the messages: RFC 792 and RFC 4443.
    #[test]
    fn icmp_errors() {
        for kind in 0..=u8::MAX {
            assert_eq!(icmp_is_error(0, kind), [3, 11, 12].contains(&kind));
            assert_eq!(icmp_is_error(1, kind), [1, 2, 3, 4].contains(&kind));
        }
    }
}
