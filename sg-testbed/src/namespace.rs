//! A network namespace without a name: it is there as long as somebody holds a descriptor of it, a
//! socket in it, or is in it, and so never outlives the processes that use it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// The calling thread's; /proc/self would be that of the process's first thread.
const CURRENT: &str = "/proc/thread-self/ns/net";

#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, in which there is nothing but a loopback interface that is down.
    pub fn new() -> io::Result<Namespace> {
        on_a_thread(|| {
            Namespace::enter_new()?;
            Namespace::current()
        })?
    }

    /// The one that the calling thread is in.
    pub fn current() -> io::Result<Namespace> {
        Namespace::open(CURRENT)
    }

    /// The one that `path` names: a file in /proc/PID/ns, or one that is mounted.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Namespace> {
        Ok(Namespace {
            file: File::open(path)?,
        })
    }

    /// Moves the calling thread into a new one, which ends with the thread if nobody else holds it.
    pub fn enter_new() -> io::Result<()> {
        Ok(unshare(CloneFlags::CLONE_NEWNET)?)
    }

    /// Moves the calling thread into this one for good.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `act` inside, on a thread of its own. Sockets that it opens belong to the namespace. A
    /// panic in it goes on in the caller.
    ///
    /// # Errors
    /// When the namespace cannot be entered; `act` has not run then.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_thread(|| {
            self.enter()?;
            Ok(act())
        })?
    }

    /// A path by which other processes can open it for as long as this process holds it.
    pub fn path(&self) -> PathBuf {
        let (process, descriptor) = (std::process::id(), self.file.as_raw_fd());
        PathBuf::from(format!("/proc/{process}/fd/{descriptor}"))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `act` on a thread that ends with it, so that what it enters is not the caller's.
fn on_a_thread<T: Send>(act: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, act)?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
