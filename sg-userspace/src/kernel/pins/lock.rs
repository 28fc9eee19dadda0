//! The lock of the tree, which is held while pins are changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::tree::PinTree;
use crate::kernel::error::KernelError;
use crate::kernel::machine::trust::{self, create_dir};
use crate::kernel::machine::{bpffs, lifetime};

const LOCK_SECONDS: u64 = 10;

/// Held while pins are changed. Dropping it releases the lock.
pub struct WriteLock {
    _file: Flock<fs::File>,
}

impl PinTree {
    /// Takes the lock. Waits for other writers, up to a limit.
    pub fn lock(&self) -> Result<WriteLock, KernelError> {
        let what = || format!("locking {}", self.root.display());
        let deadline = Instant::now() + Duration::from_secs(LOCK_SECONDS);
        bpffs::check_writable(&self.bpffs)?;
        trust::check(&self.bpffs)?;
        loop {
            lifetime::keeping_time(&self.bpffs, || create_dir(&self.root))?;
            let Some(file) = trust::open_for_us_alone(&self.root)? else {
                // The process that held the lock before may just have removed the directory.
                continue;
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    // The process that held the lock before may have removed the directory.
                    let ours = file.metadata().map(|m| m.ino());
                    let current = fs::metadata(&self.root).map(|m| m.ino());
                    if matches!((ours, current), (Ok(a), Ok(b)) if a == b) {
                        return Ok(WriteLock { _file: file });
                    }
                }
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                    if Instant::now() > deadline {
                        return Err(KernelError::Locked {
                            path: self.root.clone(),
                            seconds: LOCK_SECONDS,
                        });
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err((_, errno)) => return Err(KernelError::io(what(), errno.into())),
            }
        }
    }
}
