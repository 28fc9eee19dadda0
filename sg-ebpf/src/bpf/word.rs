//! Words that CPUs share, and userspace too: the only atomic instructions of the packet path. What
//! `core::sync::atomic` offers does not link for this target.

use core::{
    arch::asm,
    cell::UnsafeCell,
    intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg, atomic_xadd, atomic_xchg},
};

use sg_common::{flow_entry::FlowKey, flow_table::Word};

use crate::bpf::verifier::forget;

#[repr(transparent)]
pub(crate) struct SharedWord(UnsafeCell<u64>);

impl SharedWord {
    pub(crate) const fn zero() -> Self {
        SharedWord(UnsafeCell::new(0))
    }
}

// SAFETY: every access below is one instruction on an aligned word.
unsafe impl Sync for SharedWord {}

impl Word for SharedWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: a live, aligned word of a map value.
        unsafe { self.0.get().read_volatile() }
    }

    /// By an address that depends on `earlier`, which orders loads on every CPU and costs next to
    /// nothing; the compiler must not see that it adds zero.
    #[inline(always)]
    fn load_after(&self, earlier: u64) -> u64 {
        let mut zero = earlier;
        // SAFETY: arithmetic in one register.
        unsafe {
            asm!(
                "{zero} &= 0",
                zero = inout(reg) zero,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        // SAFETY: as above.
        unsafe { self.0.get().byte_add(zero as usize).read_volatile() }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.get().write_volatile(value) }
    }

    #[inline(always)]
    fn swap(&self, value: u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic_xchg::<u64, { SeqCst }>(self.0.get(), value) }
    }

    #[inline(always)]
    fn replace(&self, old: u64, new: u64) -> bool {
        // SAFETY: as above.
        unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(self.0.get(), old, new).1 }
    }

    #[inline(always)]
    fn add(&self, value: u64) {
        // SAFETY: as above. The instruction that returns the sum does not link, hence no result.
        unsafe { atomic_xadd::<u64, u64, { SeqCst }>(self.0.get(), value) };
    }
    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        let mut value = value;
        // SAFETY: a register that is copied to itself. Without any instruction there would be two
        // lines of source for the next one, which the kernel does not take.
        unsafe {
            asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack, preserves_flags));
        }
        value
    }

    #[inline(always)]
    fn forget(value: u64, unknown: u64) -> u64 {
        forget(value, unknown)
    }

    #[inline(always)]
    fn unread(key: &FlowKey) -> &FlowKey {
        let mut key = core::ptr::from_ref(key);
        // SAFETY: as above; the same pointer.
        unsafe {
            asm!("{0} = {0}", inout(reg) key, options(nostack, preserves_flags));
            &*key
        }
    }
}
