//! Network namespaces besides the one that a test's thread is in, held by a file descriptor.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, setns, unshare};

use crate::sandbox::ip;

/// Lives as long as somebody holds it or is in it.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Namespace {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
                Namespace::of("/proc/thread-self/ns/net")
            });
            inside.join().expect("the namespace is there")
        })
    }

    /// The one that the calling thread is in.
    pub(crate) fn here() -> Namespace {
        Namespace::of("/proc/thread-self/ns/net")
    }

    /// The one that the machine's own interfaces are in.
    pub(crate) fn of_the_machine() -> Namespace {
        Namespace::of("/proc/1/ns/net")
    }

    fn of(path: &str) -> Namespace {
        Namespace(File::open(path).unwrap_or_else(|e| panic!("{path}: {e}")))
    }

    /// Runs something inside. Sockets that it opens stay there.
    pub(crate) fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let result = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                action()
            });
            inside.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Moves an interface of the calling thread's namespace here.
    pub(crate) fn take(&self, interface: &str) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        ip(&["link", "set", "dev", interface, "netns", &path]);
    }
}
