//! How aya is made to load the object: with signals blocked, and without reading the kernel's own
//! type information.

use aya::EbpfLoader;
use nix::sys::signal::{SigSet, SigmaskHow};

/// Runs `load` with this thread's signals blocked. The verifier stops with EAGAIN when a signal is
/// pending, such as those for a resized terminal or an ended child. aya retries once, and takes a
/// probe that failed in this way for a missing feature of the kernel.
pub(in crate::kernel) fn undisturbed<T>(load: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let result = load();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    result
}

/// A loader that has not parsed the kernel's own type information.
///
/// Whenever a loader is made, aya reads and parses all of it (5 MB), which takes half of the
/// loading time. Our programs do not need it: they access no kernel structure but their contexts.
/// aya has no option for that, but goes on without the file if it cannot be opened. So the loader
/// is made by a thread with an empty root directory.
pub(in crate::kernel) fn loader_without_btf() -> EbpfLoader<'static> {
    std::thread::scope(|scope| {
        let blind = scope.spawn(|| {
            // Only this thread's view of the file system changes. Without the privilege the loader
            // is merely slower.
            let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
                .and_then(|()| nix::unistd::chroot("/proc/self/fdinfo"));
            let mut loader = EbpfLoader::new();
            loader.btf(None);
            loader
        });
        blind.join().unwrap_or_else(|_| EbpfLoader::new())
    })
}
