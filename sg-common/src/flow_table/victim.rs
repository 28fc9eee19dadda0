//! Chooses which flow of a full word has to go.

use super::layout::{NO_WAY, Page, WAYS, entry_of};
use super::tags::{BUSY, matches, spread};
use super::word::Word;
use crate::flow_entry::{HEAD, Head, age};
use crate::tcp;

/// The way of a word, which holds these tags, whose flow has to go, or [`NO_WAY`]: that of a flow
/// that has expired, else one that is closing, and of several such, or else of all, the one seen
/// least recently.
#[inline(always)]
pub fn victim<W: Word>(
    page: &Page<W>,
    word: u32,
    tags: u64,
    clock: u32,
    time_out: impl Fn(u8) -> u32,
) -> u32 {
    // A way that is free or being written is unfit: its tag is less than any flow's. The tags are
    // those that the claim will compare: by newer ones, a way that another CPU is writing could be
    // claimed a second time.
    let mut unfit = (matches(tags, 0) | matches(tags, spread(BUSY))) >> 7;
    let mut best = 0u64;
    let mut next = W::opaque(0);
    while next < WAYS as u64 {
        let is_fit = W::opaque((unfit & 1).wrapping_sub(1));
        let head = Head(entry_of(page, word, next as u32)[HEAD].load());
        let age = age(clock, head.last_seen()) as u64;
        let left = (time_out(head.state()) as u64).wrapping_sub(age);
        let expired = W::opaque(left) >> 63;
        let closing = tcp::is_closing(head.state()) as u64;
        // From the highest bit on: expired or not, closing or not, the age, a 1 that says that
        // there is a way, and the way. One function for all eight ways: with a call for
        // each of them an eviction would take a third longer.
        let rank = (expired << 37 | closing << 36 | age << 4 | WAYS as u64 | next) & is_fit;
        unfit >>= 8;
        next += 1;
        // The larger one of two numbers below 2^63.
        let less = best.wrapping_sub(rank);
        let is_less = W::opaque((less as i64 >> 63) as u64);
        best = best.wrapping_sub(less & is_less);
    }
    if best == 0 {
        NO_WAY
    } else {
        best as u32 % WAYS as u32
    }
}
