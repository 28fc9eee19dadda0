//! The programs of a hook. The first one, which is attached, decides what it can and jumps to
//! another for the rest: each is checked by the verifier, and has a stack, for itself.

/// What a hook's further programs are for: their indices in its program array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Any frame, from its first byte on.
    Long = 0,
    /// Packets that begin a flow, end it or take it further.
    Track = 1,
    /// ICMP errors that no rule accepts: whether what they quote is ours.
    Related = 2,
}

impl Stage {
    pub const ALL: [Stage; 3] = [Stage::Long, Stage::Track, Stage::Related];
}
