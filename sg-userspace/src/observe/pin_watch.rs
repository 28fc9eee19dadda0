//! Notifies about changes of an interface's pins, which mean that a policy was applied, or the
//! interface detached.

use std::path::Path;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// Uses inotify on the directory of the pins. Every policy that is put in force has a new record
/// there, and detaching removes all of it.
pub struct PinWatch {
    _watcher: RecommendedWatcher,
}

impl PinWatch {
    /// Calls `changed` after each change, from a thread of its own.
    ///
    /// # Errors
    /// When a directory cannot be watched.
    pub fn new(dirs: &[&Path], changed: impl Fn() + Send + 'static) -> notify::Result<PinWatch> {
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // An error, such as an overflow, may hide a change. Opening and reading are no
                // changes.
                if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
                    changed();
                }
            })?;
        for dir in dirs {
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
        }
        Ok(PinWatch { _watcher: watcher })
    }
}
