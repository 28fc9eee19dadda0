//! How a flow of any protocol goes from state to state, as pure functions: the kernel and the
//! tests ask the same ones.

use crate::flow::{FlowKind, Timeout};
use crate::tables::Kind;
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
