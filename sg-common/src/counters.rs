//! The value of a counter slot: one per rule or reason, per CPU.

use crate::event_budget::Closing;

/// What there is of one slot on one CPU. The packet path looks it up once for each packet, so what
/// a dropped packet is asked while somebody watches lies beside its counter, mostly in one cache
/// line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CounterSlot {
    /// Which packets get no event at present.
    pub closing: Closing,
    /// The counters.
    pub counters: SlotCounters,
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
