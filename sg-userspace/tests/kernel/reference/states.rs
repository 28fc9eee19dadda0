//! How a flow goes from state to state (SPEC K9), for the tests alone: no step of the enforcer's
//! is used. TCP's table is that of the kernel's connection tracking
//! (net/netfilter/nf_conntrack_proto_tcp.c) for segments that it takes for valid, with RFC 9293,
//! sections 3.3.2 and 3.10.7, for what a segment is. Where the enforcer differs on purpose, it is
//! said.

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
    /// Revoked, flushed or cut (SPEC K11): nothing leads out of it but a new connection.
    Cut,
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

/// How often each step was taken: from which state, by the side that opened the flow or by the
/// other one, with which segment. `None` is a flow that began.
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

/// Where each segment leads from a state, first from the side that opened the flow, then from the
/// other one. `--` stays: connection tracking ignores such a segment, or calls it invalid.
///
/// Two differences. While a connection closes, a SYN of its originator begins another one at once
/// (`!`): connection tracking waits for the answer first, to compare numbers, which are not kept
/// here. A SYN of the other side never begins one: no flow answers for a SYN, only rules do.
#[rustfmt::skip]
const TCP: [(State, [&str; 6], [&str; 6]); 9] = [
    //            originator:                              other side:
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

fn tcp_step(state: State, from_originator: bool, flags: u8) -> State {
    let (_, originator, other) = TCP
        .into_iter()
        .find(|(row, ..)| *row == state)
        .expect("a TCP flow is in one of TCP's states");
    let row = if from_originator { originator } else { other };
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

/// What else bears on a flow's next state than the state and the packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    pub(crate) from_originator: bool,
    /// The segment acknowledges exactly what the other side sent last.
    pub(crate) acknowledges: bool,
    /// The flow is two seconds old or older.
    pub(crate) lasts: bool,
}

/// The state of a flow in `state` after this packet of it. Of the segments of its originator, the
/// one that ends TCP's handshake has to acknowledge what the other side sent; one that does not
/// changes nothing, unless it is a reset.
pub(crate) fn after(state: State, seen: &Seen, it: Circumstances) -> State {
    match seen.transport {
        Transport::Tcp { .. } if state == Cut => Cut,
        Transport::Tcp { flags, .. } => {
            let segment = segment(flags);
            let is_handshake =
                state == SynReceived && it.from_originator && segment != Segment::Rst;
            if is_handshake && !(it.acknowledges && flags & FLAG_ACK != 0) {
                return state;
            }
            tcp_step(state, it.from_originator, flags)
        }
        Transport::Udp { .. } if !it.from_originator && it.lasts => UdpBothWays,
        _ => state,
    }
}

/// Whether this packet of a flow in `state` is an answer: from the other side, but no SYN to a
/// connection that was taken up in the middle.
pub(crate) fn answers(state: State, seen: &Seen, it: Circumstances) -> bool {
    const SYN: u8 = FLAG_SYN;
    let is_late_syn = state == Established && seen.tcp_flags() & SYN != 0;
    !it.from_originator && !is_late_syn
}

/// SPEC K9: whether a flow, once it is in `state` after this packet, is one that a flood of
/// opening packets must not evict. Connection tracking calls it assured (`IPS_ASSURED`), as here:
/// TCP after its handshake, others when they are still answered after two seconds. A ping never
/// is.
pub(crate) fn is_assured(state: State, has_seen_reply: bool, it: Circumstances) -> bool {
    match state {
        Established => has_seen_reply,
        UdpOneWay | UdpBothWays | Sctp | Other => !it.from_originator && it.lasts,
        SynSent | BothSyn | SynReceived => false,
        FinWait | CloseWait | LastAck | TimeWait | Closed | Cut => false,
        Icmp => false,
    }
}

/// Whether the other side's segment says what has to be acknowledged: while a handshake lasts.
pub(crate) fn is_in_handshake(state: State) -> bool {
    matches!(state, SynSent | BothSyn | SynReceived)
}

/// Whether this packet, which the rules accept, begins another connection on the ports of a flow
/// in `state`, which may have been flushed: RFC 9293 opens with a segment that has SYN and none
/// of ACK, RST and FIN.
pub(crate) fn begins_anew(state: State, is_flushed: bool, seen: &Seen) -> bool {
    let Transport::Tcp { flags, .. } = seen.transport else {
        return false;
    };
    let is_opening = flags & (FLAG_SYN | FLAG_ACK | FLAG_RST | FLAG_FIN) == FLAG_SYN;
    is_opening && (state.is_closing() || state == Cut || is_flushed)
}

/// Whether no flow answers for this packet, only rules (SPEC K9): whatever has SYN and not ACK.
pub(crate) fn asks_to_open(seen: &Seen) -> bool {
    match seen.transport {
        Transport::Tcp { flags, .. } => segment(flags & !FLAG_RST) == Segment::Syn,
        _ => false,
    }
}

impl State {
    const ALL: [State; 15] = [
        SynSent,
        BothSyn,
        SynReceived,
        Established,
        FinWait,
        CloseWait,
        LastAck,
        TimeWait,
        Closed,
        Cut,
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

    /// What the kernel's table says of it.
    pub(crate) fn number(self) -> u8 {
        match self {
            Cut => 15,
            other => other.timeout() as u8,
        }
    }

    /// What a policy calls the time that a flow in this state has; a cut one has it longer, see
    /// `Terms`.
    pub(crate) fn timeout(self) -> Timeout {
        match self {
            SynSent => Timeout::TcpSynSent,
            BothSyn => Timeout::TcpSynSent2,
            SynReceived => Timeout::TcpSynRecv,
            Established | Cut => Timeout::TcpEstablished,
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
            .find(|state| state.number() == number)
            .unwrap_or_else(|| panic!("{number} is no state of a flow"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

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

    /// Proves K9: the enforcer's steps, and what they take for established, are those written
    /// here, for every state, every set of flags and both sides.
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
            let states = TCP.into_iter().map(|(state, ..)| state).chain([Cut]);
            for state in states {
                let number = state.number();
                for known in 0..16 {
                    let it = circumstances(known);
                    let has_seen_reply = known & track::SEEN_REPLY != 0;
                    let ours = after(state, &packet, it);
                    let has_seen_reply = has_seen_reply || answers(state, &packet, it);
                    let mut expected = u32::from(ours.number());
                    if has_seen_reply {
                        expected |= track::HAS_SEEN_REPLY;
                    }
                    if is_assured(ours, has_seen_reply, it) {
                        expected |= track::IS_ESTABLISHED;
                    }
                    let theirs = track::next(TCP_KIND, number, flags, known);
                    assert_eq!(expected, theirs, "{state:?}, {it:?}, {flags:#04x}");
                    let is_told = is_in_handshake(state)
                        && !it.from_originator
                        && segment(flags) != Segment::Rst;
                    let from_originator = it.from_originator.into();
                    let theirs = track::tells_number(TCP_KIND, number, flags, from_originator);
                    assert_eq!(u32::from(is_told), theirs, "{state:?}, {flags:#04x}");
                }
                for is_flushed in [false, true] {
                    let has_room = tcp::makes_room(number) != 0 || is_flushed;
                    let begins = has_room && tcp::differs_from_bare_syn(flags) == 0;
                    let ours = begins_anew(state, is_flushed, &packet);
                    assert_eq!(ours, begins, "{state:?}, {flags:#04x}");
                }
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
            for known in [1, 0, 1, 0, 8, 9, 2, 10, 11, 3] {
                let it = circumstances(known);
                let number = state.number();
                state = after(state, &packet, it);
                let mut expected = u32::from(state.number());
                if known & track::SEEN_REPLY != 0 || answers(state, &packet, it) {
                    expected |= track::HAS_SEEN_REPLY;
                }
                if is_assured(state, true, it) {
                    expected |= track::IS_ESTABLISHED;
                }
                let theirs = track::next(kind as u8, number, 0, known);
                assert_eq!(expected, theirs, "{kind:?}, {known}");
            }
        }
    }

    fn circumstances(known: u32) -> Circumstances {
        Circumstances {
            from_originator: known & track::FROM_ORIGINATOR != 0,
            acknowledges: known & track::ACKNOWLEDGES != 0,
            lasts: known & track::LASTS != 0,
        }
    }
}
