//! What is in force in an attachment and what was: for the policy in force and the last ones that
//! it replaced, who applied it, when, and its text. `show`, `history`, `diff --iface` and `rollback
//! --to` read it; it goes with its attachment.
//!
//! The record of an interface (`state`) is the truth about what is in force; nothing here claims
//! anything else. A change is written down in two steps, so that a process may be killed at any
//! moment:
//!
//! 1. `begin`, before any hook is touched, keeps the text of the new policy and notes what is
//!    intended: the generation that is to be, and how the one before it ends.
//! 2. `settle`, when the records name the new generation, makes the note true and removes what is
//!    too old.
//!
//! Whoever reads in between asks the record which generation is in force, and believes the note
//! only if it is that one. What an attempt has left that failed is removed by the next change.
//!
//! Pins, in the directory of the attachment: `history` is a blob of JSON (`Book`); `policy_7` is
//! the text of generation 7, as the JSON of a `PolicyText`, compressed: its length (u32,
//! little-endian), then DEFLATE (RFC 1951). `candidate_8` is in the same form the text of the
//! candidate that was put beside a policy with generation 8, for as long as a record names it.

mod book;
mod change;
mod keepsake;
mod read;
mod text;

pub use super::how::{Ended, How};
pub use book::{Entry, KEPT};
pub(super) use change::{begin, returned, settle};
pub use keepsake::Keepsake;
pub use read::{HEAD_LINES, candidate, history, in_force, just_undone, kept, policy};
pub use text::BYTES;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use text::fuzz;
pub(super) use text::render;
#[cfg(test)]
pub(super) use text::samples;
