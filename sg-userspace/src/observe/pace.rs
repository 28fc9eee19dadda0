//! Work that is repeated at the pace of what it costs.

use std::time::{Duration, Instant};

/// Work that is repeated, but takes at most a fiftieth of the time.
#[derive(Debug)]
pub struct Pace {
    due: Instant,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            due: Instant::now(),
        }
    }
}

impl Pace {
    const SHARE: u32 = 50;
    const LEAST: Duration = Duration::from_secs(2);

    /// Whether it is time to do it again.
    pub fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// Does it, and measures how long it takes.
    pub fn pass<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.due = Instant::now() + Pace::LEAST.max(began.elapsed() * Pace::SHARE);
        done
    }
}
