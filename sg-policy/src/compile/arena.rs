//! The lines that tables are made of. What is stored is stored once, however often it occurs.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use sg_common::lookup::{
    LINE_WORDS, Line, NodeType, POINTER, POSITION_MASK, SHAPE_LINES, UNIT_WORDS,
};

use super::{
    budget::{Budget, TooLarge, Without},
    row::Row,
};

/// A function over 32-bit numbers as its steps: each value holds from its start up to the next
/// start. Sorted, the first start is at or below the range of interest.
pub(super) type Steps = [(u32, u32)];

/// Units of a line.
const LINE_UNITS: u32 = (LINE_WORDS / UNIT_WORDS) as u32;

/// What lies in the same line as a 2-key node. Where each prefix has ports of its own, neither its
/// node nor their table is in a core's cache, and one line brings both.
#[derive(Clone, Copy)]
pub(super) enum Beside<'a> {
    Anything,
    /// A free place for one more.
    FreePlace,
    /// The port table that one of the classes leads to by its row, if a place beside that is free.
    PortsOf {
        classes: &'a Steps,
        rows: &'a [Row],
    },
}

/// All lines of a policy's tables but the first level of IPv4.
pub(super) struct Arena {
    budget: Budget,
    lines: Vec<Line>,
    /// The next free unit of the line that nodes of 1, 2 and 4 units are taken from.
    open: [u32; 3],
    /// Positions of port tables that have a free place beside them, for another 2-key node.
    with_free_place: HashSet<u32>,
    /// Positions of what was stored, by the hash of its words.
    by_hash: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    /// How many nodes of each type there are; those of trees are not among them.
    pub(super) counts: [usize; NodeType::ALL.len()],
}

impl Arena {
    /// Which tricks of the tables are left out.
    pub(super) fn without(&self) -> Without {
        self.budget.without
    }

    pub(super) fn new(budget: Budget) -> Self {
        Arena {
            budget,
            lines: vec![Line::EMPTY; SHAPE_LINES],
            open: [0; 3],
            with_free_place: HashSet::new(),
            by_hash: HashMap::default(),
            counts: [0; NodeType::ALL.len()],
        }
    }

    pub(super) fn into_lines(self) -> Vec<Line> {
        self.lines
    }

    /// Takes `count` lines in a row; returns the number of the first.
    pub(super) fn take_lines(&mut self, count: usize) -> Result<u32, TooLarge> {
        let first = self.lines.len();
        let after = first + count;
        let fits = after <= (POSITION_MASK / LINE_UNITS) as usize;
        if after * size_of::<Line>() > self.budget.table_bytes || !fits {
            return Err(self.too_large("too many different prefixes and port ranges"));
        }
        self.lines.resize(after, Line::EMPTY);
        Ok(first as u32)
    }

    pub(super) fn too_large(&self, what: &'static str) -> TooLarge {
        TooLarge {
            budget_bytes: self.budget.table_bytes,
            what,
        }
    }

    pub(super) fn line_mut(&mut self, line: u32) -> &mut Line {
        &mut self.lines[line as usize]
    }

    /// All words from `line` on.
    pub(super) fn words_mut(&mut self, line: u32) -> impl Iterator<Item = &mut u32> {
        self.lines[line as usize..]
            .iter_mut()
            .flat_map(|line| line.0.iter_mut())
    }

    /// An entry of the 256-way node at `position`.
    pub(super) fn entry_of(&self, position: u32, index: usize) -> u32 {
        let (line, _) = place(position);
        self.lines[line + index / LINE_WORDS].0[index % LINE_WORDS]
    }

    /// Whether these words are stored there.
    fn holds(&self, position: u32, words: &[u32]) -> bool {
        let (line, at) = place(position);
        if let Some(stored) = self.lines[line].0[at..].get(..words.len()) {
            return stored == words;
        }
        let lines = self.lines[line..].iter();
        words
            .chunks(LINE_WORDS)
            .zip(lines)
            .all(|(words, line)| line.0 == words)
    }

    /// Stores `words`, a half, quarter or eighth of a line or whole lines, unless they are stored
    /// already; returns their position in units.
    pub(super) fn store(&mut self, node_type: NodeType, words: &[u32]) -> Result<u32, TooLarge> {
        self.store_beside(Beside::Anything, node_type, words)
    }

    /// Stores `words` as [`Arena::store`] does. If they have to be stored, `beside` goes with them.
    pub(super) fn store_beside(
        &mut self,
        beside: Beside,
        node_type: NodeType,
        words: &[u32],
    ) -> Result<u32, TooLarge> {
        let hash = hash(words);
        if let Some(&position) = self.by_hash.get(&hash)
            && self.holds(position, words)
        {
            return Ok(position);
        }
        let units = (words.len() / UNIT_WORDS) as u32;
        let position = match beside {
            Beside::Anything => self.take_units(units)?,
            Beside::FreePlace => {
                let position = self.take_units(2 * units)?;
                self.with_free_place.insert(position);
                position
            }
            Beside::PortsOf { classes, rows } => match self.take_beside_ports(classes, rows) {
                Some(ports) => ports + units,
                None => self.take_units(units)?,
            },
        };
        let (line, at) = place(position);
        for (line, words) in self.lines[line..].iter_mut().zip(words.chunks(LINE_WORDS)) {
            line.0[at..][..words.len()].copy_from_slice(words);
        }
        // Of two with one hash the first is found again, the second stored as often as it occurs.
        self.by_hash.entry(hash).or_insert(position);
        self.counts[node_type as usize] += 1;
        Ok(position)
    }

    /// Takes a half, quarter or eighth of a line or whole lines; returns their position.
    fn take_units(&mut self, units: u32) -> Result<u32, TooLarge> {
        if units >= LINE_UNITS {
            return Ok(self.take_lines((units / LINE_UNITS) as usize)? * LINE_UNITS);
        }
        let open = units.ilog2() as usize;
        if self.open[open].is_multiple_of(LINE_UNITS) {
            self.open[open] = self.take_lines(1)? * LINE_UNITS;
        }
        self.open[open] += units;
        Ok(self.open[open] - units)
    }

    /// Takes the free place beside a port table of these classes.
    fn take_beside_ports(&mut self, classes: &Steps, rows: &[Row]) -> Option<u32> {
        let ports = classes
            .iter()
            .flat_map(|&(_, class)| rows[class as usize])
            .filter(|entry| entry & POINTER != 0)
            .map(|entry| entry & POSITION_MASK)
            .find(|ports| self.with_free_place.contains(ports))?;
        self.with_free_place.remove(&ports);
        Some(ports)
    }
}

/// The line of a position, and the word in it.
pub(super) fn place(position: u32) -> (usize, usize) {
    let word = position as usize * UNIT_WORDS;
    (word / LINE_WORDS, word % LINE_WORDS)
}

/// Quick, and good enough: a collision costs the memory of what could have been shared.
fn hash(words: &[u32]) -> u64 {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let step =
        |hash: u64, word: &u32| (hash.rotate_left(25) ^ u64::from(*word)).wrapping_mul(SPREAD);
    let hash = words.iter().fold(words.len() as u64, step);
    hash ^ hash >> 32
}

/// The hasher of numbers that are hashes.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, byte| hash << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
