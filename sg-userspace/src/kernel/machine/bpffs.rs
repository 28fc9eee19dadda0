//! The BPF file system: finds it, mounts it if it is missing, and refuses it if pins would not
//! outlive the process, if other users could change them, or if it is read-only.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::statvfs::FsFlags;

use super::super::error::KernelError;
use super::capabilities::TO_ENTER_AND_MOUNT;
use super::lifetime::{self, Lifetime};
use super::trust;

/// The usual mount point, in the kernel's documentation, systemd and other tools.
pub const DEFAULT_PATH: &str = "/sys/fs/bpf";

/// A mounted BPF file system.
#[derive(Clone, Debug)]
pub struct Bpffs {
    pub path: PathBuf,
    /// Whether this call has mounted it, which the user should know.
    pub just_mounted: bool,
}

/// For commands that read: the file system at `path`. `None` if the usual place has none, which
/// means that nothing is pinned. Any other place was named by the user, so a missing file system
/// there is an error.
pub fn find(path: &Path) -> Result<Option<Bpffs>, KernelError> {
    if !is_bpffs(path) {
        return match lifetime::of_new_mounts() {
            // It would be wrong to report that nothing is attached: attachments may be pinned in a
            // mount namespace that this process cannot see.
            Lifetime::Mounts | Lifetime::Container => Err(short_lived(path, false)),
            Lifetime::Machine if path == Path::new(DEFAULT_PATH) => Ok(None),
            Lifetime::Machine => Err(KernelError::NotBpffs {
                path: path.to_owned(),
            }),
        };
    }
    trust::check(path)?;
    // If it has our pins, an earlier `apply` has accepted it. If not, it may be a file system of
    // this container alone, and it would be wrong to report that nothing is attached.
    if !path.join(trust::ROOT).exists() {
        refuse_short_lived(path)?;
    }
    Ok(Some(Bpffs {
        path: path.to_owned(),
        just_mounted: false,
    }))
}

/// For commands that attach: the file system at `path`, which is mounted if necessary.
pub(crate) fn find_or_mount(path: &Path) -> Result<Bpffs, KernelError> {
    if let Some(found) = find(path)? {
        return Ok(found);
    }
    mount(
        Some("bpf"),
        path,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|errno| {
        let what = format!("mounting a BPF file system at {}", path.display());
        match errno {
            Errno::EPERM | Errno::EACCES => KernelError::not_permitted(what, TO_ENTER_AND_MOUNT),
            _ => KernelError::io(what, errno.into()),
        }
    })?;
    Ok(Bpffs {
        path: path.to_owned(),
        just_mounted: true,
    })
}

/// Refuses the usual place if its mount ends with this container or with this process's mount
/// namespace. Any other place was named by the user on purpose.
fn refuse_short_lived(path: &Path) -> Result<(), KernelError> {
    if path == Path::new(DEFAULT_PATH) && lifetime::of_mounted(path) != Lifetime::Machine {
        return Err(short_lived(path, true));
    }
    Ok(())
}

fn short_lived(path: &Path, is_mounted: bool) -> KernelError {
    let path = path.to_owned();
    match lifetime::of_new_mounts() {
        Lifetime::Container => KernelError::Container { path, is_mounted },
        _ => KernelError::PrivateMount { path, is_mounted },
    }
}

/// Fails if the file system is read-only, so that nothing can be pinned or removed.
pub(in crate::kernel) fn check_writable(path: &Path) -> Result<(), KernelError> {
    match statfs(path) {
        Ok(found) if found.flags().contains(FsFlags::ST_RDONLY) => Err(KernelError::ReadOnly {
            path: path.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
}
