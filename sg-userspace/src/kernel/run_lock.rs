//! Ensures that at most one `run` works on an interface: it holds a lock on a directory of its own
//! beside the pins. The kernel releases the lock when the process ends in any way. A directory that
//! is left is removed by the next command that cleans up.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{major, minor};

use super::error::KernelError;
use super::machine::{bpffs, interfaces, netns};
use super::pins::PinTree;

/// Held for as long as the process works on the interface.
pub struct RunLock {
    /// The interface.
    pub interface: String,
    tree: PinTree,
    dir: PathBuf,
    /// Where the BPF file system was mounted, if that was necessary.
    pub mounted: Option<PathBuf>,
    held: Flock<File>,
}

impl RunLock {
    /// Takes the lock of an interface of the current network namespace. It belongs to the name,
    /// because the interface may be created anew meanwhile.
    ///
    /// # Errors
    ///
    /// [`KernelError::RunsAlready`] if another process holds it.
    pub fn take(path: &Path, interface: &str) -> Result<RunLock, KernelError> {
        let index = super::apply::present(path, interface)?;
        RunLock::lock(path, interface, Some(index))
    }

    /// Takes the lock of an interface that may not exist yet.
    ///
    /// # Errors
    ///
    /// [`KernelError::RunsAlready`] if another process holds it.
    pub fn take_early(path: &Path, interface: &str) -> Result<RunLock, KernelError> {
        RunLock::lock(path, interface, interfaces::index_of(interface).ok())
    }

    fn lock(path: &Path, interface: &str, index: Option<u32>) -> Result<RunLock, KernelError> {
        let cookie = netns::cookie()?;
        let bpffs = bpffs::find_or_mount(path)?;
        let tree = PinTree::new(&bpffs.path);
        if let Some(index) = index {
            tree.refuse_other_layouts(&tree.interface(cookie, index)?)?;
        }
        let _lock = tree.lock()?;
        let dir = tree.run_dir(cookie, interface)?;
        let failed = |e| KernelError::io(format!("locking {}", dir.display()), e);
        let file = File::open(&dir).map_err(failed)?;
        let held = match lock(file) {
            Ok(held) => held,
            Err((file, Errno::EWOULDBLOCK)) => {
                return Err(KernelError::RunsAlready {
                    interface: interface.to_owned(),
                    by: holder(&file).map_or_else(String::new, |pid| format!(" (process {pid})")),
                });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        Ok(RunLock {
            interface: interface.to_owned(),
            tree,
            dir,
            mounted: bpffs.just_mounted.then_some(bpffs.path),
            held,
        })
    }

    /// Leaves word that the process is at work, for [`last_beat`]. Nothing depends on it but
    /// probes.
    pub fn beat(&self) {
        let now = fs::FileTimes::new().set_modified(SystemTime::now());
        let _ = self.held.set_times(now);
    }
}

/// The interfaces of the current network namespace that a `run` looks after or waits for, or did
/// until it was killed.
pub fn looked_after(path: &Path) -> Result<Vec<String>, KernelError> {
    match bpffs::find(path)? {
        None => Ok(Vec::new()),
        Some(bpffs) => PinTree::new(&bpffs.path).names_of_runs(netns::cookie()?),
    }
}

/// Takes the lock. A probe may hold it for a moment: see [`last_beat`].
fn lock(mut file: File) -> Result<Flock<File>, (File, Errno)> {
    let mut retries = 20;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((unlocked, Errno::EWOULDBLOCK)) if retries > 0 => file = unlocked,
            ended => return ended,
        }
        retries -= 1;
        thread::sleep(Duration::from_millis(10));
    }
}

/// How long ago the `run` that looks after an interface of the current network namespace has left
/// word that it is at work. `None` if there is no such `run`: one that was killed has left its
/// directory, but not its lock.
pub fn last_beat(path: &Path, interface: &str) -> Result<Option<Duration>, KernelError> {
    let Some(bpffs) = bpffs::find(path)? else {
        return Ok(None);
    };
    let dir = PinTree::new(&bpffs.path).path_of_run(netns::cookie()?, interface);
    let modified = match fs::metadata(&dir).and_then(|found| found.modified()) {
        Ok(modified) => modified,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(KernelError::io(
                format!("looking at {}", dir.display()),
                error,
            ));
        }
    };
    if let Ok(file) = File::open(&dir)
        && Flock::lock(file, FlockArg::LockSharedNonblock).is_ok()
    {
        return Ok(None);
    }
    // The clock may have been set back since.
    Ok(Some(modified.elapsed().unwrap_or_default()))
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // If the directory cannot be removed now, the next command that cleans up removes it.
        if let Ok(_lock) = self.tree.lock() {
            let _ = fs::remove_dir(&self.dir);
            self.tree.prune();
        }
    }
}

/// The process that holds the lock on a file, if /proc shows it (proc_locks(5)).
fn holder(file: &File) -> Option<u32> {
    let about = file.metadata().ok()?;
    let (major, minor) = (major(about.dev()), minor(about.dev()));
    let name = format!("{major:02x}:{minor:02x}:{}", about.ino());
    holder_in(&fs::read_to_string("/proc/locks").ok()?, &name)
}

/// Parses lines such as `1: FLOCK ADVISORY WRITE 4711 00:2f:12 0 EOF`.
fn holder_in(locks: &str, name: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_flock = words.next() == Some("FLOCK");
        let pid = words.nth(2)?.parse().ok()?;
        (is_flock && words.next() == Some(name)).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_run_names_its_interface() {
        let root = tempfile::tempdir().unwrap();
        let tree = PinTree::new(root.path());
        for name in ["eth0", "eth0.100", "a%b", "ü-1"] {
            fs::create_dir_all(tree.path_of_run(7, name)).unwrap();
        }
        assert_eq!(
            tree.names_of_runs(7).unwrap(),
            ["a%b", "eth0", "eth0.100", "ü-1"]
        );
        assert_eq!(tree.names_of_runs(8).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn the_holder_of_a_lock_is_found_by_the_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 12 00:2f:7 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 11 00:2f:7 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4711 00:2f:7 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 4712 00:2f:8 0 EOF\n";
        assert_eq!(holder_in(locks, "00:2f:7"), Some(4711));
        assert_eq!(holder_in(locks, "00:2f:8"), Some(4712));
        assert_eq!(holder_in(locks, "00:2f:9"), None);
    }
}
