//! Counts what became of events since this process began to read them (O1): delivered, lost
//! (overwritten before they were read), or suppressed (never written, being over the rate limit).
//! Together they are all events.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::labels::Labels;
use super::sample::Series;
use crate::observe::events::Logged;

/// Counts that one thread adds to and another reads.
#[derive(Debug)]
pub struct EventCounts {
    since: Timestamp,
    delivered: AtomicU64,
    lost: AtomicU64,
    suppressed: AtomicU64,
}

impl Default for EventCounts {
    fn default() -> EventCounts {
        EventCounts {
            since: Timestamp::now(),
            delivered: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }
}

impl EventCounts {
    /// Adds what one reading has brought.
    pub fn add(&self, read: &Logged) {
        let delivered = read.packets.len() as u64;
        for (count, more) in [
            (&self.delivered, delivered),
            (&self.lost, read.lost),
            (&self.suppressed, read.suppressed),
        ] {
            count.fetch_add(more, Ordering::Relaxed);
        }
    }

    pub(super) fn series(&self) -> Vec<Series<1>> {
        let created = self.since.as_second();
        let outcomes = [
            ("delivered", &self.delivered),
            ("lost", &self.lost),
            ("suppressed", &self.suppressed),
        ];
        let series = outcomes.map(|(outcome, count)| Series {
            labels: Labels::new(&[("outcome", outcome)]),
            counts: [count.load(Ordering::Relaxed)],
            created,
        });
        series.into()
    }
}
