//! What helps the verifier to walk the same instructions once instead of once for each way that
//! leads to them.

/// `value`, without what the verifier knows of it: where two ways meet that differ in nothing else,
/// it walks the rest once. `unknown` is any number that it knows nothing about.
#[inline(always)]
pub(crate) fn forget(value: u64, unknown: u64) -> u64 {
    let again = unknown;
    // SAFETY: a live local. Volatile, so that the compiler does not see that both are the same.
    let again = unsafe { core::ptr::read_volatile(&raw const again) };
    (value ^ unknown) ^ again
}
