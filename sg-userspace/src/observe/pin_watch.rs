//! Tells when the pins of an interface change: somebody has applied a policy, or detached.

use std::path::Path;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// inotify on the directory of the pins: every policy that is put in force has a new record
/// there, and detaching removes it all.
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
                // An error (an overflow, say) may hide a change. Opening and reading is none.
                if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
                    // Nobody listens once the watch is being dropped.
                    let _ = sender.send(());
                }
            })?;
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(PinWatch {
            _watcher: watcher,
            events,
        })
    }

    /// Returns once something has changed. May be dropped at any await and called again.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            return std::future::pending().await;
        }
        // One look is enough for all that has happened by now.
        while self.events.try_recv().is_ok() {}
    }
}
