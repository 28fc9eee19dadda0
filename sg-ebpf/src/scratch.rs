//! What one program of a hook hands to the next about a frame: there is one place for it on each
//! CPU, since programs of one hook do not nest there.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::bpf::hook::Hook;
use crate::conntrack::flows::Traits;
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
