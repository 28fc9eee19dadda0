//! Tail calls: from one program of a hook to another.

use sg_common::{program::Target, verdict::Direction};

use super::{
    hook::Hook,
    maps::{INBOUND_TARGETS, OUTBOUND_TARGETS},
};

/// Goes on with another program of this hook. Returns only if that is not there.
#[inline(always)]
pub(crate) fn tail_call<H: Hook>(hook: &H, target: Target) {
    let programs = match H::DIRECTION {
        Direction::Inbound => &INBOUND_TARGETS,
        Direction::Outbound => &OUTBOUND_TARGETS,
    };
    // SAFETY: whatever is in the array has the type of this program; it does not return.
    unsafe { programs.tail_call(hook, target as u32) };
}
