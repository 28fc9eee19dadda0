//! What happens to a frame, and the one counter that says so.

use sg_common::fragment::FragmentValue;
use sg_common::verdict::{Action, Direction, Reason, Verdict, reason_slot};

use crate::audit::Auditing;

/// Written through a pointer by the functions that decide, so that the verifier sees plain
/// unknown numbers behind them (as with `Packet`); hence no `bool`. Aligned, since it may be on a
/// stack, where one word is written for both halves.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Outcome {
    pub(crate) slot: u32,
    flags: u32,
}

/// It passes.
const ACCEPT: u32 = 1;
/// Counted as a reply of the slot's rule.
const REPLY: u32 = 2;
/// A rule that asks for events decided it.
const LOG: u32 = 4;
/// It passes only because what would be dropped is watched; it leaves an event.
const AUDIT: u32 = 8;

const _: () = assert!(
    FragmentValue::ACCEPT == ACCEPT
        && FragmentValue::REPLY == REPLY
        && FragmentValue::AUDIT == AUDIT
);

/// The flags of what is counted under `reason`.
const fn flags_of(reason: Reason) -> u32 {
    match reason.action() {
        Action::Drop => 0,
        Action::Accept => ACCEPT,
        Action::Audit => ACCEPT | AUDIT,
    }
}

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
        Outcome {
            slot: reason_slot(direction, reason),
            flags: flags_of(reason),
        }
    }

    #[inline(always)]
    pub(crate) fn rule(verdict: Verdict) -> Self {
        let mut outcome = Self::of_slot(verdict.slot(), verdict.is_accept(), false);
        if verdict.is_logged() {
            outcome.flags |= LOG;
        }
        outcome
    }

    /// As [`Outcome::rule`], of a policy that may audit.
    #[inline(always)]
    pub(crate) fn ruled<A: Auditing>(verdict: Verdict) -> Self {
        let mut outcome = Self::rule(verdict);
        if A::ON {
            outcome.flags |= verdict.audit_bit() * (ACCEPT | AUDIT);
        }
        outcome
    }

    /// What a fragment keeps of the first one of its datagram.
    #[inline(always)]
    pub(crate) const fn of_first(slot: u32, flags: u32) -> Self {
        Outcome {
            slot,
            flags: flags & FragmentValue::FLAGS,
        }
    }

    /// The flags that are kept of the first fragment of a datagram.
    #[inline(always)]
    pub(crate) const fn kept_flags(&self) -> u32 {
        self.flags & FragmentValue::FLAGS
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

    /// Whether the packet goes on.
    #[inline(always)]
    pub(crate) fn passes(&self) -> bool {
        self.flags & ACCEPT != 0
    }

    /// Whether it goes on, and not only because what would be dropped is watched.
    #[inline(always)]
    pub(crate) fn is_accepted<A: Auditing>(&self) -> bool {
        match A::ON {
            true => self.flags & (ACCEPT | AUDIT) == ACCEPT,
            false => self.passes(),
        }
    }

    /// What an event says of it.
    #[inline(always)]
    pub(crate) fn action<A: Auditing>(&self) -> u64 {
        const { assert!(Action::Accept as u8 == 1 && Action::Audit as u8 == 2) };
        let passes = self.flags & ACCEPT;
        match A::ON {
            true => (passes + ((self.flags / AUDIT) & 1)).into(),
            false => passes.into(),
        }
    }

    /// An outcome that is only there because of an audit: as one number, without the slot.
    pub(crate) const AUDIT: u64 = (AUDIT as u64) << 32;

    /// 1 for a reply of the slot's rule, else 0.
    #[inline(always)]
    pub(crate) fn reply_bit(&self) -> usize {
        ((self.flags & REPLY) / REPLY) as usize
    }

    #[inline(always)]
    pub(crate) fn is_logged(&self) -> bool {
        self.flags & (LOG | AUDIT) != 0
    }
}

/// Writes the outcome of a [`Reason`]: its slot in that direction, and its flags. In a function of
/// its own, after which the verifier no longer knows which reason it was.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_set_reason(out: *mut Outcome, slot: u32, flags: u32) -> u32 {
    if out.is_null() {
        return 0;
    }
    // SAFETY: not null, and every caller passes a whole `Outcome`.
    unsafe { *out = Outcome { slot, flags } };
    0
}

impl Outcome {
    #[inline(always)]
    pub(crate) fn set_reason(&mut self, direction: Direction, reason: Reason) {
        sg_set_reason(self, reason_slot(direction, reason), flags_of(reason));
    }

    /// Makes `audited` of an outcome that is `reason`.
    #[inline(always)]
    pub(crate) fn audit_if(&mut self, direction: Direction, reason: Reason, audited: Reason) {
        if self.slot == reason_slot(direction, reason) {
            self.set_reason(direction, audited);
        }
    }
}
