//! From an entry and a number of 16 bits to a leaf: the walk for the low halves of IPv4 addresses,
//! for ports, and for what other protocols have instead.

use super::entry::{NODE_TYPE_AT, NodeType, NodeTypes, SHIFT_AT, first_word, is_pointer, position};
use super::line::LINE_UNITS;
use super::node::{keys2, keys10, narrow_keys2, narrow_keys10};
use super::tables::Tables;

/// What 16-bit numbers stand for, and so which node types there may be for them.
pub(super) trait Numbers {
    /// Whether walks mostly begin with a 256-way node, as those through the first port tables do.
    const BEGIN_WITH_WAY256: bool;

    fn node_types<T: Tables>(tables: &T) -> NodeTypes;
    fn is_narrow<T: Tables>(tables: &T) -> bool;
}

/// The low halves of IPv4 addresses.
pub(super) struct Addresses;

/// Ports, and what other protocols have instead.
pub(super) struct Ports;

impl Numbers for Addresses {
    const BEGIN_WITH_WAY256: bool = false;

    #[inline(always)]
    fn node_types<T: Tables>(tables: &T) -> NodeTypes {
        tables.shape().address_node_types
    }

    #[inline(always)]
    fn is_narrow<T: Tables>(tables: &T) -> bool {
        tables.shape().narrow != 0
    }
}

impl Numbers for Ports {
    const BEGIN_WITH_WAY256: bool = true;

    #[inline(always)]
    fn node_types<T: Tables>(tables: &T) -> NodeTypes {
        tables.shape().port_node_types
    }

    #[inline(always)]
    fn is_narrow<T: Tables>(_tables: &T) -> bool {
        false
    }
}

/// The leaf for `number`, which has 16 bits, below `entry`: at most five steps.
///
/// The common node types are told apart by the entry alone. Which types a policy's tables have is a
/// load-time constant, but a test of it takes instructions all the same. So only the path of the
/// rare types tests it, for the verifier not to explore what is not there.
#[inline(always)]
pub(super) fn walk16<T: Tables, N: Numbers>(tables: &T, entry: u64, number: u64) -> Option<u64> {
    let mut entry = entry;
    if N::BEGIN_WITH_WAY256 && entry >= NodeType::Way256.first() {
        entry = in_way256(tables, entry, number)?;
    }
    if !is_pointer(entry) {
        return Some(entry);
    }
    if entry >= NodeType::Keys10.first() {
        if entry >= NodeType::Way16.first() {
            entry = below_way16::<T, N>(tables, entry, number)?;
            if !is_pointer(entry) {
                return Some(entry);
            }
        }
        if entry >= NodeType::Keys10.first() {
            let position = position(entry) as u32;
            let line = tables.line(position / LINE_UNITS)?;
            if N::is_narrow(tables) {
                return Some(narrow_keys10(line, position % LINE_UNITS, number));
            }
            return Some(keys10(line, number));
        }
    }
    let position = position(entry) as u32;
    if N::is_narrow(tables) {
        return Some(narrow_keys2(tables.unit(position)?, number));
    }
    Some(keys2(tables.keys2(position)?, number))
}

/// The entry behind 16-way nodes, and for addresses behind the 256-way node before them.
#[inline(always)]
fn below_way16<T: Tables, N: Numbers>(tables: &T, entry: u64, number: u64) -> Option<u64> {
    let node_types = N::node_types(tables);
    let mut entry = entry;
    if !N::BEGIN_WITH_WAY256
        && node_types & NodeType::Way256.bit() != 0
        && entry >= NodeType::Way256.first()
    {
        entry = in_way256(tables, entry, number)?;
    }
    if node_types & NodeType::Way16.bit() != 0 {
        for _ in 0..4 {
            if entry >> NODE_TYPE_AT != NodeType::Way16.head() {
                break;
            }
            let shift = (entry >> SHIFT_AT & 3) * 4;
            let index = first_word(entry) + (number >> shift & 15);
            entry = tables.word(index as u32)?;
        }
    }
    Some(entry)
}

#[inline(always)]
fn in_way256<T: Tables>(tables: &T, entry: u64, number: u64) -> Option<u64> {
    tables.word((first_word(entry) + (number >> 8)) as u32)
}
