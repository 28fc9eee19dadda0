//! Network namespaces: entering one by name or path, and telling them apart.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use super::super::error::KernelError;
use super::super::sys;
use super::capabilities::TO_ENTER_AND_MOUNT;

/// A network namespace as the user wrote it: a name under /run/netns, or a path.
#[derive(Clone, Debug)]
pub struct Netns {
    spelled: String,
    path: PathBuf,
}

impl From<&str> for Netns {
    fn from(spelled: &str) -> Self {
        let path = if spelled.contains('/') {
            PathBuf::from(spelled)
        } else {
            Path::new("/run/netns").join(spelled)
        };
        Netns {
            spelled: spelled.to_owned(),
            path,
        }
    }
}

impl Netns {
    pub fn name(&self) -> &str {
        &self.spelled
    }

    pub(in crate::kernel) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread into the namespace. Must be called before other threads exist,
    /// because they would stay behind.
    pub fn enter(&self) -> Result<(), KernelError> {
        let no_such = |reason: io::Error| match reason.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                let what = format!("entering the network namespace `{}`", self.spelled);
                KernelError::not_permitted(what, TO_ENTER_AND_MOUNT)
            }
            _ => KernelError::NoNetns {
                name: self.spelled.clone(),
                reason: reason.to_string(),
            },
        };
        let file = File::open(&self.path).map_err(no_such)?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| no_such(errno.into()))
    }
}

/// The current namespace's cookie, which is unique until the next boot.
pub fn cookie() -> Result<u64, KernelError> {
    sys::netns_cookie().map_err(|source| {
        KernelError::io(
            "asking for the network namespace's cookie (Linux 5.14 or later)",
            source,
        )
    })
}
