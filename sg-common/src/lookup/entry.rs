//! An entry of 32 bits: a leaf, or a pointer that says of what type a node is and where it begins.

use super::line::UNIT_WORDS;

/// Set in an entry that is no leaf.
pub const POINTER: u32 = 1 << 31;

/// What a pointer points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum NodeType {
    /// A 2-key node: one of 3 leaves.
    Keys2 = 0,
    /// A 10-key node: one of 11 leaves.
    Keys10 = 1,
    /// A 16-way node: one of 16 entries, by 4 bits.
    Way16 = 2,
    /// A 256-way node: one of 256 entries, by the high 8 bits.
    Way256 = 3,
}

/// Sets of node types, as bits. Code for 16-way and 256-way nodes that a policy's tables do not
/// have is removed from the programs when they are loaded.
pub type NodeTypes = u32;

/// The set of all of them.
pub const ANY_NODE_TYPES: NodeTypes = 15;

impl NodeType {
    /// All of them, each at its number.
    pub const ALL: [NodeType; 4] = [
        NodeType::Keys2,
        NodeType::Keys10,
        NodeType::Way16,
        NodeType::Way256,
    ];

    /// The set that has this type only.
    pub const fn bit(self) -> NodeTypes {
        1 << self as u32
    }

    /// The top three bits of an entry of this type.
    pub(super) const fn head(self) -> u64 {
        4 | self as u64
    }

    /// The least entry of this type: those of this type and the later ones are not below it.
    pub(super) const fn first(self) -> u64 {
        self.head() << NODE_TYPE_AT
    }
}

/// Entries of a 256-way node.
pub const WAY256_ENTRIES: usize = 256;

/// The bits of a pointer that are a position, in units.
pub const POSITION_MASK: u32 = (1 << 27) - 1;

pub(super) const NODE_TYPE_AT: u32 = 29;
pub(super) const SHIFT_AT: u32 = 27;

/// An entry that points to `position`, in units. `shift` is the first bit of the number that a
/// 16-way node looks at; other types have none.
pub const fn pointer(node: NodeType, shift: u32, position: u32) -> u32 {
    POINTER | (node as u32) << NODE_TYPE_AT | (shift / 4) << SHIFT_AT | position
}

/// Whether an entry, which has 32 bits, is a pointer; if not, it is a leaf.
#[inline(always)]
pub fn is_pointer(entry: u64) -> bool {
    entry >= POINTER.into()
}

/// Where what an entry points to begins, in units.
#[inline(always)]
pub(super) const fn position(entry: u64) -> u64 {
    entry & POSITION_MASK as u64
}

/// The first word of what an entry points to.
#[inline(always)]
pub(super) const fn first_word(entry: u64) -> u64 {
    position(entry) * UNIT_WORDS as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_parts() {
        for node in NodeType::ALL {
            for shift in [0, 4, 8, 12] {
                let entry = pointer(node, shift, POSITION_MASK);
                assert!(is_pointer(entry.into()));
                let least = u64::from(entry) & !0 << NODE_TYPE_AT;
                assert_eq!(least, node.first());
                assert_eq!(u64::from(entry) >> NODE_TYPE_AT, node.head());
                assert_eq!((entry >> SHIFT_AT & 3) * 4, shift);
                assert_eq!(entry & POSITION_MASK, POSITION_MASK);
            }
        }
    }
}
