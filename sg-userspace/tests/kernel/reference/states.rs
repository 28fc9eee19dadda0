//! How a flow goes from state to state (SPEC K9), for the tests alone: no step of the enforcer's is
//! used. TCP's table is that of the kernel's connection tracking
//! (net/netfilter/nf_conntrack_proto_tcp.c) for segments that it takes for valid, with RFC 9293,
//! sections 3.3.2 and 3.10.7, for what a segment is. Where the enforcer differs on purpose, it is said.

use std::collections::BTreeMap;

use sg_common::flow::Timeout;

use super::identity::Seen;
use super::parse::Transport;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum State {
    SynSent,
    /// Both sides have sent a SYN.
    BothSyn,
    SynReceived,
    Established,
    FinWait,
    CloseWait,
    LastAck,
    TimeWait,
    Closed,
    UdpOneWay,
    UdpBothWays,
    Sctp,
    Icmp,
    Other,
}

use State::*;

/// What a TCP segment is for the table: connection tracking looks at RST, SYN, FIN and ACK in this
/// order, and at no other flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Segment {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
    Nothing,
}

/// How often each step was taken: from which state, by the side that opened the flow or by the other
/// one, with which segment. `None` is a flow that began.
pub(crate) type Taken = BTreeMap<(Option<State>, bool, Segment), u64>;

const FLAG_FIN: u8 = 1 << 0;
const FLAG_SYN: u8 = 1 << 1;
const FLAG_RST: u8 = 1 << 2;
const FLAG_ACK: u8 = 1 << 4;

pub(crate) fn segment(flags: u8) -> Segment {
    let has = |flag: u8| flags & flag != 0;
    if has(FLAG_RST) {
        return Segment::Rst;
    }
    if has(FLAG_SYN) && has(FLAG_ACK) {
        return Segment::SynAck;
    }
    if has(FLAG_SYN) {
        return Segment::Syn;
    }
    if has(FLAG_FIN) {
        return Segment::Fin;
    }
    if has(FLAG_ACK) {
        return Segment::Ack;
    }
    Segment::Nothing
}

/// Where each segment leads from a state, first from the side that opened the flow, then from the other
/// one. `--` stays: connection tracking ignores such a segment, or calls it invalid.
///
/// Two differences. While a connection closes, a SYN of its opener begins another one at once (`!`):
/// connection tracking waits for the answer first, to compare numbers, which are not kept here. A SYN of
/// the other side never begins one: no flow answers for a SYN, only rules do.
#[rustfmt::skip]
const TCP: [(State, [&str; 6], [&str; 6]); 9] = [
    //            opener:                              other side:
    //            syn   syn-ack fin  ack   rst   none   syn   syn-ack fin  ack   rst   none
    (SynSent,     ["--", "--", "--", "--", "CL", "--"], ["S2", "SR", "--", "--", "CL", "--"]),
    (BothSyn,     ["--", "SR", "--", "--", "CL", "--"], ["--", "SR", "--", "--", "CL", "--"]),
    (SynReceived, ["--", "--", "FW", "ES", "CL", "--"], ["--", "--", "FW", "--", "CL", "--"]),
    (Established, ["--", "--", "FW", "--", "CL", "--"], ["--", "--", "FW", "--", "CL", "--"]),
    (FinWait,     ["!SS","--", "LA", "CW", "CL", "--"], ["--", "--", "LA", "CW", "CL", "--"]),
    (CloseWait,   ["!SS","--", "LA", "--", "CL", "--"], ["--", "--", "LA", "--", "CL", "--"]),
    (LastAck,     ["!SS","--", "--", "TW", "CL", "--"], ["--", "--", "--", "TW", "CL", "--"]),
    (TimeWait,    ["SS", "--", "--", "--", "CL", "--"], ["--", "--", "--", "--", "CL", "--"]),
    (Closed,      ["SS", "--", "--", "--", "CL", "--"], ["--", "--", "--", "--", "CL", "--"]),
];

fn tcp_step(state: State, from_opener: bool, flags: u8) -> State {
    let (_, opener, other) = TCP
        .into_iter()
        .find(|(row, ..)| *row == state)
        .expect("a TCP flow is in one of TCP's states");
    let row = if from_opener { opener } else { other };
    let column = match segment(flags) {
        Segment::Syn => 0,
        Segment::SynAck => 1,
        Segment::Fin => 2,
        Segment::Ack => 3,
        Segment::Rst => 4,
        Segment::Nothing => 5,
    };
    match row[column].trim_start_matches('!') {
        "--" => state,
        "SS" => SynSent,
        "S2" => BothSyn,
        "SR" => SynReceived,
        "ES" => Established,
        "FW" => FinWait,
        "CW" => CloseWait,
        "LA" => LastAck,
        "TW" => TimeWait,
        "CL" => Closed,
        other => unreachable!("`{other}` is no state"),
    }
}

/// The state of a flow that begins with this packet. A TCP segment from the middle of a connection
/// takes it up where it may be, as connection tracking does when it is `loose`; unlike there, an
/// answer or a FIN does too.
pub(crate) fn begin(seen: &Seen) -> State {
    match seen.transport {
        Transport::Tcp { flags, .. } => match segment(flags) {
            Segment::Syn => SynSent,
            Segment::SynAck => SynReceived,
            Segment::Fin => FinWait,
            Segment::Ack | Segment::Nothing => Established,
            Segment::Rst => unreachable!("a reset opens nothing"),
        },
        Transport::Udp { .. } => UdpOneWay,
        Transport::Sctp { .. } => Sctp,
        Transport::Icmp { .. } => Icmp,
        Transport::Other => Other,
    }
}

/// The state of a flow in `state` after this packet of it.
pub(crate) fn after(state: State, from_opener: bool, seen: &Seen) -> State {
    match seen.transport {
        Transport::Tcp { flags, .. } => tcp_step(state, from_opener, flags),
        Transport::Udp { .. } if !from_opener => UdpBothWays,
        _ => state,
    }
}

/// SPEC K9: whether a flow, once it is in `state`, is one that a flood of opening packets must not
/// evict. Connection tracking calls it assured (`IPS_ASSURED`). A ping never is.
pub(crate) fn is_assured(state: State, is_answered: bool) -> bool {
    match state {
        Established => is_answered,
        UdpBothWays | Sctp | Other => is_answered,
        SynSent | BothSyn | SynReceived => false,
        FinWait | CloseWait | LastAck | TimeWait | Closed => false,
        UdpOneWay | Icmp => false,
    }
}

/// Whether this packet, which the rules accept, begins another connection on the ports of a flow in
/// `state`: RFC 9293 opens with a segment that has SYN and none of ACK, RST and FIN.
pub(crate) fn begins_anew(state: State, seen: &Seen) -> bool {
    let Transport::Tcp { flags, .. } = seen.transport else {
        return false;
    };
    let is_opening = flags & (FLAG_SYN | FLAG_ACK | FLAG_RST | FLAG_FIN) == FLAG_SYN;
    is_opening && state.is_closing()
}

/// Whether no flow answers for this packet, only rules (SPEC K9): whatever has SYN and not ACK.
pub(crate) fn asks_to_open(seen: &Seen) -> bool {
    match seen.transport {
        Transport::Tcp { flags, .. } => segment(flags & !FLAG_RST) == Segment::Syn,
        _ => false,
    }
}

impl State {
    const ALL: [State; 14] = [
        SynSent,
        BothSyn,
        SynReceived,
        Established,
        FinWait,
        CloseWait,
        LastAck,
        TimeWait,
        Closed,
        UdpOneWay,
        UdpBothWays,
        Sctp,
        Icmp,
        Other,
    ];

    /// One side has sent a FIN or a reset.
    pub(crate) fn is_closing(self) -> bool {
        matches!(self, FinWait | CloseWait | LastAck | TimeWait | Closed)
    }

    /// What a policy calls the time that a flow in this state has, and what the kernel's table says of it.
    pub(crate) fn timeout(self) -> Timeout {
        match self {
            SynSent => Timeout::TcpSynSent,
            BothSyn => Timeout::TcpSynSent2,
            SynReceived => Timeout::TcpSynRecv,
            Established => Timeout::TcpEstablished,
            FinWait => Timeout::TcpFinWait,
            CloseWait => Timeout::TcpCloseWait,
            LastAck => Timeout::TcpLastAck,
            TimeWait => Timeout::TcpTimeWait,
            Closed => Timeout::TcpClose,
            UdpOneWay => Timeout::Udp,
            UdpBothWays => Timeout::UdpStream,
            Sctp => Timeout::Sctp,
            Icmp => Timeout::Icmp,
            Other => Timeout::Other,
        }
    }

    /// From the kernel's table.
    pub(crate) fn of_number(number: u8) -> State {
        State::ALL
            .into_iter()
            .find(|state| state.timeout() as u8 == number)
            .unwrap_or_else(|| panic!("{number} is no state of a flow"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use sg_common::flow::FlowKind;
    use sg_common::protocol::Kind;
    use sg_common::verdict::Direction;
    use sg_common::{tcp, track};

    use super::super::parse::Numbers;
    use super::*;

    fn seen(transport: Transport) -> Seen {
        let address = Ipv4Addr::LOCALHOST.into();
        Seen::new(Direction::Inbound, address, address, 0, transport)
    }

    fn with_flags(flags: u8) -> Seen {
        seen(Transport::Tcp {
            source: 1,
            destination: 2,
            flags,
            numbers: Numbers::default(),
        })
    }

    /// Proves K9: the enforcer's steps, and what they take for established, are those written here, for
    /// every state, every set of flags and both sides.
    #[test]
    fn every_step_is_the_enforcers() {
        const TCP_KIND: u8 = Kind::Tcp as u8;
        for flags in 0..=u8::MAX {
            let packet = with_flags(flags);
            if packet.may_open() {
                let first = track::first(TCP_KIND, flags);
                assert_eq!(begin(&packet).timeout(), first, "first, {flags:#04x}");
            }
            let is_syn = tcp::is_syn_without_ack(flags);
            assert_eq!(asks_to_open(&packet), is_syn, "{flags:#04x}");
            for (state, ..) in TCP {
                let number = state.timeout() as u8;
                for from_opener in [true, false] {
                    let ours = after(state, from_opener, &packet).timeout() as u8;
                    let theirs = track::next(TCP_KIND, number, from_opener, flags);
                    assert_eq!(ours, theirs, "{state:?}, {from_opener}, {flags:#04x}");
                }
                let makes_room = tcp::keeps_room(number, flags) == 0;
                assert_eq!(
                    begins_anew(state, &packet),
                    makes_room,
                    "{state:?}, {flags:#04x}"
                );
            }
        }
        let ports = (1, 2);
        let (source, destination) = ports;
        let other_kinds = [
            (
                Kind::Udp,
                Transport::Udp {
                    source,
                    destination,
                },
            ),
            (
                Kind::Sctp,
                Transport::Sctp {
                    source,
                    destination,
                },
            ),
            (
                Kind::Icmp,
                Transport::Icmp {
                    kind: 8,
                    code: 0,
                    identifier: 1,
                },
            ),
            (Kind::Other, Transport::Other),
        ];
        for (kind, transport) in other_kinds {
            let packet = seen(transport);
            let mut state = begin(&packet);
            assert_eq!(state.timeout(), track::first(kind as u8, 0));
            for from_opener in [true, false, true, false] {
                let number = state.timeout() as u8;
                state = after(state, from_opener, &packet);
                let theirs = track::next(kind as u8, number, from_opener, 0);
                assert_eq!(state.timeout() as u8, theirs, "{kind:?}");
                let is_established =
                    track::kind_of_flow(kind as u8, theirs, !from_opener) == FlowKind::Established;
                assert_eq!(is_assured(state, !from_opener), is_established, "{kind:?}");
            }
        }
        for (state, ..) in TCP {
            for is_answered in [false, true] {
                let number = state.timeout() as u8;
                let kind = track::kind_of_flow(TCP_KIND, number, is_answered);
                let is_established = kind == FlowKind::Established;
                assert_eq!(is_assured(state, is_answered), is_established, "{state:?}");
            }
        }
    }
}
