//! The search trees of IPv6: nodes of seven keys, one line each, and of five keys on the last
//! level.

/// Deepest tree: more than a policy can name.
pub const MAX_DEPTH: u32 = 8;

/// Keys of a tree's node.
pub const NODE_KEYS: usize = 7;

/// The word of a node that says in which line its first child is.
pub const NODE_CHILDREN: usize = 14;

/// Keys of a node of the last level.
pub const LAST_KEYS: usize = 5;

/// The word of a node of the last level where its leaves begin.
pub const LAST_LEAVES: usize = 10;

/// Stored for a key that a node does not have: beyond every number.
pub const NO_KEY: u64 = 1 << 63;

/// Trees for the high half of an IPv6 address, by its topmost bits.
pub const TREES6: usize = 4;

/// What is left of the high half.
pub const TREE_BITS6: u32 = 62;

/// The bits below those by which the first tree is indexed.
pub const INDEX_BITS6: u32 = 16;

/// How many of `keys` are at most `number`, which has 63 bits as each of them has, so that a
/// difference has a sign.
#[inline(always)]
pub(super) fn up_to(keys: &[u64], number: u64) -> usize {
    let above = number + 1;
    let mut count = 0;
    for key in keys {
        count += key.wrapping_sub(above) >> 63;
    }
    count as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_key_is_above_every_number() {
        const LAST: u64 = NO_KEY - 1;
        for (keys, number, expected) in [
            ([0, NO_KEY, NO_KEY], 0, 1),
            ([1, 2, 3], 0, 0),
            ([1, 2, 3], 2, 2),
            ([1, 2, LAST], LAST, 3),
            ([1, LAST, NO_KEY], LAST, 2),
            ([NO_KEY, NO_KEY, NO_KEY], LAST, 0),
        ] {
            assert_eq!(up_to(&keys, number), expected, "{keys:?}, {number}");
        }
    }
}
