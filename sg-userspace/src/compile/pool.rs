//! Blocks and nodes of the 16-bit tables, each stored once however often it occurs.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use sg_common::tables::{BLOCK_ENTRIES, Block, NODE_ENTRIES, Node, POINTER, Root};

use super::{Budget, TooLarge};

/// A function over 32-bit numbers as its steps: each value holds from its start up to the next
/// start. Sorted, the first start is at or below the range of interest.
pub(super) type Steps = [(u32, u32)];

pub(super) struct Pool {
    budget: Budget,
    blocks: Interned<Block>,
    nodes: Interned<Node>,
}

/// A list in which equal items share an index.
struct Interned<T> {
    items: Vec<T>,
    by_hash: HashMap<u64, u32>,
}

impl<T: Hash + Eq + Copy> Interned<T> {
    fn new() -> Self {
        Interned {
            items: Vec::new(),
            by_hash: HashMap::new(),
        }
    }

    fn index_of(&mut self, item: T) -> u32 {
        let mut hasher = DefaultHasher::new();
        item.hash(&mut hasher);
        let next = self.items.len() as u32;
        let index = *self.by_hash.entry(hasher.finish()).or_insert(next);
        if index != next && self.items[index as usize] == item {
            return index;
        }
        // New, or a different item with the same hash: that one is stored without sharing.
        self.items.push(item);
        next
    }
}

impl Pool {
    pub(super) fn new(budget: Budget) -> Self {
        Pool {
            budget,
            blocks: Interned::new(),
            nodes: Interned::new(),
        }
    }

    pub(super) fn into_parts(self) -> (Vec<Block>, Vec<Node>) {
        (self.blocks.items, self.nodes.items)
    }

    /// Entry for `steps` over the 65,536 numbers from `base` on.
    pub(super) fn table16(&mut self, steps: &Steps, base: u32) -> Result<u32, TooLarge> {
        if let [(_, only)] = steps {
            return Ok(*only);
        }
        let mut block = [0; BLOCK_ENTRIES];
        for_each_part(steps, base, 256, &mut block, |steps, base| {
            let mut node = [0; NODE_ENTRIES];
            for_each_part(steps, base, 16, &mut node, |steps, base| {
                let mut node = [0; NODE_ENTRIES];
                // A range of one number has one value: this is never asked.
                for_each_part(steps, base, 1, &mut node, |steps, _| {
                    Ok(steps.first().map_or(0, |step| step.1))
                })?;
                self.node(node)
            })?;
            self.node(node)
        })?;
        self.block(block)
    }

    /// Fills the /16 table of IPv4 with `steps` over all addresses.
    pub(super) fn fill_root(&mut self, root: &mut Root, steps: &Steps) -> Result<(), TooLarge> {
        for_each_part(steps, 0, 1 << 16, root, |steps, base| {
            self.table16(steps, base)
        })
    }

    fn block(&mut self, block: Block) -> Result<u32, TooLarge> {
        let index = self.blocks.index_of(block);
        self.check()?;
        Ok(POINTER | index)
    }

    fn node(&mut self, node: Node) -> Result<u32, TooLarge> {
        let index = self.nodes.index_of(node);
        self.check()?;
        Ok(POINTER | index)
    }

    fn check(&self) -> Result<(), TooLarge> {
        let bytes = self.blocks.items.len() * size_of::<Block>()
            + self.nodes.items.len() * size_of::<Node>();
        if bytes > self.budget.table_bytes {
            return Err(TooLarge {
                budget_bytes: self.budget.table_bytes,
                what: "too many different address blocks and port ranges",
            });
        }
        Ok(())
    }
}

/// Splits the numbers from `base` on into `entries.len()` parts of `width`; a part with one value
/// becomes a leaf, any other what `below` makes of it.
fn for_each_part(
    steps: &Steps,
    base: u32,
    width: u32,
    entries: &mut [u32],
    mut below: impl FnMut(&Steps, u32) -> Result<u32, TooLarge>,
) -> Result<(), TooLarge> {
    let mut first = 0;
    for (i, entry) in entries.iter_mut().enumerate() {
        let from = base + i as u32 * width;
        let last = from + (width - 1);
        while steps.get(first + 1).is_some_and(|s| s.0 <= from) {
            first += 1;
        }
        let mut end = first + 1;
        while steps.get(end).is_some_and(|s| s.0 <= last) {
            end += 1;
        }
        *entry = if end == first + 1 {
            steps[first].1
        } else {
            below(&steps[first..end], from)?
        };
        first = end - 1;
    }
    Ok(())
}
