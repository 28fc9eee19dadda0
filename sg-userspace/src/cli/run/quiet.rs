//! Turns the notifications of a watch, which come from threads of their own, into something that
//! `run` can wait for together with other events.

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout_at};

/// How long it must be quiet before a change is reported, and the longest wait.
const QUIET: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(2);

/// Changes of which nobody has been told yet.
pub(super) struct Changes {
    events: UnboundedReceiver<()>,
    burst: Option<Burst>,
}

/// Events that were not reported yet. They are kept here and not in the future of
/// [`Changes::quiet`], which may be dropped while it waits.
#[derive(Clone, Copy)]
struct Burst {
    first: Instant,
    last: Instant,
}

impl Changes {
    /// The function that a watch calls after each change, and what it is told to.
    pub(super) fn channel() -> (impl Fn() + Send + 'static, Changes) {
        let (sender, events) = unbounded_channel();
        let changed = move || {
            // While the watch is being dropped there is no receiver any more.
            let _ = sender.send(());
        };
        let changes = Changes {
            events,
            burst: None,
        };
        (changed, changes)
    }

    /// Returns when something has changed. Can be dropped at any await and called again.
    pub(super) async fn any(&mut self) {
        self.first().await;
        // All changes so far need only one check.
        while self.events.try_recv().is_ok() {}
    }

    /// Returns after something has changed and it has been quiet for a while: writers cause many
    /// events at once. Can be dropped at any await and called again, without losing an event.
    pub(super) async fn quiet(&mut self) {
        loop {
            let Some(burst) = &mut self.burst else {
                self.first().await;
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

    async fn first(&mut self) {
        if self.events.recv().await.is_none() {
            // The watcher has stopped, and no event will ever come.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sg_userspace::sources::watch::FileWatch;

    use super::*;

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
            let (changed, mut changes) = Changes::channel();
            let mut watch = FileWatch::new(changed).unwrap();
            watch.set(std::slice::from_ref(&file));
            fs::write(&file, "2").unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            let tick = Duration::from_millis(50);
            while tokio::time::timeout(tick, changes.quiet()).await.is_err() {
                assert!(Instant::now() < deadline, "the change was not told");
            }
        });
    }
}
