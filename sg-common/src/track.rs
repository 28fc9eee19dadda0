//! How a flow of any protocol goes from state to state, as pure functions for kernel and host.
//! The tests have a table of their own (`tests/kernel/reference/states.rs`) and compare.

use crate::flow::{FlowKind, Timeout};
use crate::protocol::Kind;
use crate::tcp::{self, Row};

const TCP: u8 = Kind::Tcp as u8;
const UDP: u8 = Kind::Udp as u8;
const SCTP: u8 = Kind::Sctp as u8;
const ICMP: u8 = Kind::Icmp as u8;

/// The state of a flow of `kind` (a [`Kind`] as a number) that begins with this packet.
#[inline(always)]
pub const fn first(kind: u8, tcp_flags: u8) -> Timeout {
    match kind {
        TCP => tcp::first(tcp_flags),
        UDP => Timeout::Udp,
        SCTP => Timeout::Sctp,
        ICMP => Timeout::Icmp,
        _ => Timeout::Other,
    }
}

// What there is to know of a packet and its flow besides their kind, state and flags.
/// The packet comes from the side that opened the flow.
pub const FROM_ORIGINATOR: u32 = 1;
/// The other side than the originator has sent a packet before.
pub const SEEN_REPLY: u32 = 2;
/// The packet acknowledges the number of the flow's handshake.
pub const ACKNOWLEDGES: u32 = 4;
/// The flow began two seconds ago or earlier.
pub const LASTS: u32 = 8;

/// What [`next`] adds to a state if the flow belongs to the established ones.
pub const IS_ESTABLISHED: u32 = 1 << 8;
/// What it adds if the other side has sent a packet.
pub const HAS_SEEN_REPLY: u32 = 1 << 9;

/// The state (in bits 0-7) after one more packet, of which `known` says the above, and where the
/// flow belongs then.
///
/// A flow is established when it is known that both ends are where the packets say (SPEC K9).
/// TCP: the originator has acknowledged what the other side sent. Others: replies still come two
/// seconds after it began, as the kernel's connection tracking has it of UDP since Linux 5.0; a
/// spoofer would have to come back for each flow. Never ICMP, whose replies prove nothing.
#[inline(always)]
pub const fn next(kind: u8, state: u8, flags: u8, known: u32) -> u32 {
    by_row(row(kind, state, flags, known), kind, state, flags, known)
}

/// The first step of [`next`]: what becomes of each state.
#[inline(always)]
pub const fn row(kind: u8, state: u8, flags: u8, known: u32) -> Row {
    const STREAM: Row = Row::of(&[(Timeout::Udp, Timeout::UdpStream)]);
    let from_originator = known & FROM_ORIGINATOR != 0;
    match kind {
        TCP => tcp::row(state, from_originator, flags, known & ACKNOWLEDGES != 0),
        UDP if known & (FROM_ORIGINATOR | LASTS) == LASTS => STREAM,
        _ => Row::SAME,
    }
}

/// The second step of [`next`]. By arithmetic, so that the verifier has one path to explore.
#[inline(always)]
pub const fn by_row(row: Row, kind: u8, state: u8, flags: u8, known: u32) -> u32 {
    const ESTABLISHED: u8 = Timeout::TcpEstablished as u8;
    let is_tcp = is_zero(kind ^ TCP);
    let is_reply = (known & FROM_ORIGINATOR) ^ FROM_ORIGINATOR;
    let has_syn = ((flags & tcp::SYN) / tcp::SYN) as u32;
    // A connection that was picked up in the middle is known to its other side, which sends no SYN.
    let is_late_syn = is_tcp & is_zero(state ^ ESTABLISHED) & has_syn;
    let had_seen_reply = (known & SEEN_REPLY) / SEEN_REPLY;
    let has_seen_reply = had_seen_reply | is_reply & (is_late_syn ^ 1);
    let next = row.at(state);
    let lasts = (known & LASTS) / LASTS;
    let of_tcp = is_tcp & has_seen_reply & is_zero(next ^ ESTABLISHED);
    let of_others = (is_tcp ^ 1) & is_reply & lasts & (is_zero(kind ^ ICMP) ^ 1);
    next as u32 + has_seen_reply * HAS_SEEN_REPLY + (of_tcp | of_others) * IS_ESTABLISHED
}

#[inline(always)]
const fn is_zero(x: u8) -> u32 {
    ((x as u64).wrapping_sub(1) >> 63) as u32
}

/// 1 if this segment sets the number that completes the handshake: the originator has to
/// acknowledge all of it. Each segment of the other side does while the handshake is under way, so
/// that the last one counts where several differ (a SYN-ACK that is sent again, one that was
/// forged, data on a SYN). Else 0. `from_originator` is 1 or 0.
#[inline(always)]
pub const fn sets_number(kind: u8, state: u8, flags: u8, from_originator: u32) -> u32 {
    const HANDSHAKE: u32 = 1 << Timeout::TcpSynSent as u8
        | 1 << Timeout::TcpSynSent2 as u8
        | 1 << Timeout::TcpSynRecv as u8;
    let no_reset = is_zero(flags & tcp::RST);
    is_zero(kind ^ TCP) & no_reset & (from_originator ^ 1) & (HANDSHAKE >> (state & 31))
}

/// Zero if an established flow in `state` stays in it ([`next`]) whichever side sends a packet, as
/// long as none of [`tcp::STATE_FLAGS`] is set: nearly all packets need no more. If it is not zero
/// the state may change.
#[inline(always)]
pub const fn disturbs(state: u8) -> u32 {
    const STEADY: u32 = 1 << Timeout::TcpEstablished as u8
        | 1 << Timeout::UdpStream as u8
        | 1 << Timeout::Sctp as u8
        | 1 << Timeout::Icmp as u8
        | 1 << Timeout::Other as u8;
    !STEADY >> (state & 31) & 1
}

/// Whether a flow is established that was not tracked here, by its `state` and whether it has had a
/// reply. Unlike [`next`] it does not regard when the flow began.
#[inline(always)]
pub const fn kind_of_flow(kind: u8, state: u8, has_seen_reply: bool) -> FlowKind {
    let is_confirmed = match kind {
        TCP => has_seen_reply && state == Timeout::TcpEstablished as u8,
        UDP => has_seen_reply && state == Timeout::UdpStream as u8,
        ICMP => false,
        _ => has_seen_reply,
    };
    if is_confirmed {
        FlowKind::Established
    } else {
        FlowKind::HalfOpen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FlowKind::{Established, HalfOpen};

    const OTHER: u8 = Kind::Other as u8;
    const UDP_STREAM: u8 = Timeout::UdpStream as u8;
    const SYN_SENT: u8 = Timeout::TcpSynSent as u8;
    const SYN_RECV: u8 = Timeout::TcpSynRecv as u8;
    const ESTABLISHED: u8 = Timeout::TcpEstablished as u8;
    const ACK: u8 = tcp::ACK;
    const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

    /// Proves K9: what a flood of opening packets can make is half-open, whatever the protocol.
    #[test]
    fn only_an_answered_flow_is_established() {
        for (kind, state, has_seen_reply, expected) in [
            (TCP, SYN_SENT, false, HalfOpen),
            (TCP, SYN_RECV, true, HalfOpen),
            (TCP, ESTABLISHED, false, HalfOpen),
            (TCP, ESTABLISHED, true, Established),
            (UDP, Timeout::Udp as u8, false, HalfOpen),
            (UDP, Timeout::Udp as u8, true, HalfOpen),
            (UDP, UDP_STREAM, true, Established),
            (SCTP, Timeout::Sctp as u8, false, HalfOpen),
            (SCTP, Timeout::Sctp as u8, true, Established),
            (ICMP, Timeout::Icmp as u8, true, HalfOpen),
            (OTHER, Timeout::Other as u8, false, HalfOpen),
            (OTHER, Timeout::Other as u8, true, Established),
        ] {
            let found = kind_of_flow(kind, state, has_seen_reply);
            assert_eq!(
                found, expected,
                "kind {kind}, state {state}, {has_seen_reply}"
            );
        }
    }

    /// [`disturbs`] agrees with [`next`].
    #[test]
    fn a_steady_state_does_not_change() {
        let mut steady = 0;
        for kind in [TCP, UDP, SCTP, ICMP, OTHER] {
            for state in 0..=crate::flow::CUT {
                // Only states that flows of this kind have once they are established.
                let is_possible = match kind {
                    TCP => state <= Timeout::TcpSynSent2 as u8 || state == crate::flow::CUT,
                    UDP => state == UDP_STREAM,
                    SCTP => state == Timeout::Sctp as u8,
                    ICMP => state == Timeout::Icmp as u8,
                    _ => state == Timeout::Other as u8,
                };
                for flags in (0..=u8::MAX).filter(|_| is_possible) {
                    for known in 0..16 {
                        // Other protocols have no flags.
                        let flags = if kind == TCP { flags } else { 0 };
                        if disturbs(state) == 0 && flags & tcp::STATE_FLAGS == 0 {
                            steady += 1;
                            let next = next(kind, state, flags, known) as u8;
                            assert_eq!(next, state, "{state}, flags {flags:#04x}");
                        }
                    }
                }
            }
        }
        assert!(steady > 0);
        assert_eq!(disturbs(crate::flow::CUT), 1, "it is to be looked at");
    }

    /// Proves K9: only a reply that comes two seconds after the beginning makes a UDP flow a
    /// stream, and a flow of any protocol without handshake an established one; early replies
    /// are noted and no more.
    #[test]
    fn what_is_still_answered_is_established() {
        let udp = Timeout::Udp as u8;
        assert_eq!(first(UDP, 0), Timeout::Udp);
        for (kind, state, then) in [
            (UDP, udp, UDP_STREAM),
            (UDP, UDP_STREAM, UDP_STREAM),
            (SCTP, Timeout::Sctp as u8, Timeout::Sctp as u8),
            (OTHER, Timeout::Other as u8, Timeout::Other as u8),
        ] {
            let (before, after) = (u32::from(state), u32::from(then));
            for lasts in [0, LASTS] {
                assert_eq!(next(kind, state, 0, FROM_ORIGINATOR | lasts), before);
                let answered = FROM_ORIGINATOR | SEEN_REPLY | lasts;
                assert_eq!(next(kind, state, 0, answered), before | HAS_SEEN_REPLY);
            }
            for before_it in [0, SEEN_REPLY] {
                assert_eq!(next(kind, state, 0, before_it), before | HAS_SEEN_REPLY);
                let established = after | HAS_SEEN_REPLY | IS_ESTABLISHED;
                assert_eq!(next(kind, state, 0, before_it | LASTS), established);
            }
        }
        let icmp = Timeout::Icmp as u8;
        assert_eq!(next(ICMP, icmp, 0, LASTS), u32::from(icmp) | HAS_SEEN_REPLY);
    }

    /// Proves K9: a handshake ends with the originator's segment that acknowledges the other
    /// side's, and with no other.
    #[test]
    fn only_the_right_number_ends_a_handshake() {
        let told = |state: u8, flags, known| next(TCP, state, flags, known);
        let recv = u32::from(SYN_RECV) | HAS_SEEN_REPLY;
        assert_eq!(told(SYN_SENT, SYN_ACK, 0), recv);
        let originator = FROM_ORIGINATOR | SEEN_REPLY;
        for blind in [ACK, 0, tcp::FIN, tcp::FIN | ACK, tcp::SYN, SYN_ACK] {
            for known in [originator, originator | LASTS] {
                assert_eq!(told(SYN_RECV, blind, known), recv, "{blind:#x}");
            }
            assert_eq!(told(SYN_SENT, blind, FROM_ORIGINATOR) & IS_ESTABLISHED, 0);
        }
        let established = u32::from(ESTABLISHED) | HAS_SEEN_REPLY | IS_ESTABLISHED;
        assert_eq!(told(SYN_RECV, ACK, originator | ACKNOWLEDGES), established);
        // What the other side acknowledges does not matter.
        assert_eq!(told(SYN_RECV, ACK, SEEN_REPLY | ACKNOWLEDGES), recv);
        let fin = u32::from(Timeout::TcpFinWait as u8) | HAS_SEEN_REPLY;
        assert_eq!(
            told(SYN_RECV, tcp::FIN | ACK, originator | ACKNOWLEDGES),
            fin
        );
    }

    /// Proves K9: of a connection that was picked up in the middle, a reply that could come from a
    /// listener proves nothing.
    #[test]
    fn a_connection_in_the_middle_is_answered_without_syn() {
        let half = u32::from(ESTABLISHED);
        assert_eq!(next(TCP, ESTABLISHED, SYN_ACK, 0), half);
        let answered = half | HAS_SEEN_REPLY | IS_ESTABLISHED;
        assert_eq!(next(TCP, ESTABLISHED, ACK, 0), answered);
        assert_eq!(next(TCP, ESTABLISHED, 0x18, 0), answered);
        let reset = next(TCP, ESTABLISHED, tcp::RST, 0);
        assert_eq!(reset & !HAS_SEEN_REPLY, u32::from(Timeout::TcpClose as u8));
    }

    #[test]
    fn the_other_side_sets_the_number_while_a_handshake_lasts() {
        let handshake = [
            Timeout::TcpSynSent,
            Timeout::TcpSynSent2,
            Timeout::TcpSynRecv,
        ]
        .map(|t| t as u8);
        for kind in [TCP, UDP, SCTP, ICMP, OTHER] {
            for state in 0..=crate::flow::CUT {
                for flags in 0..=u8::MAX {
                    for from_originator in [0, 1] {
                        let expected = kind == TCP
                            && handshake.contains(&state)
                            && flags & tcp::RST == 0
                            && from_originator == 0;
                        let found = sets_number(kind, state, flags, from_originator);
                        assert_eq!(found, expected.into(), "{kind} {state} {flags:#x}");
                    }
                }
            }
        }
    }
}
