//! The BPF file system: finding it, mounting it where it is missing, refusing where pins would
//! vanish with the process, where others could change them, or where nothing can be written.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::statvfs::FsFlags;

use super::capabilities::TO_ENTER_AND_MOUNT;
use super::error::KernelError;
use super::lifetime::{self, Lifetime};
use super::trust;

/// Where the kernel's documentation, systemd and every other tool mount it.
pub const DEFAULT_PATH: &str = "/sys/fs/bpf";

/// A mounted BPF file system.
#[derive(Clone, Debug)]
pub struct Bpffs {
    pub path: PathBuf,
    /// This call mounted it, which the user should be told.
    pub just_mounted: bool,
}

/// For commands that read: the file system at `path`, or `None` where the usual place has none,
/// which means that nothing is pinned. Any other place was named by somebody who expects one
/// there.
pub fn find(path: &Path) -> Result<Option<Bpffs>, KernelError> {
    if !is_bpffs(path) {
        return match lifetime::of_new_mounts() {
            // Not "nothing attached": whatever is attached was pinned in a mount namespace that
            // this process cannot see.
            Lifetime::Mounts | Lifetime::Container => Err(short_lived(path, false)),
            Lifetime::Machine if path == Path::new(DEFAULT_PATH) => Ok(None),
            Lifetime::Machine => Err(KernelError::NotBpffs {
                path: path.to_owned(),
            }),
        };
    }
    trust::check(path)?;
    // Where it has pins of ours, `apply` has once found it good. Where it has none, "nothing is
    // attached" would be said of one that only this container has.
    if !path.join(trust::ROOT).exists() {
        refuse_short_lived(path)?;
    }
    Ok(Some(Bpffs {
        path: path.to_owned(),
        just_mounted: false,
    }))
}

/// For commands that attach: the file system at `path`, mounted if need be.
pub fn find_or_mount(path: &Path) -> Result<Bpffs, KernelError> {
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

/// Refuses the usual place when what is mounted there ends with this container or this process's
/// mounts. Another place was mounted and named on purpose.
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

/// Fails where nothing can be pinned or removed, because it is mounted read-only.
pub(super) fn check_writable(path: &Path) -> Result<(), KernelError> {
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
