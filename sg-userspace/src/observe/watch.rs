//! Tells when policy files may have changed: inotify on every directory that their paths go
//! through, symbolic links included, and stamps to tell a change from noise in the same directory.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::kernel::is_open_for_writing;

/// As many symbolic links as the kernel follows in one path.
const MOST_LINKS: usize = 40;
/// Writers come in bursts: how long it must be quiet before anyone is told, and the longest wait.
const QUIET: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(2);

/// Watches directories, never files: a file that is replaced by renaming is another file, and a
/// ConfigMap volume changes a symbolic link in a directory above it.
pub struct FileWatch {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    events: UnboundedReceiver<()>,
    burst: Option<Burst>,
}

/// Events that nobody has been told of yet. Kept here and not in the future of
/// [`FileWatch::changed`], which may be dropped in the middle of waiting.
#[derive(Clone, Copy)]
struct Burst {
    first: Instant,
    last: Instant,
}

impl FileWatch {
    /// # Errors
    /// When the kernel gives out no inotify instance.
    pub fn new() -> notify::Result<FileWatch> {
        let (sender, events) = unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error (an overflow, say) may hide a change.
            if event
                .as_ref()
                .map_or(true, |event| may_be_a_change(event.kind))
            {
                // Nobody listens once the watch is being dropped.
                let _ = sender.send(());
            }
        })?;
        Ok(FileWatch {
            watcher,
            watched: BTreeSet::new(),
            events,
            burst: None,
        })
    }

    /// Watches what `files` hang on now. To be called again after each change, since a directory
    /// that was replaced is another one.
    pub fn set(&mut self, files: &[PathBuf]) {
        for dir in std::mem::take(&mut self.watched) {
            // It may be gone.
            let _ = self.watcher.unwatch(&dir);
        }
        for dir in files.iter().flat_map(|file| directories_of(file)) {
            // What cannot be watched is still noticed by its stamp, only later.
            if self
                .watcher
                .watch(&dir, RecursiveMode::NonRecursive)
                .is_ok()
            {
                self.watched.insert(dir);
            }
        }
    }

    /// Returns once something has happened and it has been quiet for a while since. May be dropped
    /// at any await and called again: no event is lost.
    pub async fn changed(&mut self) {
        loop {
            let Some(burst) = &mut self.burst else {
                if self.events.recv().await.is_none() {
                    // The watcher has given up, and nothing will ever come.
                    return std::future::pending().await;
                }
                let now = Instant::now();
                self.burst = Some(Burst {
                    first: now,
                    last: now,
                });
                continue;
            };
            let until = (burst.last + QUIET).min(burst.first + LONGEST);
            match timeout_at(until, self.events.recv()).await {
                Ok(Some(())) if Instant::now() < until => burst.last = Instant::now(),
                _ => {
                    self.burst = None;
                    return;
                }
            }
        }
    }
}

/// Reading a file changes nothing, and reloading reads files.
fn may_be_a_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The directories whose entries decide what `file` is: those of every symbolic link on the way,
/// and the one it is in at last. One that does not exist is represented by the nearest above it.
pub fn directories_of(file: &Path) -> BTreeSet<PathBuf> {
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

/// How long a file must not have changed to be taken for whole.
const STILL: Duration = Duration::from_millis(200);

/// The first of these files that is still being written, as far as can be told: somebody has it
/// open for writing, or it has changed a moment ago. A file that is not there is not being
/// written.
///
/// The process must have a handler for SIGIO.
pub fn unfinished(files: &[PathBuf]) -> Option<&Path> {
    files.iter().map(PathBuf::as_path).find(|file| {
        let Ok(file) = fs::File::open(file) else {
            return false;
        };
        let changed = file.metadata().and_then(|about| about.modified());
        // A time in the future says nothing.
        let age = changed.ok().and_then(|changed| changed.elapsed().ok());
        age.is_some_and(|age| age < STILL) || is_open_for_writing(file.as_fd()).unwrap_or(false)
    })
}

/// What tells one state of some files from another without reading them.
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
        // Spelled through `..`, which names the same directories.
        let found: BTreeSet<PathBuf> = found.iter().map(|d| d.canonicalize().unwrap()).collect();
        let expected = [root.join("etc"), volume.clone(), volume.join("..one")];
        assert_eq!(found, BTreeSet::from(expected));
    }

    /// `run` waits for several things at once, and starts anew whenever one of them happens.
    #[test]
    fn waiting_that_is_broken_off_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, "1").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut watch = FileWatch::new().unwrap();
            watch.set(std::slice::from_ref(&file));
            fs::write(&file, "2").unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            let tick = Duration::from_millis(50);
            while tokio::time::timeout(tick, watch.changed()).await.is_err() {
                assert!(Instant::now() < deadline, "the change was not told");
            }
        });
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
        assert_ne!(one, Stamp::of(&files));
    }
}
