//! A policy in force: its programs and tables in the kernel, the reference beside them, and the
//! clock of both.

use std::collections::HashMap;

use sg_common::flow::Timeout;
use sg_common::flow_table::Place;
use sg_userspace::kernel::CounterReader;
use sg_userspace::kernel::programs::Programs;

use super::tables::Tables;
use crate::reference::Reference;
use crate::reference::flows::{LASTING, SECOND, elapsed};
use crate::reference::identity::FlowKey;

/// No step is taken if an entry expires within this time, because kernel and reference read the
/// clock at different moments.
const MARGIN: u64 = 2 * SECOND;
/// Nor is a step taken within this time before a flow is two seconds old, from when on its replies
/// establish it.
const LASTING_MARGIN: u64 = SECOND / 2;

pub(super) struct Live {
    pub(super) programs: Programs,
    pub(super) tables: Tables,
    pub(super) counters: CounterReader,
    pub(super) reference: Reference,
    /// The time before which nothing expires.
    pub(super) quiet_until: u64,
    /// Where each flow was in the table at the last comparison.
    pub(super) places: HashMap<FlowKey, Place>,
}

pub(super) fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("the clock can be read");
    time.tv_sec() as u64 * SECOND + time.tv_nsec() as u64
}

impl Live {
    /// Makes all entries older, in the kernel and in the reference.
    pub(super) fn age(&mut self, nanoseconds: u64) {
        self.tables.age(nanoseconds);
        for flow in self.reference.flows.entries.values_mut() {
            flow.created = flow.created.wrapping_sub(nanoseconds);
            flow.last_seen = flow.last_seen.wrapping_sub(nanoseconds);
        }
        for first in self.reference.fragments.values_mut() {
            first.seen = first.seen.wrapping_sub(nanoseconds);
        }
        self.quiet_until = 0;
    }

    /// Makes entries older while one of them is about to expire.
    pub(super) fn keep_away_from_edges(&mut self) {
        loop {
            let time = now();
            if time < self.quiet_until {
                return;
            }
            let timeouts = self.reference.terms.timeouts;
            let terms = self.reference.terms;
            let (margin, lasting_margin) = (MARGIN as i64, LASTING_MARGIN as i64);
            // The nanoseconds until shortly before an entry expires, or a flow becomes two seconds
            // old. `None` if that moment, and the margin after it, is over.
            let left = |from: u64, time_out: u64, margin: i64| {
                let left = time_out as i64 - elapsed(time, from);
                (left > -margin).then_some(left - margin)
            };
            let expires = |from, seconds: u32| left(from, u64::from(seconds) * SECOND, margin);
            let flows = self.reference.flows.entries.values();
            let fragments = self.reference.fragments.values();
            // Whatever is entered or seen from now on expires after the shortest timeout at the
            // earliest.
            let shortest = timeouts.iter().min().copied().unwrap_or(0);
            let next = flows
                .clone()
                .filter_map(|f| expires(f.last_seen, terms.seconds(f.state)))
                .chain(flows.filter_map(|f| left(f.created, LASTING, lasting_margin)))
                .chain(
                    fragments.filter_map(|f| expires(f.seen, timeouts[Timeout::Fragment as usize])),
                )
                .chain([i64::from(shortest) * SECOND as i64 - margin])
                .chain([LASTING as i64 - lasting_margin])
                .min()
                .unwrap_or(i64::MAX);
            if next > 0 {
                self.quiet_until = time + next as u64;
                return;
            }
            self.age(3 * MARGIN);
        }
    }
}
