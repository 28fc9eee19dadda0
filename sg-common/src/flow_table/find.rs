//! Looks for a flow.

use super::layout::{NO_WAY, word_of};
use super::spot::Spot;
use super::table::{Found, Table};
use super::tags::{matches, spread};
use super::word::Word;
use crate::flow::FlowKind;
use crate::flow_entry::FlowKey;

/// Looks for a flow, first among the half-open ones. A flow that becomes established is entered
/// among those before it leaves the half-open ones, so that a packet that does not find it among
/// these any more finds it among those.
#[inline(always)]
pub fn find<T: Table + ?Sized>(table: &T, spot: &Spot, key: &FlowKey, out: &mut Found) -> bool {
    let Some(line) = table.line(spot.group) else {
        return false;
    };
    let tags = spread(spot.tag);
    // One number for the three of them, four bits for each, in their order.
    let mut words = 0u64;
    for word in [spot.second, spot.first, spot.half_open] {
        words = words << 4 | word as u64;
    }
    let mut left = T::Word::opaque(3);
    while left != 0 {
        left -= 1;
        let word = words as u32 & 7;
        words >>= 4;
        let candidates = matches(word_of(line, word).load(), tags);
        if candidates == 0 {
            continue;
        }
        let way = table.find_in(spot.group, word, candidates, key, &mut out.contents);
        if way != NO_WAY {
            out.set_place(spot.group, word, way);
            return true;
        }
    }
    false
}

/// Looks for a flow among those of one kind.
pub fn find_kind<T: Table + ?Sized>(
    table: &T,
    spot: &Spot,
    key: &FlowKey,
    kind: FlowKind,
) -> Option<Found> {
    let words: &[u32] = match kind {
        FlowKind::Established => &[spot.first, spot.second],
        FlowKind::HalfOpen => &[spot.half_open],
    };
    let line = table.line(spot.group)?;
    let mut found = Found::NOTHING;
    for &word in words {
        let candidates = matches(word_of(line, word).load(), spread(spot.tag));
        let way = table.find_in(spot.group, word, candidates, key, &mut found.contents);
        if way != NO_WAY {
            found.set_place(spot.group, word, way);
            return Some(found);
        }
    }
    None
}
