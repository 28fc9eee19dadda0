//! The TCP state step as one pure function, for kernel and host.
//! Sources: RFC 9293 section 3.3.2, and the transition table in the kernel's
//! net/netfilter/nf_conntrack_proto_tcp.c, whose state names and timeouts are used here.

use crate::flow::{CUT, Timeout};

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// The acknowledgement number is valid.
pub const ACK: u8 = 0x10;

/// Without these a segment changes nothing once a connection is established.
pub const STATE_FLAGS: u8 = FIN | SYN | RST;

/// True for whatever has SYN and no ACK.
#[inline(always)]
pub const fn is_syn_without_ack(flags: u8) -> bool {
    differs_from_opening(flags) == 0
}

/// Zero for the same.
#[inline(always)]
pub const fn differs_from_opening(flags: u8) -> u32 {
    ((flags & (SYN | ACK)) ^ SYN) as u32
}

/// True for the segment that opens a connection: SYN without ACK, RST or FIN.
#[inline(always)]
pub const fn is_bare_syn(flags: u8) -> bool {
    differs_from_bare_syn(flags) == 0
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

/// 1 if a bare SYN that the rules accept begins a new connection on the same ports as a flow in
/// `state` (a number, see [`crate::flow::FlowValue::state`]), else 0: where that is closing or
/// cut. The kernel's connection tracking waits for the reply in the three states before TIME_WAIT.
/// Here not all sequence numbers are known, so that a closing flow makes room at once.
#[inline(always)]
pub const fn makes_room(state: u8) -> u32 {
    (CLOSING | 1 << CUT) >> (state & 31) & 1
}

/// 1 if a segment with these flags may open a flow, else 0: a reset never does.
#[inline(always)]
pub const fn opens(flags: u8) -> u8 {
    ((flags & RST) / RST) ^ 1
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

/// Zero for a bare SYN. A number, because each condition in a row doubles the paths that the
/// verifier explores.
#[inline(always)]
pub const fn differs_from_bare_syn(flags: u8) -> u32 {
    ((flags & (SYN | ACK | RST | FIN)) ^ SYN) as u32
}

/// The state after each state, four bits each. A number, since a list would lie in memory, and the
/// verifier would explore one path for each case of a `match`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Row(pub u64);

impl Row {
    pub(crate) const SAME: Row = Row::of(&[]);

    /// Every other state stays as it is.
    pub(crate) const fn of(changes: &[(Timeout, Timeout)]) -> Row {
        let mut row = 0xfedc_ba98_7654_3210u64;
        let mut i = 0;
        while i < changes.len() {
            let (from, to) = changes[i];
            let at = 4 * from as u32;
            row = row & !(15 << at) | (to as u64) << at;
            i += 1;
        }
        Row(row)
    }

    #[inline(always)]
    pub(crate) const fn at(self, state: u8) -> u8 {
        (self.0 >> (4 * (state & 15) as u32)) as u8 & 15
    }
}

use Timeout::*;

const ON_RST: Row = Row::of(&[
    (TcpSynSent, TcpClose),
    (TcpSynSent2, TcpClose),
    (TcpSynRecv, TcpClose),
    (TcpEstablished, TcpClose),
    (TcpFinWait, TcpClose),
    (TcpCloseWait, TcpClose),
    (TcpLastAck, TcpClose),
    (TcpTimeWait, TcpClose),
]);
/// From the originator: another connection on the ports of one that is closing.
const ON_SYN: Row = Row::of(&[
    (TcpFinWait, TcpSynSent),
    (TcpCloseWait, TcpSynSent),
    (TcpLastAck, TcpSynSent),
    (TcpTimeWait, TcpSynSent),
    (TcpClose, TcpSynSent),
]);
/// From the other side: both have sent a SYN.
const ON_OTHER_SYN: Row = Row::of(&[(TcpSynSent, TcpSynSent2)]);
/// From the originator: the reply to the other side's SYN, where both have sent one.
const ON_SYN_ACK: Row = Row::of(&[(TcpSynSent2, TcpSynRecv)]);
const ON_OTHER_SYN_ACK: Row = Row::of(&[(TcpSynSent, TcpSynRecv), (TcpSynSent2, TcpSynRecv)]);
const ON_FIN: Row = Row::of(&[
    (TcpSynRecv, TcpFinWait),
    (TcpEstablished, TcpFinWait),
    (TcpFinWait, TcpLastAck),
    (TcpCloseWait, TcpLastAck),
]);
const ON_ACK: Row = Row::of(&[
    (TcpSynRecv, TcpEstablished),
    (TcpFinWait, TcpCloseWait),
    (TcpLastAck, TcpTimeWait),
]);
const ON_OTHER_ACK: Row = Row::of(&[(TcpFinWait, TcpCloseWait), (TcpLastAck, TcpTimeWait)]);

/// What a segment with `flags` in `state`, sent by the originator or by the other side, makes of
/// each state. A segment that has no place in a state leaves it as it is. `acknowledges` says
/// whether its acknowledgement number is the one of the handshake (see
/// [`crate::flow_entry::begun_word`]): of what the originator sends while that is under way,
/// nothing else but a reset changes anything.
#[inline(always)]
pub(crate) const fn row(state: u8, from_originator: bool, flags: u8, acknowledges: bool) -> Row {
    if flags & RST != 0 {
        return ON_RST;
    }
    if flags & SYN != 0 {
        return match (flags & ACK != 0, from_originator) {
            (false, true) => ON_SYN,
            (false, false) => ON_OTHER_SYN,
            (true, true) => ON_SYN_ACK,
            (true, false) => ON_OTHER_SYN_ACK,
        };
    }
    let is_awaited = acknowledges && flags & ACK != 0;
    if state == TcpSynRecv as u8 && from_originator && !is_awaited {
        return Row::SAME;
    }
    if flags & FIN != 0 {
        return ON_FIN;
    }
    if flags & ACK == 0 {
        return Row::SAME;
    }
    if from_originator {
        ON_ACK
    } else {
        ON_OTHER_ACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        // originator?  segment             SS    S2    SR    ES    FW    CW    LA    TW    CL
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
    fn what_is_closing_or_cut_makes_room() {
        for state in Timeout::ALL {
            let is_closing = matches!(
                state,
                TcpFinWait | TcpCloseWait | TcpLastAck | TcpTimeWait | TcpClose
            );
            assert_eq!(super::is_closing(state as u8), is_closing.into());
            assert_eq!(makes_room(state as u8), is_closing.into());
        }
        assert_eq!((super::is_closing(CUT), makes_room(CUT)), (0, 1));
    }

    /// Proves K9: each of the 126 transitions, and that without the handshake's number the
    /// originator can only give it up.
    #[test]
    fn every_segment_in_every_state() {
        for (from_originator, segment, flags, row) in TRANSITIONS {
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
                let side = if from_originator {
                    "originator"
                } else {
                    "other side"
                };
                for acknowledges in [true, false] {
                    let is_blind = state == TcpSynRecv && from_originator && !acknowledges;
                    let expected = match is_blind && flags & RST == 0 {
                        true => state,
                        false => expected,
                    };
                    assert_eq!(
                        super::row(state as u8, from_originator, flags, acknowledges)
                            .at(state as u8),
                        expected as u8,
                        "{segment} from the {side} in {state:?}, {acknowledges}"
                    );
                }
            }
        }
    }

    /// Walks a whole conversation: (from originator?, flags, state expected after it).
    fn walk(first_flags: u8, steps: &[(bool, u8, Timeout)]) {
        let mut state = first(first_flags) as u8;
        for (i, &(from_originator, flags, expected)) in steps.iter().enumerate() {
            state = row(state, from_originator, flags, true).at(state);
            assert_eq!(state, expected as u8, "step {i}");
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
            assert_eq!(differs_from_bare_syn(flags) == 0, expected, "{flags:#04x}");
            assert_eq!(opens(flags) == 0, flags & 4 != 0, "{flags:#04x}");
        }
    }
}
