//! The hosts table: a hash table for long lists of single IPv4 addresses, eight to a line.

use super::tables::Tables;

/// Hosts in a line: eight addresses, then their classes.
pub const HOSTS: usize = 8;

/// The line, of `buckets` lines, in which a host is if it is in the table.
#[inline(always)]
pub const fn host_bucket(address: u32, buckets: u32) -> u32 {
    // 2^64 divided by the golden ratio, as Knuth has it.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = (address as u64).wrapping_mul(SPREAD) >> 32;
    ((hash * buckets as u64) >> 32) as u32
}

/// The class of a host that is in the table, else `class`. Without branches: half of the packets
/// may come from listed hosts, at random, so that a branch would often be predicted wrongly.
#[inline(always)]
pub(super) fn class_of_host<T: Tables>(tables: &T, address: u32, class: u32) -> Option<u32> {
    let bucket = host_bucket(address, tables.host_buckets());
    let line = tables.line(tables.shape().hosts_at.wrapping_add(bucket))?;
    let mut found = 0;
    for (i, host) in line.0[..HOSTS].iter().enumerate() {
        // The carry of an addition: a comparison would be compiled to a branch.
        let is_other = (u64::from(*host ^ address) + 0xffff_ffff) >> 32;
        found += (is_other ^ 1) * (i as u64 + 1);
    }
    // One to eight, or zero for none.
    let own = u64::from(line.0[(found as usize + HOSTS - 1) & 15]);
    let is_found = (found + HOSTS as u64 - 1) >> 3;
    let class = u64::from(class);
    Some((class ^ ((class ^ own) & 0u64.wrapping_sub(is_found))) as u32)
}
