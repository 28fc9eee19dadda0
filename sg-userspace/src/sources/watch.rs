//! Notifies when policy files may have changed. Uses inotify on all directories in their paths,
//! including those of symbolic links, and stamps to tell real changes from other events in the same
//! directories.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::MOST_LINKS;
use crate::kernel::is_open_for_writing;

/// Watches directories, not files: a file that is replaced by renaming has a new inode, and in a
/// ConfigMap volume a symbolic link in a directory above changes.
pub struct FileWatch {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
}

impl FileWatch {
    /// Calls `changed` after each change, from a thread of its own. Writers cause many in a row.
    ///
    /// # Errors
    /// When the kernel gives out no inotify instance.
    pub fn new(changed: impl Fn() + Send + 'static) -> notify::Result<FileWatch> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error, such as an overflow, may hide a change.
            if event
                .as_ref()
                .map_or(true, |event| may_be_a_change(event.kind))
            {
                changed();
            }
        })?;
        Ok(FileWatch {
            watcher,
            watched: BTreeSet::new(),
        })
    }

    /// Watches all directories that the paths of `files` depend on now. Must be called again after
    /// each change, because a directory may have been replaced by another one.
    pub fn set(&mut self, files: &[PathBuf]) {
        for dir in std::mem::take(&mut self.watched) {
            // The directory may not exist any more.
            let _ = self.watcher.unwatch(&dir);
        }
        for dir in files.iter().flat_map(|file| directories_of(file)) {
            // Changes that cannot be watched are noticed later by the stamp.
            if self
                .watcher
                .watch(&dir, RecursiveMode::NonRecursive)
                .is_ok()
            {
                self.watched.insert(dir);
            }
        }
    }
}

/// Reading a file is no change, and reloading reads files.
fn may_be_a_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The directories whose entries determine which file `file` is: those of every symbolic link in
/// its path, and the one that it is in. If one does not exist, the nearest existing directory above
/// it is taken.
pub(crate) fn directories_of(file: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<OsString> = parts_of(file);
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        let here = match at.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => at.clone(),
        };
        let next = at.join(&part);
        match fs::symlink_metadata(&next) {
            Err(_) => {
                found.insert(here);
                return found;
            }
            Ok(about) if about.is_symlink() && links < MOST_LINKS => {
                links += 1;
                found.insert(here);
                if let Ok(target) = fs::read_link(&next) {
                    todo.extend(parts_of(&target));
                    if target.is_absolute() {
                        at = PathBuf::new();
                    }
                }
            }
            Ok(_) => {
                if todo.is_empty() {
                    found.insert(here);
                }
                at = next;
            }
        }
    }
    found
}

/// The parts of a path, the last one first.
fn parts_of(path: &Path) -> Vec<OsString> {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| part.as_os_str().to_owned())
        .rev()
        .collect()
}

/// A file counts as complete if it has not changed for this long.
const STILL: Duration = Duration::from_millis(200);

/// The first of these files that is still being written: a process has it open for writing, or it
/// has changed a moment ago. A file that does not exist is not being written.
///
/// The process must have a handler for SIGIO.
pub fn unfinished(files: &[PathBuf]) -> Option<&Path> {
    files.iter().map(PathBuf::as_path).find(|file| {
        let Ok(file) = fs::File::open(file) else {
            return false;
        };
        let changed = file.metadata().and_then(|about| about.modified());
        // A time in the future has no meaning.
        let age = changed.ok().and_then(|changed| changed.elapsed().ok());
        age.is_some_and(|age| age < STILL) || is_open_for_writing(file.as_fd()).unwrap_or(false)
    })
}

/// Distinguishes states of files without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<Option<[i64; 7]>>);

impl Stamp {
    pub fn of(files: &[PathBuf]) -> Stamp {
        let of = |path: &PathBuf| {
            let about = fs::metadata(path).ok()?;
            Some([
                about.dev().cast_signed(),
                about.ino().cast_signed(),
                about.size().cast_signed(),
                about.mtime(),
                about.mtime_nsec(),
                about.ctime(),
                about.ctime_nsec(),
            ])
        };
        Stamp(files.iter().map(of).collect())
    }

    /// Those of `files` of which this is another state than `before`: both are stamps of them.
    pub fn differs<'a>(&self, before: &Stamp, files: &'a [PathBuf]) -> Vec<&'a Path> {
        let states = self.0.iter().zip(&before.0).zip(files);
        states
            .filter(|((now, before), _)| now != before)
            .map(|(_, file)| file.as_path())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_directory_on_the_way_to_a_file_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let volume = root.join("volume");
        fs::create_dir_all(volume.join("..one")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(volume.join("..one/policy.yaml"), "a").unwrap();
        symlink("..one", volume.join("..data")).unwrap();
        symlink("..data/policy.yaml", volume.join("policy.yaml")).unwrap();
        symlink("../volume/policy.yaml", root.join("etc/policy.yaml")).unwrap();

        let found = directories_of(&root.join("etc/policy.yaml"));
        // The paths contain `..`, so they are compared after resolving it.
        let found: BTreeSet<PathBuf> = found.iter().map(|d| d.canonicalize().unwrap()).collect();
        let expected = [root.join("etc"), volume.clone(), volume.join("..one")];
        assert_eq!(found, BTreeSet::from(expected));
    }

    #[test]
    fn a_missing_file_is_watched_from_the_nearest_directory_and_a_loop_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        let missing = directories_of(&dir.path().join("no/such/file"));
        assert_eq!(missing, BTreeSet::from([dir.path().to_owned()]));
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(directories_of(&dir.path().join("a")).contains(dir.path()));
        assert_eq!(
            directories_of(Path::new("no-such-file")),
            BTreeSet::from([PathBuf::from(".")])
        );
    }

    #[test]
    fn a_stamp_tells_a_replaced_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = [dir.path().join("a")];
        let none = Stamp::of(&files);
        fs::write(&files[0], "1").unwrap();
        let one = Stamp::of(&files);
        assert_ne!(none, one);
        fs::write(dir.path().join("b"), "1").unwrap();
        fs::rename(dir.path().join("b"), &files[0]).unwrap();
        let two = Stamp::of(&files);
        assert_ne!(one, two);
        assert_eq!(two.differs(&one, &files), [files[0].as_path()]);
        assert!(two.differs(&two, &files).is_empty());
    }
}
