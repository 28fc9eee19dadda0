//! The gate in front of a policy that is not confirmed yet (SPEC C4). It is attached in the place
//! of the policy's first program, and passes each packet to that one until the trial is over, and
//! then to the first program of the policy before, or on, if there was none. So the
//! kernel undoes a policy that was not confirmed in time, on all hooks of an attachment at once,
//! and no process has to live for that. A confirmed policy has no gate.

use aya_ebpf::{
    macros::map,
    maps::{Array, ProgramArray},
};
use sg_common::{
    flow_table::Word as _,
    trial::{self, Behind, RETURNED},
    verdict::{Direction, Reason},
};

use crate::bpf::clock;
use crate::bpf::hook::Hook;
use crate::bpf::maps::{self, MMAPABLE};
use crate::bpf::word::SharedWord;
use crate::count;
use crate::outcome::Outcome;

/// The word of the trial: see [`sg_common::trial`]. All interfaces of an attachment share it.
#[map(name = "sg_trial")]
static TRIAL: Array<SharedWord> = Array::with_max_entries(1, MMAPABLE);

// What is behind the gate, by [`Behind`]. One array cannot hold programs of both hooks.

#[map(name = "sg_in_behind")]
static INBOUND_BEHIND: ProgramArray = ProgramArray::with_max_entries(Behind::BOTH.len() as u32, 0);

#[map(name = "sg_out_behind")]
static OUTBOUND_BEHIND: ProgramArray = ProgramArray::with_max_entries(Behind::BOTH.len() as u32, 0);

/// Passes a packet to the policy that decides now. Returns whether it is accepted where there is no
/// such policy.
#[inline(always)]
pub(crate) fn pass<H: Hook>(hook: &H) -> bool {
    let is_over = is_over();
    if is_over && !maps::has_fallback() {
        // As if nothing were attached: it is not counted either.
        return true;
    }
    let behind = match is_over {
        true => Behind::Fallback,
        false => Behind::OnTrial,
    };
    let programs = match H::DIRECTION {
        Direction::Inbound => &INBOUND_BEHIND,
        Direction::Outbound => &OUTBOUND_BEHIND,
    };
    // SAFETY: whatever is in the array has the type of this program; it does not return.
    unsafe { programs.tail_call(hook, behind as u32) };
    // The code behind a tail call runs only if the target is missing (SPEC A1).
    let outcome = Outcome::reason(H::DIRECTION, Reason::Incomplete);
    count::count(hook, 0, 0, &outcome);
    false
}

/// Whether the trial is over and the policy was not confirmed. The first packet after the deadline
/// closes the trial: once the policy before has decided a packet, the one on trial cannot be
/// confirmed any more.
#[inline(always)]
fn is_over() -> bool {
    let Some(word) = TRIAL.get(0) else {
        return true;
    };
    let until = word.load();
    if !trial::is_over(until, clock::boot()) {
        return false;
    }
    if until != RETURNED {
        word.replace(until, RETURNED);
    }
    true
}

/// Whether packets may end flows: see [`trial::ends_flows`]. Known at load for all policies but
/// those that began with a trial.
#[inline(always)]
pub(crate) fn ends_flows() -> bool {
    !maps::began_on_trial()
        || TRIAL
            .get(0)
            .is_some_and(|word| trial::ends_flows(word.load()))
}
