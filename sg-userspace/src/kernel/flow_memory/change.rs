//! What userspace changes in the table: enters flows, cuts and removes them.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sg_common::flow::{CUT, FlowKind, FlowValue, Timeout};
use sg_common::flow_entry::{BEGUN, Contents, FlowKey, HEAD, Head, clock, tick};
use sg_common::flow_table::{BUSY, Found, claim, cut, double, find_kind, publish, reclaim, remove};
use sg_common::protocol::kind_of;
use sg_common::ruling::{FLUSH_OLD, InForce, Policy as _, is_cut_at_its_end};

use super::table::FlowTable;

/// What happened to a flow that was to be entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub is_new: bool,
    /// Whether it had an entry, which stays.
    pub was_there: bool,
    /// Whether another flow was evicted for it.
    pub evicted: bool,
    /// Whether a CPU has entered the same flow at the same time, so that one of the two was
    /// removed.
    pub is_double: bool,
    /// Whether it has replaced a half-open entry of the same flow.
    pub has_replaced: bool,
}

impl FlowTable {
    /// Enters a flow of a kind, unless it is there in either kind. Only if the entry has seen
    /// nothing but a SYN, and a reply has come since, is it replaced.
    pub fn enter(&self, key: &FlowKey, value: &FlowValue, kind: FlowKind, now: u64) -> Written {
        let spot = self.spot(key);
        let contents = Contents::of(value);
        let there = self.find(key);
        let is_known_better = |found: &Found| {
            let (head, now) = (found.contents.head, contents.head);
            kind == FlowKind::Established
                && found.kind() == FlowKind::HalfOpen
                && head.state() == Timeout::TcpSynSent as u8
                && now.state() != CUT
                && now.has_seen_reply()
                && now.originator() == head.originator()
        };
        if there.is_some_and(|found| !is_known_better(&found)) {
            return Written {
                was_there: true,
                ..Written::default()
            };
        }
        let Some(claim) = claim(self, &spot, key, kind as u32, clock(now)) else {
            return Written::default();
        };
        let is_new = publish(self, &claim, key, &contents);
        // A packet may have opened the flow meanwhile. Its entry is better than what is known from
        // outside, and it cannot be established in so short a time.
        let is_open = || find_kind(self, &spot, key, FlowKind::HalfOpen).is_some();
        let double = match (kind, there) {
            (FlowKind::Established, None) if is_new && is_open() => {
                find_kind(self, &spot, key, kind)
            }
            (FlowKind::Established, _) => double(self, &spot, key),
            (FlowKind::HalfOpen, _) => None,
        };
        Written {
            is_new,
            was_there: false,
            evicted: claim.evicted != 0,
            is_double: double.is_some_and(|double| remove(self, &double)),
            has_replaced: is_new && there.is_some_and(|found| remove(self, &found)),
        }
    }

    /// Does for all flows of earlier generations what a generation with `flush` does for the flows
    /// of its packets (K11): cuts those of TCP, and removes all others. Returns how many of each
    /// kind were removed.
    pub fn flush(&self, epoch: u32, now: u64) -> [u64; 2] {
        let policy = InForce {
            epoch,
            old_flows: FLUSH_OLD,
        };
        let mut removed = [0; 2];
        self.each_found(|key, found| {
            let is_cut = found.contents.head.state() == CUT;
            if is_cut || policy.is_before::<AtomicU64>(found.contents.rule) == 0 {
                return;
            }
            if is_cut_at_its_end(kind_of(key.protocol(), key.is_v6()) as u8) {
                cut(self, &found, tick(now));
            } else if remove(self, &found) {
                removed[found.kind() as usize] += 1;
            }
        });
        removed
    }

    /// Enters a flow with what another table says of it.
    pub(in crate::kernel) fn copy(
        &self,
        key: &FlowKey,
        contents: &Contents,
        kind: FlowKind,
        now: u64,
    ) {
        let claim = claim(self, &self.spot(key), key, kind as u32, clock(now));
        if let Some(claim) = claim {
            publish(self, &claim, key, contents);
        }
    }

    /// Removes the flows for which `is_over` is true. Returns how many of each kind were removed.
    pub(crate) fn remove_where(&self, is_over: impl Fn(&Contents) -> bool) -> [u64; 2] {
        let mut removed = [0; 2];
        self.each_found(|_, found| {
            if is_over(&found.contents) && remove(self, &found) {
                removed[found.kind() as usize] += 1;
            }
        });
        removed
    }

    /// Releases the ways that a process was writing when it was killed.
    pub(in crate::kernel) fn reclaim(&self) {
        /// Far longer than it takes to write an entry, even if the process loses its processor
        /// meanwhile.
        const TOO_LONG: Duration = Duration::from_millis(100);
        let busy = || {
            let mut busy = Vec::new();
            self.each_tag(|tag, place| {
                if tag == BUSY
                    && let Some(entry) = self.entry(place)
                {
                    busy.push((place, Head(sg_common::flow_table::Word::load(&entry[HEAD]))));
                }
            });
            busy
        };
        let found = busy();
        if found.is_empty() {
            return;
        }
        std::thread::sleep(TOO_LONG);
        for (place, head) in found {
            reclaim(self, place, head);
        }
    }

    /// Rewrites all flows, which nothing else may use meanwhile. Tests move times with it.
    #[doc(hidden)]
    pub fn rewrite(&self, change: impl Fn(Contents) -> Contents) {
        self.each_found(|_, found| {
            if let Some(entry) = self.entry(found.place()) {
                let new = change(found.contents);
                entry[HEAD].store(new.head.0, std::sync::atomic::Ordering::SeqCst);
                entry[BEGUN].store(new.begun, std::sync::atomic::Ordering::SeqCst);
            }
        });
    }
}
