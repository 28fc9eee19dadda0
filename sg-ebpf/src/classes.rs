//! Addresses → address classes, for both families.

use sg_common::lookup::{self, POINTER};

use crate::{
    bpf::maps::{Generic, KernelTables, Variant},
    packet::Packet,
};

/// The class of an IPv4 address; `None` if the tables are not there.
#[inline(always)]
pub(crate) fn class4<F: Variant>(address: u32) -> Option<u32> {
    lookup::class4(&KernelTables::<F>::GET, address)
}

/// The class of an IPv6 address in wire order. Bit 31 is cleared, as it is in a leaf of the IPv4
/// table: the verifier then explores what follows once for both families.
#[inline(always)]
pub(crate) fn class6<F: Variant>(address: [u32; 4]) -> Option<u32> {
    let half = |high, low| u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low));
    let [a, b, c, d] = address;
    let tables = KernelTables::<F>::GET;
    Some(lookup::class6(&tables, half(a, b), half(c, d))? & !POINTER)
}

/// The class of the remote address, or `u32::MAX` if the tables are not there: no column has an
/// entry for that.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_class(p: *const Packet) -> u32 {
    if p.is_null() {
        return u32::MAX;
    }
    // SAFETY: not null, and every caller passes a whole packet.
    let p = unsafe { &*p };
    if p.is_v6() {
        return class6::<Generic>(p.remote).unwrap_or(u32::MAX);
    }
    class4::<Generic>(u32::from_be(p.remote[0])).unwrap_or(u32::MAX)
}
