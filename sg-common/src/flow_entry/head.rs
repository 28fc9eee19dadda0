//! The word of an entry that packets change.

use crate::flow::{CUT, FlowValue, Timeout};

/// The word of an entry that packets change.
///
/// Bits 0-31: the tick in which the flow was seen last. 32-35: state. 36: the direction whose
/// rules admit the flow, see [`FlowValue::originator`]. 37: a reply was seen. 38: seeded. 39: the
/// entry is being written, or free. 40 and 41: which side has really opened it, see
/// [`FlowValue::opened_by`]. 42-63: version, another one for each flow that the entry has held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Head(pub u64);

impl Head {
    const STATE: u32 = 32;
    const ORIGINATOR: u32 = 36;
    /// As [`FlowValue::SEEN_REPLY`].
    pub const SEEN_REPLY: u64 = 1 << 37;
    /// As [`FlowValue::SEEDED`].
    pub const SEEDED: u64 = 1 << 38;
    /// The entry is being written, or belongs to no flow.
    pub const BUSY: u64 = 1 << 39;
    const OPENED_OTHERWISE: u64 = 1 << 40;
    const ORIGINATOR_UNKNOWN: u64 = 1 << 41;
    const VERSION: u64 = !0 << Self::VERSION_AT;
    const VERSION_AT: u32 = 42;
    /// The bits of [`FlowValue::flags`], and where they are here.
    pub(super) const FLAGS: [(u8, u64); 4] = [
        (FlowValue::SEEN_REPLY, Self::SEEN_REPLY),
        (FlowValue::SEEDED, Self::SEEDED),
        (FlowValue::OPENED_OTHERWISE, Self::OPENED_OTHERWISE),
        (FlowValue::ORIGINATOR_UNKNOWN, Self::ORIGINATOR_UNKNOWN),
    ];

    /// A head whose version is not set yet.
    #[inline(always)]
    pub const fn new(last_seen: u32, state: u8, originator: u8) -> Head {
        let (state, originator) = ((state & 15) as u64, (originator & 1) as u64);
        Head(last_seen as u64 | state << Self::STATE | originator << Self::ORIGINATOR)
    }

    /// Of a flow that begins in `state` with a packet of `direction`. A TCP connection that does
    /// not begin with a SYN was there before, and it is not known which side has opened it.
    #[inline(always)]
    pub const fn of_first(tick: u32, state: u8, direction: u8) -> Head {
        const MIDDLE: u64 = 1 << Timeout::TcpSynRecv as u8
            | 1 << Timeout::TcpEstablished as u8
            | 1 << Timeout::TcpFinWait as u8
            | 1 << Timeout::TcpClose as u8;
        let is_unknown = MIDDLE >> (state & 15) & 1;
        Head(Head::new(tick, state, direction).0 | (is_unknown * Self::ORIGINATOR_UNKNOWN))
    }

    /// The tick of the last packet.
    #[inline(always)]
    pub const fn last_seen(self) -> u32 {
        self.0 as u32
    }

    /// A [`Timeout`] index, or [`CUT`].
    #[inline(always)]
    pub const fn state(self) -> u8 {
        (self.0 >> Self::STATE) as u8 & 15
    }

    /// See [`FlowValue::originator`].
    #[inline(always)]
    pub const fn originator(self) -> u8 {
        (self.0 >> Self::ORIGINATOR) as u8 & 1
    }

    /// See [`FlowValue::SEEN_REPLY`].
    #[inline(always)]
    pub const fn has_seen_reply(self) -> bool {
        self.0 & Self::SEEN_REPLY != 0
    }

    /// See [`FlowValue::SEEDED`].
    #[inline(always)]
    pub const fn is_seeded(self) -> bool {
        self.0 & Self::SEEDED != 0
    }

    /// See [`Head::BUSY`].
    #[inline(always)]
    pub const fn is_busy(self) -> bool {
        self.0 & Self::BUSY != 0
    }

    /// The head of a cut flow, which belongs to no rule and to no generation.
    #[inline(always)]
    pub const fn cut(self) -> Head {
        Head(self.in_state(CUT).0 & !Self::SEEDED)
    }

    /// This head, with `tick` as the time of the last packet.
    #[inline(always)]
    pub const fn seen_at(self, tick: u32) -> Head {
        Head(self.0 & (!0 << 32) | tick as u64)
    }

    /// This head, in `state`.
    #[inline(always)]
    pub const fn in_state(self, state: u8) -> Head {
        let rest = self.0 & !(15 << Self::STATE);
        Head(rest | ((state & 15) as u64) << Self::STATE)
    }

    /// Whether both are heads of the same flow: not of another one that has taken its place, nor
    /// of one that is being taken out.
    #[inline(always)]
    pub const fn is_same_flow(self, other: Head) -> bool {
        (self.0 ^ other.0) & (Self::VERSION | Self::BUSY) == 0
    }

    /// Zero if what was read between two readings of a head belongs to one flow: no CPU has written
    /// the entry meanwhile, or is writing it.
    #[inline(always)]
    pub const fn moved(before: u64, after: u64) -> u64 {
        (before ^ after) & Self::VERSION | (before | after) & Self::BUSY
    }

    /// The head while the entry is written for its next flow.
    #[inline(always)]
    pub const fn next_busy(self) -> Head {
        Head((self.0 & Self::VERSION).wrapping_add(1 << Self::VERSION_AT) | Self::BUSY)
    }

    /// This head, with the version of `busy`, which was there while the entry was written.
    #[inline(always)]
    pub const fn of_version(self, busy: Head) -> Head {
        Head(self.0 & !(Self::VERSION | Self::BUSY) | busy.0 & Self::VERSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::TIMEOUTS;

    const _: () = assert!(
        TIMEOUTS <= CUT as usize && CUT < 16,
        "a state has four bits"
    );

    #[test]
    fn a_head_keeps_its_parts() {
        let head = Head(Head::new(77, 11, 1).0 | Head::SEEN_REPLY);
        let busy = Head(!Head::BUSY).next_busy();
        let head = head.of_version(busy);
        assert_eq!(
            (head.last_seen(), head.state(), head.originator()),
            (77, 11, 1)
        );
        assert!(head.has_seen_reply() && !head.is_seeded() && !head.is_busy());
        assert!(!head.is_same_flow(busy), "it is being written");
        let later = head.seen_at(99).in_state(3);
        assert_eq!((later.last_seen(), later.state()), (99, 3));
        assert!(later.is_same_flow(head));
        let next = head.of_version(head.next_busy());
        assert!(!next.is_same_flow(head));
        assert_eq!((next.last_seen(), next.state()), (77, 11));
    }
}
