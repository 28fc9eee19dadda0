//! The BPF file system: finding it, mounting it where it is missing, refusing where pins would
//! vanish with the process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::KernelError;

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
/// which means that nothing is pinned. Any other place was named by somebody who expects one there.
pub fn find(path: &Path) -> Result<Option<Bpffs>, KernelError> {
    if is_bpffs(path) {
        return Ok(Some(Bpffs {
            path: path.to_owned(),
            just_mounted: false,
        }));
    }
    if has_private_mounts() {
        // Not "nothing attached": whatever is attached was pinned in a mount namespace that this
        // process cannot see.
        return Err(KernelError::PrivateMount {
            path: path.to_owned(),
        });
    }
    if path != Path::new(DEFAULT_PATH) {
        return Err(KernelError::NotBpffs {
            path: path.to_owned(),
        });
    }
    Ok(None)
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
        KernelError::io(
            format!("mounting a BPF file system at {}", path.display()),
            errno.into(),
        )
    })?;
    Ok(Bpffs {
        path: path.to_owned(),
        just_mounted: true,
    })
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
}

/// True in a mount namespace of one's own, which is what `ip netns exec` gives each command.
fn has_private_mounts() -> bool {
    let namespace = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|m| m.ino());
    let Ok(own) = namespace(std::process::id()) else {
        return false;
    };
    if let Ok(first) = namespace(1) {
        return own != first;
    }
    // Not even root may look at process 1 in some containers: then whoever started us, and whoever
    // started them, tell whether somebody on the way moved.
    let mut pid = std::process::id();
    while let Some(parent) = parent_of(pid).filter(|parent| *parent > 1) {
        if namespace(parent).is_ok_and(|theirs| theirs != own) {
            return true;
        }
        pid = parent;
    }
    false
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}
