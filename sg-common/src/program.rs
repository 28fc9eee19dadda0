//! The programs of a hook, and the forms of the first. The first one, which is attached, decides
//! what it can and jumps to another for the rest: each is checked by the verifier, and has a
//! stack, for itself.

/// What a hook's further programs are for: their indices in its program array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any frame, from its first byte on.
    Slow = 0,
    /// Packets that begin a flow, end it or take it further.
    Track = 1,
    /// ICMP errors that no rule accepts: whether what they quote is ours.
    Related = 2,
}

impl Target {
    /// All of them, each at its index.
    pub const ALL: [Target; 3] = [Target::Slow, Target::Track, Target::Related];
}

// What the first program is made for, as bits of one constant: there is a form of it for all of
// them, and one that asks.

/// There may be flows.
pub const HAS_FLOWS: u8 = 1;
/// All lines of the tables are in the programs' own memory.
pub const HAS_BSS_TABLES: u8 = 2;
/// The programs do not enforce yet. They run the whole path, so that flows which the rules admit
/// are entered and taken further, but pass every frame, and count and log none: for the moment of
/// attaching, in which one direction is judged before the other.
pub const REMEMBERS: u8 = 4;
/// Some packets are to be logged.
pub const HAS_LOGS: u8 = 8;
/// The packet path writes a record of every packet for whoever develops it: all take the slow
/// path.
pub const HAS_TRACE: u8 = 16;
/// A TCP flow of the table may be a cut one (see [`crate::flow::CUT`]): it is looked for also
/// where the rules pass both directions, and nothing else is asked of the table.
pub const MAY_HAVE_CUT: u8 = 32;
