//! Compares what the kernel's tables hold with what the reference remembers.

use std::collections::HashMap;

use sg_common::flow::FlowKind;

use super::{Disagreement, World};
use crate::reference::flows::{Flow, elapsed};
use crate::reference::identity::FlowKey;

/// Where the flows of one kind went that the programs do not know about.
#[derive(Default)]
pub(super) struct Account {
    pub(super) seeded: u64,
    pub(super) flushed: u64,
    evicted: u64,
    /// What had been entered when the tables were last compared.
    entered: u64,
}

/// Nanoseconds between two times, also across the clock's zero: on a machine that has just started
/// a script turns times back beyond it.
fn apart(a: u64, b: u64) -> u64 {
    elapsed(a, b).unsigned_abs()
}

impl World {
    /// Compares every remembered flow. Times may differ by `slack`.
    pub(super) fn compare_flows(&mut self, slack: u64) -> Result<(), Disagreement> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let found = live.tables.flows();
        let moves = live.tables.moves();
        // Rewriting an entry takes a second one for a moment.
        let was_rewritten = std::mem::take(&mut live.was_rewritten);
        let flows = &mut live.reference.flows;
        let mut present = [0; 2];
        let mut seen: HashMap<FlowKey, Flow> = HashMap::new();
        for (key, in_kernel) in found {
            present[in_kernel.kind as usize] += 1;
            let Some(ours) = flows.entries.get_mut(&key) else {
                return Err(format!(
                    "the kernel remembers {key:?} as {in_kernel:?}; the reference does not"
                ));
            };
            let same = Flow {
                created: ours.created,
                last_seen: ours.last_seen,
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
            *ours = in_kernel;
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
            let had_to_make_room =
                was_rewritten || moves[flow.kind as usize].entered > account.entered;
            if !self.is_tiny || !had_to_make_room {
                return Err(format!(
                    "the reference remembers {key:?} as {flow:?}; the kernel does not"
                ));
            }
            account.evicted += 1;
            self.evicted += 1;
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
