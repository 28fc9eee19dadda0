//! Search trees for IPv6: over the high 64 bits of addresses, and for each /64 that contains longer
//! prefixes over the low 64 bits. Low halves are looked up without their last bit, which the leaf
//! decides where it makes a difference.

use std::collections::HashMap;

use sg_common::lookup::{
    INDEX_BITS6, LAST_KEYS, LAST_LEAVES, LINE_WORDS, MAX_DEPTH, NO_KEY, NODE_CHILDREN, NODE_KEYS,
    NodeType, POINTER, TREE_BITS6, TREES6, UNIT_WORDS,
};

use super::{arena::Arena, budget::TooLarge};
use crate::partition::set;

const CHILDREN: usize = NODE_KEYS + 1;
const LEAVES: usize = LAST_KEYS + 1;

/// A first tree of more levels than this gets an index in front of it, unless it has more than
/// [`INDEXED_STEPS`].
const DEEP: u32 = 2;
/// With more steps than this an index and the nodes below it, which it leaves half empty, would not
/// stay in a core's cache.
const INDEXED_STEPS: usize = 1 << 13;

/// A function over 64-bit numbers as its steps, from zero on.
type Steps = Vec<(u64, u32)>;

/// Where the trees begin; see `Shape`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trees {
    pub(super) roots: [u32; TREES6],
    pub(super) depth: u32,
    pub(super) index: u32,
    pub(super) low_depth: u32,
    /// How many nodes the trees have.
    pub(super) nodes: usize,
}

/// Builds the trees of a function over all IPv6 addresses, given as its steps.
pub(super) fn build(arena: &mut Arena, steps: &[(u128, u32)]) -> Result<Trees, TooLarge> {
    let mut trees = Trees::default();
    let mut lows = Lows::default();
    let mut high: Steps = Vec::new();
    let mut rest = steps;
    let mut class = 0;
    while let Some(&(start, _)) = rest.first() {
        let half = (start >> 64) as u64;
        let same = rest.partition_point(|(start, _)| (start >> 64) as u64 == half);
        let (here, after) = rest.split_at(same);
        rest = after;
        let low: Steps = here.iter().map(|&(s, class)| (s as u64, class)).collect();
        let before = class;
        class = here[here.len() - 1].1;
        if let [(0, only)] = low[..] {
            set(&mut high, half, only);
            continue;
        }
        // The index of a function over low halves; replaced by the root of its tree below, when
        // all such trees have been built with the same depth.
        set(&mut high, half, POINTER | lows.index_of(&low, before));
        if let Some(next) = half.checked_add(1) {
            set(&mut high, next, class);
        }
    }
    if high.len() < 2 {
        trees.roots = [class; TREES6];
        return Ok(trees);
    }
    let low_roots = lows.build(arena, &mut trees)?;
    for (_, value) in &mut high {
        if *value & POINTER != 0 {
            *value = POINTER | low_roots[(*value & !POINTER) as usize];
        }
    }

    let quarters = split(&high, TREE_BITS6, TREES6);
    let depth = |parts: &[Steps]| parts.iter().map(|steps| depth_of(steps)).max().unwrap_or(1);
    trees.depth = depth(&quarters);
    let is_indexed = !arena.without().index6;
    if is_indexed && trees.depth > DEEP && quarters[0].len() <= INDEXED_STEPS {
        let shift = TREE_BITS6 - INDEX_BITS6;
        let cells = split(&quarters[0], shift, 1 << INDEX_BITS6);
        trees.depth = depth(&cells).max(depth(&quarters[1..]));
        let index = arena.take_lines(cells.len() / LINE_WORDS)?;
        let mut of_class: HashMap<u32, u32> = HashMap::new();
        for (i, cell) in cells.iter().enumerate() {
            let known = match cell[..] {
                [(_, class)] => of_class.get(&class).copied(),
                _ => None,
            };
            let root = match known {
                Some(root) => root,
                None => tree(arena, cell, trees.depth, &mut trees.nodes)?,
            };
            if let [(_, class)] = cell[..] {
                of_class.insert(class, root);
            }
            arena.line_mut(index + (i / LINE_WORDS) as u32).0[i % LINE_WORDS] = root;
        }
        trees.index = index * LINE_WORDS as u32;
    } else {
        trees.roots[0] = tree(arena, &quarters[0], trees.depth, &mut trees.nodes)?;
    }
    for (root, steps) in trees.roots.iter_mut().zip(&quarters).skip(1) {
        *root = tree(arena, steps, trees.depth, &mut trees.nodes)?;
    }
    Ok(trees)
}

/// Cuts a function into `parts` of 2^`bits` numbers each. The first part keeps its numbers, and so
/// do all others, without the bits above.
fn split(steps: &Steps, bits: u32, parts: usize) -> Vec<Steps> {
    let mut rest = steps.as_slice();
    let mut value = 0;
    let part = |i: usize| {
        let begin = (i as u64) << bits;
        let here = rest.partition_point(|(start, _)| start >> bits <= i as u64);
        let (here, after) = rest.split_at(here);
        rest = after;
        let mut part = vec![(begin, value)];
        for &(start, v) in here {
            set(&mut part, start, v);
            value = v;
        }
        part
    };
    let mut cut: Vec<Steps> = (0..parts).map(part).collect();
    if bits == TREE_BITS6 {
        // The number of the tree stands above these bits, and is no part of a key in it.
        for (start, _) in cut.iter_mut().flatten() {
            *start &= (1 << bits) - 1;
        }
    }
    cut
}

/// Functions over low halves, each once.
#[derive(Default)]
struct Lows {
    steps: Vec<Steps>,
    indices: HashMap<Steps, u32>,
}

impl Lows {
    /// `before` holds from zero up to the first step.
    fn index_of(&mut self, low: &Steps, before: u32) -> u32 {
        let mut steps = vec![(0, before)];
        for &(start, class) in low {
            set(&mut steps, start, class);
        }
        let next = self.steps.len() as u32;
        let index = *self.indices.entry(steps.clone()).or_insert(next);
        if index == next {
            self.steps.push(steps);
        }
        index
    }

    /// The root line of each.
    fn build(&self, arena: &mut Arena, trees: &mut Trees) -> Result<Vec<u32>, TooLarge> {
        let halved = self
            .steps
            .iter()
            .map(|steps| without_last_bit(arena, steps));
        let halved = halved.collect::<Result<Vec<Steps>, TooLarge>>()?;
        trees.low_depth = halved.iter().map(|s| depth_of(s)).max().unwrap_or(0);
        halved
            .iter()
            .map(|steps| tree(arena, steps, trees.low_depth, &mut trees.nodes))
            .collect()
    }
}

/// `steps` as a function of numbers without their last bit. Where that bit makes a difference, it
/// is a pointer to two words: the one for a last bit of zero, and then that for one.
fn without_last_bit(arena: &mut Arena, steps: &Steps) -> Result<Steps, TooLarge> {
    let mut out: Steps = Vec::new();
    let mut before = 0;
    for &(start, class) in steps {
        if start & 1 == 0 {
            set(&mut out, start >> 1, class);
        } else {
            // The even number below it has the class of its own step, or that of the step before.
            let even = match out.last() {
                Some(&(last, value)) if last == start >> 1 => value,
                _ => before,
            };
            let position = arena.store(NodeType::Keys2, &[even, class])?;
            let word = position * UNIT_WORDS as u32;
            set(&mut out, start >> 1, POINTER | word);
            if start >> 1 < NO_KEY - 1 {
                set(&mut out, (start >> 1) + 1, class);
            }
        }
        before = class;
    }
    Ok(out)
}

/// Levels that so many steps take.
fn depth_of(steps: &[(u64, u32)]) -> u32 {
    let mut depth = 1;
    let mut room = LEAVES;
    while room < steps.len() {
        room = room.saturating_mul(CHILDREN);
        depth += 1;
    }
    depth
}

/// Builds a tree of exactly `depth` levels; returns the line of its root.
fn tree(
    arena: &mut Arena,
    steps: &[(u64, u32)],
    depth: u32,
    nodes: &mut usize,
) -> Result<u32, TooLarge> {
    if depth > MAX_DEPTH {
        return Err(arena.too_large("too many IPv6 prefixes"));
    }
    let count = steps.len().div_ceil(LEAVES);
    let mut level = arena.take_lines(count)?;
    *nodes += count;
    let mut starts = Vec::with_capacity(count);
    for (line, children) in (level..).zip(steps.chunks(LEAVES)) {
        starts.push(children[0].0);
        let node = arena.line_mut(line);
        let mut keys = [NO_KEY; LAST_KEYS];
        for (key, (start, _)) in keys.iter_mut().zip(&children[1..]) {
            *key = *start;
        }
        node.pairs_mut()[..LAST_KEYS].copy_from_slice(&keys);
        for (word, (_, value)) in node.0[LAST_LEAVES..].iter_mut().zip(children) {
            *word = *value;
        }
    }
    for _ in 1..depth {
        let below = level;
        let count = starts.len().div_ceil(CHILDREN);
        level = arena.take_lines(count)?;
        *nodes += count;
        for (i, children) in starts.chunks(CHILDREN).enumerate() {
            let node = arena.line_mut(level + i as u32);
            let mut keys = [NO_KEY; NODE_KEYS];
            keys[..children.len() - 1].copy_from_slice(&children[1..]);
            node.pairs_mut()[..NODE_KEYS].copy_from_slice(&keys);
            node.0[NODE_CHILDREN] = below + (i * CHILDREN) as u32;
        }
        starts = starts.into_iter().step_by(CHILDREN).collect();
    }
    Ok(level)
}
