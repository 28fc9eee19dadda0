//! Trees over 63-bit numbers, which IPv6 addresses are looked up in: one pair for the high halves,
//! and one for the low half of each /64 in which prefixes longer than that end.

use std::collections::HashMap;

use sg_common::lookup::{Form, LINE_WORDS, MAX_DEPTH, NO_KEY, NODE_CHILDREN, NODE_KEYS, POINTER};

use super::{TooLarge, arena::Arena};

const CHILDREN: usize = NODE_KEYS + 1;
const TOP: u64 = 1 << 63;

/// A function over 64-bit numbers as its steps, from zero on.
type Steps = Vec<(u64, u32)>;

/// Where the trees begin; see `Shape`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trees {
    pub(super) roots: [u32; 2],
    pub(super) depth: u32,
    pub(super) low_depth: u32,
    /// Nodes, for those who want to know the size.
    pub(super) nodes: usize,
}

/// Appends a step, or changes the last one if it begins there too; equal neighbours become one.
fn set<T: PartialEq>(steps: &mut Vec<(T, u32)>, start: T, value: u32) {
    match steps.last_mut() {
        Some(last) if last.0 == start => last.1 = value,
        _ => steps.push((start, value)),
    }
    if let [.., before, last] = steps.as_slice()
        && before.1 == last.1
    {
        steps.pop();
    }
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
        // Which tree stands here is told once all of them are known to be equally deep.
        set(&mut high, half, POINTER | lows.index_of(&low, before));
        if let Some(next) = half.checked_add(1) {
            set(&mut high, next, class);
        }
    }
    if high.len() < 2 {
        trees.roots = [class; 2];
        return Ok(trees);
    }
    let low_roots = lows.build(arena, &mut trees)?;
    for (_, value) in &mut high {
        if *value & POINTER != 0 {
            *value = POINTER | low_roots[(*value & !POINTER) as usize];
        }
    }

    let middle = high.partition_point(|(start, _)| *start < TOP);
    let (lower, upper) = high.split_at(middle);
    let mut halves = [
        lower.to_vec(),
        upper.iter().map(|&(s, v)| (s & !TOP, v)).collect(),
    ];
    if halves[1].first().is_none_or(|(start, _)| *start != 0) {
        let last = lower.last().map_or(0, |(_, value)| *value);
        halves[1].insert(0, (0, last));
    }
    trees.depth = halves
        .iter()
        .map(|steps| depth_of(steps))
        .max()
        .unwrap_or(1);
    for (root, steps) in trees.roots.iter_mut().zip(&halves) {
        *root = tree(arena, steps, trees.depth, &mut trees.nodes)?;
    }
    Ok(trees)
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

/// The same function over numbers without their last bit; where that bit makes a difference, a
/// pointer to the word for zero, which the one for one follows.
fn without_last_bit(arena: &mut Arena, steps: &Steps) -> Result<Steps, TooLarge> {
    let mut out: Steps = Vec::new();
    let mut before = 0;
    for &(start, class) in steps {
        if start & 1 == 0 {
            set(&mut out, start >> 1, class);
        } else {
            // Even and odd; the even one may have a step of its own.
            let even = match out.last() {
                Some(&(last, value)) if last == start >> 1 => value,
                _ => before,
            };
            let position = arena.store(Form::Few, &[even, class, 0, 0])?;
            set(
                &mut out,
                start >> 1,
                POINTER | position * (LINE_WORDS as u32 / 4),
            );
            if start >> 1 < TOP - 1 {
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
    let mut room = CHILDREN;
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
    // The leaves, eight to a node, wherever they begin in a line.
    let parents = steps.len().div_ceil(CHILDREN);
    let leaves = arena.take_lines((parents * CHILDREN).div_ceil(LINE_WORDS))?;
    for (word, (_, value)) in arena.words_mut(leaves).zip(steps) {
        *word = *value;
    }
    let mut first_child = leaves * LINE_WORDS as u32;
    let mut starts: Vec<u64> = steps.iter().map(|(start, _)| *start).collect();
    for _ in 0..depth {
        let count = starts.len().div_ceil(CHILDREN);
        let level = arena.take_lines(count)?;
        *nodes += count;
        for (i, children) in starts.chunks(CHILDREN).enumerate() {
            let node = arena.line_mut(level + i as u32);
            let mut keys = [NO_KEY; NODE_KEYS];
            keys[..children.len() - 1].copy_from_slice(&children[1..]);
            node.pairs_mut()[..NODE_KEYS].copy_from_slice(&keys);
            node.0[NODE_CHILDREN] = first_child + (i * CHILDREN) as u32;
        }
        starts = starts.into_iter().step_by(CHILDREN).collect();
        first_child = level;
    }
    Ok(first_child)
}
