//! ICMP and ICMPv6: which messages are queries, which are replies to them, which are errors about
//! other packets, and how a query names its flow. Plain facts of the RFCs.

use crate::protocol::icmp_number;

/// The request type of an ICMP query or of its reply (RFC 792, RFC 950, RFC 4443, RFC 4620), and
/// whether this is the request. Messages that are neither belong to no flow. `v6` is 1 for ICMPv6.
#[inline(always)]
pub const fn query(v6: u8, kind: u8) -> Option<(u8, bool)> {
    // Sets as bits of a word, and the family as a number: the verifier explores three branches
    // where lists of types, one for each family, have two dozen.
    const REQUESTS: u64 = 1 << 8 | 1 << 13 | 1 << 15 | 1 << 17 | (1 << 0 | 1 << 11) << 32;
    const REPLIES: u64 = 1 << 0 | 1 << 14 | 1 << 16 | 1 << 18 | (1 << 1 | 1 << 12) << 32;
    // ICMPv6 has its queries from 128 on.
    let index = kind.wrapping_sub((v6 & 1) << 7);
    if index >= 32 {
        return None;
    }
    let index = index | (v6 & 1) << 5;
    if REQUESTS >> index & 1 != 0 {
        Some((kind, true))
    } else if REPLIES >> index & 1 != 0 {
        let request = if kind == 0 { 8 } else { kind - 1 };
        Some((request, false))
    } else {
        None
    }
}

/// The reply's type to a request's type of [`query`].
#[inline(always)]
pub const fn reply_type(request: u8) -> u8 {
    if request == 8 { 0 } else { request + 1 }
}

/// The number by which the rules are asked about a query with this request type, or about its
/// reply.
#[inline(always)]
pub const fn query_number(request: u8, is_request: bool) -> u16 {
    let kind = if is_request {
        request
    } else {
        reply_type(request)
    };
    icmp_number(kind, 0)
}

/// True for the messages that quote the packet they are about: unreachable (with it "fragmentation
/// needed"), time exceeded, parameter problem (RFC 792); unreachable, packet too big, time
/// exceeded, parameter problem (RFC 4443). `v6` is 1 for ICMPv6.
#[inline(always)]
pub const fn is_error(v6: u8, kind: u8) -> bool {
    const ERRORS: u64 = 1 << 3 | 1 << 11 | 1 << 12 | (1 << 1 | 1 << 2 | 1 << 3 | 1 << 4) << 32;
    kind < 32 && ERRORS >> (kind | (v6 & 1) << 5) & 1 != 0
}

/// What stands for the remote port in the tuple of a query's flow: the type of its request, and
/// whether requests come in (1 or 0). Pings in both directions with the same identifier are two
/// flows, so that a request is never taken for a reply.
#[inline(always)]
pub const fn flow_port(request: u8, asked_inbound: u16) -> u16 {
    request as u16 | asked_inbound << 8
}

/// The type of the request in a [`flow_port`].
#[inline(always)]
pub const fn request_of(flow_port: u16) -> u8 {
    flow_port as u8
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
                let expected = pairs.iter().find_map(|&(family, request, reply)| {
                    match (family == v6, kind == request, kind == reply) {
                        (true, true, _) => Some((request, true)),
                        (true, _, true) => Some((request, false)),
                        _ => None,
                    }
                });
                assert_eq!(query(v6, kind), expected, "v6 {v6}, type {kind}");
            }
        }
        for (_, request, reply) in pairs {
            assert_eq!(reply_type(request), reply);
            assert_eq!(query_number(request, true), u16::from(request) << 8);
            assert_eq!(query_number(request, false), u16::from(reply) << 8);
        }
    }

    /// Proves K8, as far as it names the messages: RFC 792 and RFC 4443.
    #[test]
    fn icmp_errors() {
        for kind in 0..=u8::MAX {
            assert_eq!(is_error(0, kind), [3, 11, 12].contains(&kind));
            assert_eq!(is_error(1, kind), [1, 2, 3, 4].contains(&kind));
        }
    }

    #[test]
    fn pings_in_both_directions_are_two_flows() {
        for request in 0..=u8::MAX {
            assert_ne!(flow_port(request, 0), flow_port(request, 1));
            assert_eq!(
                [0, 1].map(|i| request_of(flow_port(request, i))),
                [request; 2]
            );
        }
    }
}
