//! Mounts that only the calling thread, and what it starts, can see.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Gives the calling thread, and those that it starts from now on, mounts of their own: a copy of
/// those that there are, to which nothing that happens outside is added.
pub fn make_private() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(mount(nothing, "/", nothing, flags, nothing)?)
}

/// A file system that is taken away when this is dropped. Lazily, since a child that another
/// thread is just starting may hold a copy of a descriptor in it until it has become its program.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    /// An empty BPF file system over the folder `path`, open to root alone.
    pub fn bpffs(path: impl Into<PathBuf>) -> io::Result<Mount> {
        Mount::new(path.into(), "bpf", Some("mode=0700"))
    }

    /// A file system with room for so many bytes over the folder `path`.
    pub fn small(path: impl Into<PathBuf>, bytes: usize) -> io::Result<Mount> {
        let options = format!("mode=0700,size={bytes}");
        Mount::new(path.into(), "tmpfs", Some(&options))
    }

    /// The /sys of the calling thread's network namespace over the folder `path`: /sys itself
    /// shows the interfaces of whoever has mounted it.
    pub fn sysfs(path: impl Into<PathBuf>) -> io::Result<Mount> {
        Mount::new(path.into(), "sysfs", None)
    }

    fn new(path: PathBuf, kind: &str, options: Option<&str>) -> io::Result<Mount> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(kind), &path, Some(kind), flags, options)?;
        Ok(Mount { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = unmount(&self.path);
    }
}

/// Takes the topmost mount at `path` away, lazily.
pub fn unmount(path: &Path) -> io::Result<()> {
    Ok(umount2(path, MntFlags::MNT_DETACH)?)
}
