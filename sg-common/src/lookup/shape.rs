//! The shape of a policy's tables: where each of them begins in the list of lines, and how deep it
//! is.

use super::entry::{ANY_NODE_TYPES, NodeTypes};
use super::line::Line;
use super::tree6::{MAX_DEPTH, TREES6};
use crate::verdict::Direction;

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
    /// Node types that there are for IPv4 addresses.
    pub address_node_types: NodeTypes,
    /// Node types that there are in port tables.
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

const _: () = assert!(size_of::<Shape>() == 4 * (COLUMNS + TREES6 + 9));

// SAFETY: integers without padding, as is asserted above; every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Shape {}

/// The first lines hold the [`Shape`].
pub const SHAPE_LINES: usize = 2;

impl Shape {
    /// What the object file holds until the loader writes its own: whatever a policy may have.
    pub const UNSET: Shape = Shape {
        columns: [0; COLUMNS],
        roots6: [0; TREES6],
        depth6: MAX_DEPTH,
        index6: 0,
        low_depth6: MAX_DEPTH,
        address_node_types: ANY_NODE_TYPES,
        port_node_types: ANY_NODE_TYPES,
        narrow: 0,
        hosts_at: 0,
        host_buckets: 0,
        classes: 0,
    };

    /// Where the column of a direction and kind begins.
    #[inline(always)]
    pub const fn column(&self, index: usize) -> u32 {
        self.columns[index & (COLUMNS - 1)]
    }

    /// Where the tree for these topmost bits of an IPv6 address begins.
    #[inline(always)]
    pub const fn root6(&self, index: usize) -> u32 {
        self.roots6[index & (TREES6 - 1)]
    }

    /// The first lines, which hold it.
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

    /// Whether these lines hold no shape, because all lines are in the array map.
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
