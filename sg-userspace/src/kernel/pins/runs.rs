//! The directory that is locked by the `run` that looks after an interface: see `run_lock`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::names::names_in;
use super::tree::PinTree;
use crate::kernel::error::KernelError;
use crate::kernel::machine::trust::create_dir;

/// Comes before the interface's name.
pub(super) const RUN: &str = "run_";

impl PinTree {
    /// The directory whose lock the `run` of an interface holds. Creates it if necessary.
    pub(in crate::kernel) fn run_dir(
        &self,
        netns_cookie: u64,
        interface: &str,
    ) -> Result<PathBuf, KernelError> {
        let netns = self.netns_dir(netns_cookie);
        let dir = self.path_of_run(netns_cookie, interface);
        for dir in [&self.root, &self.version_dir(), &netns, &dir] {
            create_dir(dir)?;
        }
        Ok(dir)
    }

    /// The interfaces of a network namespace that have such a directory.
    pub(in crate::kernel) fn names_of_runs(
        &self,
        netns_cookie: u64,
    ) -> Result<Vec<String>, KernelError> {
        let names = names_in(&self.netns_dir(netns_cookie))?;
        let names = names.iter().filter_map(|name| name.strip_prefix(RUN));
        let mut names: Vec<String> = names.map(decoded).collect();
        names.sort();
        Ok(names)
    }

    /// The path of that directory, whether or not it is there.
    pub(in crate::kernel) fn path_of_run(&self, netns_cookie: u64, interface: &str) -> PathBuf {
        // Names in a BPF file system cannot contain a dot.
        let name: String = interface
            .bytes()
            .map(|byte| match byte.is_ascii_alphanumeric() {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02x}"),
            })
            .collect();
        let netns = self.netns_dir(netns_cookie);
        netns.join(format!("{RUN}{name}"))
    }

    /// Whether a `run` looks after an interface.
    pub(in crate::kernel) fn has_run(&self, netns_cookie: u64, interface: &str) -> bool {
        let file = fs::File::open(self.path_of_run(netns_cookie, interface));
        file.is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
    }
}

/// What [`PinTree::path_of_run`] has written: `%2e` is a dot.
fn decoded(name: &str) -> String {
    let mut parts = name.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.extend(byte);
        bytes.extend_from_slice(part.get(2..).unwrap_or_default().as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Removes the directory of a lock, unless a process holds it. Must be called under the lock of the
/// tree.
pub(super) fn remove_unless_locked(dir: &Path) {
    let Ok(file) = fs::File::open(dir) else {
        return;
    };
    if let Ok(_held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        let _ = fs::remove_dir(dir);
    }
}
