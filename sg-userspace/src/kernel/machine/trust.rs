//! Checks that no other user could have made or changed the pins. A plain `mount -t bpf` allows
//! every user to create entries. A user who owns our directory or may write to it could hold the
//! lock and decide what the enforcer reads.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::super::error::KernelError;
use super::super::faults::step;

/// Our directory in a BPF file system.
pub(in crate::kernel) const ROOT: &str = "sgctl";

const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Refuses a BPF file system in which another user has made our directory, may write to it, or
/// could replace it.
pub(in crate::kernel) fn check(bpffs: &Path) -> Result<(), KernelError> {
    let found = fs::metadata(bpffs).map_err(|e| looking_at(bpffs, e))?;
    check_owner(bpffs, &found)?;
    // In a sticky directory only the owner of an entry can rename or remove it (rename(2)).
    if found.mode() & GROUP_OR_OTHERS_WRITE != 0 && found.mode() & STICKY == 0 {
        return Err(KernelError::WritableByOthers {
            path: bpffs.to_owned(),
            mode: found.mode() & 0o7777,
        });
    }
    let root = bpffs.join(ROOT);
    match fs::symlink_metadata(&root) {
        Ok(found) => check_directory(&root, &found),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(looking_at(&root, e)),
    }
}

/// Opens our directory, and closes it to all other users, because anyone who can open it can hold
/// its lock. `None` if it does not exist.
pub(in crate::kernel) fn open_for_us_alone(root: &Path) -> Result<Option<File>, KernelError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(root);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
            return Err(not_a_directory(root));
        }
        Err(e) => return Err(KernelError::io(format!("locking {}", root.display()), e)),
    };
    let found = file.metadata().map_err(|e| looking_at(root, e))?;
    check_directory(root, &found)?;
    if found.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o700))
            .map_err(|e| KernelError::io(format!("closing {} to others", root.display()), e))?;
    }
    Ok(Some(file))
}

/// Creates a directory that only root can open, unless it exists.
pub(in crate::kernel) fn create_dir(path: &Path) -> Result<(), KernelError> {
    let make = || DirBuilder::new().mode(0o700).create(path);
    match step(|| "making a directory".into(), make) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(KernelError::io(format!("creating {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

fn check_directory(path: &Path, found: &fs::Metadata) -> Result<(), KernelError> {
    if !found.is_dir() {
        return Err(not_a_directory(path));
    }
    check_owner(path, found)?;
    if found.mode() & GROUP_OR_OTHERS_WRITE != 0 {
        return Err(KernelError::WritableByOthers {
            path: path.to_owned(),
            mode: found.mode() & 0o7777,
        });
    }
    Ok(())
}

fn check_owner(path: &Path, found: &fs::Metadata) -> Result<(), KernelError> {
    let ours = [0, nix::unistd::geteuid().as_raw()];
    if ours.contains(&found.uid()) {
        return Ok(());
    }
    Err(KernelError::OthersDirectory {
        path: path.to_owned(),
        owner: found.uid(),
    })
}

fn not_a_directory(path: &Path) -> KernelError {
    KernelError::NotOurs {
        path: path.to_owned(),
    }
}

fn looking_at(path: &Path, error: io::Error) -> KernelError {
    KernelError::io(format!("looking at {}", path.display()), error)
}
