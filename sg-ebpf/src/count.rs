//! One counter for each frame: the rule or the reason that decided it.

use core::mem::offset_of;

use sg_common::counters::{CounterSlot, SlotCounters};
use sg_common::flow_table::Word as _;

use crate::bpf::hook::Hook;
use crate::bpf::maps::COUNTERS;
use crate::bpf::word::SharedWord;
use crate::outcome::Outcome;

/// Counts the frame in its slot, as the wire sees it: an offloaded packet counts as its segments,
/// each with its own copy of the `headers` bytes of headers, and of the headers inside a tunnel,
/// which only the kernel knows. `claimed` is where the IP packet ends in the frame, or zero.
/// Returns the frame's bytes.
#[inline(always)]
pub(crate) fn count<H: Hook>(hook: &H, claimed: u32, headers: u32, outcome: &Outcome) -> u64 {
    let (segments, bytes) = measure(hook, claimed, || headers.into());
    let Some(slot) = slot(outcome.slot) else {
        return bytes;
    };
    let counters = (&raw mut slot.counters).cast::<[u64; 2]>();
    const _: () = assert!(
        offset_of!(SlotCounters, packets) == 0
            && offset_of!(SlotCounters, bytes) == 8
            && offset_of!(SlotCounters, reply_packets) == 16
            && offset_of!(SlotCounters, reply_bytes) == 24
    );
    // By arithmetic, so that the verifier has one path to explore.
    // The mask is for verifiers that do not see that it is 0 or 1 (Linux 6.1).
    let pair = SharedWord::opaque(outcome.reply_bit() as u64) & 1;
    // SAFETY: the counters are two pairs.
    let [of_packets, of_bytes] = unsafe { &mut *counters.add(pair as usize) };
    *of_packets += segments;
    *of_bytes += bytes;
    bytes
}

/// As [`count`] does, for a plain packet that `slot` decided and that is no reply.
#[inline(always)]
pub(crate) fn count_plain<H: Hook>(
    hook: &H,
    headers: impl FnOnce() -> u64,
    slot: &mut CounterSlot,
) {
    let (segments, bytes) = measure(hook, 0, headers);
    slot.counters.packets += segments;
    slot.counters.bytes += bytes;
}

/// The same, of a packet that gets no event because the slot is closed. Now and then it calls
/// `look`, which ends the watch if it is over.
#[inline(always)]
pub(crate) fn count_suppressed<H: Hook>(
    hook: &H,
    headers: impl FnOnce() -> u64,
    slot: &mut CounterSlot,
    look: impl FnOnce(),
) {
    let (segments, bytes) = measure(hook, 0, headers);
    slot.suppress(segments, bytes, look);
}

/// Packets on the wire, and their bytes.
#[inline(always)]
fn measure<H: Hook>(hook: &H, claimed: u32, headers: impl FnOnce() -> u64) -> (u64, u64) {
    let segments = u64::from(hook.segments());
    let mut len = hook.counted_len(claimed);
    if segments > 1 {
        len += (segments - 1) * headers();
    }
    let bytes = len.max(hook.wire_len().into());
    (segments, bytes)
}

/// What this CPU has of a counter slot. One reference is in use at a time.
#[inline(always)]
pub(crate) fn slot(number: u32) -> Option<&'static mut CounterSlot> {
    let slot = COUNTERS.get_ptr_mut(number)?;
    // SAFETY: the value belongs to this CPU, and BPF programs of one hook do not nest on it; each
    // frame is counted once.
    Some(unsafe { &mut *slot })
}
