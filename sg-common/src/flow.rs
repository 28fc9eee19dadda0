//! What is remembered of a flow, and the idle timeouts. How it lies in the flow table is said in
//! `flow_entry`.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::verdict::Direction;

/// Index into the timeout array; a flow's `state` byte is one of these, so the state *is* the
/// timeout. Defaults are those of the kernel's connection tracking:
/// net/netfilter/nf_conntrack_proto_{tcp,udp,sctp,icmp,generic}.c.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Timeout {
    /// A SYN has been seen.
    TcpSynSent = 0,
    /// A SYN-ACK has been seen.
    TcpSynRecv = 1,
    /// The handshake is complete.
    TcpEstablished = 2,
    /// One side has sent a FIN.
    TcpFinWait = 3,
    /// That FIN has been acknowledged.
    TcpCloseWait = 4,
    /// The other side has sent a FIN too.
    TcpLastAck = 5,
    /// Both FINs have been acknowledged.
    TcpTimeWait = 6,
    /// A reset has been seen.
    TcpClose = 7,
    /// Both sides have sent a SYN (simultaneous open).
    TcpSynSent2 = 8,
    /// UDP that has not had a reply two seconds after it began, or later.
    Udp = 9,
    /// UDP that still has replies two seconds after it began.
    UdpStream = 10,
    /// SCTP, in any state.
    Sctp = 11,
    /// An ICMP or ICMPv6 query.
    Icmp = 12,
    /// Every other protocol.
    Other = 13,
    /// What is remembered of a first fragment; no flow is in this state. Default as
    /// `net.ipv4.ipfrag_time`.
    Fragment = 14,
}

/// Number of timeouts.
pub const TIMEOUTS: usize = 15;

/// The state of a TCP flow that was revoked, flushed or cut (SPEC K11): its segments are dropped
/// in both directions, and only a SYN that the rules accept begins a new one in its place. It has
/// no [`Timeout`] of its own: see [`seconds`].
pub const CUT: u8 = 15;

/// Seconds of silence after which a flow in `state` is forgotten. A cut one must not be back
/// before its ends have given it up, so that a shorter timeout of established flows does not
/// shorten its own.
pub const fn seconds(timeouts: &[u32; TIMEOUTS], state: u8) -> u32 {
    if (state as usize) < TIMEOUTS {
        return timeouts[state as usize];
    }
    let default = Timeout::TcpEstablished.default_seconds();
    let established = timeouts[Timeout::TcpEstablished as usize];
    if established > default {
        established
    } else {
        default
    }
}

/// The name of a flow's state in output: its timeout's, or `tcp-cut`.
pub const fn state_name(state: u8) -> &'static str {
    match Timeout::from_index(state) {
        Some(timeout) => timeout.name(),
        None => "tcp-cut",
    }
}

impl Timeout {
    /// All of them, each at its index.
    pub const ALL: [Timeout; TIMEOUTS] = [
        Timeout::TcpSynSent,
        Timeout::TcpSynRecv,
        Timeout::TcpEstablished,
        Timeout::TcpFinWait,
        Timeout::TcpCloseWait,
        Timeout::TcpLastAck,
        Timeout::TcpTimeWait,
        Timeout::TcpClose,
        Timeout::TcpSynSent2,
        Timeout::Udp,
        Timeout::UdpStream,
        Timeout::Sctp,
        Timeout::Icmp,
        Timeout::Other,
        Timeout::Fragment,
    ];

    /// The name used in policies and output.
    pub const fn name(self) -> &'static str {
        match self {
            Timeout::TcpSynSent => "tcp-syn-sent",
            Timeout::TcpSynRecv => "tcp-syn-recv",
            Timeout::TcpEstablished => "tcp-established",
            Timeout::TcpFinWait => "tcp-fin-wait",
            Timeout::TcpCloseWait => "tcp-close-wait",
            Timeout::TcpLastAck => "tcp-last-ack",
            Timeout::TcpTimeWait => "tcp-time-wait",
            Timeout::TcpClose => "tcp-close",
            Timeout::TcpSynSent2 => "tcp-syn-sent2",
            Timeout::Udp => "udp",
            Timeout::UdpStream => "udp-stream",
            Timeout::Sctp => "sctp",
            Timeout::Icmp => "icmp",
            Timeout::Other => "other",
            Timeout::Fragment => "fragment",
        }
    }

    /// Seconds of silence after which a flow in this state is forgotten.
    pub const fn default_seconds(self) -> u32 {
        match self {
            Timeout::TcpSynSent => 120,
            Timeout::TcpSynRecv => 60,
            Timeout::TcpEstablished => 5 * 24 * 3600,
            Timeout::TcpFinWait => 120,
            Timeout::TcpCloseWait => 60,
            Timeout::TcpLastAck => 30,
            Timeout::TcpTimeWait => 120,
            Timeout::TcpClose => 10,
            Timeout::TcpSynSent2 => 120,
            Timeout::Udp => 30,
            Timeout::UdpStream => 120,
            Timeout::Sctp => 210,
            Timeout::Icmp => 30,
            Timeout::Other => 600,
            Timeout::Fragment => 30,
        }
    }

    /// The timeout of this index, if there is one.
    pub const fn from_index(index: u8) -> Option<Timeout> {
        if (index as usize) < TIMEOUTS {
            Some(Timeout::ALL[index as usize])
        } else {
            None
        }
    }

    /// The default of every timeout, by index.
    pub const fn defaults() -> [u32; TIMEOUTS] {
        let mut out = [0; TIMEOUTS];
        let mut i = 0;
        while i < TIMEOUTS {
            out[i] = Timeout::ALL[i].default_seconds();
            i += 1;
        }
        out
    }
}

/// The address in a word whose bytes in memory are those on the wire.
pub fn ipv4(word: u32) -> Ipv4Addr {
    Ipv4Addr::from(word.to_ne_bytes())
}

/// The address in words whose bytes in memory are those on the wire.
pub fn ipv6(words: [u32; 4]) -> Ipv6Addr {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(bytes)
}

/// Which part of the table a flow lives in. A flood of packets that open flows fills the half-open
/// part only, and never evicts an established flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowKind {
    /// Not established yet: a TCP handshake under way, a datagram without a reply or with early
    /// replies only, a ping.
    HalfOpen = 0,
    /// Both ends have proven that they receive at their addresses, so neither is spoofed.
    Established = 1,
}

impl FlowKind {
    /// Both, each at its number.
    pub const BOTH: [FlowKind; 2] = [FlowKind::HalfOpen, FlowKind::Established];

    /// The name used in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            FlowKind::HalfOpen => "half-open",
            FlowKind::Established => "established",
        }
    }
}

/// What is remembered of a flow, as userspace reads it, but for the number that a handshake waits
/// for. Times are `CLOCK_MONOTONIC` nanoseconds (coarse).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowValue {
    /// When the flow was entered.
    pub created: u64,
    /// When its last packet was seen, or a little earlier: see [`TOUCH_INTERVAL_NS`].
    pub last_seen: u64,
    /// Counter slot of the rule that admitted the flow; unused in a seeded flow.
    pub slot: u32,
    /// Generation of the policy that admitted it last.
    pub generation: u32,
    /// [`Direction`] of the packet that opened it. Of a flow that was there before the first
    /// attachment nobody has seen that packet: it is the direction of the rule that admits it.
    pub originator: u8,
    /// A [`Timeout`] index, or [`CUT`].
    pub state: u8,
    /// [`FlowValue::SEEN_REPLY`] and those after it.
    pub flags: u8,
    /// Always zero: there is no padding.
    pub zero: [u8; 5],
}

const _: () = assert!(size_of::<FlowValue>() == 32);

impl FlowValue {
    /// All zero.
    pub const EMPTY: FlowValue = FlowValue {
        created: 0,
        last_seen: 0,
        slot: 0,
        generation: 0,
        originator: 0,
        state: 0,
        flags: 0,
        zero: [0; 5],
    };

    /// A TCP flow that is cut from `now` on and belongs to no rule. Userspace enters it for a
    /// connection that exists.
    pub const fn cut(now: u64, opened: Option<Direction>) -> FlowValue {
        let side = match opened {
            Some(side) => side,
            None => Direction::Inbound,
        };
        FlowValue {
            created: now,
            last_seen: now,
            state: CUT,
            flags: Self::SEEN_REPLY,
            ..Self::EMPTY
        }
        .admitted(side, opened)
    }

    /// This flow as the rules of a direction admit it, whichever side has opened it.
    pub const fn admitted(self, by: Direction, opened: Option<Direction>) -> FlowValue {
        let flag = match opened {
            None => Self::ORIGINATOR_UNKNOWN,
            Some(side) if side as u8 != by as u8 => Self::OPENED_OTHERWISE,
            Some(_) => 0,
        };
        let others = self.flags & !(Self::ORIGINATOR_UNKNOWN | Self::OPENED_OTHERWISE);
        FlowValue {
            originator: by as u8,
            flags: others | flag,
            ..self
        }
    }

    /// The side that did not open the flow has sent a packet.
    pub const SEEN_REPLY: u8 = 1;
    /// The flow was there before the first policy, and no rule admits it (SPEC K12).
    pub const SEEDED: u8 = 2;
    /// The side opposite to [`FlowValue::originator`] has opened it.
    pub const OPENED_OTHERWISE: u8 = 4;
    /// It is not known which side has opened it.
    pub const ORIGINATOR_UNKNOWN: u8 = 8;
    /// In [`FlowValue::flags`]: the flow passes only because what would be dropped is watched
    /// (SPEC C9).
    pub const AUDITED: u8 = 16;

    /// Direction of the packet that opened it, where that is known.
    pub const fn opened_by(&self) -> Option<Direction> {
        if self.flags & Self::ORIGINATOR_UNKNOWN != 0 {
            return None;
        }
        let originator = Direction::BOTH[(self.originator & 1) as usize];
        Some(match self.flags & Self::OPENED_OTHERWISE != 0 {
            true => originator.opposite(),
            false => originator,
        })
    }

    /// See [`FlowValue::SEEN_REPLY`].
    #[inline(always)]
    pub const fn has_seen_reply(&self) -> bool {
        self.flags & Self::SEEN_REPLY != 0
    }

    /// See [`FlowValue::AUDITED`].
    pub const fn is_audited(&self) -> bool {
        self.flags & Self::AUDITED != 0
    }

    /// See [`FlowValue::SEEDED`].
    #[inline(always)]
    pub const fn is_seeded(&self) -> bool {
        self.flags & Self::SEEDED != 0
    }
}

/// How many flows of one [`FlowKind`] the packet path has entered into the table, taken out of it,
/// and evicted for others, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowStats {
    /// Flows that were entered.
    pub entered: u64,
    /// Flows that were taken out.
    pub left: u64,
    /// Flows that were evicted for others.
    pub evicted: u64,
}

/// Nanoseconds from `then` to `now`. Negative when the clock that set `then` was ahead; right also
/// for a `then` before the clock's zero, which wraps around it.
#[inline(always)]
pub const fn elapsed(now: u64, then: u64) -> i64 {
    now.wrapping_sub(then) as i64
}

/// True when a flow last seen at `last_seen` has been silent longer than `seconds` allows.
#[inline(always)]
pub const fn is_expired(now: u64, last_seen: u64, seconds: u32) -> bool {
    elapsed(now, last_seen) > seconds as i64 * 1_000_000_000
}

/// The `last_seen` of a live flow is rewritten only this often: a busy flow would otherwise dirty
/// its cache line at every packet.
pub const TOUCH_INTERVAL_NS: i64 = 250_000_000;

// SAFETY: integers without padding; every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowStats {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_positions() {
        for (i, t) in Timeout::ALL.into_iter().enumerate() {
            assert_eq!(t as usize, i);
            assert_eq!(Timeout::from_index(i as u8), Some(t));
        }
        assert_eq!(Timeout::from_index(TIMEOUTS as u8), None);
    }

    #[test]
    fn a_cut_flow_outlives_an_established_one() {
        let mut timeouts = Timeout::defaults();
        for (established, expected) in [(1, 432_000), (432_000, 432_000), (500_000, 500_000)] {
            timeouts[Timeout::TcpEstablished as usize] = established;
            assert_eq!(seconds(&timeouts, CUT), expected);
        }
        assert_eq!(seconds(&timeouts, Timeout::Udp as u8), 30);
        assert_eq!(state_name(CUT), "tcp-cut");
        assert_eq!(state_name(Timeout::Udp as u8), "udp");
    }

    #[test]
    fn who_has_opened_a_flow_is_not_whose_rule_admits_it() {
        for by in Direction::BOTH {
            for opened in [None, Some(Direction::Inbound), Some(Direction::Outbound)] {
                let value = FlowValue {
                    flags: FlowValue::SEEDED,
                    ..FlowValue::EMPTY
                };
                // Whatever was said of it before.
                let value = value.admitted(by, None).admitted(by, opened);
                assert_eq!((value.originator, value.opened_by()), (by as u8, opened));
                assert!(value.is_seeded());
            }
        }
        for opened in [None, Some(Direction::Inbound), Some(Direction::Outbound)] {
            let cut = FlowValue::cut(1, opened);
            assert_eq!((cut.state, cut.opened_by()), (CUT, opened));
        }
    }

    #[test]
    fn expiry_is_exclusive_and_survives_a_clock_that_lags() {
        let second = 1_000_000_000;
        assert!(!is_expired(31 * second, second, 30));
        assert!(is_expired(31 * second + 1, second, 30));
        assert!(!is_expired(5, 10, 0));
        let before_zero = 5u64.wrapping_sub(31 * second);
        assert!(is_expired(6, before_zero, 31));
        assert!(!is_expired(5, before_zero, 31));
    }
}
