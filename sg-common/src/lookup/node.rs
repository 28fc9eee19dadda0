//! 2-key and 10-key nodes: how they lie in a line, and which of their leaves a number leads to. By
//! arithmetic instead of branches: on which side of a key a random packet lies cannot be predicted.

use super::line::Line;

/// How 2-key nodes and 10-key nodes are laid out: the number of keys, where the leaves are, in
/// words, and how many words it is together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many keys there are; there is one leaf more.
    pub keys: usize,
    /// The word in which the leaves begin.
    pub leaves_at: usize,
    /// How many words of 32 bits it takes.
    pub words: usize,
    /// Bits of a leaf.
    pub leaf_bits: u32,
    /// Bits in front of the first leaf, in its first word.
    pub leaf_shift: u32,
}

impl Layout {
    /// 2 keys, leaves of 32 bits.
    pub const KEYS2: Layout = Layout {
        keys: 2,
        leaves_at: 1,
        words: 4,
        leaf_bits: 32,
        leaf_shift: 0,
    };
    /// 10 keys, leaves of 32 bits.
    pub const KEYS10: Layout = Layout {
        keys: 10,
        leaves_at: 5,
        words: 16,
        leaf_bits: 32,
        leaf_shift: 0,
    };
    /// 3 keys, narrow leaves.
    pub const NARROW_KEYS2: Layout = Layout {
        keys: 3,
        leaves_at: 1,
        words: 2,
        leaf_bits: NARROW_BITS,
        leaf_shift: 16,
    };
    /// 12 keys, narrow leaves.
    pub const NARROW_KEYS10: Layout = Layout {
        keys: 12,
        leaves_at: 6,
        words: 8,
        leaf_bits: NARROW_BITS,
        leaf_shift: 0,
    };
}

/// Bits of a narrow leaf.
pub const NARROW_BITS: u32 = 4;

/// 2-key nodes as they lie in a line, at a multiple of their length.
pub type Keys2Words = [u32; Layout::KEYS2.words];

impl Layout {
    /// Writes it to the front of `words`; there is one leaf more than keys.
    pub fn write(self, words: &mut [u32], keys: &[u16], leaves: &[u32]) {
        let words = &mut words[..self.words];
        words.fill(0);
        for (i, key) in keys.iter().enumerate() {
            words[i / 2] |= u32::from(stored_key(*key)) << (i % 2 * 16);
        }
        if self.leaf_bits == u32::BITS {
            words[self.leaves_at..][..leaves.len()].copy_from_slice(leaves);
            return;
        }
        for (i, leaf) in leaves.iter().enumerate() {
            let bit = self.leaf_shift + i as u32 * self.leaf_bits;
            words[self.leaves_at + bit as usize / 32] |= leaf << (bit % 32);
        }
    }
}

/// How a key is stored: so that a number plus the stored key carries out of 16 bits if the number
/// has reached the key. A key is never zero, so a stored zero is no key.
pub const fn stored_key(key: u16) -> u16 {
    key.wrapping_neg()
}

/// 1 if `number` has reached the stored key in the low 16 bits of `key`, else 0.
#[inline(always)]
fn reached(key: u64, number: u64) -> u64 {
    (number + (key & 0xffff)) >> 16
}

#[inline(always)]
pub(super) fn keys2(words: &Keys2Words, number: u64) -> u64 {
    let keys = u64::from(words[0]);
    let index = reached(keys >> 16, number) + reached(keys, number);
    words[(Layout::KEYS2.leaves_at + index as usize) & (words.len() - 1)].into()
}

#[inline(always)]
pub(super) fn narrow_keys2(unit: u64, number: u64) -> u64 {
    let index = reached(unit, number) + reached(unit >> 16, number) + reached(unit >> 32, number);
    (unit >> 48) >> (index * u64::from(NARROW_BITS)) & 15
}

const ONES: u64 = 0x0001_0001_0001_0001;
const TOPS: u64 = ONES << 15;

/// [`reached`] for four keys at once: four additions of 16 bits, of which only the carries are
/// wanted. `number` is the number four times, side by side.
#[inline(always)]
fn four_reached(keys: u64, number: u64) -> u64 {
    let sums = (keys & !TOPS) + (number & !TOPS);
    ((keys & number | (keys | number) & sums) & TOPS) >> 15
}

/// The sum of four numbers of 16 bits, side by side in one word.
#[inline(always)]
fn sum(four: u64) -> u64 {
    four.wrapping_mul(ONES) >> 48
}

#[inline(always)]
pub(super) fn keys10(line: &Line, number: u64) -> u64 {
    let number = number * ONES;
    let keys = line.pairs();
    let counts = four_reached(keys[0], number)
        + four_reached(keys[1], number)
        + four_reached(u64::from(line.0[4]), number);
    line.0[(Layout::KEYS10.leaves_at + sum(counts) as usize) & 15].into()
}

#[inline(always)]
pub(super) fn narrow_keys10(line: &Line, unit: u32, number: u64) -> u64 {
    let number = number * ONES;
    let at = (unit & 4) as usize;
    let keys = line.pairs();
    let counts = four_reached(keys[at], number)
        + four_reached(keys[at + 1], number)
        + four_reached(keys[at + 2], number);
    keys[at + 3] >> (sum(counts) * u64::from(NARROW_BITS)) & 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::line::{LINE_WORDS, UNIT_WORDS};

    /// Every number against every key, compared with a plain count. What lies beside the node in
    /// its line does not matter.
    #[test]
    fn a_node_counts_the_keys_that_a_number_has_reached() {
        let lists: [&[u16]; 8] = [
            &[1],
            &[65535],
            &[22, 23],
            &[1, 32768, 65535],
            &[1, 32767, 32768, 65535],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
            &[
                1000, 2000, 30000, 32767, 32768, 32769, 40000, 50000, 65534, 65535,
            ],
            &[
                1, 2, 1000, 2000, 30000, 32767, 32768, 32769, 40000, 50000, 65534, 65535,
            ],
        ];
        for keys in lists {
            let leaves: [u32; 13] = core::array::from_fn(|i| i as u32);
            let leaves = &leaves[..=keys.len()];
            let place = |layout: Layout, unit: usize| {
                let mut line = Line([u32::MAX; LINE_WORDS]);
                layout.write(&mut line.0[unit * UNIT_WORDS..], keys, leaves);
                line
            };
            for number in 0..=u16::MAX {
                let expected = keys.iter().filter(|&&key| number >= key).count() as u64;
                let number = u64::from(number);
                let check = |layout: Layout, units: &[usize], ask: fn(&Line, u32, u64) -> u64| {
                    if keys.len() <= layout.keys {
                        for &unit in units {
                            let found = ask(&place(layout, unit), unit as u32, number);
                            assert_eq!(found, expected, "{layout:?} {keys:?} {number}");
                        }
                    }
                };
                check(Layout::KEYS2, &[0, 2, 4, 6], |line, unit, number| {
                    let words = &line.0[unit as usize * UNIT_WORDS..];
                    keys2(words.first_chunk().unwrap(), number)
                });
                check(Layout::KEYS10, &[0], |line, _, number| keys10(line, number));
                check(Layout::NARROW_KEYS2, &[0, 1, 7], |line, unit, number| {
                    narrow_keys2(line.pairs()[unit as usize], number)
                });
                check(Layout::NARROW_KEYS10, &[0, 4], narrow_keys10);
            }
        }
    }
}
