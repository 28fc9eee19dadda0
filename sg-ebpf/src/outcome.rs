//! What happens to a frame, and the one counter that says so.

use sg_common::verdict::{Action, Direction, Reason, Verdict, reason_slot};

/// Written through a pointer by the functions that decide, so that the verifier sees plain
/// unknown numbers behind them (as with `Packet`); hence no `bool`. Aligned, since it may be on a
/// stack, where one word is written for both halves.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Outcome {
    pub(crate) slot: u32,
    flags: u32,
}

const ACCEPT: u32 = 1;
/// Counted as a reply of the slot's rule.
const REPLY: u32 = 2;
/// A rule that asks for events decided it.
const LOG: u32 = 4;

impl Outcome {
    #[inline(always)]
    pub(crate) const fn of_slot(slot: u32, accept: bool, is_reply: bool) -> Self {
        let mut flags = 0;
        if accept {
            flags |= ACCEPT;
        }
        if is_reply {
            flags |= REPLY;
        }
        Outcome { slot, flags }
    }

    #[inline(always)]
    pub(crate) fn reason(direction: Direction, reason: Reason) -> Self {
        let accept = matches!(reason.action(), Action::Accept);
        Self::of_slot(reason_slot(direction, reason), accept, false)
    }

    #[inline(always)]
    pub(crate) fn rule(verdict: Verdict) -> Self {
        let mut outcome = Self::of_slot(verdict.slot(), verdict.is_accept(), false);
        if verdict.is_logged() {
            outcome.flags |= LOG;
        }
        outcome
    }

    /// As one number, which functions can return.
    #[inline(always)]
    pub(crate) const fn pack(self) -> u64 {
        (self.flags as u64) << 32 | self.slot as u64
    }

    #[inline(always)]
    pub(crate) fn unpack(packed: u64) -> Self {
        Outcome {
            slot: packed as u32,
            flags: (packed >> 32) as u32,
        }
    }

    #[inline(always)]
    pub(crate) fn is_accepted(&self) -> bool {
        self.flags & ACCEPT != 0
    }

    #[inline(always)]
    pub(crate) fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    #[inline(always)]
    pub(crate) fn is_logged(&self) -> bool {
        self.flags & LOG != 0
    }
}

/// Writes the outcome of `reason`, one of [`Reason`]'s and its direction's slots. In a function of
/// its own, after which the verifier no longer knows which reason it was.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_set_reason(out: *mut Outcome, slot: u32, accept: u32) -> u32 {
    if out.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes a whole `Outcome`.
    unsafe { *out = Outcome::of_slot(slot, accept != 0, false) };
    0
}

impl Outcome {
    #[inline(always)]
    pub(crate) fn set_reason(&mut self, direction: Direction, reason: Reason) {
        let accept = matches!(reason.action(), Action::Accept);
        sg_set_reason(self, reason_slot(direction, reason), accept.into());
    }
}
