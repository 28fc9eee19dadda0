//! What helps the verifier to walk the same instructions once instead of once for each way that
//! leads to them.

/// `value`, without what the verifier knows of it: where two ways meet that differ in nothing else,
/// it walks the rest once. `unknown` is any number that it knows nothing about, in none of the bits that
/// `value` may have.
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
