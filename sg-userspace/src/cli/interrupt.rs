//! Ctrl-C while a block of lines is redrawn: the `^C` that the terminal echoes is erased before the
//! process ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGINT;

use super::failure::Failure;
use super::screen::Screen;

pub(super) struct Interrupt<'a> {
    screen: &'a Screen,
    has_come: Arc<AtomicBool>,
}

impl Interrupt<'_> {
    pub(super) fn of(screen: &Screen) -> Result<Interrupt<'_>, Failure> {
        let has_come = Arc::default();
        if screen.terminal {
            signal_hook::flag::register(SIGINT, Arc::clone(&has_come)).map_err(|source| {
                Failure::Io {
                    what: "preparing to wait for signals",
                    source,
                }
            })?;
        }
        Ok(Interrupt { screen, has_come })
    }

    /// Sleeps for the interval, or until Ctrl-C.
    pub(super) fn sleep(&self, interval: Duration) -> Result<(), Failure> {
        const GLANCE: Duration = Duration::from_millis(50);
        let started = Instant::now();
        loop {
            if self.has_come.load(Ordering::SeqCst) {
                self.screen.print("\r\x1b[K")?;
                let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
            }
            let left = interval.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(match self.screen.terminal {
                true => left.min(GLANCE),
                false => left,
            });
        }
    }
}
