//! Events of rules with `log`, of what no rule matches where that is logged, and of what is
//! audited: a typed record
//! in a ring of the CPU's own, limited in rate.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use sg_common::{event::EVENT_WORDS, flow_table::Word as _, verdict::Direction};

use crate::audit::Auditing;
use crate::bpf::clock;
use crate::bpf::maps::{self, EVENT_RINGS, EVENT_SLOTS};
use crate::outcome::Outcome;
use crate::packet::Packet;

/// Writes the event of a packet, over the oldest one. That it is not written is counted, and no
/// reason to treat the packet otherwise.
#[inline(always)]
pub(crate) fn emit<A: Auditing>(
    p: &Packet,
    direction: Direction,
    outcome: &Outcome,
    bytes: u64,
    ifindex: u32,
) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    // BPF programs of one hook do not nest on a CPU, and neither hook runs inside the other.
    let Some(ring) = EVENT_RINGS.get(cpu) else {
        return;
    };
    if !ring.admit(clock::now()) {
        return;
    }
    let number = ring.written.load();
    let slots = maps::event_slots();
    let index = cpu * slots + (number as u32 & (slots.wrapping_sub(1)));
    let Some(slot) = EVENT_SLOTS.get(index) else {
        ring.suppress();
        return;
    };
    let [local, local2, remote, remote2, name] = p.flow_key_words();
    // As `sg_common::event::Event`, whose test has the same words.
    let words: [u64; EVENT_WORDS] = [
        clock::exact(),
        u64::from(outcome.slot) | bytes << 32,
        local,
        local2,
        remote,
        remote2,
        name | u64::from(p.number) << 48,
        u64::from(maps::generation())
            | (direction as u64) << 32
            | outcome.action::<A>() << 40
            | u64::from(p.tcp_flags) << 48,
        ifindex.into(),
    ];
    ring.write(number, slot, &words);
}
