//! The lines that tables are made of, each part stored once however often it occurs, and the choice
//! of the smallest form for a function over 16-bit numbers.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use sg_common::lookup::{
    BLOCK_ENTRIES, FEW_KEYS, FEW_LEAVES_AT, Form, Forms, LINE_WORDS, Line, POSITION_MASK, Root,
    SEVERAL_KEYS, SEVERAL_LEAVES_AT, SHAPE_LINES, pointer, stored_key,
};

use super::{Budget, TooLarge};

/// A function over 32-bit numbers as its steps: each value holds from its start up to the next
/// start. Sorted, the first start is at or below the range of interest.
pub(super) type Steps = [(u32, u32)];

/// Words of a quarter of a line, in which positions are counted.
const QUARTER: usize = LINE_WORDS / 4;

/// A range of 16 bits with more steps than this becomes a block: parts would be as large and deeper.
const BLOCK_STEPS: usize = 96;

/// Which forms tables have, and how deep they go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Built {
    pub(super) forms: Forms,
    /// Steps from an entry to its leaf, at most.
    pub(super) steps: usize,
}

/// So many tables of ports begin with a block: a policy with few of them has the cache to itself, and
/// looking one of 256 entries up takes fewer instructions than dividing by keys.
const ROOMY_TABLES: usize = 16;

/// What smaller tables are chosen for.
#[derive(Clone, Copy)]
enum Room {
    /// Fewer instructions.
    Much,
    /// Less memory.
    Little,
}

/// A range of numbers that differ in their low `bits` only, in a table over 16-bit numbers whose
/// zero is `origin`; `above` steps lead there.
#[derive(Clone, Copy)]
struct Part {
    origin: u32,
    bits: u32,
    above: usize,
}

pub(super) struct Arena {
    budget: Budget,
    /// Tables that may still have room.
    roomy: usize,
    lines: Vec<Line>,
    /// The next free quarter of the line that quarters are taken from.
    quarter: u32,
    /// Positions of what was stored, by the hash of its words.
    by_hash: HashMap<u64, u32>,
    /// How many of each form; trees are not among them.
    pub(super) counts: [usize; Form::ALL.len()],
}

impl Arena {
    pub(super) fn new(budget: Budget) -> Self {
        Arena {
            budget,
            roomy: ROOMY_TABLES,
            lines: vec![Line::EMPTY; SHAPE_LINES],
            quarter: 0,
            by_hash: HashMap::new(),
            counts: [0; Form::ALL.len()],
        }
    }

    pub(super) fn into_lines(self) -> Vec<Line> {
        self.lines
    }

    /// Takes `count` lines in a row; returns the number of the first.
    pub(super) fn take_lines(&mut self, count: usize) -> Result<u32, TooLarge> {
        let first = self.lines.len();
        let after = first + count;
        let fits = after <= (POSITION_MASK / QUARTER as u32) as usize;
        if after * size_of::<Line>() > self.budget.table_bytes || !fits {
            return Err(self.too_large("too many different address blocks and port ranges"));
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

    fn words_at(&self, position: u32, len: usize) -> impl Iterator<Item = u32> + '_ {
        let first = position as usize * QUARTER;
        (first..first + len).map(|at| self.lines[at / LINE_WORDS].0[at % LINE_WORDS])
    }

    /// Stores `words`, a quarter of a line or whole lines, where they are not stored yet; returns
    /// their position in quarters.
    pub(super) fn store(&mut self, form: Form, words: &[u32]) -> Result<u32, TooLarge> {
        let mut hasher = DefaultHasher::new();
        words.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(&position) = self.by_hash.get(&hash)
            && self
                .words_at(position, words.len())
                .eq(words.iter().copied())
        {
            return Ok(position);
        }
        let position = if words.len() == QUARTER {
            if self.quarter.is_multiple_of(4) {
                self.quarter = self.take_lines(1)? * 4;
            }
            self.quarter += 1;
            self.quarter - 1
        } else {
            self.take_lines(words.len() / LINE_WORDS)? * 4
        };
        let first = position as usize * QUARTER;
        for (at, word) in (first..).zip(words) {
            self.lines[at / LINE_WORDS].0[at % LINE_WORDS] = *word;
        }
        // Of two with one hash the first is found again, the second stored as often as it occurs.
        self.by_hash.entry(hash).or_insert(position);
        self.counts[form as usize] += 1;
        Ok(position)
    }

    /// Entry for `steps` over the ports from zero on.
    pub(super) fn ports(&mut self, steps: &Steps, built: &mut Built) -> Result<u32, TooLarge> {
        let room = if self.roomy > 0 {
            Room::Much
        } else {
            Room::Little
        };
        let blocks = self.counts[Form::Block as usize];
        let entry = self.table(
            steps,
            0,
            Part {
                origin: 0,
                bits: 16,
                above: 0,
            },
            room,
            built,
        )?;
        if self.counts[Form::Block as usize] > blocks {
            self.roomy = self.roomy.saturating_sub(1);
        }
        Ok(entry)
    }

    /// Entry for `steps` over the numbers from `base` on that `part` leaves.
    fn table(
        &mut self,
        steps: &Steps,
        base: u32,
        part: Part,
        room: Room,
        built: &mut Built,
    ) -> Result<u32, TooLarge> {
        let Part {
            origin,
            bits,
            above,
        } = part;
        let below = |bits| Part {
            origin,
            bits,
            above: above + 1,
        };
        if let [(_, only)] = steps {
            return Ok(*only);
        }
        let keys = steps.len() - 1;
        built.steps = built.steps.max(above + 1);
        let form = match room {
            Room::Much if bits == 16 => Form::Block,
            _ if keys <= FEW_KEYS => Form::Few,
            Room::Little if keys <= SEVERAL_KEYS => Form::Several,
            _ if bits == 16 && steps.len() > BLOCK_STEPS => Form::Block,
            _ => Form::Part,
        };
        built.forms |= form.bit();
        let mut shift = 0;
        let position = match form {
            Form::Few => self.store(form, &divided::<QUARTER>(steps, origin, FEW_LEAVES_AT))?,
            Form::Several => self.store(
                form,
                &divided::<LINE_WORDS>(steps, origin, SEVERAL_LEAVES_AT),
            )?,
            Form::Part => {
                shift = bits - 4;
                let mut entries = [0; LINE_WORDS];
                for_each_part(steps, base, 1 << shift, &mut entries, |steps, base| {
                    self.table(steps, base, below(shift), room, built)
                })?;
                self.store(form, &entries)?
            }
            Form::Block => {
                let mut entries = [0; BLOCK_ENTRIES];
                for_each_part(steps, base, 256, &mut entries, |steps, base| {
                    self.table(steps, base, below(8), room, built)
                })?;
                self.store(form, &entries)?
            }
        };
        Ok(pointer(form, shift, position))
    }

    /// Fills the /16 table of IPv4 with `steps` over all addresses.
    pub(super) fn fill_root(
        &mut self,
        root: &mut Root,
        steps: &Steps,
        built: &mut Built,
    ) -> Result<(), TooLarge> {
        for_each_part(steps, 0, 1 << 16, root, |steps, base| {
            let part = Part {
                origin: base,
                bits: 16,
                above: 0,
            };
            self.table(steps, base, part, Room::Little, built)
        })
    }
}

/// Keys and leaves of a range with few steps.
fn divided<const N: usize>(steps: &Steps, origin: u32, leaves_at: usize) -> [u32; N] {
    let mut words = [0; N];
    for (i, (start, _)) in steps[1..].iter().enumerate() {
        let key = stored_key((start - origin) as u16);
        words[i / 2] |= u32::from(key) << (i % 2 * 16);
    }
    for (word, (_, leaf)) in words[leaves_at..].iter_mut().zip(steps) {
        *word = *leaf;
    }
    words
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
