//! Shows a line on the terminal during work that takes more than a second, so that the user sees
//! that it goes on. Without a terminal it shows nothing.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shorter work needs no line.
const SOON: Duration = Duration::from_secs(1);

/// Shows the line until it is dropped.
pub(super) struct Patience {
    /// Dropping it ends the thread.
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Patience {
    /// `doing` completes the text "still …".
    pub(super) fn with(doing: &'static str) -> Self {
        let (done, is_done) = mpsc::channel::<()>();
        let wait = move || {
            if is_done.recv_timeout(SOON) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            // The progress bar draws on standard error, if that is a terminal.
            let line = ProgressBar::new_spinner().with_elapsed(SOON);
            if let Ok(style) = ProgressStyle::with_template("{spinner} still {msg} ({elapsed})") {
                // A C locale has these too.
                line.set_style(style.tick_chars("|/-\\ "));
            }
            line.set_message(doing);
            line.enable_steady_tick(Duration::from_millis(100));
            // Waits until the sender is dropped.
            let _ = is_done.recv();
            line.finish_and_clear();
        };
        // If no thread can be started there is no line, which does no other harm.
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
            // The thread only draws, so an error has no consequence.
            let _ = thread.join();
        }
    }
}
