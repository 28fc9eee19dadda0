//! Port tables: what the numbers of one direction and kind lead to in one class.

use sg_common::lookup::{COLUMNS, NodeType};

use super::{
    arena::{Arena, Beside, Steps},
    budget::TooLarge,
    nodes::{Builder, Extent, Known, Prefer, Range},
};

/// So many port tables begin with a 256-way node whatever they need. A policy with no more than
/// these leaves the cache to them, and taking one of 256 entries needs fewer instructions than
/// comparing keys.
const FAST_TABLES: usize = 16;

/// Stores port tables.
pub(super) struct PortTables {
    /// How many more may begin with a 256-way node.
    fast_left: usize,
    /// By column: tables that others are likely to have entries in common with.
    known: [Vec<Known>; COLUMNS],
    /// Of all that were stored.
    pub(super) extent: Extent,
}

impl PortTables {
    pub(super) fn new() -> Self {
        PortTables {
            fast_left: FAST_TABLES,
            known: Default::default(),
            extent: Extent::default(),
        }
    }

    /// Entry for `steps` over the ports from zero on, in a column; if asked for, with a free place
    /// beside the table for the node of a prefix.
    pub(super) fn entry(
        &mut self,
        arena: &mut Arena,
        column: usize,
        steps: &Steps,
        with_place: bool,
    ) -> Result<u32, TooLarge> {
        let without = arena.without();
        let prefer = match self.fast_left {
            _ if without.way256_heads => Prefer::Memory,
            0 => Prefer::Memory,
            _ => Prefer::Speed,
        };
        let range = Range {
            origin: 0,
            bits: 16,
            above: 0,
            is_narrow: false,
            beside: match with_place && !without.shared_lines {
                true => Beside::FreePlace,
                false => Beside::Anything,
            },
        };
        let nodes_before = arena.counts[NodeType::Way256 as usize];
        let mut builder = Builder {
            arena,
            prefer,
            known: &self.known[column],
            extent: &mut self.extent,
        };
        let entry = builder.table(steps, 0, range)?;
        if arena.counts[NodeType::Way256 as usize] > nodes_before {
            self.fast_left = self.fast_left.saturating_sub(1);
        }
        if prefer.is_way256(steps) {
            // The first, mostly that of the addresses outside all prefixes, and the one before,
            // which may be that of addresses around these.
            let known = &mut self.known[column];
            known.truncate(1);
            known.push(Known::new(steps, entry));
        }
        Ok(entry)
    }
}
