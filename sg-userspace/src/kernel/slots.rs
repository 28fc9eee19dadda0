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

/// What is known of the slots when there are not enough of them; `None` when it cannot be read, and
/// then no slot is used again.
pub(super) trait SlotUse {
    /// Slots that a flow names.
    fn named_by_flows(&self) -> Option<HashSet<u32>>;
    /// What a slot has counted since its map was created.
    fn raw(&self, slot: u32) -> Option<SlotCounters>;
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
    let mut short = missing.saturating_sub(free(&taken, capacity));
    if short > 0 {
        // A slot retired just now may still be counted by a program run that has not ended.
        let named = in_use.named_by_flows();
        let (reused, stay): (Vec<_>, Vec<_>) = retired.into_iter().partition(|o| {
            let is_free = named.as_ref().is_some_and(|n| !n.contains(&o.slot));
            let may_reuse = short > 0 && is_free && retired_before.contains(&o.slot);
            match in_use.raw(o.slot).filter(|_| may_reuse) {
                Some(raw) => {
                    short -= 1;
                    bases.insert(o.slot, raw);
                    true
                }
                None => false,
            }
        });
        retired = stay;
        // No more of them than will be given away just below: a free slot that has counted would
        // start its next owner with somebody else's packets.
        for owner in reused {
            let raw = bases.get(&owner.slot).copied().unwrap_or_default();
            forget(&mut forgotten, &owner, since(raw, owner.base));
            taken.remove(&owner.slot);
        }
    }
    // A policy without rules needs a map as well, for the reasons.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::state::PolicyRecord;
    use crate::policy::rules_from_lines;

    #[derive(Default)]
    struct Used {
        named: HashSet<u32>,
        raw: HashMap<u32, u64>,
    }

    impl SlotUse for Used {
        fn named_by_flows(&self) -> Option<HashSet<u32>> {
            Some(self.named.clone())
        }

        fn raw(&self, slot: u32) -> Option<SlotCounters> {
            Some(SlotCounters {
                packets: self.raw.get(&slot).copied().unwrap_or(0),
                ..Default::default()
            })
        }
    }

    fn state(assignment: &Assignment) -> State {
        State {
            interface: "eth0".into(),
            ifindex: 2,
            netns: None,
            netns_cookie: 1,
            attached_at: String::new(),
            xdp_mode: String::new(),
            egress_hook: String::new(),
            added_clsact: false,
            policy: PolicyRecord {
                name: String::new(),
                digest: String::new(),
                generation: 1,
                applied_at: String::new(),
            },
            inbound_program: 0,
            outbound_program: 0,
            counter_maps: 1,
            max_flows: 1,
            essential: true,
            non_ip: Default::default(),
            timeouts: sg_common::flow::Timeout::defaults(),
            opens_flows: true,
            has_flows: true,
            rules: assignment.rules.clone(),
            retired: assignment.retired.clone(),
            forgotten: assignment.forgotten.clone(),
        }
    }

    /// `count` rules for ports from `first` on.
    fn ports(first: usize, count: usize) -> Policy {
        let lines: Vec<String> = (first..first + count)
            .map(|port| format!("in tcp {port} from any accept"))
            .collect();
        rules_from_lines(&lines.join("\n"))
    }

    /// Proves A3.
    #[test]
    fn a_rule_keeps_its_slot_wherever_it_moves() {
        let none = Used::default();
        let first = assign(&ports(10, 3), None, 0, &none);
        let moved = rules_from_lines(
            "in tcp 12 from any accept\nin udp 1 from any drop\nin tcp 10 from any accept",
        );
        let second = assign(&moved, Some(&state(&first)), first.capacity, &none);
        assert_eq!(second.rules[0].slot, first.rules[2].slot);
        assert_eq!(second.rules[2].slot, first.rules[0].slot);
        assert_eq!(second.retired, [first.rules[1].clone()]);
        // And gets it back.
        let third = assign(&ports(10, 3), Some(&state(&second)), second.capacity, &none);
        assert_eq!(third.slots(), first.slots());
    }

    #[test]
    fn no_two_rules_ever_share_a_slot() {
        let mut previous: Option<Assignment> = None;
        for round in 0..12 {
            let capacity = previous.as_ref().map_or(0, |a| a.capacity);
            let before = previous.as_ref().map(state);
            let now = assign(
                &ports(round * 150, 400),
                before.as_ref(),
                capacity,
                &Used::default(),
            );
            let mut slots: Vec<u32> = now
                .rules
                .iter()
                .chain(&now.retired)
                .map(|o| o.slot)
                .collect();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), now.rules.len() + now.retired.len());
            assert!(
                slots
                    .iter()
                    .all(|s| (FIRST_RULE_SLOT..now.capacity).contains(s))
            );
            previous = Some(now);
        }
        // 150 rules come and go in each round; their slots are used again.
        assert_eq!(previous.unwrap().capacity, MIN_CAPACITY);
    }

    #[test]
    fn a_slot_is_used_again_only_when_no_flow_names_it_and_its_counts_are_kept() {
        let none = Used::default();
        let first = assign(&ports(1, 500), None, 0, &none);
        let second = assign(
            &ports(1000, 400),
            Some(&state(&first)),
            first.capacity,
            &none,
        );
        assert_eq!(second.retired.len(), 500);
        let named = first.rules[7].slot;
        let used = Used {
            named: HashSet::from([named]),
            raw: first.rules.iter().map(|o| (o.slot, 3)).collect(),
        };
        let third = assign(
            &ports(2000, 500),
            Some(&state(&second)),
            second.capacity,
            &used,
        );
        assert_eq!(third.capacity, second.capacity, "no growth was needed");
        assert!(third.rules.iter().all(|o| o.slot != named));
        assert!(third.retired.iter().any(|o| o.slot == named));
        // As many as were short gave up 3 packets each; whoever has one of them starts from there.
        let reused: Vec<_> = third
            .rules
            .iter()
            .filter(|o| first.rules.iter().any(|f| f.slot == o.slot))
            .collect();
        assert_eq!(reused.len(), 32 + 900 + 500 - third.capacity as usize);
        assert!(reused.iter().all(|o| o.base.packets == 3));
        assert_eq!(third.forgotten.len(), 1);
        assert_eq!(third.forgotten[0].counts.packets, reused.len() as u64 * 3);
    }

    #[test]
    fn a_slot_retired_just_now_is_not_used_again_at_once() {
        let none = Used::default();
        let first = assign(&ports(1, 900), None, 0, &none);
        let second = assign(
            &ports(2000, 900),
            Some(&state(&first)),
            first.capacity,
            &none,
        );
        assert!(second.capacity > first.capacity);
        assert_eq!(second.retired.len(), 900);
    }
}
