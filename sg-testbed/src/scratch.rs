//! What a test makes under a name, because other processes have to find it: a folder with BPF file
//! systems in it, and network namespaces below /run/netns. Dropping it removes them; what a killed
//! process has left is removed by the next one that makes something.
//!
//! Each has a file in a folder of root's, which lists what it is about to make and is locked as
//! long as its process lives (flock(2)). A file that nobody has locked is of a process that is
//! gone, in whatever process namespace it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};

use crate::mounts::{Mount, unmount};

/// Where the lists are.
const LISTS: &str = "/run/sg-testbed";

/// Where `ip netns` puts names.
const NAMES: &str = "/run/netns";

#[derive(Debug)]
pub struct Scratch {
    /// Locked as long as this lives.
    list: Flock<File>,
    list_path: PathBuf,
    name: String,
    dir: Option<tempfile::TempDir>,
    mounts: Mutex<Vec<Mount>>,
    namespaces: Mutex<Vec<String>>,
}

impl Scratch {
    /// A new folder, after what killed processes have left is gone. `prefix` begins the names of
    /// the network namespaces.
    pub fn new(prefix: &str) -> io::Result<Scratch> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(LISTS)?;
        remove_left_overs();
        let name = unused_name(prefix);
        let list_path = Path::new(LISTS).join(&name);
        let list = locked(&list_path)?;
        let mut scratch = Scratch {
            list,
            list_path,
            name,
            dir: None,
            mounts: Mutex::default(),
            namespaces: Mutex::default(),
        };
        let dir = tempfile::tempdir()?;
        scratch.write_down("folder", &dir.path().to_string_lossy())?;
        scratch.dir = Some(dir);
        Ok(scratch)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.as_ref().map_or(Path::new("/"), |dir| dir.path())
    }

    /// A BPF file system of this name in the folder.
    pub fn bpffs(&self, name: &str) -> io::Result<PathBuf> {
        self.mounted(name, |path| Mount::bpffs(path))
    }

    /// A file system of this name in the folder, with room for so many bytes.
    pub fn small(&self, name: &str, bytes: usize) -> io::Result<PathBuf> {
        self.mounted(name, |path| Mount::small(path, bytes))
    }

    fn mounted(
        &self,
        name: &str,
        mount: impl FnOnce(&Path) -> io::Result<Mount>,
    ) -> io::Result<PathBuf> {
        let path = self.path().join(name);
        self.write_down("mount", &path.to_string_lossy())?;
        fs::create_dir(&path)?;
        lock(&self.mounts).push(mount(&path)?);
        Ok(path)
    }

    /// A network namespace, and the name under which other processes find it.
    pub fn namespace(&self, suffix: &str) -> io::Result<String> {
        let name = format!("{}-{suffix}", self.name);
        self.write_down("namespace", &name)?;
        lock(&self.namespaces).push(name.clone());
        let output = Command::new("ip").args(["netns", "add", &name]).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("ip netns add {name}: {said}")));
        }
        Ok(name)
    }

    /// Before it is made: what is listed and was never made is no harm, the other way round is.
    fn write_down(&self, kind: &str, what: &str) -> io::Result<()> {
        let mut list: &File = &self.list;
        list.write_all(format!("{kind} {what}\n").as_bytes())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for name in lock(&self.namespaces).iter() {
            delete_namespace(name);
        }
        // Before the folder that they are in.
        lock(&self.mounts).clear();
        drop(self.dir.take());
        let _ = fs::remove_file(&self.list_path);
    }
}

/// A list that a panic of another thread has not made wrong.
fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unused_name(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{number}", std::process::id())
}

/// A new file that this process has locked. Somebody who removes left-overs may take it for one
/// between the two steps; then it is made again.
fn locked(path: &Path) -> io::Result<Flock<File>> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        let is_there = fs::metadata(path)
            .is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()));
        if is_there {
            // Of a process that had the same number and was killed.
            clean_up(&file);
            file.set_len(0)?;
            return Ok(file);
        }
    }
}

/// Removes what processes have left that were killed. What cannot be removed stays for the next.
fn remove_left_overs() {
    for entry in fs::read_dir(LISTS).into_iter().flatten().flatten() {
        let Ok(file) = OpenOptions::new().read(true).open(entry.path()) else {
            continue;
        };
        if let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            clean_up(&file);
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes what a list names.
fn clean_up(list: &File) {
    let mut text = String::new();
    let mut list = list;
    if list.read_to_string(&mut text).is_err() {
        return;
    }
    // Mounts come after the folder that they are in.
    for line in text.lines().rev() {
        match line.split_once(' ') {
            Some(("namespace", name)) => delete_namespace(name),
            Some(("mount", path)) => drop(unmount(Path::new(path))),
            Some(("folder", path)) => drop(fs::remove_dir_all(path)),
            _ => {}
        }
    }
}

fn delete_namespace(name: &str) {
    if Path::new(NAMES).join(name).exists() {
        let _ = Command::new("ip").args(["netns", "del", name]).output();
    }
}
