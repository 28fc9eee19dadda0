//! Enters a flow: claims a way, writes the entry, publishes the tag.

use super::counts::{count_in, count_out};
use super::layout::{NO_WAY, WAYS, entry_of, word_of};
use super::read::SAME_TAG;
use super::spot::{Spot, word_for};
use super::table::{ATTEMPTS, Found, Table};
use super::tags::{BUSY, count, lowest, matches, spread};
use super::word::Word;
use crate::flow_entry::{ADDRESSES, BEGUN, Contents, FlowKey, HEAD, Head, NAME, RULE};

/// A way that has been claimed: only the CPU that claimed it may write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The group.
    pub group: u32,
    /// The tag of the flow that it was claimed for.
    pub tag: u64,
    /// The word of the group's line.
    pub word: u32,
    /// Which way of that word.
    pub way: u32,
    /// 1 if another flow has gone for it.
    pub evicted: u32,
}

/// Why no way has been claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// The flow is there already, or no other flow can be evicted for it.
    NotNeeded,
    /// Another CPU has changed the word meanwhile: it is worth another attempt.
    Raced,
}

/// Claims a way for a flow of `kind` (a [`crate::flow::FlowKind`] as a number), unless the flow is
/// in the word to which it would go. After it comes [`publish`], and nothing else.
pub fn claim<T: Table + ?Sized>(
    table: &T,
    spot: &Spot,
    key: &FlowKey,
    kind: u32,
    clock: u32,
) -> Option<Claim> {
    for _ in 0..ATTEMPTS {
        match try_claim(table, spot, key, kind, clock) {
            Ok(claim) => return Some(claim),
            Err(Unclaimed::NotNeeded) => return None,
            Err(Unclaimed::Raced) => (),
        }
    }
    None
}

/// One attempt of [`claim`].
#[inline(always)]
pub fn try_claim<T: Table + ?Sized>(
    table: &T,
    spot: &Spot,
    key: &FlowKey,
    kind: u32,
    clock: u32,
) -> Result<Claim, Unclaimed> {
    let group = spot.group;
    let line = table.line(group).ok_or(Unclaimed::NotNeeded)?;
    let word = word_for(line, spot, kind);
    let tags = word_of(line, word);
    // The tag can be had from this: it is not kept beside it.
    let spread = T::Word::opaque(spread(spot.tag));
    let seen = tags.load();
    let candidates = matches(seen, spread);
    if candidates != 0 && table.has(group, word, candidates, key) {
        return Err(Unclaimed::NotNeeded);
    }
    // The way is one of a flow with the same tag if there are too many of those, else a free one.
    // By arithmetic, so that the verifier has one path to explore: `is_crowded` has all bits
    // set or none.
    const _: () = assert!(SAME_TAG + 5 == WAYS as u64 && WAYS == 8);
    let is_crowded = 0u64.wrapping_sub((count(candidates) + 5) >> 3);
    let free = matches(seen, 0) & !is_crowded;
    let choice = T::Word::forget(free | candidates & is_crowded, seen);
    let way = if choice != 0 {
        lowest(choice)
    } else {
        table.victim(group, word, seen, clock)
    };
    let way = T::Word::forget(way.into(), seen) as u32;
    if way == NO_WAY {
        return Err(Unclaimed::NotNeeded);
    }
    let shift = way % WAYS as u32 * 8;
    let is_free = T::Word::opaque(free >> shift >> 7) & 1;
    let page = table.page(group).ok_or(Unclaimed::NotNeeded)?;
    count_in(table, key.name);
    if !tags.replace(seen, seen & !(0xff << shift) | BUSY << shift) {
        count_out(table, key.name);
        return Err(Unclaimed::Raced);
    }
    if is_free == 0 {
        // The name is still that of the evicted flow.
        count_out(table, entry_of(page, word, way)[NAME].load());
    }
    Ok(Claim {
        group,
        tag: spread & 0xff,
        word,
        way,
        evicted: is_free as u32 ^ 1,
    })
}

/// Writes a flow into the way that was claimed for it. False if another CPU was faster, or if too
/// many others write to the word; the way has been given back then. After an established flow
/// [`double`] is to be called.
#[inline(always)]
pub fn publish<T: Table + ?Sized>(
    table: &T,
    claim: &Claim,
    key: &FlowKey,
    contents: &Contents,
) -> bool {
    let Claim {
        group, word, way, ..
    } = *claim;
    let (Some(line), Some(page)) = (table.line(group), table.page(group)) else {
        return false;
    };
    let tags = word_of(line, word);
    let shift = way % WAYS as u32 * 8;
    let entry = entry_of(page, word, way);
    let busy = Head(entry[HEAD].load()).next_busy();
    entry[HEAD].swap(busy.0);
    entry[NAME].store(key.name);
    entry[RULE].store(contents.rule);
    let [a, b, c, d] = key.addresses;
    entry[ADDRESSES].store(a);
    entry[ADDRESSES + 1].store(b);
    entry[ADDRESSES + 2].store(c);
    entry[ADDRESSES + 3].store(d);
    entry[BEGUN].store(contents.begun);
    entry[HEAD].swap(contents.head.of_version(busy).0);
    let mut left = T::Word::opaque(ATTEMPTS);
    while left != 0 {
        left -= 1;
        let seen = tags.load();
        let candidates = matches(seen, spread(claim.tag));
        if count(candidates) >= SAME_TAG
            || candidates != 0 && table.has(group, word, candidates, key)
        {
            break;
        }
        if tags.replace(seen, seen.wrapping_add((claim.tag - BUSY) << shift)) {
            return true;
        }
    }
    table.give_back(group, word, way);
    false
}

/// See [`Table::give_back`].
#[inline(always)]
pub fn give_back<T: Table + ?Sized>(table: &T, group: u32, word: u32, way: u32) {
    let (Some(line), Some(page)) = (table.line(group), table.page(group)) else {
        return;
    };
    let entry = entry_of(page, word, way);
    let (head, name) = (&entry[HEAD], entry[NAME].load());
    head.swap(Head(head.load()).next_busy().0);
    let shift = way % WAYS as u32 * 8;
    word_of(line, word).add((BUSY << shift).wrapping_neg());
    count_out(table, name);
}

/// Where two CPUs have entered an established flow at once, each into another of its two words, the
/// entry in the second word: it is to be removed. Each CPU calls this after it has entered its own,
/// so that the later one sees both.
#[inline(always)]
pub fn double<T: Table + ?Sized>(table: &T, spot: &Spot, key: &FlowKey) -> Option<Found> {
    let mut found = Found::NOTHING;
    let line = table.line(spot.group)?;
    let candidates = |word| matches(word_of(line, word).load(), spread(spot.tag));
    let (first, second) = (candidates(spot.first), candidates(spot.second));
    if first == 0 || second == 0 || !table.has(spot.group, spot.first, first, key) {
        return None;
    }
    let way = table.find_in(spot.group, spot.second, second, key, &mut found.contents);
    if way == NO_WAY {
        return None;
    }
    found.set_place(spot.group, spot.second, way);
    Some(found)
}
