//! Events of rules with `log`: a typed record in a ring buffer, limited in rate.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use sg_common::{
    event::Event,
    verdict::{Action, Direction},
};

use crate::{
    clock,
    maps::{EVENT_LIMIT, EVENTS},
    outcome::Outcome,
    packet::Packet,
};

/// Writes the event of a packet that a rule decided. Losing one is counted, and no reason to treat
/// the packet otherwise.
#[inline(always)]
pub(crate) fn emit(p: &Packet, direction: Direction, outcome: &Outcome, bytes: u64) {
    let Some(limit) = EVENT_LIMIT.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the value belongs to this CPU, and BPF programs of one hook do not nest on it.
    let limit = unsafe { &mut *limit };
    let time = clock::now();
    if !limit.admit(time) {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        limit.suppressed += 1;
        return;
    };
    let action = if outcome.is_accepted() {
        Action::Accept
    } else {
        Action::Drop
    };
    entry.write(Event {
        time,
        slot: outcome.slot,
        bytes: bytes as u32,
        local: p.local,
        remote: p.remote,
        local_port: p.local_port,
        remote_port: p.remote_port,
        icmp: p.number,
        protocol: p.protocol,
        v6: p.v6,
        direction: direction as u8,
        action: action as u8,
        tcp_flags: p.tcp_flags,
        zero: [0; 5],
    });
    // The reader looks several times a second; waking it for each event would cost far more than
    // the event.
    entry.submit(BPF_RB_NO_WAKEUP.into());
}
