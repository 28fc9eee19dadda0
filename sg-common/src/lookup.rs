//! Geometry of the lookup tables and the walks through them, shared by kernel and host: address →
//! class → entry of a column → verdict.
//!
//! Everything but the first level of IPv4 is one list of *lines* of 64 bytes, so that a step
//! costs one cache line. An *entry* is 32 bits: a leaf (bit 31 clear; an address class or a
//! [`Verdict`]), or a pointer to what decides further:
//!
//! ```text
//!  31  30-29  28-27  26-0
//!   1   form  shift  position, in units of eight bytes
//!        0    -      few:     2 keys and 3 leaves in two units
//!        1    -      several: 10 keys and 11 leaves in a line
//!        2    n      part:    a line of 16 entries, by the 4 bits of the number from bit 4n on
//!        3    -      block:   16 lines of 256 entries, by the high 8 bits of the number
//! ```
//!
//! Where a policy has no more than 16 classes of IPv4 addresses, a leaf there takes 4 bits (it is
//! *narrow*): few are then 3 keys and 4 leaves in one unit, several 12 keys and 13 leaves in half
//! a line. Lists of a million prefixes have two classes, and what does not fit a core's cache
//! costs a hundred nanoseconds a step.
//!
//! The low half of an IPv4 address and a port are both 16-bit numbers, so both are resolved by
//! the same walk. 2-key nodes and 10-key nodes divide the numbers at their keys, by arithmetic
//! instead of branches: which side of a key a random packet lies on cannot be predicted.
//!
//! ```text
//! IPv4 address ─ high 16 bits → root ─┬─ leaf ──────────────────────────→ class
//!                                     └─ low 16 bits → (block) → (part …) → few or several → class
//!              └ hash → eight hosts ─── if it is one of them ───────────→ class instead
//! IPv6 address ─ high 64 bits → tree ─┬─ leaf ──────────────────────────→ class
//!                                     └─ low 64 bits → tree ────────────→ class
//! class, direction, kind → column ─┬─ leaf ─────────────────────────────→ verdict
//!                                  └─ port, ICMP type and code, protocol → (block) → … → verdict
//! ```
//!
//! A *tree* divides numbers of at most 63 bits. A node is a line: seven keys, and where its
//! children begin; a node of the last level has five keys and six leaves. All branches are
//! equally deep, and the depth is known when a program is loaded. The topmost two bits of an
//! address choose one of four trees for the rest of its high half; where the first of these would
//! be deep, an index by the next 16 bits takes its place, with a tree for each. The lowest bit of
//! the low half chooses last, where it matters.

use crate::flow_entry::HASH_KEYS;
use crate::verdict::{Direction, Verdict};

/// Set in an entry that is no leaf.
pub const POINTER: u32 = 1 << 31;

/// Entries of the [`Root`].
pub const ROOT_ENTRIES: usize = 1 << 16;
/// Words of a [`Line`], of 32 bits each.
pub const LINE_WORDS: usize = 16;
/// Entries of a 256-way node.
pub const WAY256_ENTRIES: usize = 256;

/// First level of IPv4: an entry for each /16.
pub type Root = [u32; ROOT_ENTRIES];

/// 64 bytes of the tables, one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(64))]
pub struct Line(pub [u32; LINE_WORDS]);

impl Line {
    /// All zero.
    pub const EMPTY: Line = Line([0; LINE_WORDS]);

    /// The same as words of 64 bits, the first of two in the low half.
    #[inline(always)]
    pub fn pairs(&self) -> &[u64; LINE_WORDS / 2] {
        // SAFETY: a line is as long as eight of these and aligned to more; all bits are valid.
        unsafe { &*(&raw const *self).cast() }
    }

    /// As [`Line::pairs`], to be written.
    #[inline(always)]
    pub fn pairs_mut(&mut self) -> &mut [u64; LINE_WORDS / 2] {
        // SAFETY: as above.
        unsafe { &mut *(&raw mut *self).cast() }
    }
}

/// What a pointer points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum NodeType {
    /// A 2-key node: one of 3 leaves.
    Keys2 = 0,
    /// A 10-key node: one of 11 leaves.
    Keys10 = 1,
    /// A 16-way node: one of 16 entries, by 4 bits.
    Way16 = 2,
    /// A 256-way node: one of 256 entries, by the high 8 bits.
    Way256 = 3,
}

/// Sets of forms, as bits: parts and blocks that a policy's tables do not have are removed from
/// the programs.
pub type NodeTypes = u32;

impl NodeType {
    /// All of them, each at its number.
    pub const ALL: [NodeType; 4] = [
        NodeType::Keys2,
        NodeType::Keys10,
        NodeType::Way16,
        NodeType::Way256,
    ];

    /// The set that has this form only.
    pub const fn bit(self) -> NodeTypes {
        1 << self as u32
    }

    /// The top three bits of an entry of this form.
    const fn head(self) -> u64 {
        4 | self as u64
    }

    /// Entries of this form, or of a later one, are not below it.
    const fn first(self) -> u64 {
        self.head() << NODE_TYPE_AT
    }
}

/// 2-key nodes as they lie in a line, at a multiple of their length.
pub type Keys2Words = [u32; Layout::KEYS2.words];

/// How 2-key nodes and 10-key nodes are laid out: the number of keys, where the leaves are, in
/// words, and how many words it is together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many keys there are; there is one leaf more.
    pub keys: usize,
    /// The word in which the leaves begin.
    pub leaves_at: usize,
    /// How many words of 32 bits it takes.
    pub words: usize,
    /// Bits of a leaf.
    pub leaf_bits: u32,
    /// Bits in front of the first leaf, in its first word.
    pub leaf_shift: u32,
}

impl Layout {
    /// 2 keys, leaves of 32 bits.
    pub const KEYS2: Layout = Layout {
        keys: 2,
        leaves_at: 1,
        words: 4,
        leaf_bits: 32,
        leaf_shift: 0,
    };
    /// 10 keys, leaves of 32 bits.
    pub const KEYS10: Layout = Layout {
        keys: 10,
        leaves_at: 5,
        words: 16,
        leaf_bits: 32,
        leaf_shift: 0,
    };
    /// 3 keys, narrow leaves.
    pub const NARROW_KEYS2: Layout = Layout {
        keys: 3,
        leaves_at: 1,
        words: 2,
        leaf_bits: NARROW_BITS,
        leaf_shift: 16,
    };
    /// 12 keys, narrow leaves.
    pub const NARROW_KEYS10: Layout = Layout {
        keys: 12,
        leaves_at: 6,
        words: 8,
        leaf_bits: NARROW_BITS,
        leaf_shift: 0,
    };
}

/// Bits of a narrow leaf.
pub const NARROW_BITS: u32 = 4;

// A unit's first word is its low half.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "big-endian machines are not supported"
);

impl Layout {
    /// Writes it to the front of `words`; there is one leaf more than keys.
    pub fn write(self, words: &mut [u32], keys: &[u16], leaves: &[u32]) {
        let words = &mut words[..self.words];
        words.fill(0);
        for (i, key) in keys.iter().enumerate() {
            words[i / 2] |= u32::from(stored_key(*key)) << (i % 2 * 16);
        }
        if self.leaf_bits == u32::BITS {
            words[self.leaves_at..][..leaves.len()].copy_from_slice(leaves);
            return;
        }
        for (i, leaf) in leaves.iter().enumerate() {
            let bit = self.leaf_shift + i as u32 * self.leaf_bits;
            words[self.leaves_at + bit as usize / 32] |= leaf << (bit % 32);
        }
    }
}

/// The bits of a pointer that are a position, in units.
pub const POSITION_MASK: u32 = (1 << 27) - 1;
const NODE_TYPE_AT: u32 = 29;
const SHIFT_AT: u32 = 27;
/// Words of a unit, in which positions are counted.
pub const UNIT_WORDS: usize = 2;
/// Units of a line.
pub const LINE_UNITS: u32 = (LINE_WORDS / UNIT_WORDS) as u32;

/// An entry that points to `position`, in units. `shift` is the first bit of the number
/// that a part looks at; other forms have none.
pub const fn pointer(form: NodeType, shift: u32, position: u32) -> u32 {
    POINTER | (form as u32) << NODE_TYPE_AT | (shift / 4) << SHIFT_AT | position
}

/// How a key is stored: a number plus this carries out of 16 bits from the key on. A key is never
/// zero, so zero is no key.
pub const fn stored_key(key: u16) -> u16 {
    key.wrapping_neg()
}

/// Deepest tree: more than a policy can name.
pub const MAX_DEPTH: u32 = 8;
/// Keys of a tree's node.
pub const NODE_KEYS: usize = 7;
/// The word of a node that says in which line its first child is.
pub const NODE_CHILDREN: usize = 14;
/// Keys of a node of the last level.
pub const LAST_KEYS: usize = 5;
/// The word of a node of the last level where its leaves begin.
pub const LAST_LEAVES: usize = 10;
/// Stored for a key that a node does not have: beyond every number.
pub const NO_KEY: u64 = 1 << 63;

/// Trees for the high half of an IPv6 address, by its topmost bits.
pub const TREES6: usize = 4;
/// What is left of the high half.
pub const TREE_BITS6: u32 = 62;
/// The bits below those by which the first tree is indexed.
pub const INDEX_BITS6: u32 = 16;

/// Hosts in a line: eight addresses, then their classes.
pub const HOSTS: usize = 8;

/// The line of `buckets` in which a host is, if it is in one.
#[inline(always)]
pub const fn host_bucket(address: u32, buckets: u32) -> u32 {
    // 2^64 divided by the golden ratio, as Knuth has it.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = (address as u64).wrapping_mul(SPREAD) >> 32;
    ((hash * buckets as u64) >> 32) as u32
}

/// What the 16-bit number of a port table means, by protocol; with the direction it names a
/// column.
pub const COLUMNS: usize = 16;

/// Index of a column; `kind` is a [`crate::protocol::Kind`] as a number, masked so that the
/// verifier sees that the index is inside the list.
#[inline(always)]
pub const fn column_index(direction: Direction, kind: u8) -> usize {
    direction as usize * 8 + (kind & 7) as usize
}

/// Where things are in the lines: constants of a generation, kept in [`SHAPE_LINES`] too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Shape {
    /// The word at which each column begins: an entry for each class.
    pub columns: [u32; COLUMNS],
    /// Lines of the trees for the high half of IPv6 addresses; their leaves, if they have no
    /// depth.
    pub roots6: [u32; TREES6],
    /// Depth of those trees.
    pub depth6: u32,
    /// The word at which the index in place of the first tree begins, or zero.
    pub index6: u32,
    /// Depth of the trees for low halves; zero when no prefix is longer than 64 bits.
    pub low_depth6: u32,
    /// NodeTypes that nodes for IPv4 addresses have.
    pub address_node_types: NodeTypes,
    /// NodeTypes that nodes of port tables have.
    pub port_node_types: NodeTypes,
    /// 1 when leaves of IPv4 addresses are narrow.
    pub narrow: u32,
    /// Where the lines of hosts begin, and how many there are.
    pub hosts_at: u32,
    /// How many lines of hosts there are; zero where there is no table of hosts.
    pub host_buckets: u32,
    /// Number of address classes.
    pub classes: u32,
}

/// The first lines hold the [`Shape`].
pub const SHAPE_LINES: usize = 2;

/// Lines that the programs find at an address they know, if all of a policy's fit: elsewhere a
/// step is an array lookup of a dozen instructions. A power of two, so that an index can be
/// masked.
pub const BSS_LINES: usize = 1 << 15;

/// Room for the [`HASH_KEYS`]: a power of two, so that an index can be masked.
pub const HASH_KEY_ROOM: usize = HASH_KEYS.next_power_of_two();

/// The programs' own memory.
#[repr(C, align(64))]
pub struct BssTables {
    /// The secret of the flows' hash. Here, since the verifier would walk other ways for each
    /// secret if it knew it, as it knows constants.
    pub flow_keys: [u64; HASH_KEY_ROOM],
    /// The first level of IPv4.
    pub root4: Root,
    /// All lines, those that a policy does not need at the end and zero.
    pub lines: [Line; BSS_LINES],
}

/// Read access to the tables. `None` means that an index lies outside of them, which the compiler
/// never produces and every caller takes for "nothing accepts this".
///
/// Entries are 32 bits in 64: without 32-bit arithmetic a narrower number is made so by two
/// shifts.
pub trait Tables {
    /// The entry for a /16.
    fn root4(&self, high: u16) -> u64;
    /// A line by its number.
    fn line(&self, index: u32) -> Option<&Line>;
    /// An entry by its number among all words of 32 bits.
    fn word(&self, index: u32) -> Option<u64>;
    /// A unit by its number.
    fn unit(&self, index: u32) -> Option<u64>;
    /// 2-key nodes that begin at a unit.
    fn keys2(&self, index: u32) -> Option<&Keys2Words>;
    /// See [`Shape::columns`].
    fn column(&self, index: usize) -> u32;
    /// See [`Shape::roots6`].
    fn root6(&self, index: usize) -> u32;
    /// See [`Shape::depth6`].
    fn depth6(&self) -> u32;
    /// See [`Shape::index6`].
    fn index6(&self) -> u32;
    /// See [`Shape::low_depth6`].
    fn low_depth6(&self) -> u32;
    /// See [`Shape::hosts_at`].
    fn hosts_at(&self) -> u32;
    /// See [`Shape::host_buckets`].
    fn host_buckets(&self) -> u32;
    /// See [`Shape::address_node_types`].
    fn address_node_types(&self) -> NodeTypes;
    /// See [`Shape::port_node_types`].
    fn port_node_types(&self) -> NodeTypes;
    /// See [`Shape::narrow`].
    fn is_narrow(&self) -> bool;
}

/// Tables in plain memory, as the host reads them.
#[derive(Clone, Copy)]
pub struct Plain<'a> {
    /// [`ROOT_ENTRIES`] of them.
    pub root4: &'a [u32],
    /// All lines, the [`Shape`] among them.
    pub lines: &'a [Line],
    /// Where things are in the lines.
    pub shape: &'a Shape,
}

impl Tables for Plain<'_> {
    fn root4(&self, high: u16) -> u64 {
        self.root4
            .get(usize::from(high))
            .copied()
            .unwrap_or(0)
            .into()
    }

    fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(index as usize)
    }

    fn word(&self, index: u32) -> Option<u64> {
        let words = &self.line(index / LINE_WORDS as u32)?.0;
        words
            .get(index as usize % LINE_WORDS)
            .map(|&word| word.into())
    }

    fn unit(&self, index: u32) -> Option<u64> {
        let units = self.line(index / LINE_UNITS)?.pairs();
        units.get((index % LINE_UNITS) as usize).copied()
    }

    fn keys2(&self, index: u32) -> Option<&Keys2Words> {
        let first = (index % LINE_UNITS) as usize * UNIT_WORDS;
        let words = &self.line(index / LINE_UNITS)?.0;
        words.get(first..)?.first_chunk()
    }

    fn column(&self, index: usize) -> u32 {
        self.shape.columns[index]
    }

    fn root6(&self, index: usize) -> u32 {
        self.shape.roots6[index & (TREES6 - 1)]
    }

    fn depth6(&self) -> u32 {
        self.shape.depth6
    }

    fn index6(&self) -> u32 {
        self.shape.index6
    }

    fn low_depth6(&self) -> u32 {
        self.shape.low_depth6
    }

    fn hosts_at(&self) -> u32 {
        self.shape.hosts_at
    }

    fn host_buckets(&self) -> u32 {
        self.shape.host_buckets
    }

    fn address_node_types(&self) -> NodeTypes {
        self.shape.address_node_types
    }

    fn port_node_types(&self) -> NodeTypes {
        self.shape.port_node_types
    }

    fn is_narrow(&self) -> bool {
        self.shape.narrow != 0
    }
}

impl Shape {
    /// As the first lines hold it.
    pub fn to_lines(&self) -> [Line; SHAPE_LINES] {
        let mut lines = [Line::EMPTY; SHAPE_LINES];
        let [first, second] = &mut lines;
        first.0 = self.columns;
        second.0[..TREES6].copy_from_slice(&self.roots6);
        let numbers = [
            self.depth6,
            self.index6,
            self.low_depth6,
            self.address_node_types,
            self.port_node_types,
            self.narrow,
            self.hosts_at,
            self.host_buckets,
            self.classes,
        ];
        second.0[TREES6..][..numbers.len()].copy_from_slice(&numbers);
        lines
    }

    /// Whether these lines hold no shape, since all lines are in the other place.
    pub fn is_elsewhere(lines: &[Line]) -> bool {
        // A policy has one class at least.
        Shape::from_lines(lines).is_none_or(|shape| shape.classes == 0)
    }

    /// What [`Shape::to_lines`] has written; `None` where there are too few lines.
    pub fn from_lines(lines: &[Line]) -> Option<Shape> {
        let [first, second, ..] = lines else {
            return None;
        };
        let [a, b, c, d, numbers @ ..] = second.0;
        Some(Shape {
            columns: first.0,
            roots6: [a, b, c, d],
            depth6: numbers[0],
            index6: numbers[1],
            low_depth6: numbers[2],
            address_node_types: numbers[3],
            port_node_types: numbers[4],
            narrow: numbers[5],
            hosts_at: numbers[6],
            host_buckets: numbers[7],
            classes: numbers[8],
        })
    }
}

/// Whether an entry, which has 32 bits, is no leaf.
#[inline(always)]
pub fn is_pointer(entry: u64) -> bool {
    entry >= POINTER.into()
}

/// What 16-bit numbers stand for, and so which forms decide them.
trait Numbers {
    /// Whether walks mostly begin with a block, as the first port tables do whatever they need.
    const BEGIN_WITH_WAY256: bool;

    fn forms<T: Tables>(tables: &T) -> NodeTypes;
    fn is_narrow<T: Tables>(tables: &T) -> bool;
}

/// The low halves of IPv4 addresses.
struct Addresses;
/// Ports, and what other protocols have instead.
struct Ports;

impl Numbers for Addresses {
    const BEGIN_WITH_WAY256: bool = false;

    #[inline(always)]
    fn forms<T: Tables>(tables: &T) -> NodeTypes {
        tables.address_node_types()
    }

    #[inline(always)]
    fn is_narrow<T: Tables>(tables: &T) -> bool {
        tables.is_narrow()
    }
}

impl Numbers for Ports {
    const BEGIN_WITH_WAY256: bool = true;

    #[inline(always)]
    fn forms<T: Tables>(tables: &T) -> NodeTypes {
        tables.port_node_types()
    }

    #[inline(always)]
    fn is_narrow<T: Tables>(_tables: &T) -> bool {
        false
    }
}

/// The leaf for `number`, which has 16 bits, below `entry`: at most five steps.
///
/// What is usual is asked of the entry alone: which forms there are is known when a program is
/// loaded, but asking takes instructions all the same, so only what is rare asks, for the
/// verifier not to walk what is not there.
#[inline(always)]
fn walk16<T: Tables, N: Numbers>(tables: &T, entry: u64, number: u64) -> Option<u64> {
    let mut entry = entry;
    if N::BEGIN_WITH_WAY256 && entry >= NodeType::Way256.first() {
        entry = in_block(tables, entry, number)?;
    }
    if !is_pointer(entry) {
        return Some(entry);
    }
    if entry >= NodeType::Keys10.first() {
        if entry >= NodeType::Way16.first() {
            entry = below_parts::<T, N>(tables, entry, number)?;
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

/// What parts, and for addresses the block before them, lead to.
#[inline(always)]
fn below_parts<T: Tables, N: Numbers>(tables: &T, entry: u64, number: u64) -> Option<u64> {
    let forms = N::forms(tables);
    let mut entry = entry;
    if !N::BEGIN_WITH_WAY256
        && forms & NodeType::Way256.bit() != 0
        && entry >= NodeType::Way256.first()
    {
        entry = in_block(tables, entry, number)?;
    }
    if forms & NodeType::Way16.bit() != 0 {
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
fn in_block<T: Tables>(tables: &T, entry: u64, number: u64) -> Option<u64> {
    tables.word((first_word(entry) + (number >> 8)) as u32)
}

/// Where what an entry points to begins, in units.
#[inline(always)]
const fn position(entry: u64) -> u64 {
    entry & POSITION_MASK as u64
}

/// The first word of what an entry points to.
#[inline(always)]
const fn first_word(entry: u64) -> u64 {
    position(entry) * UNIT_WORDS as u64
}

/// 1 if a number has reached a stored key, the low 16 bits of `key`.
#[inline(always)]
fn reached(key: u64, number: u64) -> u64 {
    (number + (key & 0xffff)) >> 16
}

#[inline(always)]
fn keys2(words: &Keys2Words, number: u64) -> u64 {
    let keys = u64::from(words[0]);
    let index = reached(keys >> 16, number) + reached(keys, number);
    words[(Layout::KEYS2.leaves_at + index as usize) & (words.len() - 1)].into()
}

#[inline(always)]
fn narrow_keys2(unit: u64, number: u64) -> u64 {
    let index = reached(unit, number) + reached(unit >> 16, number) + reached(unit >> 32, number);
    (unit >> 48) >> (index * u64::from(NARROW_BITS)) & 15
}

const ONES: u64 = 0x0001_0001_0001_0001;
const TOPS: u64 = ONES << 15;

/// Four times [`reached`] at once: additions of 16 bits of which only the carries are wanted.
/// `number` is four times the number.
#[inline(always)]
fn four_reached(keys: u64, number: u64) -> u64 {
    let sums = (keys & !TOPS) + (number & !TOPS);
    ((keys & number | (keys | number) & sums) & TOPS) >> 15
}

/// The sum of four numbers.
#[inline(always)]
fn sum(four: u64) -> u64 {
    four.wrapping_mul(ONES) >> 48
}

#[inline(always)]
fn keys10(line: &Line, number: u64) -> u64 {
    let number = number * ONES;
    let keys = line.pairs();
    let counts = four_reached(keys[0], number)
        + four_reached(keys[1], number)
        + four_reached(u64::from(line.0[4]), number);
    line.0[(Layout::KEYS10.leaves_at + sum(counts) as usize) & 15].into()
}

#[inline(always)]
fn narrow_keys10(line: &Line, unit: u32, number: u64) -> u64 {
    let number = number * ONES;
    let at = (unit & 4) as usize;
    let keys = line.pairs();
    let counts = four_reached(keys[at], number)
        + four_reached(keys[at + 1], number)
        + four_reached(keys[at + 2], number);
    keys[at + 3] >> (sum(counts) * u64::from(NARROW_BITS)) & 15
}

/// How many of `keys` lie beyond `number`; both have 63 bits at most, so that a difference has a
/// sign.
#[inline(always)]
fn beyond(keys: &[u64], number: u64) -> usize {
    let mut count = 0;
    for key in keys {
        count += number.wrapping_sub(*key) >> 63;
    }
    count as usize
}

/// The leaf of a tree that `number` is in.
#[inline(always)]
fn leaf_of<T: Tables>(tables: &T, root: u32, depth: u32, number: u64) -> Option<u64> {
    let mut at = root;
    for level in 1..MAX_DEPTH {
        if level >= depth {
            break;
        }
        let node = tables.line(at)?;
        let child = NODE_KEYS - beyond(&node.pairs()[..NODE_KEYS], number);
        at = node.0[NODE_CHILDREN].wrapping_add(child as u32);
    }
    let last = tables.line(at)?;
    let child = LAST_KEYS - beyond(&last.pairs()[..LAST_KEYS], number);
    Some(last.0[(LAST_LEAVES + child) & 15].into())
}

/// The class of a host that has one of its own, else `class`. Without branches, since half of the
/// packets may come from listed hosts.
#[inline(always)]
fn class_of_host<T: Tables>(tables: &T, address: u32, class: u32) -> Option<u32> {
    let bucket = host_bucket(address, tables.host_buckets());
    let line = tables.line(tables.hosts_at().wrapping_add(bucket))?;
    let mut found = 0;
    for (i, host) in line.0[..HOSTS].iter().enumerate() {
        // The carry of an addition: a comparison would be compiled to a branch.
        let is_other = (u64::from(*host ^ address) + 0xffff_ffff) >> 32;
        found += (is_other ^ 1) * (i as u64 + 1);
    }
    // One to eight, or zero for none.
    let own = u64::from(line.0[(found as usize + HOSTS - 1) & 15]);
    let is_found = (found + HOSTS as u64 - 1) >> 3;
    let class = u64::from(class);
    Some((class ^ ((class ^ own) & 0u64.wrapping_sub(is_found))) as u32)
}

/// The class of an IPv4 address.
#[inline(always)]
pub fn class4<T: Tables>(tables: &T, address: u32) -> Option<u32> {
    let entry = tables.root4((address >> 16) as u16);
    let class = walk16::<T, Addresses>(tables, entry, u64::from(address) & 0xffff)? as u32;
    if tables.host_buckets() == 0 {
        return Some(class);
    }
    class_of_host(tables, address, class)
}

/// The class of an IPv6 address, given as its two halves.
#[inline(always)]
pub fn class6<T: Tables>(tables: &T, high: u64, low: u64) -> Option<u32> {
    let tree = high >> TREE_BITS6;
    let mut root = tables.root6(tree as usize);
    let depth = tables.depth6();
    if depth == 0 {
        return Some(root);
    }
    if tables.index6() != 0 && tree == 0 {
        let index = high >> (TREE_BITS6 - INDEX_BITS6);
        root = tables.word(tables.index6().wrapping_add(index as u32))? as u32;
    }
    let mut entry = leaf_of(tables, root, depth, high & ((1 << TREE_BITS6) - 1))?;
    let low_depth = tables.low_depth6();
    if low_depth != 0 && is_pointer(entry) {
        entry = leaf_of(tables, entry as u32 & !POINTER, low_depth, low >> 1)?;
        if is_pointer(entry) {
            entry = tables.word((entry as u32 & !POINTER) + (low & 1) as u32)?;
        }
    }
    Some(entry as u32)
}

/// The entry of `class` in a column.
#[inline(always)]
pub fn column_entry<T: Tables>(
    tables: &T,
    class: u32,
    direction: Direction,
    kind: u8,
) -> Option<u64> {
    let begin = tables.column(column_index(direction, kind));
    tables.word(begin.wrapping_add(class))
}

/// The verdict below an entry of a column; `number` has 16 bits.
#[inline(always)]
pub fn verdict_below<T: Tables>(
    tables: &T,
    entry: u64,
    direction: Direction,
    number: u64,
) -> Verdict {
    match walk16::<T, Ports>(tables, entry, number) {
        Some(leaf) => Verdict(leaf as u32),
        None => Verdict::no_match(direction),
    }
}

/// The verdict of one direction's rules for `number` of `kind` (a [`crate::protocol::Kind`] as a
/// number), for a remote address of `class`.
#[inline(always)]
pub fn judge<T: Tables>(
    tables: &T,
    class: u32,
    direction: Direction,
    kind: u8,
    number: u16,
) -> Verdict {
    match column_entry(tables, class, direction, kind) {
        Some(entry) => verdict_below(tables, entry, direction, number.into()),
        None => Verdict::no_match(direction),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number against every key, counted the plain way; what lies beside it is not looked
    /// at.
    #[test]
    fn few_and_several_count_the_keys_that_a_number_has_reached() {
        let lists: [&[u16]; 8] = [
            &[1],
            &[65535],
            &[22, 23],
            &[1, 32768, 65535],
            &[1, 32767, 32768, 65535],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
            &[
                1000, 2000, 30000, 32767, 32768, 32769, 40000, 50000, 65534, 65535,
            ],
            &[
                1, 2, 1000, 2000, 30000, 32767, 32768, 32769, 40000, 50000, 65534, 65535,
            ],
        ];
        for keys in lists {
            let leaves: [u32; 13] = core::array::from_fn(|i| i as u32);
            let leaves = &leaves[..=keys.len()];
            let place = |layout: Layout, unit: usize| {
                let mut line = Line([u32::MAX; LINE_WORDS]);
                layout.write(&mut line.0[unit * UNIT_WORDS..], keys, leaves);
                line
            };
            for number in 0..=u16::MAX {
                let expected = keys.iter().filter(|&&key| number >= key).count() as u64;
                let number = u64::from(number);
                let check = |layout: Layout, units: &[usize], ask: fn(&Line, u32, u64) -> u64| {
                    if keys.len() <= layout.keys {
                        for &unit in units {
                            let found = ask(&place(layout, unit), unit as u32, number);
                            assert_eq!(found, expected, "{layout:?} {keys:?} {number}");
                        }
                    }
                };
                check(Layout::KEYS2, &[0, 2, 4, 6], |line, unit, number| {
                    let words = &line.0[unit as usize * UNIT_WORDS..];
                    keys2(words.first_chunk().unwrap(), number)
                });
                check(Layout::KEYS10, &[0], |line, _, number| keys10(line, number));
                check(Layout::NARROW_KEYS2, &[0, 1, 7], |line, unit, number| {
                    narrow_keys2(line.pairs()[unit as usize], number)
                });
                check(Layout::NARROW_KEYS10, &[0, 4], narrow_keys10);
            }
        }
    }

    #[test]
    fn an_entry_keeps_its_parts() {
        for form in NodeType::ALL {
            for shift in [0, 4, 8, 12] {
                let entry = pointer(form, shift, POSITION_MASK);
                assert!(is_pointer(entry.into()));
                let form_first = u64::from(entry) & !0 << NODE_TYPE_AT;
                assert_eq!(form_first, form.first());
                assert_eq!(u64::from(entry) >> NODE_TYPE_AT, form.head());
                assert_eq!((entry >> SHIFT_AT & 3) * 4, shift);
                assert_eq!(entry & POSITION_MASK, POSITION_MASK);
            }
        }
    }
}
