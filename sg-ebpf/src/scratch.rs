//! What one program of a hook hands to the next about a frame: there is one place for it on each
//! CPU, since programs of one hook do not nest there.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::bpf::hook::Hook;
use crate::conntrack::traits::Traits;
use crate::outcome::Outcome;
use crate::packet::Packet;

#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    pub(crate) outcome: Outcome,
    pub(crate) traits: Traits,
    /// The hash of the packet's flow.
    pub(crate) hash: u32,
    /// The class of the remote address.
    pub(crate) class: u32,
    /// The rules' verdict.
    pub(crate) verdict: u32,
    zero: u32,
    pub(crate) event: Left,
}

/// What the program that writes events needs of a packet, besides that packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Left {
    /// The word of the event with its generation, but for the TCP flags.
    pub(crate) what: u64,
    /// Bytes of the frame.
    pub(crate) bytes: u64,
    pub(crate) slot: u32,
    /// 1 if the packet goes on.
    pub(crate) passes: u32,
}

/// One for each direction.
#[map(name = "sg_scratch")]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(2, 0);

/// The scratch of this CPU. An array has all its entries, so the lookup never fails.
#[inline(always)]
pub(crate) fn get<H: Hook>() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(H::DIRECTION as u32)?;
    // SAFETY: plain numbers, whose place belongs to this CPU and to the one frame that the
    // programs of this hook have under way there; each program asks for it once.
    Some(unsafe { &mut *scratch })
}

/// Leaves `left` for the program that writes events, beside the packet that is there already. True
/// if it could.
#[inline(always)]
pub(crate) fn leave<H: Hook>(left: Left) -> bool {
    let Some(scratch) = SCRATCH.get_ptr_mut(H::DIRECTION as u32) else {
        return false;
    };
    // SAFETY: as above; the caller has borrowed other fields only.
    unsafe { (&raw mut (*scratch).event).write(left) };
    true
}
