//! Asks the rules: the verdict on a number of a kind, in an address class.

use sg_common::{
    flow_table::Word as _,
    lookup::{Tables as _, column_index, verdict_below},
    verdict::{Direction, Verdict},
};

use crate::bpf::{
    maps::{Generic, KernelTables},
    word::SharedWord,
};

/// The verdict of `direction`'s rules on `number` of `kind` in `class`; without tables for it,
/// which cannot be, nothing is accepted.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_ask_rules(class: u32, direction: u32, kind: u32, number: u32) -> u32 {
    // As `lookup::judge`, but with the direction as a number: a condition would be two paths to
    // explore.
    const APART: u32 = column_index(Direction::Outbound, 0) as u32;
    let column = SharedWord::opaque(((direction & 1) * APART + (kind & 7)).into());
    let tables = KernelTables::<Generic>::GET;
    let begin = tables.shape().column(column as usize);
    let entry = tables.word(begin.wrapping_add(class));
    let direction = Direction::BOTH[SharedWord::opaque(direction.into()) as usize & 1];
    let verdict = match entry {
        Some(entry) => verdict_below(&tables, entry, direction, u64::from(number) & 0xffff),
        None => Verdict::no_match(direction),
    };
    verdict.0
}

/// As [`sg_ask_rules`], by types.
#[inline(always)]
pub(crate) fn ask(class: u32, direction: Direction, kind: u8, number: u16) -> Verdict {
    Verdict(sg_ask_rules(
        class,
        direction as u32,
        kind.into(),
        number.into(),
    ))
}
