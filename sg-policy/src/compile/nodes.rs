//! A function over 16-bit numbers → nodes, each of the smallest type that holds its steps.

use sg_common::lookup::{
    LINE_WORDS, Layout, NodeType, NodeTypes, POSITION_MASK, WAY256_ENTRIES, pointer,
};

use super::{
    arena::{Arena, Beside, Steps},
    budget::TooLarge,
};

/// More steps than a 10-key node has in any layout.
const MOST_STEPS: usize = LINE_WORDS;

/// A range of 16 bits with more steps than this becomes a 256-way node in any case: smaller nodes
/// would take as much memory, and more steps of a lookup.
const WAY256_STEPS: usize = 96;

/// What node types are chosen for.
#[derive(Clone, Copy)]
pub(super) enum Prefer {
    /// Few instructions of a lookup.
    Speed,
    /// Little memory.
    Memory,
}

impl Prefer {
    /// Whether a range of 16 bits becomes a 256-way node.
    pub(super) fn is_way256(self, steps: &Steps) -> bool {
        match self {
            Prefer::Speed => steps.len() > 1,
            Prefer::Memory => steps.len() > WAY256_STEPS,
        }
    }
}

/// Which node types tables have, and how deep they go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) node_types: NodeTypes,
    /// Steps of a lookup from an entry to its leaf, at most.
    pub(super) steps: usize,
}

/// Numbers that differ in their low `bits` only, of a table over 16-bit numbers whose zero is
/// `origin`.
#[derive(Clone, Copy)]
pub(super) struct Range<'a> {
    pub(super) origin: u32,
    pub(super) bits: u32,
    /// Steps of a lookup that lead there.
    pub(super) above: usize,
    /// Whether all leaves are below 16.
    pub(super) is_narrow: bool,
    /// Of a 2-key node for all of the range.
    pub(super) beside: Beside<'a>,
}

/// A port table that begins with a 256-way node: what it was made of, and where it is.
pub(super) struct Known {
    steps: Vec<(u32, u32)>,
    position: u32,
}

impl Known {
    pub(super) fn new(steps: &Steps, entry: u32) -> Self {
        Known {
            steps: steps.to_vec(),
            position: entry & POSITION_MASK,
        }
    }

    /// Whether the 256 numbers from `base` on have `steps` here too.
    fn has(&self, steps: &Steps, base: u32) -> bool {
        let first = self.steps.partition_point(|(start, _)| *start <= base) - 1;
        let after = self.steps.get(first + steps.len());
        self.steps[first..]
            .get(..steps.len())
            .is_some_and(|here| here[0].1 == steps[0].1 && here[1..] == steps[1..])
            && after.is_none_or(|(start, _)| *start > base + 0xff)
    }
}

/// Stores tables.
pub(super) struct Builder<'a> {
    pub(super) arena: &'a mut Arena,
    pub(super) prefer: Prefer,
    /// Tables from which a 256-way node takes the entries that it has in common with them.
    pub(super) known: &'a [Known],
    pub(super) extent: &'a mut Extent,
}

impl Builder<'_> {
    /// Entry for `steps` over the numbers of `range` from `base` on: a leaf, or a pointer to a
    /// node.
    pub(super) fn table(
        &mut self,
        steps: &Steps,
        base: u32,
        range: Range,
    ) -> Result<u32, TooLarge> {
        let Range {
            origin,
            bits,
            above,
            is_narrow,
            beside,
        } = range;
        if let [(_, only)] = steps {
            return Ok(*only);
        }
        let below = |bits| Range {
            bits,
            above: above + 1,
            beside: Beside::Anything,
            ..range
        };
        let (keys2, keys10) = match is_narrow {
            true => (Layout::NARROW_KEYS2, Layout::NARROW_KEYS10),
            false => (Layout::KEYS2, Layout::KEYS10),
        };
        let keys = steps.len() - 1;
        let node_type = match self.prefer {
            _ if bits == 16 && self.prefer.is_way256(steps) => NodeType::Way256,
            _ if keys <= keys2.keys => NodeType::Keys2,
            Prefer::Memory if keys <= keys10.keys => NodeType::Keys10,
            _ => NodeType::Way16,
        };
        self.extent.steps = self.extent.steps.max(above + 1);
        self.extent.node_types |= node_type.bit();
        let mut shift = 0;
        let position = match node_type {
            NodeType::Keys2 => {
                let words = divided(keys2, steps, origin);
                let words = &words[..keys2.words];
                self.arena.store_beside(beside, node_type, words)?
            }
            NodeType::Keys10 => {
                let words = divided(keys10, steps, origin);
                self.arena.store(node_type, &words[..keys10.words])?
            }
            NodeType::Way16 => {
                shift = bits - 4;
                let mut entries = [0; LINE_WORDS];
                for_each_range(steps, base, 1 << shift, &mut entries, |steps, base| {
                    self.table(steps, base, below(shift))
                })?;
                self.arena.store(node_type, &entries)?
            }
            NodeType::Way256 => {
                let known = self.known;
                let mut entries = [0; WAY256_ENTRIES];
                for_each_range(steps, base, 256, &mut entries, |steps, base| {
                    let same = known.iter().find(|table| table.has(steps, base));
                    match same {
                        Some(table) => {
                            Ok(self.arena.entry_of(table.position, (base >> 8) as usize))
                        }
                        None => self.table(steps, base, below(8)),
                    }
                })?;
                self.arena.store(node_type, &entries)?
            }
        };
        Ok(pointer(node_type, shift, position))
    }
}

/// The words of a node with keys: the starts of all steps but the first, which begins at or before
/// the range, and a leaf for each step.
fn divided(layout: Layout, steps: &Steps, origin: u32) -> [u32; LINE_WORDS] {
    let mut keys = [0; MOST_STEPS];
    let mut leaves = [0; MOST_STEPS];
    for (i, (start, leaf)) in steps.iter().enumerate() {
        keys[i] = start.wrapping_sub(origin) as u16;
        leaves[i] = *leaf;
    }
    let mut words = [0; LINE_WORDS];
    layout.write(&mut words, &keys[1..steps.len()], &leaves[..steps.len()]);
    words
}

/// Divides the numbers from `base` on into `entries.len()` ranges of `width`. The entry of a range
/// with a single value is a leaf; the entry of any other range is what `below` returns for it.
pub(super) fn for_each_range(
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
