//! Tells the service manager about `run` (sd_notify(3)): that it is ready, what it does in a line,
//! and, where its unit has a watchdog, that it is alive. Where no service manager has started it,
//! nothing is sent.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How many signs of life are sent in the time after which the watchdog would end the process.
const BEATS: u32 = 4;

pub(super) struct Manager {
    /// How often it wants a sign of life.
    beat: Option<Duration>,
    last_beat: Option<Instant>,
    /// The last line that it was told.
    status: String,
    is_ready: bool,
}

impl Manager {
    pub(super) fn find() -> Manager {
        Manager {
            beat: sd_notify::watchdog_enabled().map(|within| within / BEATS),
            last_beat: None,
            status: String::new(),
            is_ready: false,
        }
    }

    /// Says what is done now, and with the first call that the start is complete.
    pub(super) fn ready(&mut self, status: &str) {
        if self.is_ready && self.status == status {
            return;
        }
        let mut states = vec![NotifyState::Status(status)];
        if !self.is_ready {
            states.push(NotifyState::Ready);
        }
        // Whoever does not listen has asked for nothing.
        let _ = sd_notify::notify(&states);
        status.clone_into(&mut self.status);
        self.is_ready = true;
    }

    /// A sign of life, if one is due. It is given between two events, so that a `run` that hangs
    /// in one is ended by the watchdog. Its policy stays in force.
    pub(super) fn beat(&mut self) {
        let is_due = |beat| self.last_beat.is_none_or(|last| last.elapsed() >= beat);
        if self.beat.is_some_and(is_due) {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
            self.last_beat = Some(Instant::now());
        }
    }

    pub(super) fn stopping(&self) {
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
    }
}
