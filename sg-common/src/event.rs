//! What a rule with `log` leaves behind of each packet it decides.

use crate::verdict::{Action, Direction};

/// One logged packet, as it stands in the ring. Addresses are words whose bytes in memory are those
/// on the wire (IPv4 uses the first), everything else is host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, coarse, nanoseconds.
    pub time: u64,
    /// Counter slot of the rule.
    pub slot: u32,
    /// Bytes of the frame without its check sequence.
    pub bytes: u32,
    pub local: [u32; 4],
    pub remote: [u32; 4],
    pub local_port: u16,
    pub remote_port: u16,
    /// ICMP type in the high byte, code in the low one.
    pub icmp: u16,
    pub protocol: u8,
    /// 1 for IPv6.
    pub v6: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// An [`Action`].
    pub action: u8,
    pub tcp_flags: u8,
    pub zero: [u8; 5],
}

const _: () = assert!(size_of::<Event>() == 64);

/// Events that one CPU writes in a second at most; a flood must not become a flood of logs.
pub const EVENTS_PER_SECOND: u64 = 1000;

/// One CPU's share of the rate limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventLimit {
    /// The second that is being counted.
    pub second: u64,
    /// Events written in it.
    pub written: u64,
    /// Events not written since the programs were loaded: over the limit, or no room in the ring.
    pub suppressed: u64,
}

impl EventLimit {
    /// Counts one event at `now` nanoseconds. True if it may be written.
    #[inline(always)]
    pub fn admit(&mut self, now: u64) -> bool {
        let second = now / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.written = 0;
        }
        if self.written >= EVENTS_PER_SECOND {
            self.suppressed += 1;
            return false;
        }
        self.written += 1;
        true
    }
}

impl Event {
    pub const fn is_inbound(&self) -> bool {
        self.direction == Direction::Inbound as u8
    }

    pub const fn is_accepted(&self) -> bool {
        self.action == Action::Accept as u8
    }
}

// SAFETY: integers and arrays of them without padding; every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Event {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for EventLimit {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_starts_anew_each_second_and_counts_what_it_holds_back() {
        let mut limit = EventLimit::default();
        let second = 1_000_000_000;
        for _ in 0..EVENTS_PER_SECOND {
            assert!(limit.admit(5 * second));
        }
        assert!(!limit.admit(5 * second + 1));
        assert_eq!(limit.suppressed, 1);
        assert!(limit.admit(6 * second));
    }
}
