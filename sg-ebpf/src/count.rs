//! One counter for each frame: the rule or the reason that decided it.

use sg_common::counters::SlotCounters;

use crate::{hook::Hook, maps::COUNTERS, outcome::Outcome};

/// Adds the frame to its slot, as the wire sees it: an offloaded packet counts as its segments,
/// each with a copy of its `headers` bytes of headers, and of those inside a tunnel, of which only
/// the kernel knows. `claimed` is where the IP packet in it ends,
/// or zero. Returns the frame's bytes.
#[inline(always)]
pub(crate) fn count<H: Hook>(hook: &H, claimed: u32, headers: u32, outcome: &Outcome) -> u64 {
    let segments = u64::from(hook.segments());
    let len = u64::from(hook.counted_len(claimed));
    let bytes = (len + (segments - 1) * u64::from(headers)).max(hook.wire_len().into());
    let Some(counters) = COUNTERS.get_ptr_mut(outcome.slot) else {
        return bytes;
    };
    // SAFETY: the value belongs to this CPU, and BPF programs of one hook do not nest on it.
    let counters: &mut SlotCounters = unsafe { &mut *counters };
    if outcome.is_reply() {
        counters.reply_packets += segments;
        counters.reply_bytes += bytes;
    } else {
        counters.packets += segments;
        counters.bytes += bytes;
    }
    bytes
}
