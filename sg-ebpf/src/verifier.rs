//! What helps the verifier to walk the same instructions once instead of once for each way that
//! leads to them.

/// `value`, without what the verifier knows of it: where two ways meet that differ in nothing else,
/// it walks the rest once. `unknown` is any number that it knows nothing about.
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

/// Calls one of the exported functions. Kernels that know beforehand which registers are read (since
/// 6.16) take a call for one that reads all five arguments, whatever the function has: what happens to be
/// left in the others would keep ways apart that lead to the call.
macro_rules! call {
    ($($function:ident)::+($($argument:expr),+ $(,)?)) => {{
        const ARGUMENTS: usize = [$(stringify!($argument)),+].len();
        $crate::verifier::clear_arguments::<ARGUMENTS>();
        $($function)::+($($argument),+)
    }};
}

pub(crate) use call;

/// Clears the argument registers behind the first `TAKEN` ones.
#[inline(always)]
pub(crate) fn clear_arguments<const TAKEN: usize>() {
    // SAFETY: the compiler is told which registers are written.
    unsafe {
        if TAKEN < 2 {
            core::arch::asm!("r2 = 0", out("r2") _, options(nomem, nostack, preserves_flags));
        }
        if TAKEN < 3 {
            core::arch::asm!("r3 = 0", out("r3") _, options(nomem, nostack, preserves_flags));
        }
        if TAKEN < 4 {
            core::arch::asm!("r4 = 0", out("r4") _, options(nomem, nostack, preserves_flags));
        }
        if TAKEN < 5 {
            core::arch::asm!("r5 = 0", out("r5") _, options(nomem, nostack, preserves_flags));
        }
    }
}
