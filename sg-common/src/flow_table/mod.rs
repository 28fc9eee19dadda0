//! The flow table: set-associative, in two arrays, without locks. One algorithm for the packet
//! path, for userspace and for the tests; each brings its own atomic words.
//!
//! A *group* is one cache line of tags and one page of entries. Its eight words hold eight
//! one-byte tags each: six words for established flows, two for half-open ones, so that a flood
//! of opening packets evicts its like only. A flow's hash names its group, one word of each half
//! of the established ones, a half-open word, and the tag. A new established flow goes to the
//! emptier of its two words: two choices even the load out, and with twice as many ways as flows
//! next to none is evicted. One line of tags shows that there is no flow.
//!
//! Beside them there are counts of flows by their local ports: see `flow_ports`.
//!
//! An entry's tag alone decides which CPU may write the entry:
//!
//! - 0 is free. [`BUSY`] belongs to the CPU that swapped it in. Any other is the tag of a flow. A
//!   way is claimed by a compare-and-swap of the whole word, which succeeds only if nothing in the
//!   word has changed since it was looked through. So is a new flow's tag published: of two CPUs
//!   that enter the same flow at once into one word the later one finds the other, and gives its
//!   way back. Where they have chosen different words, each looks into both after publishing, and
//!   the one that sees the flow twice takes out the entry in the second word.
//! - An entry's head has another version for each flow, and is marked while it is written. A reader
//!   takes what it has read only if the head is still of the same flow afterwards. A head is
//!   changed by a compare-and-swap from the value that was read.
//!
//! Nothing waits: every loop is bounded, and a packet that loses a race goes without an entry.

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
pub use enter::{Claim, Unclaimed, claim, double, give_back, publish, try_claim};
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
