//! How a flow of any protocol goes from state to state, as pure functions for kernel and host. The tests
//! have a table of their own (`tests/kernel/reference/states.rs`) and compare.

use crate::flow::{FlowKind, Timeout};
use crate::protocol::Kind;
use crate::tcp;

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

/// The state after one more packet.
#[inline(always)]
pub const fn next(kind: u8, state: u8, from_opener: bool, tcp_flags: u8) -> u8 {
    match kind {
        TCP => match Timeout::from_index(state) {
            Some(state) => tcp::step(state, from_opener, tcp_flags) as u8,
            None => state,
        },
        UDP if !from_opener => Timeout::UdpStream as u8,
        _ => state,
    }
}

/// Zero when [`next`] leaves an established flow in `state` whoever sends a packet, as long as none
/// of [`tcp::STATE_FLAGS`] is set: a quick answer for nearly all packets. Otherwise it says nothing.
#[inline(always)]
pub const fn disturbs(state: u8) -> u32 {
    const STEADY: u32 = 1 << Timeout::TcpEstablished as u8
        | 1 << Timeout::UdpStream as u8
        | 1 << Timeout::Sctp as u8
        | 1 << Timeout::Icmp as u8
        | 1 << Timeout::Other as u8;
    !STEADY >> (state & 31) & 1
}

/// Where a flow belongs, once it is in `state` and the other side has answered or not. As the
/// kernel's connection tracking calls a flow assured: a TCP handshake that both sides have
/// finished, any answer of another protocol, and never ICMP.
#[inline(always)]
pub const fn kind_of_flow(kind: u8, state: u8, is_answered: bool) -> FlowKind {
    let is_confirmed = match kind {
        TCP => is_answered && state == Timeout::TcpEstablished as u8,
        ICMP => false,
        _ => is_answered,
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

    /// Proves K9: what a flood of opening packets can make is half-open, whatever the protocol.
    #[test]
    fn only_an_answered_flow_is_established() {
        let syn_recv = Timeout::TcpSynRecv as u8;
        let established = Timeout::TcpEstablished as u8;
        for (kind, state, is_answered, expected) in [
            (TCP, Timeout::TcpSynSent as u8, false, HalfOpen),
            (TCP, syn_recv, true, HalfOpen),
            (TCP, established, false, HalfOpen),
            (TCP, established, true, Established),
            (UDP, Timeout::Udp as u8, false, HalfOpen),
            (UDP, Timeout::UdpStream as u8, true, Established),
            (SCTP, Timeout::Sctp as u8, false, HalfOpen),
            (SCTP, Timeout::Sctp as u8, true, Established),
            (ICMP, Timeout::Icmp as u8, true, HalfOpen),
            (Kind::Other as u8, Timeout::Other as u8, false, HalfOpen),
            (Kind::Other as u8, Timeout::Other as u8, true, Established),
        ] {
            let found = kind_of_flow(kind, state, is_answered);
            assert_eq!(found, expected, "kind {kind}, state {state}, {is_answered}");
        }
    }

    /// The quick answer is right wherever it is given.
    #[test]
    fn a_steady_state_does_not_change() {
        let mut steady = 0;
        for kind in [TCP, UDP, SCTP, ICMP, Kind::Other as u8] {
            for state in Timeout::ALL {
                // Only states that flows of this kind have once they are established.
                let is_possible = match kind {
                    TCP => (state as u8) <= Timeout::TcpSynSent2 as u8,
                    UDP => matches!(state, Timeout::UdpStream),
                    SCTP => matches!(state, Timeout::Sctp),
                    ICMP => matches!(state, Timeout::Icmp),
                    _ => matches!(state, Timeout::Other),
                };
                for flags in (0..=u8::MAX).filter(|_| is_possible) {
                    for from_opener in [true, false] {
                        // Other protocols have no flags.
                        let flags = if kind == TCP { flags } else { 0 };
                        if disturbs(state as u8) == 0 && flags & tcp::STATE_FLAGS == 0 {
                            steady += 1;
                            let next = next(kind, state as u8, from_opener, flags);
                            assert_eq!(next, state as u8, "{state:?}, flags {flags:#04x}");
                        }
                    }
                }
            }
        }
        assert!(steady > 0);
    }

    /// Proves K6: an answer makes a UDP flow a stream, and nothing else changes its state.
    #[test]
    fn udp_becomes_a_stream_when_it_is_answered() {
        let (udp, stream) = (Timeout::Udp as u8, Timeout::UdpStream as u8);
        assert_eq!(first(UDP, 0), Timeout::Udp);
        assert_eq!(next(UDP, udp, true, 0), udp);
        assert_eq!(next(UDP, udp, false, 0), stream);
        assert_eq!(next(UDP, stream, true, 0), stream);
    }
}
