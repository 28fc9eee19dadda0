//! The TCP state step as one pure function, shared by the kernel and the tests.
//! Sources: RFC 9293 section 3.3.2, and the transition table in the kernel's
//! net/netfilter/nf_conntrack_proto_tcp.c, whose state names and timeouts are used here.

use crate::flow::Timeout;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

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

/// The state after a segment with `flags`, sent by the opener or by the other side.
#[inline(always)]
pub const fn step(state: Timeout, from_opener: bool, flags: u8) -> Timeout {
    use Timeout::*;
    if flags & RST != 0 {
        return TcpClose;
    }
    if flags & SYN != 0 {
        return match (state, flags & ACK != 0, from_opener) {
            // The answer to the opener's SYN.
            (TcpSynSent, true, false) => TcpSynRecv,
            // A new connection on the ports of one that is over.
            (TcpTimeWait | TcpClose, false, true) => TcpSynSent,
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

    #[test]
    fn refused_connection() {
        walk(
            SYN,
            &[(false, RST | ACK, TcpClose), (true, SYN, TcpSynSent)],
        );
    }

    #[test]
    fn a_syn_does_not_reopen_a_live_connection() {
        walk(
            ACK,
            &[(true, SYN, TcpEstablished), (false, SYN, TcpEstablished)],
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
}
