//! The TCP state step as one pure function, for kernel and host.
//! Sources: RFC 9293 section 3.3.2, and the transition table in the kernel's
//! net/netfilter/nf_conntrack_proto_tcp.c, whose state names and timeouts are used here.

use crate::flow::Timeout;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// Without these a segment changes nothing once a connection is established.
pub const STATE_FLAGS: u8 = FIN | SYN | RST;

/// True for whatever has SYN and no ACK: only rules accept it, no flow does.
#[inline(always)]
pub const fn is_syn_without_ack(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

/// True for the segment that opens a connection: SYN without ACK, RST or FIN.
#[inline(always)]
pub const fn is_bare_syn(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// State of a flow whose first tracked segment has these flags. Anything but a handshake segment
/// is a connection that was there before the tracking began.
#[inline(always)]
pub const fn first(flags: u8) -> Timeout {
    if flags & RST != 0 {
        Timeout::TcpClose
    } else if flags & SYN != 0 {
        if flags & ACK != 0 {
            Timeout::TcpSynRecv
        } else {
            Timeout::TcpSynSent
        }
    } else if flags & FIN != 0 {
        Timeout::TcpFinWait
    } else {
        Timeout::TcpEstablished
    }
}

/// True when a bare SYN from the side that opened a flow in `state` begins a new connection on the
/// same ports. The kernel's tracking waits for the answer in the three states before TIME_WAIT;
/// without sequence numbers to compare, a flow that is closing makes room at once.
#[inline(always)]
pub const fn makes_room(state: Timeout) -> bool {
    CLOSING >> state as u8 & 1 != 0
}

/// 1 for a flow in `state` (a [`Timeout`] as a number) that is closing or closed, else 0.
#[inline(always)]
pub const fn is_closing(state: u8) -> u32 {
    CLOSING >> (state & 31) & 1
}

const CLOSING: u32 = 1 << Timeout::TcpFinWait as u8
    | 1 << Timeout::TcpCloseWait as u8
    | 1 << Timeout::TcpLastAck as u8
    | 1 << Timeout::TcpTimeWait as u8
    | 1 << Timeout::TcpClose as u8;

/// Zero if a segment with `flags` is such a SYN and a flow in `state` (a [`Timeout`] as a number) makes
/// room for it. A number, since conditions in a row are ways for the verifier to walk.
#[inline(always)]
pub const fn keeps_room(state: u8, flags: u8) -> u32 {
    let other_flags = (flags & (SYN | ACK | RST | FIN)) ^ SYN;
    other_flags as u32 | is_closing(state) ^ 1
}

/// The state after a segment with `flags`, sent by the opener or by the other side. A segment that
/// has no place in a state leaves it as it is.
#[inline(always)]
pub const fn step(state: Timeout, from_opener: bool, flags: u8) -> Timeout {
    use Timeout::*;
    if flags & RST != 0 {
        return TcpClose;
    }
    if flags & SYN != 0 {
        return match (state, flags & ACK != 0, from_opener) {
            // The answer to the opener's SYN.
            (TcpSynSent | TcpSynSent2, true, false) => TcpSynRecv,
            // Both have sent a SYN, and answer each other's.
            (TcpSynSent, false, false) => TcpSynSent2,
            (TcpSynSent2, true, true) => TcpSynRecv,
            (_, false, true) if makes_room(state) => TcpSynSent,
            _ => state,
        };
    }
    if flags & FIN != 0 {
        return match state {
            TcpSynRecv | TcpEstablished => TcpFinWait,
            TcpFinWait | TcpCloseWait => TcpLastAck,
            _ => state,
        };
    }
    if flags & ACK == 0 {
        return state;
    }
    match (state, from_opener) {
        (TcpSynRecv, true) => TcpEstablished,
        (TcpFinWait, _) => TcpCloseWait,
        (TcpLastAck, _) => TcpTimeWait,
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::{Timeout::*, *};

    /// Every transition: rows are segments, columns the states in this order. `=` leaves a state
    /// as it is.
    const STATES: [Timeout; 9] = [
        TcpSynSent,
        TcpSynSent2,
        TcpSynRecv,
        TcpEstablished,
        TcpFinWait,
        TcpCloseWait,
        TcpLastAck,
        TcpTimeWait,
        TcpClose,
    ];
    const SYN_ACK: u8 = SYN | ACK;
    #[rustfmt::skip]
    const TRANSITIONS: [(bool, &str, u8, [&str; 9]); 14] = [
        // opener?  segment             SS    S2    SR    ES    FW    CW    LA    TW    CL
        (true,  "syn",     SYN,       ["=",  "=",  "=",  "=",  "SS", "SS", "SS", "SS", "SS"]),
        (true,  "syn-ack", SYN_ACK,   ["=",  "SR", "=",  "=",  "=",  "=",  "=",  "=",  "="]),
        (true,  "ack",     ACK,       ["=",  "=",  "ES", "=",  "CW", "=",  "TW", "=",  "="]),
        (true,  "fin",     FIN | ACK, ["=",  "=",  "FW", "FW", "LA", "LA", "=",  "=",  "="]),
        (true,  "rst",     RST,       ["CL", "CL", "CL", "CL", "CL", "CL", "CL", "CL", "="]),
        (true,  "rst-ack", RST | ACK, ["CL", "CL", "CL", "CL", "CL", "CL", "CL", "CL", "="]),
        (true,  "none",    0,         ["=",  "=",  "=",  "=",  "=",  "=",  "=",  "=",  "="]),
        (false, "syn",     SYN,       ["S2", "=",  "=",  "=",  "=",  "=",  "=",  "=",  "="]),
        (false, "syn-ack", SYN_ACK,   ["SR", "SR", "=",  "=",  "=",  "=",  "=",  "=",  "="]),
        (false, "ack",     ACK,       ["=",  "=",  "=",  "=",  "CW", "=",  "TW", "=",  "="]),
        (false, "fin",     FIN | ACK, ["=",  "=",  "FW", "FW", "LA", "LA", "=",  "=",  "="]),
        (false, "rst",     RST,       ["CL", "CL", "CL", "CL", "CL", "CL", "CL", "CL", "="]),
        (false, "rst-ack", RST | ACK, ["CL", "CL", "CL", "CL", "CL", "CL", "CL", "CL", "="]),
        (false, "none",    0,         ["=",  "=",  "=",  "=",  "=",  "=",  "=",  "=",  "="]),
    ];

    #[test]
    fn room_is_made_by_a_bare_syn_alone() {
        for state in Timeout::ALL {
            for flags in 0..=u8::MAX {
                let expected = is_bare_syn(flags) && makes_room(state);
                let found = keeps_room(state as u8, flags) == 0;
                assert_eq!(found, expected, "{state:?} {flags:#x}");
            }
        }
    }

    /// Proves K9: each of the 126 transitions.
    #[test]
    fn every_segment_in_every_state() {
        for (from_opener, segment, flags, row) in TRANSITIONS {
            for (state, expected) in STATES.into_iter().zip(row) {
                let expected = match expected {
                    "=" => state,
                    "SS" => TcpSynSent,
                    "S2" => TcpSynSent2,
                    "SR" => TcpSynRecv,
                    "ES" => TcpEstablished,
                    "FW" => TcpFinWait,
                    "CW" => TcpCloseWait,
                    "LA" => TcpLastAck,
                    "TW" => TcpTimeWait,
                    "CL" => TcpClose,
                    other => panic!("`{other}` is no state"),
                };
                let side = if from_opener { "opener" } else { "other side" };
                assert_eq!(
                    step(state, from_opener, flags),
                    expected,
                    "{segment} from the {side} in {state:?}"
                );
            }
        }
    }

    /// Walks a whole conversation: (from opener?, flags, state expected after it).
    fn walk(first_flags: u8, steps: &[(bool, u8, Timeout)]) {
        let mut state = first(first_flags);
        for (i, &(from_opener, flags, expected)) in steps.iter().enumerate() {
            state = step(state, from_opener, flags);
            assert_eq!(state, expected, "step {i}");
        }
    }

    #[test]
    fn handshake_then_orderly_close() {
        walk(
            SYN,
            &[
                (false, SYN | ACK, TcpSynRecv),
                (true, ACK, TcpEstablished),
                (false, ACK, TcpEstablished),
                (true, FIN | ACK, TcpFinWait),
                (false, ACK, TcpCloseWait),
                (false, FIN | ACK, TcpLastAck),
                (true, ACK, TcpTimeWait),
                (true, SYN, TcpSynSent),
            ],
        );
    }

    /// RFC 9293 figure 7.
    #[test]
    fn simultaneous_open() {
        walk(
            SYN,
            &[
                (false, SYN, TcpSynSent2),
                (true, SYN | ACK, TcpSynRecv),
                (false, SYN | ACK, TcpSynRecv),
                (true, ACK, TcpEstablished),
            ],
        );
    }

    #[test]
    fn refused_connection() {
        walk(
            SYN,
            &[(false, RST | ACK, TcpClose), (true, SYN, TcpSynSent)],
        );
    }

    #[test]
    fn first_segment_decides_where_tracking_begins() {
        assert_eq!(first(SYN), TcpSynSent);
        assert_eq!(first(SYN | ACK), TcpSynRecv);
        assert_eq!(first(ACK), TcpEstablished);
        assert_eq!(first(FIN | ACK), TcpFinWait);
        assert_eq!(first(RST), TcpClose);
    }

    #[test]
    fn only_a_syn_alone_is_bare() {
        for flags in 0..=u8::MAX {
            let expected = flags & 0x17 == 0x02;
            assert_eq!(is_bare_syn(flags), expected, "{flags:#04x}");
        }
    }
}
