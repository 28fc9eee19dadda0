//! The value of a counter slot: one per rule or reason, per CPU.

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

// SAFETY: four u64 without padding; every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SlotCounters {}
