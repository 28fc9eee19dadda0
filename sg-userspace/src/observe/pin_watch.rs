//! Notifies about changes of an interface's pins, which mean that a policy was applied, or the
//! interface detached.

use std::path::Path;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Uses inotify on the directory of the pins. Every policy that is put in force has a new record
/// there, and detaching removes all of it.
pub struct PinWatch {
    _watcher: RecommendedWatcher,
    events: UnboundedReceiver<()>,
}

impl PinWatch {
    /// # Errors
    /// When the directory cannot be watched.
    pub fn new(dir: &Path) -> notify::Result<PinWatch> {
        let (sender, events) = unbounded_channel();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // An error, such as an overflow, may hide a change. Opening and reading are no
                // changes.
                if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
                    // While the watch is being dropped there is no receiver any more.
                    let _ = sender.send(());
                }
            })?;
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(PinWatch {
            _watcher: watcher,
            events,
        })
    }

    /// Returns when something has changed. Can be dropped at any await and called again.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            return std::future::pending().await;
        }
        // All changes so far need only one check.
        while self.events.try_recv().is_ok() {}
    }
}
