//! Hints to the verifier. It skips the rest of a path only if it has explored that rest before
//! with registers that were at least as general. A number of which it knows more than it has to
//! makes it explore the rest once more.

/// Returns `value`, and makes the verifier forget what it knows of it. Where paths differ in this
/// value alone, what follows is then explored once. `unknown` is any number that the verifier knows
/// nothing about; the value itself does not change.
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
