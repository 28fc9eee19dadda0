//! Keeps the counts of flows by their local ports: see `flow_ports`.

use super::table::Table;
use super::word::Word;
use crate::flow_ports::count_of;

/// Whether there may be a flow at a local port.
#[inline(always)]
pub fn may_have<T: Table + ?Sized>(table: &T, local_port: u64) -> bool {
    match table.port_counts() {
        Some(counts) => counts[count_of(local_port)].load() != 0,
        None => true,
    }
}

/// A flow of this name comes.
#[inline(always)]
pub(super) fn count_in<T: Table + ?Sized>(table: &T, name: u64) {
    add_to_count(table, name, 1);
}

/// A flow of this name has gone, or has not come.
#[inline(always)]
pub(super) fn count_out<T: Table + ?Sized>(table: &T, name: u64) {
    add_to_count(table, name, 1u64.wrapping_neg());
}

#[inline(always)]
fn add_to_count<T: Table + ?Sized>(table: &T, name: u64, number: u64) {
    if let Some(counts) = table.port_counts() {
        counts[count_of(name)].add(number);
    }
}
