//! Eight one-byte tags in a word, compared all at once.

/// The tag of a way that is being written.
pub const BUSY: u64 = 1;

/// Tags of flows begin here.
pub(super) const FIRST_TAG: u32 = 2;
pub(super) const TAGS: u32 = 256 - FIRST_TAG;
pub(super) const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = LOW_BITS << 7;

/// `tag` in every byte.
#[inline(always)]
pub const fn spread(tag: u64) -> u64 {
    tag * LOW_BITS
}

/// The high bit of every byte of `word` that equals that of `spread`, and no other bit.
#[inline(always)]
pub const fn matches(word: u64, spread: u64) -> u64 {
    let differs = word ^ spread;
    !(((differs & !HIGH_BITS) + !HIGH_BITS) | differs) & HIGH_BITS
}

/// Not zero if any byte of `word` equals that of `spread`. It does not show which one.
#[inline(always)]
pub const fn has_match(word: u64, spread: u64) -> u64 {
    let differs = word ^ spread;
    differs.wrapping_sub(LOW_BITS) & !differs & HIGH_BITS
}

/// The number of the lowest byte in a result of [`matches()`] that is not zero.
#[inline(always)]
pub const fn lowest(matches: u64) -> u32 {
    let bit = (matches & matches.wrapping_neg()) >> 7;
    (bit.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}

/// How many bytes a result of [`matches()`] has.
#[inline(always)]
pub(super) const fn count(matches: u64) -> u64 {
    (matches >> 7).wrapping_mul(LOW_BITS) >> 56
}
