//! Reads an entry that others may be writing, and takes it only if it was of one flow throughout.

use super::layout::{Entry, Page, entry_of};
use super::tags::lowest;
use super::word::Word;
use crate::flow_entry::{ADDRESSES, BEGUN, Contents, FlowKey, HEAD, Head, NAME, RULE};

/// How many flows of one word may have the same tag, so that looking among them is soon over. A
/// fourth one, which there is once in some ten thousand full words, takes the place of another.
pub(super) const SAME_TAG: u64 = 3;

/// The words of an entry, as they were after its head was read.
pub struct Words<'a, W> {
    entry: &'a Entry<W>,
    before: u64,
}

impl<W: Word> Words<'_, W> {
    /// One of them; `index` is below [`crate::flow_entry::ENTRY_WORDS`].
    #[inline(always)]
    pub fn get(&self, index: usize) -> u64 {
        self.entry[index].load_after(self.before)
    }
}

/// Reads an entry, if `differs` returns zero for its words. All that is returned is of one flow.
#[inline(always)]
pub fn read_if<W: Word>(
    entry: &Entry<W>,
    differs: impl FnOnce(&Words<'_, W>) -> u64,
) -> Option<Contents> {
    let before = entry[HEAD].load();
    let words = Words { entry, before };
    let mut differs = differs(&words);
    let (rule, begun) = (words.get(RULE), words.get(BEGUN));
    let after = entry[HEAD].load_after(rule ^ begun ^ differs);
    // One condition for all of it, since the verifier explores both sides of each.
    differs |= Head::moved(before, after);
    if W::opaque(differs) != 0 {
        return None;
    }
    Some(Contents {
        head: Head(after),
        rule,
        begun,
    })
}

/// Reads an entry if it holds `key`.
#[inline(always)]
pub fn read<W: Word>(entry: &Entry<W>, key: &FlowKey) -> Option<Contents> {
    read_if(entry, |words| {
        let key = W::unread(key);
        let mut differs = words.get(NAME) ^ key.name;
        for (i, address) in key.addresses.into_iter().enumerate() {
            differs |= words.get(ADDRESSES + i) ^ address;
        }
        differs
    })
}

/// Reads whatever flow an entry holds, if it can be read whole.
pub fn read_any<W: Word>(entry: &Entry<W>) -> Option<(FlowKey, Contents)> {
    let key = FlowKey {
        name: entry[NAME].load(),
        addresses: [
            entry[ADDRESSES].load(),
            entry[ADDRESSES + 1].load(),
            entry[ADDRESSES + 2].load(),
            entry[ADDRESSES + 3].load(),
        ],
    };
    Some((key, read(entry, &key)?))
}

/// Which of the `candidates` of a word holds `key`, and what is in it.
#[inline(always)]
pub fn look<W: Word>(
    page: &Page<W>,
    word: u32,
    candidates: u64,
    key: &FlowKey,
) -> Option<(u32, Contents)> {
    let mut candidates = candidates;
    let mut left = W::opaque(SAME_TAG);
    while left != 0 && candidates != 0 {
        left -= 1;
        let way = lowest(candidates);
        candidates &= candidates.wrapping_sub(1);
        if let Some(contents) = read(entry_of(page, word, way), key) {
            return Some((way, contents));
        }
    }
    None
}
