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
    /// Adds, and tells nothing.
    fn add(&self, value: u64);

    /// Hides from the compiler what it knows of a number. It then leaves arithmetic as it is
    /// written, instead of making branches of it which are two ways for the verifier, and loops
    /// as well.
    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        value
    }

    /// As [`Word::opaque`], and the verifier too loses what it knows. `unknown` is any number of
    /// which it knows nothing.
    #[inline(always)]
    fn forget(value: u64, _unknown: u64) -> u64 {
        value
    }

    /// Hides that a key has been read before: the compiler would keep all of it on a short stack.
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
