//! What an address class decides.

use sg_common::lookup::COLUMNS;

/// An entry for each column: a verdict, or the head of a port table.
pub(super) type Row = [u32; COLUMNS];
