//! What becomes of a flow under a policy that audits (SPEC C9).

use sg_common::{
    flow_entry::Contents,
    flow_table::Word as _,
    ruling::{
        Ruling,
        audits::{Watched, rule_with_audits},
    },
    verdict::{Direction, Verdict},
};

use super::traits::Traits;
use crate::bpf::maps;
use crate::bpf::word::SharedWord;
use crate::rules::ask;

/// The bits of what [`sg_rule_on_watched`] returns that are a [`Ruling`]. The upper half is the
/// verdict that admits the flow from now on, where an earlier policy did.
pub(super) const WATCHED_RULING: u64 = 15;

/// 1 if it is this ruling, else 0; without a branch.
#[inline(always)]
pub(super) fn is_ruling(watched: u64, ruling: Ruling) -> u64 {
    SharedWord::opaque(watched & WATCHED_RULING ^ ruling as u64).wrapping_sub(1) >> 63
}

/// The ruling of a policy that audits: see [`rule_with_audits`]. In a
/// function of its own, whose stack is free again when flows are entered. Returns a [`Ruling`] in
/// the bits of [`WATCHED_RULING`]; where it is [`Ruling::JudgedAgain`] the rules have been asked.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn sg_rule_on_watched(
    entry: *const Contents,
    traits: u64,
    verdict: u32,
    class: u32,
    is_gone: u64,
) -> u64 {
    if entry.is_null() {
        return Ruling::NoFlow as u64;
    }
    // SAFETY: not null, and the only caller passes a whole value on its stack.
    let entry = unsafe { &*entry };
    let (traits, verdict) = (Traits(traits), Verdict(verdict));
    let opposite = Direction::BOTH[usize::from(traits.direction() ^ 1)];
    let other = ask(class, opposite, traits.kind(), traits.return_number());
    let watched = Watched {
        is_audited: verdict.audit_bit(),
        accepts_other: other.accept_bit(),
        // One by one, or the compiler makes a branch of both.
        passes_other: SharedWord::opaque(other.accept_bit().into()) as u32 | other.audit_bit(),
    };
    let about = traits.about(verdict.accept_bit());
    let ruling =
        rule_with_audits::<SharedWord>(entry, &about, &watched, &maps::InForce, is_gone & 1);
    if ruling == Ruling::Readmitted as u64 {
        return ruling | u64::from(verdict.0) << 32;
    }
    if ruling == Ruling::JudgedAgain as u64 {
        if !other.passes() {
            return Ruling::Revoked as u64;
        }
        return ruling | u64::from(other.0) << 32;
    }
    ruling
}
