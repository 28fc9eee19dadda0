//! Access to the tables as a trait, since the packet path and the host reach them differently; and
//! the tables as they lie in memory.

use super::line::{LINE_UNITS, LINE_WORDS, Line, UNIT_WORDS};
use super::node::Keys2Words;
use super::shape::Shape;
use crate::flow_entry::HASH_KEYS;

/// Entries of the [`Root`].
pub const ROOT_ENTRIES: usize = 1 << 16;

/// First level of IPv4: an entry for each /16.
pub type Root = [u32; ROOT_ENTRIES];

/// Lines that the programs' own memory has room for, at an address they know. If a policy needs
/// more, all of them are in an array map, where a step is a lookup of a dozen instructions. A power
/// of two, so that an index can be masked.
pub const BSS_LINES: usize = 1 << 15;

/// Room for the [`HASH_KEYS`]: a power of two, so that an index can be masked.
pub const HASH_KEY_ROOM: usize = HASH_KEYS.next_power_of_two();

/// The programs' own memory (.bss).
#[repr(C, align(64))]
pub struct BssTables {
    /// The secret of the flows' hash. It is no load-time constant: the verifier knows those, and
    /// would explore other paths for each secret.
    pub flow_keys: [u64; HASH_KEY_ROOM],
    /// The first level of IPv4.
    pub root4: Root,
    /// All lines, those that a policy does not need at the end and zero.
    pub lines: [Line; BSS_LINES],
}

/// Read access to the tables. `None` means that an index lies outside of them. The compiler never
/// produces such an index, and every caller takes it for "nothing accepts this".
///
/// Entries have 32 bits, and are returned as 64: BPF code without 32-bit arithmetic needs two
/// shifts to cut a number off at 32.
pub trait Tables {
    /// The entry for a /16.
    fn root4(&self, high: u16) -> u64;
    /// A line by its number.
    fn line(&self, index: u32) -> Option<&Line>;
    /// An entry by its number among all words of 32 bits.
    fn word(&self, index: u32) -> Option<u64>;
    /// A unit by its number.
    fn unit(&self, index: u32) -> Option<u64>;
    /// 2-key nodes that begin at a unit.
    fn keys2(&self, index: u32) -> Option<&Keys2Words>;
    /// Where each table begins in the lines.
    fn shape(&self) -> &Shape;
    /// How many lines of hosts there are. Zero also where it is known without a look at the shape.
    #[inline(always)]
    fn host_buckets(&self) -> u32 {
        self.shape().host_buckets
    }
}

/// Tables in plain memory, as the host reads them.
#[derive(Clone, Copy)]
pub struct Plain<'a> {
    /// [`ROOT_ENTRIES`] of them.
    pub root4: &'a [u32],
    /// All lines, the [`Shape`] among them.
    pub lines: &'a [Line],
    /// Where things are in the lines.
    pub shape: &'a Shape,
}

impl Tables for Plain<'_> {
    fn root4(&self, high: u16) -> u64 {
        self.root4
            .get(usize::from(high))
            .copied()
            .unwrap_or(0)
            .into()
    }

    fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(index as usize)
    }

    fn word(&self, index: u32) -> Option<u64> {
        let words = &self.line(index / LINE_WORDS as u32)?.0;
        words
            .get(index as usize % LINE_WORDS)
            .map(|&word| word.into())
    }

    fn unit(&self, index: u32) -> Option<u64> {
        let units = self.line(index / LINE_UNITS)?.pairs();
        units.get((index % LINE_UNITS) as usize).copied()
    }

    fn keys2(&self, index: u32) -> Option<&Keys2Words> {
        let first = (index % LINE_UNITS) as usize * UNIT_WORDS;
        let words = &self.line(index / LINE_UNITS)?.0;
        words.get(first..)?.first_chunk()
    }

    fn shape(&self) -> &Shape {
        self.shape
    }
}
