//! Removes pins, and directories in which nothing is left.

use std::fs;
use std::io;
use std::path::Path;

use super::interface::{BEHIND, InterfacePins, TARGETS};
use super::names::{names_in, numbers_in};
use super::runs::{RUN, remove_unless_locked};
use super::tree::{PinTree, attachments_in};
use crate::kernel::error::KernelError;
use crate::kernel::faults::step;
use crate::kernel::links;
use crate::kernel::machine::lifetime;

impl PinTree {
    /// Removes empty directories, and pins of attachments without interfaces.
    pub(crate) fn prune(&self) {
        for cookie in numbers_in(&self.version_dir()).unwrap_or_default() {
            let netns = self.netns_dir(cookie);
            // Killed processes may have left empty directories.
            for attachment in attachments_in(&netns).unwrap_or_default() {
                for pins in self.interfaces_of(cookie, attachment).unwrap_or_default() {
                    let _ = fs::remove_dir(&pins.dir);
                }
                let _ = remove_if_unused(&netns.join(attachment.to_string()));
            }
            for name in names_in(&netns).unwrap_or_default() {
                if name.starts_with(RUN) {
                    remove_unless_locked(&netns.join(name));
                }
            }
            let _ = fs::remove_dir(netns);
        }
        // These calls fail if something is left in the directories, as they should.
        let _ = fs::remove_dir(self.version_dir());
        lifetime::keeping_time(&self.bpffs, || {
            let _ = fs::remove_dir(&self.root);
        });
    }
}

impl InterfacePins {
    /// Removes all pins of an interface to which nothing is attached any more. With the last
    /// interface of the attachment, the shared pins are removed as well.
    pub fn remove(&self) -> Result<(), KernelError> {
        self.remove_maps()?;
        let is_last = self.of_attachment()?.iter().all(|other| other == self);
        // The record is removed last, because it is needed to find the rest.
        if is_last {
            remove_files(self.shared_dir())?;
        }
        self.remove_records()?;
        match is_last {
            true => remove_directory(self.shared_dir()),
            false => Ok(()),
        }
    }

    /// Removes all pins but the records. The links must be removed before.
    fn remove_maps(&self) -> Result<(), KernelError> {
        let records = [self.state(), self.state_next()];
        // The program arrays are removed first.
        let (targets, rest): (Vec<_>, Vec<_>) = names_in(&self.dir)?
            .into_iter()
            .partition(|name| name.contains(TARGETS) || name.contains(BEHIND));
        targets
            .iter()
            .chain(&rest)
            .map(|name| self.dir.join(name))
            .filter(|path| !records.contains(path))
            .try_for_each(|path| unpin(&path))
    }

    /// Removes the records and the directory.
    fn remove_records(&self) -> Result<(), KernelError> {
        unpin(&self.state_next())?;
        unpin(&self.state())?;
        remove_directory(&self.dir)
    }
}

/// Removes an empty directory. It is a success if there is none.
fn remove_directory(dir: &Path) -> Result<(), KernelError> {
    let remove = || match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    step(|| "removing the directory".into(), remove).map_err(|e| not_removed(dir, e))
}

/// Removes the pins in a directory, but not the directories in it.
fn remove_files(dir: &Path) -> Result<(), KernelError> {
    for name in names_in(dir)? {
        let path = dir.join(name);
        if !path.is_dir() {
            unpin(&path)?;
        }
    }
    Ok(())
}

/// Removes the directory of an attachment without interfaces.
fn remove_if_unused(attachment: &Path) -> Result<(), KernelError> {
    match numbers_in(attachment)?.is_empty() {
        true => remove_files(attachment).and_then(|()| remove_directory(attachment)),
        false => Ok(()),
    }
}

/// Removes one pin. It is a success if there is none.
pub(in crate::kernel) fn unpin(path: &Path) -> Result<(), KernelError> {
    links::unpin(path).map_err(|e| not_removed(path, e))
}

fn not_removed(path: &Path, error: io::Error) -> KernelError {
    KernelError::io(format!("removing {}", path.display()), error)
}
