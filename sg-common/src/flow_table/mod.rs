//! The flow table: set-associative, in two arrays, without locks. One algorithm for the packet
//! path, for userspace and for the tests; each brings its own atomic words.
//!
//! A *group* is one cache line of tags and one page of entries. Its eight words hold eight
//! one-byte tags each: six words for established flows, two for half-open ones, so that a flood
//! of opening packets evicts its like only. A flow's hash names its group, one word of each half
//! of the established ones, of which the emptier is taken (two choices even the load out: with
//! twice the room that flows need, next to none is evicted), a half-open word, and the tag. That
//! there is no flow is known from one line of tags.
//!
//! Beside them there are counts of flows by their local ports: see `flow_ports`.
//!
//! Who may write an entry is decided by its tag alone:
//!
//! - 0 is free, [`BUSY`] belongs to whoever swapped it in, any other is the tag of a flow. A way is
//!   claimed by a compare-and-swap of the whole word, which succeeds only if nothing in the word
//!   has changed since it was looked through. So is a new flow's tag published: of two CPUs that
//!   enter the same flow at once into one word the later one finds the other, and gives its way
//!   back. Where they have chosen different words, each looks into both after publishing, and
//!   whoever sees it twice takes out the one in the second word.
//! - An entry's head has another version for each flow, and is marked while it is written. A reader
//!   takes what it has read only if the head is then still of the flow that it began with; whoever
//!   changes a head does so from the value that it has read.
//!
//! Nothing waits: every loop is bounded, and who loses goes without an entry.

mod change;
mod counts;
mod enter;
mod find;
mod layout;
mod read;
mod spot;
mod table;
mod tags;
mod victim;
mod word;

pub use change::{change, change_begun, change_head, change_rule, cut, reclaim, remove};
pub use counts::may_have;
pub use enter::{Claim, Unclaimed, claim, give_back, publish, settle, try_claim};
pub use find::{find, find_kind};
pub use layout::{
    Entry, LINE_WORDS, Line, NO_WAY, Page, Place, WAYS, groups_for, kind_of_word, tags_of,
};
pub use read::{Words, look, read, read_any, read_if};
pub use spot::{Spot, choose, in_both};
pub use table::{Found, Table};
pub use tags::{BUSY, has_match, lowest, matches, spread};
pub use victim::victim;
pub use word::Word;
