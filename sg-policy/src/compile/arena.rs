//! The lines that tables are made of, each part stored once however often it occurs, and the
//! choice of the smallest form for a function over 16-bit numbers.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use sg_common::lookup::{
    COLUMNS, LINE_WORDS, Layout, Line, NARROW_BITS, NodeType, NodeTypes, POINTER, POSITION_MASK,
    Root, SHAPE_LINES, UNIT_WORDS, WAY256_ENTRIES, pointer,
};

use super::{
    budget::{Budget, TooLarge},
    row::Row,
};

/// A function over 32-bit numbers as its steps: each value holds from its start up to the next
/// start. Sorted, the first start is at or below the range of interest.
pub(super) type Steps = [(u32, u32)];

/// More steps than *keys10* has in any layout.
const MOST_STEPS: usize = LINE_WORDS;

/// Units of a line.
const LINE_UNITS: u32 = (LINE_WORDS / UNIT_WORDS) as u32;

/// A range of 16 bits with more steps than this becomes a block in any case: parts would be as
/// large and deeper.
const WAY256_STEPS: usize = 96;

/// Which forms tables have, and how deep they go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Built {
    pub(super) forms: NodeTypes,
    /// Steps from an entry to its leaf, at most.
    pub(super) steps: usize,
}

/// So many tables of ports begin with a block: a policy with keys2 of them has the cache to itself,
/// and looking one of 256 entries up takes fewer instructions than dividing by keys.
const ROOMY_TABLES: usize = 16;

/// What smaller tables are chosen for.
#[derive(Clone, Copy)]
enum Room {
    /// Fewer instructions.
    Much,
    /// Less memory.
    Little,
}

/// Whether a range of 16 bits becomes a block.
fn is_way256(steps: &Steps, room: Room) -> bool {
    match room {
        Room::Much => steps.len() > 1,
        Room::Little => steps.len() > WAY256_STEPS,
    }
}

/// What lies in the same line as a *keys2*. Where each prefix has ports of its own, neither its
/// node nor their table is in a core's cache, and one line brings both.
#[derive(Clone, Copy)]
enum Beside<'a> {
    Anything,
    /// A place for one more.
    FreePlace,
    /// The table of ports that one of its classes leads to by its row, if a place beside that is
    /// free.
    PortsOf {
        classes: &'a Steps,
        rows: &'a [Row],
    },
}

/// A range of numbers that differ in their low `bits` only, in a table over 16-bit numbers whose
/// zero is `origin`; `above` steps lead there.
#[derive(Clone, Copy)]
struct Part<'a> {
    origin: u32,
    bits: u32,
    above: usize,
    /// Leaves below 16 are all that there are.
    is_narrow: bool,
    beside: Beside<'a>,
}

pub(super) struct Arena {
    budget: Budget,
    /// Tables that may still have room.
    roomy: usize,
    lines: Vec<Line>,
    /// The next free unit of the line that pieces of 1, 2 and 4 units are taken from.
    open: [u32; 3],
    /// Positions of tables of ports that have a free place beside them, for another *keys2*.
    keys2_with_place: HashSet<u32>,
    /// Positions of what was stored, by the hash of its words.
    by_hash: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    /// By column: tables of ports that others are likely to resemble.
    known: [Vec<Known>; COLUMNS],
    /// How many of each form; trees are not among them.
    pub(super) counts: [usize; NodeType::ALL.len()],
}

/// A table of ports that is a block: what it was made of, and its position.
struct Known {
    steps: Vec<(u32, u32)>,
    position: u32,
}

impl Known {
    /// Whether the numbers from `base` on that one entry of a block is for have `steps` here too.
    fn has(&self, steps: &Steps, base: u32) -> bool {
        let first = self.steps.partition_point(|(start, _)| *start <= base) - 1;
        let after = self.steps.get(first + steps.len());
        self.steps[first..]
            .get(..steps.len())
            .is_some_and(|here| here[0].1 == steps[0].1 && here[1..] == steps[1..])
            && after.is_none_or(|(start, _)| *start > base + 0xff)
    }
}

impl Arena {
    pub(super) fn new(budget: Budget) -> Self {
        Arena {
            budget,
            roomy: ROOMY_TABLES,
            lines: vec![Line::EMPTY; SHAPE_LINES],
            open: [0; 3],
            keys2_with_place: HashSet::new(),
            by_hash: HashMap::default(),
            known: Default::default(),
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
            return Err(self.too_large("too many different address nodes256 and port ranges"));
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

    /// Whether these words are stored there.
    fn holds(&self, position: u32, words: &[u32]) -> bool {
        let (line, at) = place(position);
        if let Some(part) = self.lines[line].0[at..].get(..words.len()) {
            return part == words;
        }
        let lines = self.lines[line..].iter();
        words
            .chunks(LINE_WORDS)
            .zip(lines)
            .all(|(words, line)| line.0 == words)
    }

    /// Stores `words`, a half, quarter or eighth of a line or whole lines, where they are not
    /// stored yet; returns their position in units.
    pub(super) fn store(&mut self, form: NodeType, words: &[u32]) -> Result<u32, TooLarge> {
        self.store_beside(Beside::Anything, form, words)
    }

    /// The same, with something beside it if it has to be stored.
    fn store_beside(
        &mut self,
        beside: Beside,
        form: NodeType,
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
                self.keys2_with_place.insert(position);
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
        self.counts[form as usize] += 1;
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

    /// Takes the free place beside a table of ports of these classes.
    fn take_beside_ports(&mut self, classes: &Steps, rows: &[Row]) -> Option<u32> {
        let keys2 = classes
            .iter()
            .flat_map(|&(_, class)| rows[class as usize])
            .filter(|entry| entry & POINTER != 0)
            .map(|entry| entry & POSITION_MASK)
            .find(|keys2| self.keys2_with_place.contains(keys2))?;
        self.keys2_with_place.remove(&keys2);
        Some(keys2)
    }

    /// Entry for `steps` over the ports from zero on, in a column; if asked for, with a free
    /// place beside the table for the node of a prefix.
    pub(super) fn ports(
        &mut self,
        column: usize,
        steps: &Steps,
        with_place: bool,
        built: &mut Built,
    ) -> Result<u32, TooLarge> {
        let room = if self.roomy > 0 {
            Room::Much
        } else {
            Room::Little
        };
        let part = Part {
            origin: 0,
            bits: 16,
            above: 0,
            is_narrow: false,
            beside: match with_place {
                true => Beside::FreePlace,
                false => Beside::Anything,
            },
        };
        let nodes256 = self.counts[NodeType::Way256 as usize];
        let mut known = std::mem::take(&mut self.known[column]);
        let entry = self.table(steps, 0, part, room, &known, built)?;
        if self.counts[NodeType::Way256 as usize] > nodes256 {
            self.roomy = self.roomy.saturating_sub(1);
        }
        if is_way256(steps, room) {
            // Those of all others, and the one before, which may be of addresses around these.
            known.truncate(1);
            known.push(Known {
                steps: steps.to_vec(),
                position: entry & POSITION_MASK,
            });
        }
        self.known[column] = known;
        Ok(entry)
    }

    /// An entry of a block.
    fn entry_of(&self, position: u32, index: usize) -> u32 {
        let (line, _) = place(position);
        self.lines[line + index / LINE_WORDS].0[index % LINE_WORDS]
    }

    /// Entry for `steps` over the numbers from `base` on that `part` leaves. A block takes over
    /// what it has in common with those that are `known`.
    fn table(
        &mut self,
        steps: &Steps,
        base: u32,
        part: Part,
        room: Room,
        known: &[Known],
        built: &mut Built,
    ) -> Result<u32, TooLarge> {
        let Part {
            origin,
            bits,
            above,
            is_narrow,
            beside,
        } = part;
        let below = |bits| Part {
            bits,
            above: above + 1,
            beside: Beside::Anything,
            ..part
        };
        let (keys2, keys10) = match is_narrow {
            true => (Layout::NARROW_KEYS2, Layout::NARROW_KEYS10),
            false => (Layout::KEYS2, Layout::KEYS10),
        };
        if let [(_, only)] = steps {
            return Ok(*only);
        }
        let keys = steps.len() - 1;
        built.steps = built.steps.max(above + 1);
        let form = match room {
            _ if bits == 16 && is_way256(steps, room) => NodeType::Way256,
            _ if keys <= keys2.keys => NodeType::Keys2,
            Room::Little if keys <= keys10.keys => NodeType::Keys10,
            _ => NodeType::Way16,
        };
        built.forms |= form.bit();
        let mut shift = 0;
        let position = match form {
            NodeType::Keys2 => self.divided(form, keys2, steps, origin, beside)?,
            NodeType::Keys10 => self.divided(form, keys10, steps, origin, Beside::Anything)?,
            NodeType::Way16 => {
                shift = bits - 4;
                let mut entries = [0; LINE_WORDS];
                for_each_part(steps, base, 1 << shift, &mut entries, |steps, base| {
                    self.table(steps, base, below(shift), room, &[], built)
                })?;
                self.store(form, &entries)?
            }
            NodeType::Way256 => {
                let mut entries = [0; WAY256_ENTRIES];
                for_each_part(steps, base, 256, &mut entries, |steps, base| {
                    match known.iter().find(|block| block.has(steps, base)) {
                        Some(block) => Ok(self.entry_of(block.position, (base >> 8) as usize)),
                        None => self.table(steps, base, below(8), room, &[], built),
                    }
                })?;
                self.store(form, &entries)?
            }
        };
        Ok(pointer(form, shift, position))
    }

    /// Stores keys and leaves of a range with keys2 steps.
    fn divided(
        &mut self,
        form: NodeType,
        layout: Layout,
        steps: &Steps,
        origin: u32,
        beside: Beside,
    ) -> Result<u32, TooLarge> {
        let mut keys = [0; MOST_STEPS];
        let mut leaves = [0; MOST_STEPS];
        for (i, (start, leaf)) in steps.iter().enumerate() {
            // The first one begins at or before the range, and has no key.
            keys[i] = start.wrapping_sub(origin) as u16;
            leaves[i] = *leaf;
        }
        let mut words = [0; LINE_WORDS];
        layout.write(&mut words, &keys[1..steps.len()], &leaves[..steps.len()]);
        self.store_beside(beside, form, &words[..layout.words])
    }

    /// Fills the /16 table of IPv4 with `steps` over all addresses, whose classes have `rows`;
    /// says whether leaves are narrow.
    pub(super) fn fill_root(
        &mut self,
        root: &mut Root,
        steps: &Steps,
        rows: &[Row],
        built: &mut Built,
    ) -> Result<bool, TooLarge> {
        let is_narrow = steps.iter().all(|(_, class)| class >> NARROW_BITS == 0);
        for_each_part(steps, 0, 1 << 16, root, |steps, base| {
            let part = Part {
                origin: base,
                bits: 16,
                above: 0,
                is_narrow,
                beside: match is_narrow {
                    true => Beside::Anything,
                    false => Beside::PortsOf {
                        classes: steps,
                        rows,
                    },
                },
            };
            self.table(steps, base, part, Room::Little, &[], built)
        })?;
        Ok(is_narrow)
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
