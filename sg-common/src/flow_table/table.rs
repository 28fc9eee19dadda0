//! A flow table as a trait: its memory, and what the algorithm has to ask for.

use super::layout::{Line, NO_WAY, Page, Place, WAYS, kind_of_word};
use super::read::look;
use super::victim::victim;
use super::word::Word;
use crate::flow::FlowKind;
use crate::flow_entry::{Contents, FlowKey, Head};
use crate::flow_ports::PORT_COUNTS;

/// Attempts before a contended word is given up.
pub(super) const ATTEMPTS: u64 = 2;

/// A flow that was found, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Found {
    /// What its entry says.
    pub contents: Contents,
    /// The group that it was found in.
    pub group: u32,
    /// The word times [`WAYS`], and the way.
    pub at: u32,
}

impl Found {
    /// All zero.
    pub const NOTHING: Found = Found {
        contents: Contents {
            head: Head(0),
            rule: 0,
            begun: 0,
        },
        group: 0,
        at: 0,
    };

    /// Completes what has been found in a way of a word.
    #[inline(always)]
    pub const fn set_place(&mut self, group: u32, word: u32, way: u32) {
        self.group = group;
        self.at = word * WAYS as u32 + way;
    }

    /// The word of the group's line.
    #[inline(always)]
    pub const fn word(&self) -> u32 {
        self.at / WAYS as u32
    }

    /// Which kind of flow it was found among.
    #[inline(always)]
    pub const fn kind(&self) -> FlowKind {
        kind_of_word(self.word())
    }

    /// Where it was found.
    pub const fn place(&self) -> Place {
        Place {
            group: self.group,
            word: self.word(),
            way: self.at % WAYS as u32,
        }
    }
}

/// The memory of a table, and what else the algorithm has to ask for. `find_in`, `has` and
/// `victim` loop over the ways of a word: the packet path overrides them, to have each verified
/// once.
pub trait Table {
    /// How its words are read and written.
    type Word: Word;

    /// The tags of a group; `None` where there is no such group.
    fn line(&self, group: u32) -> Option<&Line<Self::Word>>;
    /// The entries of a group; `None` where there is no such group.
    fn page(&self, group: u32) -> Option<&Page<Self::Word>>;

    /// How many flows there are at which local ports, or more: see `flow_ports`.
    fn port_counts(&self) -> Option<&[Self::Word; PORT_COUNTS]>;

    /// The age at which a flow in `state` has expired: see [`crate::flow_entry::time_out`].
    fn time_out(&self, state: u8) -> u32;

    /// Looks for `key` among the `candidates` of one word, a result of [`super::matches()`]: its
    /// way, or [`NO_WAY`].
    #[inline(always)]
    fn find_in(
        &self,
        group: u32,
        word: u32,
        candidates: u64,
        key: &FlowKey,
        out: &mut Contents,
    ) -> u32 {
        match self
            .page(group)
            .and_then(|page| look(page, word, candidates, key))
        {
            Some((way, contents)) => {
                *out = contents;
                way
            }
            None => NO_WAY,
        }
    }

    /// Whether `key` is there.
    #[inline(always)]
    fn has(&self, group: u32, word: u32, candidates: u64, key: &FlowKey) -> bool {
        self.page(group)
            .and_then(|page| look(page, word, candidates, key))
            .is_some()
    }

    /// Gives back a way that was claimed and written, by calling [`super::give_back`]. Rarely asked
    /// for: the packet path has it apart, for the stack is short.
    fn give_back(&self, group: u32, word: u32, way: u32);

    /// The way of a word, which holds these tags, whose flow has to go, or [`NO_WAY`].
    #[inline(always)]
    fn victim(&self, group: u32, word: u32, tags: u64, clock: u32) -> u32 {
        match self.page(group) {
            Some(page) => victim(page, word, tags, clock, |state| self.time_out(state)),
            None => NO_WAY,
        }
    }
}
