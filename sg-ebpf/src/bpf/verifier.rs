//! Hints to the verifier. It explores a path on unless every register is at least as general
//! there as on a path that it has explored before, so that a number of which it knows more than
//! it has to makes it explore the rest again.

/// `value`, without what the verifier knows of it: what follows is then explored once for all
/// paths that differ in nothing else. `unknown` is any number that the verifier knows nothing
/// about, in none of the bits that `value` may have.
#[inline(always)]
pub(crate) fn forget(value: u64, unknown: u64) -> u64 {
    let mut value = value;
    // SAFETY: arithmetic between two registers, which leaves the value as it was.
    unsafe {
        core::arch::asm!(
            "{value} ^= {unknown}",
            "{value} ^= {unknown}",
            value = inout(reg) value,
            unknown = in(reg) unknown,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    value
}
