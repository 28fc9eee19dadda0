//! A line on the terminal for work that takes more than a second, so that nobody wonders whether
//! it goes on. Elsewhere, and for quick work, nothing.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// What takes less needs no explanation.
const SOON: Duration = Duration::from_secs(1);

/// The line is there, if it is, until this is dropped.
pub(super) struct Patience {
    /// Dropped first, which ends the thread.
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Patience {
    /// `doing` completes "still …".
    pub(super) fn with(doing: &'static str) -> Self {
        let (done, is_done) = mpsc::channel::<()>();
        let wait = move || {
            if is_done.recv_timeout(SOON) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            // Draws on standard error, if that is a terminal.
            let line = ProgressBar::new_spinner().with_elapsed(SOON);
            if let Ok(style) = ProgressStyle::with_template("{spinner} still {msg} ({elapsed})") {
                line.set_style(style);
            }
            line.set_message(doing);
            line.enable_steady_tick(Duration::from_millis(100));
            // Until the other end is gone.
            let _ = is_done.recv();
            line.finish_and_clear();
        };
        // Without a thread to be had there is no line, and nothing else is missing.
        let thread = std::thread::Builder::new().spawn(wait).ok();
        Patience {
            done: Some(done),
            thread,
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // It draws, and has nothing to fail with that anybody could mend.
            let _ = thread.join();
        }
    }
}
