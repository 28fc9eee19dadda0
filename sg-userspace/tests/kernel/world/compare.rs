//! Compares the kernel's tables with the reference.

use std::collections::HashMap;

use sg_common::flow::FlowKind;
use sg_common::flow_table::Place;

use super::live::now;
use super::{Disagreement, World};
use crate::reference::flows::{Flow, elapsed, has_expired};
use crate::reference::identity::FlowKey;

/// Changes to the flows of one kind that did not come from the programs.
#[derive(Default)]
pub(super) struct Account {
    pub(super) seeded: u64,
    pub(super) flushed: u64,
    pub(super) evicted_by_seeds: u64,
    seeded_before: u64,
    evicted: u64,
    /// How many flows had been entered at the last comparison.
    entered: u64,
}

/// How many entries a word of the table has. One of them is evicted if the word is full.
const WAYS: usize = 8;
/// How many entries of a word may have the same tag, a byte of the hash. A fourth one evicts one of
/// these, also where the word is not full.
const SAME_TAG: usize = 3;

/// The distance between two times. They may lie on both sides of the clock's zero, because a script
/// moves times back by more than the machine has been up.
fn apart(a: u64, b: u64) -> u64 {
    elapsed(a, b).unsigned_abs()
}

impl World {
    /// Compares every flow. Times may differ by `slack`.
    pub(super) fn compare_flows(&mut self, slack: u64) -> Result<(), Disagreement> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let found = live.tables.flows();
        let moves = live.tables.moves();
        let terms = live.reference.terms;
        let time = now();
        let before = std::mem::take(&mut live.places);
        let flows = &mut live.reference.flows;
        let mut present = [0; 2];
        let mut seen: HashMap<FlowKey, Flow> = HashMap::new();
        // The reference's flows before any evicted ones are removed from it.
        let times: HashMap<FlowKey, Flow> = flows.entries.clone();
        for (key, in_kernel, place) in found {
            present[in_kernel.kind as usize] += 1;
            live.places.insert(key, place);
            let Some(ours) = flows.entries.get_mut(&key) else {
                return Err(format!(
                    "the kernel remembers {key:?} as {in_kernel:?}; the reference does not"
                ));
            };
            let same = Flow {
                created: ours.created,
                last_seen: ours.last_seen,
                number: ours.number,
                ..in_kernel
            };
            if same != *ours
                || apart(in_kernel.created, ours.created) > slack
                || apart(in_kernel.last_seen, ours.last_seen) > slack
            {
                return Err(format!(
                    "{key:?}: the kernel remembers {in_kernel:?}, the reference {ours:?}"
                ));
            }
            *ours = Flow {
                number: ours.number,
                ..in_kernel
            };
            if let Some(twice) = seen.insert(key, in_kernel) {
                return Err(format!(
                    "{key:?} is in two tables: {in_kernel:?}, {twice:?}"
                ));
            }
        }
        let missing: Vec<FlowKey> = flows
            .entries
            .keys()
            .filter(|key| !seen.contains_key(key))
            .copied()
            .collect();
        for key in missing {
            let Some(flow) = flows.entries.remove(&key) else {
                continue;
            };
            let account = &mut self.accounts[flow.kind as usize];
            let had_to_make_room = account.seeded > account.seeded_before
                || moves[flow.kind as usize].entered > account.entered;
            if !self.is_tiny || !had_to_make_room {
                return Err(format!(
                    "the reference remembers {key:?} as {flow:?}; the kernel does not"
                ));
            }
            if self.exact {
                // K10: the word was full, and the evicted flow had expired, or was closing, or was
                // the one seen least recently. Or its tag was that of the new flow and of two
                // more. Its way has the new flow now.
                let place = before.get(&key).ok_or_else(|| {
                    format!("{key:?} was evicted by what was entered before it: {flow:?}")
                })?;
                let word = |p: &Place| (p.group, p.word) == (place.group, place.word);
                let neighbours: Vec<&Flow> = before
                    .iter()
                    .filter(|(other, p)| word(p) && **other != key)
                    .filter_map(|(other, _)| times.get(other))
                    .collect();
                let expired = |f: &Flow| has_expired(f, time, &terms);
                let is_first = neighbours.iter().all(|f| {
                    let [ours, theirs] = [flow.state, f.state].map(|s| s.is_closing());
                    let is_older = elapsed(f.last_seen, flow.last_seen) >= 0;
                    !expired(f) && (ours && !theirs || ours == theirs && is_older)
                });
                let mut now_there = live.places.iter().filter(|(_, p)| *p == place);
                let is_allowed = now_there.next().is_some_and(|(successor, _)| {
                    let tag = live.tables.tag(successor);
                    let had_it =
                        |other: &FlowKey, p: &Place| word(p) && live.tables.tag(other) == tag;
                    let alike = before.iter().filter(|(other, p)| had_it(other, p)).count();
                    match alike >= SAME_TAG {
                        true => live.tables.tag(&key) == tag,
                        false => neighbours.len() + 1 == WAYS && (expired(&flow) || is_first),
                    }
                });
                if !is_allowed {
                    return Err(format!(
                        "{key:?} at {place:?} was evicted as {flow:?}, out of {neighbours:#?}"
                    ));
                }
            }
            account.evicted += 1;
            self.evicted += 1;
        }
        for kind in FlowKind::BOTH {
            // The reference cannot know how many were evicted, so it takes the number from the
            // tables.
            let account = &self.accounts[kind as usize];
            flows.moves[kind as usize].evicted = account.evicted - account.evicted_by_seeds;
        }
        if moves != flows.moves {
            return Err(format!(
                "the kernel has counted {moves:?}, the reference {:?}",
                flows.moves
            ));
        }
        for kind in FlowKind::BOTH {
            let (account, moves) = (&mut self.accounts[kind as usize], moves[kind as usize]);
            let gone = moves.entered + account.seeded
                - (moves.left + account.flushed + present[kind as usize]);
            if gone != account.evicted {
                return Err(format!(
                    "of the {} flows {gone} were evicted by the counters, and {} by the tables",
                    kind.name(),
                    account.evicted
                ));
            }
            account.entered = moves.entered;
            account.seeded_before = account.seeded;
        }
        Ok(())
    }

    pub(super) fn compare_fragments(&mut self, slack: u64) -> Result<(), Disagreement> {
        let live = self.live();
        let found = live.tables.fragments();
        let ours = &mut live.reference.fragments;
        if found.len() != ours.len() {
            return Err(format!(
                "the kernel remembers {} fragments, the reference {}",
                found.len(),
                ours.len()
            ));
        }
        for (key, in_kernel) in found {
            match ours.get_mut(&key) {
                Some(first)
                    if first.outcome == in_kernel.outcome
                        && apart(first.seen, in_kernel.seen) <= slack =>
                {
                    first.seen = in_kernel.seen;
                }
                other => {
                    return Err(format!(
                        "{key:?}: the kernel remembers {in_kernel:?}, the reference {other:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
