//! The hash that says where a flow lives, by secret multipliers.

use super::key::FlowKey;

/// Secret multipliers of the hash: one that is added, one for each half of the address words and
/// of the name.
pub const HASH_KEYS: usize = 11;

/// Adds `word` to a hash, by one multiplier for each half of it. The upper half of such a sum is
/// strongly universal (Lemire and Kaser, "Strongly universal string hashing is fast"), so that
/// a sender that does not know the multipliers cannot choose where a flow goes.
#[inline(always)]
pub const fn hash_step(sum: u64, word: u64, key_low: u64, key_high: u64) -> u64 {
    hash_halves(sum, word & 0xffff_ffff, word >> 32, key_low, key_high)
}

/// Adds a word to a hash, as [`hash_step`] does, where the word is at hand in halves.
#[inline(always)]
pub const fn hash_halves(sum: u64, low: u64, high: u64, key_low: u64, key_high: u64) -> u64 {
    let (low, high) = (low.wrapping_mul(key_low), high.wrapping_mul(key_high));
    sum.wrapping_add(low).wrapping_add(high)
}

/// The hash of a flow's key; `key_at` gives the [`HASH_KEYS`] multipliers.
#[inline(always)]
pub fn hash(key: &FlowKey, key_at: impl Fn(usize) -> u64) -> u32 {
    let mut sum = key_at(0);
    let words = [
        key.addresses[0],
        key.addresses[1],
        key.addresses[2],
        key.addresses[3],
        key.name,
    ];
    for (i, word) in words.into_iter().enumerate() {
        sum = hash_step(sum, word, key_at(2 * i + 1), key_at(2 * i + 2));
    }
    finish(sum)
}

/// What a sum of [`hash_step`]s comes to: its upper half, mixed. In the sums themselves, keys in
/// a row (the ports of one client, the hosts of one network) lie equally far apart, and for some
/// secrets so that they share a few words of the table. Each step is reversible, so that the hash
/// is as universal as the sum. Of the result the upper bits are used, which the last product has
/// mixed best.
#[inline(always)]
pub const fn finish(sum: u64) -> u32 {
    /// Odd, and without a pattern of bits: 2³² divided by the golden ratio.
    const FACTOR: u32 = 0x9e37_79b1;
    let half = (sum >> 32) as u32;
    let half = (half ^ half >> 16).wrapping_mul(FACTOR);
    (half ^ half >> 15).wrapping_mul(FACTOR)
}
