//! Gives every rule its counter slot. A slot belongs to a rule's identity for as long as it can be
//! named: across reloads, and after the rule is gone while a flow may still point at it.

use std::collections::{BTreeSet, HashMap, HashSet};

use sg_common::counters::SlotCounters;
use sg_common::verdict::FIRST_RULE_SLOT;

use super::state::{Forgotten, SlotOwner, State};
use crate::policy::Policy;

/// Fewest slots of a counter map: 32 KiB for each CPU.
const MIN_CAPACITY: u32 = 1024;

/// Who owns which slot under a new policy.
#[derive(Debug)]
pub(super) struct Assignment {
    /// One for each rule of the policy, in its order.
    pub(super) rules: Vec<SlotOwner>,
    pub(super) retired: Vec<SlotOwner>,
    pub(super) forgotten: Vec<Forgotten>,
    /// Slots the counter map must have; more than it has now means another map.
    pub(super) capacity: u32,
}

impl Assignment {
    pub(super) fn slots(&self) -> Vec<u32> {
        self.rules.iter().map(|owner| owner.slot).collect()
    }
}

/// What is known of the slots when there are not enough of them.
pub(super) trait SlotUse {
    /// Slots that a flow names.
    fn named_by_flows(&self) -> HashSet<u32>;
    /// What a slot has counted since its map was created.
    fn raw(&self, slot: u32) -> SlotCounters;
}

/// Assigns slots for `policy`, after `previous` with `capacity` slots (zero at first).
pub(super) fn assign(
    policy: &Policy,
    previous: Option<&State>,
    capacity: u32,
    in_use: &dyn SlotUse,
) -> Assignment {
    let mut known: HashMap<&str, &SlotOwner> = HashMap::new();
    let mut forgotten = Vec::new();
    let mut retired_before = HashSet::new();
    if let Some(state) = previous {
        forgotten.clone_from(&state.forgotten);
        retired_before.extend(state.retired.iter().map(|o| o.slot));
        for owner in state.rules.iter().chain(&state.retired) {
            known.insert(&owner.identity, owner);
        }
    }
    let mut taken: BTreeSet<u32> = known.values().map(|o| o.slot).collect();

    let kept: Vec<Option<&SlotOwner>> = policy
        .rules
        .iter()
        .map(|rule| known.remove(rule.identity.as_str()))
        .collect();
    let mut retired: Vec<SlotOwner> = known.into_values().cloned().collect();
    retired.sort_by_key(|owner| owner.slot);

    let missing = kept.iter().filter(|o| o.is_none()).count();
    let mut capacity = capacity;
    let free = |taken: &BTreeSet<u32>, capacity: u32| {
        (capacity.saturating_sub(FIRST_RULE_SLOT) as usize).saturating_sub(taken.len())
    };
    let mut bases: HashMap<u32, SlotCounters> = HashMap::new();
    if missing > free(&taken, capacity) {
        // A slot retired just now may still be counted by a program run that has not ended.
        let named = in_use.named_by_flows();
        let (reusable, still_named): (Vec<_>, Vec<_>) = retired
            .into_iter()
            .partition(|o| retired_before.contains(&o.slot) && !named.contains(&o.slot));
        retired = still_named;
        for owner in reusable {
            let raw = in_use.raw(owner.slot);
            forget(&mut forgotten, &owner, since(raw, owner.base));
            taken.remove(&owner.slot);
            bases.insert(owner.slot, raw);
        }
    }
    // A policy without rules still needs the slots of the reasons.
    while capacity == 0 || missing > free(&taken, capacity) {
        capacity = (capacity * 2).max(MIN_CAPACITY);
    }

    let mut next = FIRST_RULE_SLOT;
    let rules = policy
        .rules
        .iter()
        .zip(kept)
        .map(|(rule, kept)| {
            let (slot, base) = match kept {
                Some(owner) => (owner.slot, owner.base),
                None => {
                    while taken.contains(&next) {
                        next += 1;
                    }
                    taken.insert(next);
                    (next, bases.get(&next).copied().unwrap_or_default())
                }
            };
            SlotOwner {
                slot,
                direction: rule.direction,
                position: rule.position,
                group: rule.group.clone(),
                action: rule.action,
                name: rule.name.clone(),
                summary: rule.summary.clone(),
                description: rule.description.clone(),
                identity: rule.identity.clone(),
                base,
            }
        })
        .collect();
    Assignment {
        rules,
        retired,
        forgotten,
        capacity,
    }
}

fn forget(forgotten: &mut Vec<Forgotten>, owner: &SlotOwner, counts: SlotCounters) {
    let same = |f: &&mut Forgotten| f.direction == owner.direction && f.action == owner.action;
    match forgotten.iter_mut().find(same) {
        Some(f) => f.counts = add(f.counts, counts),
        None => forgotten.push(Forgotten {
            direction: owner.direction,
            action: owner.action,
            counts,
        }),
    }
}

/// `raw` counted since `base`.
pub(crate) fn since(raw: SlotCounters, base: SlotCounters) -> SlotCounters {
    SlotCounters {
        packets: raw.packets.wrapping_sub(base.packets),
        bytes: raw.bytes.wrapping_sub(base.bytes),
        reply_packets: raw.reply_packets.wrapping_sub(base.reply_packets),
        reply_bytes: raw.reply_bytes.wrapping_sub(base.reply_bytes),
    }
}

pub(crate) fn add(a: SlotCounters, b: SlotCounters) -> SlotCounters {
    SlotCounters {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
        reply_packets: a.reply_packets.wrapping_add(b.reply_packets),
        reply_bytes: a.reply_bytes.wrapping_add(b.reply_bytes),
    }
}
