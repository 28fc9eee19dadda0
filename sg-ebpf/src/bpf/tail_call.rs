//! Tail calls: from one program of a hook to another.

use sg_common::{program::Target, verdict::Direction};

use super::{
    hook::Hook,
    maps::{INBOUND_STAGES, OUTBOUND_STAGES},
};

/// Goes on with another program of this hook. Returns only if that is not there.
#[inline(always)]
pub(crate) fn tail_call<H: Hook>(hook: &H, target: Target) {
    let programs = match H::DIRECTION {
        Direction::Inbound => &INBOUND_STAGES,
        Direction::Outbound => &OUTBOUND_STAGES,
    };
    // SAFETY: whatever is in the array has the type of this program; it does not return.
    unsafe { programs.tail_call(hook, target as u32) };
}
