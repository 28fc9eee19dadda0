//! Where a flow of a given hash may be, and which of two words it is found in or goes to.

use super::layout::{ESTABLISHED_WORDS, HALF, HALF_OPEN_WORDS, Line, word_of};
use super::tags::{FIRST_TAG, LOW_BITS, TAGS, count, matches};
use super::word::Word;

/// Where a flow may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The group.
    pub group: u32,
    /// The tag, a byte.
    pub tag: u64,
    /// Words of the line: two for an established flow, one in each half, and one for a half-open
    /// one.
    pub first: u32,
    /// The word of the second half.
    pub second: u32,
    /// The word for a half-open flow.
    pub half_open: u32,
}

impl Spot {
    /// Each step takes the part of the hash that the step before it has left, so that all results
    /// are independent.
    #[inline(always)]
    pub const fn of(hash: u32, groups: u32) -> Spot {
        const LEFT: u64 = 0xffff_ffff;
        let group = hash as u64 * groups as u64;
        let first = (group & LEFT) * HALF as u64;
        let second = (first & LEFT) * HALF as u64;
        let tag = ((second & LEFT) * (TAGS * HALF_OPEN_WORDS) as u64) >> 32;
        Spot {
            group: (group >> 32) as u32,
            tag: FIRST_TAG as u64 + (tag >> 1),
            first: (first >> 32) as u32,
            second: HALF + (second >> 32) as u32,
            half_open: ESTABLISHED_WORDS as u32 + (tag as u32 & 1),
        }
    }
}

/// Ways of the two words for an established flow that have its tag: one bit of each byte for
/// those of the first word, the next one for those of the second.
#[inline(always)]
pub fn in_both(first: u64, second: u64, spread: u64) -> u64 {
    matches(first, spread) >> 7 | matches(second, spread) >> 6
}

/// The first way in a result of [`in_both`] that is not zero, and its word. In all but one of fifty
/// cases it holds the flow, or no way does. Without a branch, since either word is as likely.
#[inline(always)]
pub fn choose(spot: &Spot, both: u64) -> (u32, u32) {
    let lowest = both & both.wrapping_neg();
    let in_second = lowest >> 1 & LOW_BITS;
    let way = ((lowest & LOW_BITS) | in_second).wrapping_mul(0x0001_0203_0405_0607) >> 56;
    let is_second = (in_second.wrapping_mul(LOW_BITS) >> 56) as u32;
    (
        spot.first + is_second * (spot.second - spot.first),
        way as u32,
    )
}

/// The word for a new flow; for an established one the emptier of two. By arithmetic, so that the
/// verifier has one path to explore.
#[inline(always)]
pub(super) fn word_for<W: Word>(line: &Line<W>, spot: &Spot, kind: u32) -> u32 {
    let free = |word| count(matches(word_of(line, word).load(), 0));
    let (first, second) = (free(spot.first), free(spot.second));
    // Where both are as full, half of the flows go to either.
    let second = 2 * second + (spot.tag & 1);
    let is_second = W::opaque(W::opaque((2 * first).wrapping_sub(second)) >> 63) as u32;
    let emptier = spot.first + is_second * (spot.second - spot.first);
    let half_open = spot.half_open;
    let kind = W::opaque(kind.into()) as u32;
    half_open.wrapping_sub((half_open - emptier).wrapping_mul(kind))
}
