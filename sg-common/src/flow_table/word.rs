//! A word of memory that several CPUs share, as a trait: the packet path, userspace and the tests
//! each bring their own.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::Ordering::{Acquire, Release, SeqCst};

use crate::flow_entry::FlowKey;

/// A word of memory that several CPUs read and write.
pub trait Word {
    /// Reads it; what is read later is not older.
    fn load(&self) -> u64;
    /// A load that does not overtake the one which returned `earlier`.
    fn load_after(&self, earlier: u64) -> u64;
    /// Writes it; what was written earlier is seen with it.
    fn store(&self, value: u64);
    /// Swaps, as a full barrier.
    fn swap(&self, value: u64) -> u64;
    /// Writes `new` where `old` is, as a full barrier; true if it was.
    fn replace(&self, old: u64, new: u64) -> bool;
    /// Adds; what was there before is not returned.
    fn add(&self, value: u64);

    /// Hides from the compiler what it knows of a number. It then leaves arithmetic and loops as
    /// they are written, instead of making branches of them, each of which is two paths for the
    /// verifier.
    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        value
    }

    /// As [`Word::opaque`], and hides from the verifier too what it knows of `value`. `unknown` is
    /// any number of which the verifier knows nothing.
    #[inline(always)]
    fn forget(value: u64, _unknown: u64) -> u64 {
        value
    }

    /// Hides from the compiler that a key has been read before: it would keep the whole key on the
    /// stack, which is short.
    #[inline(always)]
    fn unread(key: &FlowKey) -> &FlowKey {
        key
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Word for core::sync::atomic::AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        self.load(Acquire)
    }

    #[inline]
    fn load_after(&self, _earlier: u64) -> u64 {
        self.load(Acquire)
    }

    #[inline]
    fn store(&self, value: u64) {
        self.store(value, Release);
    }

    #[inline]
    fn swap(&self, value: u64) -> u64 {
        self.swap(value, SeqCst)
    }

    #[inline]
    fn replace(&self, old: u64, new: u64) -> bool {
        self.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }

    #[inline]
    fn add(&self, value: u64) {
        self.fetch_add(value, SeqCst);
    }
}
