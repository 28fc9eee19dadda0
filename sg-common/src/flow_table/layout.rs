//! How a group lies in memory: a line of tags, and a page with an entry for each of them.

use super::word::Word;
use crate::flow::FlowKind;
use crate::flow_entry::ENTRY_WORDS;

/// Words of a line of tags.
pub const LINE_WORDS: usize = 8;

/// Entries of a word.
pub const WAYS: usize = 8;

pub(super) const ESTABLISHED_WORDS: usize = 6;
pub(super) const HALF: u32 = ESTABLISHED_WORDS as u32 / 2;
pub(super) const HALF_OPEN_WORDS: u32 = (LINE_WORDS - ESTABLISHED_WORDS) as u32;

/// Instead of a way.
pub const NO_WAY: u32 = WAYS as u32;

/// Groups that a table needs for `flows` established flows: it has twice as many ways, so that
/// next to none is evicted.
pub const fn groups_for(flows: u32) -> u32 {
    const WAYS_OF_GROUP: u64 = (ESTABLISHED_WORDS * WAYS) as u64;
    let groups = (2 * flows as u64).div_ceil(WAYS_OF_GROUP);
    if groups == 0 { 1 } else { groups as u32 }
}

/// The tags of a group: eight words of eight tags, one cache line.
pub type Line<W> = [W; LINE_WORDS];

/// One flow, one cache line: see `flow_entry` for its words.
pub type Entry<W> = [W; ENTRY_WORDS];

/// The entries of a group.
pub type Page<W> = [[Entry<W>; WAYS]; LINE_WORDS];

/// A way of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its group.
    pub group: u32,
    /// The word of the group's line.
    pub word: u32,
    /// Which way of that word.
    pub way: u32,
}

/// Which kind of flow a word holds.
#[inline(always)]
pub const fn kind_of_word(word: u32) -> FlowKind {
    if word < ESTABLISHED_WORDS as u32 {
        FlowKind::Established
    } else {
        FlowKind::HalfOpen
    }
}

/// One word of a line.
#[inline(always)]
pub fn tags_of<W: Word>(line: &Line<W>, word: u32) -> u64 {
    word_of(line, word).load()
}

#[inline(always)]
pub(super) fn word_of<W>(line: &Line<W>, word: u32) -> &W {
    &line[(word % LINE_WORDS as u32) as usize]
}

#[inline(always)]
pub(super) fn entry_of<W>(page: &Page<W>, word: u32, way: u32) -> &Entry<W> {
    &page[(word % LINE_WORDS as u32) as usize][(way % WAYS as u32) as usize]
}
