//! The states of a flow (K9), written a second time for the tests; no code of the enforcer is used.
//! TCP's table is that of the kernel's connection tracking (net/netfilter/nf_conntrack_proto_tcp.c)
//! for segments that it considers valid. What a segment is follows RFC 9293, sections 3.3.2 and
//! 3.10.7. Where the enforcer differs on purpose, a comment says so.

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
    /// Revoked, flushed or cut (K11). Only a new connection leaves this state.
    Cut,
    UdpOneWay,
    UdpBothWays,
    Sctp,
    Icmp,
    Other,
}

use State::*;

/// The kind of a TCP segment in the table. As in connection tracking RST, SYN, FIN and ACK are
/// looked at in this order, and no other flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Segment {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
    Nothing,
}

/// How often each step was taken: from which state, whether by the originator, with which segment.
/// `None` is a new flow.
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

/// The next state for each segment, first from the originator, then from the other side. `--` stays
/// in the state: connection tracking ignores such a segment or considers it invalid.
///
/// There are two differences. While a connection closes, a SYN of its originator opens another one
/// at once (`!`). Connection tracking first waits for the reply to compare sequence numbers, which
/// are not kept here. A SYN of the other side never opens one, because only rules accept a SYN,
/// never a flow.
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
/// gives the state that the connection may be in, as in connection tracking with `loose`. Unlike
/// there, a SYN-ACK or FIN does so too.
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

/// What the next state depends on besides the state and the packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    pub(crate) from_originator: bool,
    /// The segment acknowledges exactly the last segment of the other side.
    pub(crate) acknowledges: bool,
    /// The flow is at least two seconds old.
    pub(crate) lasts: bool,
}

/// The state after this packet of a flow in `state`. The originator's segment that completes the
/// handshake has to acknowledge what the other side sent. If it does not, nothing changes, unless
/// it is a reset.
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

/// Whether this packet is a reply: it comes from the other side, and is no SYN to a connection
/// whose beginning was not seen.
pub(crate) fn is_reply(state: State, seen: &Seen, it: Circumstances) -> bool {
    const SYN: u8 = FLAG_SYN;
    let is_late_syn = state == Established && seen.tcp_flags() & SYN != 0;
    !it.from_originator && !is_late_syn
}

/// K9: whether a flow in `state` after this packet is established, so that a flood of opening
/// packets must not evict it. Connection tracking calls it assured (`IPS_ASSURED`): TCP after its
/// handshake, other flows if they still get replies after two seconds, a ping never.
pub(crate) fn is_assured(state: State, has_seen_reply: bool, it: Circumstances) -> bool {
    match state {
        Established => has_seen_reply,
        UdpOneWay | UdpBothWays | Sctp | Other => !it.from_originator && it.lasts,
        SynSent | BothSyn | SynReceived => false,
        FinWait | CloseWait | LastAck | TimeWait | Closed | Cut => false,
        Icmp => false,
    }
}

/// Whether a segment of the other side gives the number to acknowledge, which it does during the
/// handshake.
pub(crate) fn is_in_handshake(state: State) -> bool {
    matches!(state, SynSent | BothSyn | SynReceived)
}

/// Whether this packet, which the rules accept, opens another connection on the ports of a flow in
/// `state`, or of one that may have been flushed. By RFC 9293 that is a segment with SYN and
/// without ACK, RST and FIN.
pub(crate) fn begins_anew(state: State, is_flushed: bool, seen: &Seen) -> bool {
    let Transport::Tcp { flags, .. } = seen.transport else {
        return false;
    };
    let is_opening = flags & (FLAG_SYN | FLAG_ACK | FLAG_RST | FLAG_FIN) == FLAG_SYN;
    is_opening && (state.is_closing() || state == Cut || is_flushed)
}

/// Whether only rules can accept this packet, and no flow: a segment with SYN and without ACK (K9).
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

    /// Whether one side has sent a FIN or a reset.
    pub(crate) fn is_closing(self) -> bool {
        matches!(self, FinWait | CloseWait | LastAck | TimeWait | Closed)
    }

    /// The number of the state in the kernel's table.
    pub(crate) fn number(self) -> u8 {
        match self {
            Cut => 15,
            other => other.timeout() as u8,
        }
    }

    /// The timeout of a flow in this state, by its name in a policy. For a cut flow see `Terms`.
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

    /// The state with this number in the kernel's table.
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

    /// Proves K9: the enforcer's steps and what it considers established are those written here,
    /// for every state, every set of flags and both sides.
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
                    let has_seen_reply = has_seen_reply || is_reply(state, &packet, it);
                    let mut expected = u32::from(ours.number());
                    if has_seen_reply {
                        expected |= track::HAS_SEEN_REPLY;
                    }
                    if is_assured(ours, has_seen_reply, it) {
                        expected |= track::IS_ESTABLISHED;
                    }
                    let theirs = track::next(TCP_KIND, number, flags, known);
                    assert_eq!(expected, theirs, "{state:?}, {it:?}, {flags:#04x}");
                    let gives_number = is_in_handshake(state)
                        && !it.from_originator
                        && segment(flags) != Segment::Rst;
                    let from_originator = it.from_originator.into();
                    let theirs = track::sets_number(TCP_KIND, number, flags, from_originator);
                    assert_eq!(u32::from(gives_number), theirs, "{state:?}, {flags:#04x}");
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
                if known & track::SEEN_REPLY != 0 || is_reply(state, &packet, it) {
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
