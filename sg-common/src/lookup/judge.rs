//! From an address class and a number to the verdict of the rules.

use super::number::{Ports, walk16};
use super::shape::column_index;
use super::tables::Tables;
use crate::verdict::{Direction, Verdict};

/// The entry of `class` in a column.
#[inline(always)]
pub fn column_entry<T: Tables>(
    tables: &T,
    class: u32,
    direction: Direction,
    kind: u8,
) -> Option<u64> {
    let begin = tables.shape().column(column_index(direction, kind));
    tables.word(begin.wrapping_add(class))
}

/// The verdict below an entry of a column; `number` has 16 bits.
#[inline(always)]
pub fn verdict_below<T: Tables>(
    tables: &T,
    entry: u64,
    direction: Direction,
    number: u64,
) -> Verdict {
    match walk16::<T, Ports>(tables, entry, number) {
        Some(leaf) => Verdict(leaf as u32),
        None => Verdict::no_match(direction),
    }
}

/// The verdict of one direction's rules for `number` of `kind` (a [`crate::protocol::Kind`] as a
/// number), for a remote address of `class`.
#[inline(always)]
pub fn judge<T: Tables>(
    tables: &T,
    class: u32,
    direction: Direction,
    kind: u8,
    number: u16,
) -> Verdict {
    match column_entry(tables, class, direction, kind) {
        Some(entry) => verdict_below(tables, entry, direction, number.into()),
        None => Verdict::no_match(direction),
    }
}
