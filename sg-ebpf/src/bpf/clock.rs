//! The clock of the packet path.

use aya_ebpf::helpers::generated::{
    bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
};

/// `CLOCK_MONOTONIC` nanoseconds, as coarse as the kernel's tick: enough for timeouts in seconds,
/// and far cheaper than an exact reading.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The same, exact: for what is put in order by its time, across CPUs.
#[inline(always)]
pub(crate) fn exact() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// `CLOCK_BOOTTIME` nanoseconds: goes on while the machine is suspended, and cannot be set.
#[inline(always)]
pub(crate) fn boot() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}
