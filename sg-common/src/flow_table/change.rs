//! Changes a flow that was found, or takes it out.

use super::counts::count_out;
use super::layout::{Entry, Place, WAYS, entry_of, word_of};
use super::table::{ATTEMPTS, Found, Table};
use super::tags::BUSY;
use super::word::Word;
use crate::flow_entry::{BEGUN, HEAD, Head, NAME, RULE};

/// Takes a flow out of the table. False if it has gone already, or if too many others write to its
/// word.
#[inline(always)]
pub fn remove<T: Table + ?Sized>(table: &T, found: &Found) -> bool {
    let (Some(line), Some(page)) = (table.line(found.group), table.page(found.group)) else {
        return false;
    };
    let (word, way) = (found.word(), found.at % WAYS as u32);
    let tags = word_of(line, word);
    let shift = way * 8;
    let entry = entry_of(page, word, way);
    let mut left = T::Word::opaque(ATTEMPTS);
    while left != 0 {
        left -= 1;
        let seen = tags.load();
        let tag = seen >> shift & 0xff;
        let is_there = || Head(entry[HEAD].load()).is_same_flow(found.contents.head);
        if tag <= BUSY || !is_there() {
            return false;
        }
        if !tags.replace(seen, seen & !(0xff << shift) | BUSY << shift) {
            continue;
        }
        // The flow is in this way of the group, unless another one with the same tag has replaced
        // it meanwhile.
        if !is_there() {
            tags.add((tag - BUSY) << shift);
            return false;
        }
        let name = entry[NAME].load();
        entry[HEAD].swap(found.contents.head.next_busy().0);
        tags.add((BUSY << shift).wrapping_neg());
        count_out(table, name);
        return true;
    }
    false
}

/// Changes a flow's head from what was found. `None` if that succeeded, or else what the head is by
/// now.
#[inline(always)]
pub fn change<T: Table + ?Sized>(table: &T, found: &Found, head: Head) -> Option<Head> {
    let page = table.page(found.group)?;
    let word = &entry_of(page, found.word(), found.at)[HEAD];
    if word.replace(found.contents.head.0, head.0) {
        return None;
    }
    Some(Head(word.load()))
}

/// Gives back a way that a process was writing when it was killed. `was_busy` is what its head was
/// some time ago, when the way was busy already; no process that lives takes that long. Which flows
/// the process has counted is not known, so that a count stays too high.
pub fn reclaim<T: Table + ?Sized>(table: &T, place: Place, was_busy: Head) -> bool {
    let (Some(line), Some(page)) = (table.line(place.group), table.page(place.group)) else {
        return false;
    };
    let tags = word_of(line, place.word);
    let shift = place.way % WAYS as u32 * 8;
    let entry = entry_of(page, place.word, place.way);
    let seen = tags.load();
    seen >> shift & 0xff == BUSY
        && entry[HEAD].load() == was_busy.0
        && tags.replace(seen, seen & !(0xff << shift))
}

/// Changes the head of an entry, if it still is what was read.
#[inline(always)]
pub fn change_head<W: Word>(entry: &Entry<W>, from: Head, to: Head) {
    entry[HEAD].replace(from.0, to.0);
}

/// Puts another rule in the place of the one that was found.
#[inline(always)]
pub fn change_rule<T: Table + ?Sized>(table: &T, found: &Found, rule: u64) {
    if let Some(page) = table.page(found.group) {
        entry_of(page, found.word(), found.at)[RULE].replace(found.contents.rule, rule);
    }
}

/// Replaces the [`BEGUN`] word that was found. The entry may be another flow's by now. If that one
/// began in the same tick and waits for the same number it is changed all the same, and then waits
/// for another segment; nothing worse happens.
#[inline(always)]
pub fn change_begun<T: Table + ?Sized>(table: &T, found: &Found, begun: u64) {
    if let Some(page) = table.page(found.group) {
        entry_of(page, found.word(), found.at)[BEGUN].replace(found.contents.begun, begun);
    }
}

/// Makes a TCP flow a cut one, unless it has gone: see [`crate::flow::CUT`].
pub fn cut<T: Table + ?Sized>(table: &T, found: &Found, tick: u32) {
    let mut found = *found;
    for _ in 0..ATTEMPTS {
        let head = found.contents.head;
        match change(table, &found, head.cut().seen_at(tick)) {
            Some(current) if current.is_same_flow(head) => found.contents.head = current,
            _ => return,
        }
    }
}
