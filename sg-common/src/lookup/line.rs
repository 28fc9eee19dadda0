//! A line: 64 bytes of the tables, one cache line, in which entries, keys and leaves lie.

/// Words of a [`Line`], of 32 bits each.
pub const LINE_WORDS: usize = 16;

/// 64 bytes of the tables, one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(64))]
pub struct Line(pub [u32; LINE_WORDS]);

impl Line {
    /// All zero.
    pub const EMPTY: Line = Line([0; LINE_WORDS]);

    /// The line as words of 64 bits: of two words, the first is in the low half.
    #[inline(always)]
    pub fn pairs(&self) -> &[u64; LINE_WORDS / 2] {
        // SAFETY: a line is as long as eight of these and aligned to more; all bits are valid.
        unsafe { &*(&raw const *self).cast() }
    }

    /// As [`Line::pairs`], to be written.
    #[inline(always)]
    pub fn pairs_mut(&mut self) -> &mut [u64; LINE_WORDS / 2] {
        // SAFETY: as above.
        unsafe { &mut *(&raw mut *self).cast() }
    }
}

/// Words of a unit, in which positions are counted.
pub const UNIT_WORDS: usize = 2;

/// Units of a line.
pub const LINE_UNITS: u32 = (LINE_WORDS / UNIT_WORDS) as u32;

// A unit's first word is its low half.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "big-endian machines are not supported"
);
