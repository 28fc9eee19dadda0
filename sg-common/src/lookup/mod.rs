//! Geometry of the lookup tables and the walks through them, shared by kernel and host: address →
//! class → entry of a column → verdict.
//!
//! Everything but the first level of IPv4 is one list of *lines* of 64 bytes, so that a step
//! costs one cache line. An *entry* is 32 bits: a leaf (bit 31 clear; an address class or a
//! [`crate::verdict::Verdict`]), or a pointer to what decides further:
//!
//! ```text
//!  31  30-29  28-27  26-0
//!   1   type  shift  position, in units of eight bytes
//!        0    -      2-key node:   2 keys and 3 leaves in two units
//!        1    -      10-key node:  10 keys and 11 leaves in a line
//!        2    n      16-way node:  a line of 16 entries, by the 4 bits of the number from bit 4n on
//!        3    -      256-way node: 16 lines of 256 entries, by the high 8 bits of the number
//! ```
//!
//! Where a policy has no more than 16 classes of IPv4 addresses, a leaf there takes 4 bits (it is
//! *narrow*): a 2-key node then has 3 keys and 4 leaves in one unit, a 10-key node 12 keys and 13
//! leaves in half a line. A list of a million prefixes has two classes; tables that do not fit a
//! core's cache cost a hundred nanoseconds a step.
//!
//! The low half of an IPv4 address and a port are both 16-bit numbers, so both are resolved by
//! the same walk. 2-key nodes and 10-key nodes divide the numbers at their keys, by arithmetic
//! instead of branches: which side of a key a random packet lies on cannot be predicted.
//!
//! ```text
//! IPv4 address ─ high 16 bits → root ─┬─ leaf ──────────────────────────→ class
//!                                     └─ low 16 bits → nodes, 256-way to 2-key → class
//!              └ hash → eight hosts ─── if it is one of them ───────────→ class instead
//! IPv6 address ─ high 64 bits → tree ─┬─ leaf ──────────────────────────→ class
//!                                     └─ low 64 bits → tree ────────────→ class
//! class, direction, kind → column ─┬─ leaf ─────────────────────────────→ verdict
//!                                  └─ port, ICMP type and code, or protocol → nodes → verdict
//! ```
//!
//! A *tree* divides numbers of at most 63 bits. A node is a line: seven keys, and where its
//! children begin; a node of the last level has five keys and six leaves. All branches are
//! equally deep, and the depth is known when a program is loaded. The topmost two bits of an
//! address choose one of four trees for the rest of its high half; where the first of these would
//! be deep, an index by the next 16 bits takes its place, with a tree for each. The lowest bit of
//! the low half chooses last, where it matters.

mod class;
mod entry;
mod hosts;
mod judge;
mod line;
mod node;
mod number;
mod shape;
mod tables;
mod tree6;

pub use class::{class4, class6};
pub use entry::{
    ANY_NODE_TYPES, NodeType, NodeTypes, POINTER, POSITION_MASK, WAY256_ENTRIES, is_pointer,
    pointer,
};
pub use hosts::{HOSTS, host_bucket};
pub use judge::{column_entry, judge, verdict_below};
pub use line::{LINE_UNITS, LINE_WORDS, Line, UNIT_WORDS};
pub use node::{Keys2Words, Layout, NARROW_BITS, stored_key};
pub use shape::{COLUMNS, SHAPE_LINES, Shape, column_index};
pub use tables::{BSS_LINES, BssTables, HASH_KEY_ROOM, Plain, ROOT_ENTRIES, Root, Tables};
pub use tree6::{
    INDEX_BITS6, LAST_KEYS, LAST_LEAVES, MAX_DEPTH, NO_KEY, NODE_CHILDREN, NODE_KEYS, TREE_BITS6,
    TREES6,
};
