//! Shows how far the run is: one line that is written over, if standard error is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress {
    line: ProgressBar,
}

impl Progress {
    pub(crate) fn new() -> Self {
        // Draws on standard error, if that is a terminal.
        let line = ProgressBar::new_spinner();
        Progress { line }
    }

    /// What is being done between measurements.
    pub(crate) fn say(&self, what: String) {
        self.line.set_style(ProgressStyle::default_spinner());
        self.line.set_message(what);
        self.line.tick();
    }

    pub(crate) fn clear(&self) {
        self.line.finish_and_clear();
    }

    pub(crate) fn bar(&self, steps: u64) -> Bar<'_> {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {eta:>4} left  {msg}");
        self.line
            .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.line.set_length(steps);
        self.line.set_position(0);
        self.line.reset_eta();
        Bar { line: &self.line }
    }
}

pub(crate) struct Bar<'a> {
    line: &'a ProgressBar,
}

impl Bar<'_> {
    pub(crate) fn at(&self, what: &'static str) {
        self.line.set_message(what);
    }

    pub(crate) fn step(&self) {
        self.line.inc(1);
    }

    pub(crate) fn finish(&self) {
        self.line.finish_and_clear();
    }
}
