//! Geometry of the lookup tables and the one walk through them, shared by kernel and host.
//!
//! A table entry is 32 bits: bit 31 set means "pointer", the rest then being the index of a block
//! or node; clear means "leaf", the rest being the payload (an address class, or a [`Verdict`]).
//!
//! Both the low half of an IPv4 address and a port are 16-bit numbers, so both are resolved by the
//! same walk: 8 bits in a 256-entry block, then 4 and 4 bits in 16-entry nodes (one cache line
//! each), stopping at the first leaf.
//!
//! ```text
//! IPv4 address ─ high 16 bits → root ─┬─ leaf ────────────────────────────→ class
//!                                     └─ low 16 bits → block → node → node → class
//! class → row of 16 entries: one for each direction and port kind
//! row entry ─┬─ leaf ──────────────────────────────────────────────→ verdict
//!            └─ port (or ICMP type and code, or protocol) → block → node → node → verdict
//! ```

use crate::verdict::{Direction, Verdict};

/// Set in an entry that points to a block or node.
pub const POINTER: u32 = 1 << 31;

pub const ROOT_ENTRIES: usize = 1 << 16;
pub const BLOCK_ENTRIES: usize = 256;
pub const NODE_ENTRIES: usize = 16;

/// First level: one entry for each /16 of IPv4.
pub type Root = [u32; ROOT_ENTRIES];
pub type Block = [u32; BLOCK_ENTRIES];
pub type Node = [u32; NODE_ENTRIES];
/// What an address class decides: entry `direction * 8 + kind`.
pub type Row = [u32; 16];

/// What the 16-bit number of a port table means, by protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Tcp = 0,
    Udp = 1,
    Sctp = 2,
    /// ICMP in a class of IPv4 addresses, ICMPv6 in one of IPv6: type in the high byte, code in
    /// the low one.
    Icmp = 3,
    /// Every other protocol: its number in the high byte, zero in the low one.
    Other = 4,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Tcp, Kind::Udp, Kind::Sctp, Kind::Icmp, Kind::Other];
}

pub const IPPROTO_ICMP: u8 = 1;
pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
pub const IPPROTO_AH: u8 = 51;
pub const IPPROTO_ICMPV6: u8 = 58;
pub const IPPROTO_SCTP: u8 = 132;

/// Index of a row's entry; `kind` is a [`Kind`] as a number, masked so that the verifier sees that
/// the index is inside the row.
#[inline(always)]
pub const fn row_index(direction: Direction, kind: u8) -> usize {
    direction as usize * 8 + (kind & 7) as usize
}

/// The number by which a protocol other than TCP, UDP, SCTP and ICMP is looked up.
#[inline(always)]
pub const fn other_number(protocol: u8) -> u16 {
    (protocol as u16) << 8
}

/// The number by which an ICMP message is looked up.
#[inline(always)]
pub const fn icmp_number(kind: u8, code: u8) -> u16 {
    (kind as u16) << 8 | code as u16
}

/// The request type of an ICMP query or of its answer (RFC 792, RFC 950, RFC 4443, RFC 4620), and
/// whether this is the request. Messages that are neither belong to no flow.
#[inline(always)]
pub const fn icmp_query(v6: bool, kind: u8) -> Option<(u8, bool)> {
    match (v6, kind) {
        (false, 8) => Some((8, true)),
        (false, 0) => Some((8, false)),
        (false, 13) => Some((13, true)),
        (false, 14) => Some((13, false)),
        (false, 15) => Some((15, true)),
        (false, 16) => Some((15, false)),
        (false, 17) => Some((17, true)),
        (false, 18) => Some((17, false)),
        (true, 128) => Some((128, true)),
        (true, 129) => Some((128, false)),
        (true, 139) => Some((139, true)),
        (true, 140) => Some((139, false)),
        _ => None,
    }
}

/// The answer's type to a request's type of [`icmp_query`].
#[inline(always)]
pub const fn icmp_answer(v6: bool, request: u8) -> u8 {
    match (v6, request) {
        (false, 8) => 0,
        (_, other) => other + 1,
    }
}

/// Read access to blocks and nodes. `None` means the index lies outside the table, which the
/// compiler never produces and the walk treats as "nothing accepts this".
pub trait Tables {
    fn block(&self, index: u32) -> Option<&Block>;
    fn node(&self, index: u32) -> Option<&Node>;
}

/// Resolves the 16-bit `number` below `entry` to a leaf's payload: at most three loads.
#[inline(always)]
pub fn walk16<T: Tables>(tables: &T, entry: u32, number: u16) -> Option<u32> {
    if entry & POINTER == 0 {
        return Some(entry);
    }
    let entry = tables.block(entry & !POINTER)?[(number >> 8) as usize];
    if entry & POINTER == 0 {
        return Some(entry);
    }
    let entry = tables.node(entry & !POINTER)?[(number >> 4 & 15) as usize];
    if entry & POINTER == 0 {
        return Some(entry);
    }
    Some(tables.node(entry & !POINTER)?[(number & 15) as usize] & !POINTER)
}

/// The verdict of one direction's rules for `number` of `kind` (a [`Kind`] as a number), given the class's row.
#[inline(always)]
pub fn judge<T: Tables>(
    tables: &T,
    row: &Row,
    direction: Direction,
    kind: u8,
    number: u16,
) -> Verdict {
    match walk16(tables, row[row_index(direction, kind)], number) {
        Some(leaf) => Verdict(leaf),
        None => Verdict::no_match(direction),
    }
}
