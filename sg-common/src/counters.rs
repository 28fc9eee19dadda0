//! The value of a counter slot: one per rule or reason, per CPU.

use crate::event_budget::{self, Closing};

/// What there is of one slot on one CPU. The packet path looks it up once for each packet, so what
/// a dropped packet is asked while somebody watches lies beside its counter, mostly in one cache
/// line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CounterSlot {
    /// Which packets get no event at present.
    pub closing: Closing,
    /// Packets that got no event because the slot was closed, as far as the fast path dropped
    /// them. They are counted here and not in `counters.packets`: while somebody watches a
    /// flood, each packet of it costs as many stores as else.
    pub suppressed: u64,
    /// The counters, without `suppressed`.
    pub counters: SlotCounters,
}

impl CounterSlot {
    /// Counts a frame that gets no event because the slot is closed. Now and then it calls `look`,
    /// which ends the watch if it is over.
    #[inline(always)]
    pub fn suppress(&mut self, segments: u64, bytes: u64, look: impl FnOnce()) {
        // There is one event for all of them.
        self.counters.packets += segments - 1;
        self.counters.bytes += bytes;
        event_budget::suppress(&mut self.suppressed, look);
    }
}

const _: () = assert!(size_of::<CounterSlot>() == 48);

/// Counts of one slot on one CPU. `packets`/`bytes` are what the rule or reason decided;
/// `reply_*` are packets of the other direction that passed because of a flow the rule admitted.
/// Bytes are whole frames without the frame check sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotCounters {
    /// Packets that the rule or reason decided.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets of the other direction that passed as replies.
    pub reply_packets: u64,
    /// Their bytes.
    pub reply_bytes: u64,
}

const _: () = assert!(size_of::<SlotCounters>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame without an event is one suppressed event and as many packets as its segments.
    #[test]
    fn suppressed_frames_are_counted_once() {
        let mut slot = CounterSlot::default();
        slot.suppress(1, 60, || ());
        slot.suppress(3, 4000, || ());
        assert_eq!(slot.suppressed, 2);
        assert_eq!(slot.counters.packets + slot.suppressed, 4);
        assert_eq!(slot.counters.bytes, 4060);
    }
}
