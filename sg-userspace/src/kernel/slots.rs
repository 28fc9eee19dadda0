//! Assigns a counter slot to every rule. A slot belongs to a rule's identity for as long as
//! anything names it: across reloads, and after the rule is removed while a flow may still refer to
//! it. The counts of a rule that nothing names any more are added to one sum for each direction and
//! action. So totals stay exact, and neither the record nor the counter maps grow with the number
//! of reloads.
//!
//! With a candidate beside the policy, each pair of rules with another outcome has a slot too,
//! which it keeps in the same way. A rule's counter is the sum of its own slot and those of its
//! pairs. What a pair has counted that nothing names any more is added to its rule (`more`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use sg_common::counters::SlotCounters;
use sg_common::verdict::FIRST_RULE_SLOT;

use super::error::KernelError;
use super::owners::Key;
pub(super) use super::owners::{add, since};
use super::state::{Forgotten, SlotOwner, State};
use sg_policy::policy::{Location, Policy};

/// The smallest number of slots in a counter map: 32 KiB for each CPU.
const MIN_CAPACITY: u32 = 1024;

/// The owners of all slots under a new policy.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    /// One owner for each rule of the policy, in its order.
    pub(super) rules: Vec<SlotOwner>,
    /// One owner for each pair of rules that has another outcome under the candidate, in its
    /// order.
    pub(super) pairs: Vec<SlotOwner>,
    pub(super) retired: Vec<SlotOwner>,
    pub(super) forgotten: Vec<Forgotten>,
    /// What pairs of this candidate have counted that are gone. Their rules count it too.
    pub(super) gone: Vec<Forgotten>,
    /// The number of the watch that the pairs are of.
    watch: Option<u32>,
    /// How many slots the counter map needs. If that is more than it has, another map is added.
    pub(super) capacity: u32,
}

impl Assignment {
    pub(super) fn slots(&self) -> Vec<u32> {
        self.rules.iter().map(|owner| owner.slot).collect()
    }

    pub(super) fn pair_slots(&self) -> Vec<u32> {
        self.pairs.iter().map(|owner| owner.slot).collect()
    }

    /// The assignment of another interface of the attachment: the owners are the same, and the
    /// counters its own. `previous` is its record, if it has one, and `counted` are the counts of
    /// its slots. The counts of an owner that has lost its slot are added to the sums of that
    /// interface.
    pub(super) fn of_interface(
        &self,
        previous: Option<&State>,
        counted: &[SlotCounters],
    ) -> Assignment {
        let counted = |slot: u32| counted.get(slot as usize).copied().unwrap_or_default();
        let before = previous.map(State::owners);
        let mut before: HashMap<u32, &SlotOwner> = before
            .into_iter()
            .flatten()
            .map(|owner| (owner.slot, owner))
            .collect();
        let mut of = |owners: &[SlotOwner]| -> Vec<SlotOwner> {
            let with_base = |owner: &SlotOwner| {
                let is_same = before
                    .get(&owner.slot)
                    .is_some_and(|known| known.key() == owner.key());
                let known = match is_same {
                    true => before.remove(&owner.slot),
                    false => None,
                };
                SlotOwner {
                    base: known.map_or_else(|| counted(owner.slot), |known| known.base),
                    more: known.map_or_else(SlotCounters::default, |known| known.more),
                    ..owner.clone()
                }
            };
            owners.iter().map(with_base).collect()
        };
        let (rules, pairs) = (of(&self.rules), of(&self.pairs));
        let mut assignment = Assignment {
            rules,
            pairs,
            retired: of(&self.retired),
            forgotten: previous.map_or_else(Vec::new, |state| state.forgotten.clone()),
            gone: gone_before(previous, self.watch),
            watch: self.watch,
            capacity: self.capacity,
        };
        let lost = before.into_values();
        let lost = lost.map(|owner| (owner.clone(), owner.counts(counted(owner.slot))));
        assignment.forget(lost.collect());
        assignment
    }

    /// Adds the counts of owners that have lost their slots: of a pair to the counts of its rule,
    /// if that still has a slot, and else to the sum of the direction and action.
    fn forget(&mut self, lost: Vec<(SlotOwner, SlotCounters)>) {
        let mut of_rules: HashMap<Key<'_>, (&SlotOwner, SlotCounters)> = HashMap::new();
        for (owner, counts) in &lost {
            if *counts == SlotCounters::default() {
                continue;
            }
            let watch = owner.beside.as_ref().map(|beside| beside.watch);
            if watch.is_some() && watch == self.watch {
                add_to(&mut self.gone, owner, *counts);
            }
            let none = (owner, SlotCounters::default());
            let (_, sum) = of_rules.entry(owner.key_of_rule()).or_insert(none);
            *sum = add(*sum, *counts);
        }
        let is_one = |owner: &SlotOwner| owner.beside.is_none();
        let rules = self.rules.iter().chain(&self.retired);
        let rules: HashSet<Key<'_>> = rules.filter(|it| is_one(it)).map(SlotOwner::key).collect();
        for (rule, (owner, counts)) in &of_rules {
            if !rules.contains(rule) {
                add_to(&mut self.forgotten, owner, *counts);
            }
        }
        drop(rules);
        let rules = self.rules.iter_mut().chain(&mut self.retired);
        for rule in rules.filter(|it| is_one(it)) {
            if let Some((_, counts)) = of_rules.get(&rule.key()).copied() {
                rule.more = add(rule.more, counts);
            }
        }
    }
}

/// What pairs of a watch have counted on an interface that are gone.
fn gone_before(previous: Option<&State>, watch: Option<u32>) -> Vec<Forgotten> {
    let candidate = previous.and_then(|state| state.candidate.as_ref());
    let same = candidate.filter(|it| Some(it.watch) == watch);
    same.map_or_else(Vec::new, |it| it.gone.clone())
}

/// What is known about the use of slots.
pub(super) trait SlotUse {
    /// The slots that flows name. Expired flows do not count, and must not become alive again.
    /// `None` if the flows cannot be read, and then no slot is taken away from a rule.
    fn named_by_flows(&self) -> Option<HashSet<u32>>;
    /// The counts of every slot since its map was created.
    fn counted(&self) -> Result<Vec<SlotCounters>, KernelError>;
}

/// The pairs of rules that need slots too: those of the watch with this number.
pub(super) struct PairsOf {
    pub(super) watch: u32,
    /// Without their slots.
    pub(super) owners: Vec<SlotOwner>,
}

/// Assigns slots for `policy` and `pairs`, after `previous` with `capacity` slots (zero at a first
/// attachment).
pub(super) fn assign(
    policy: &Policy,
    pairs: Option<PairsOf>,
    previous: Option<&State>,
    capacity: u32,
    in_use: &dyn SlotUse,
) -> Result<Assignment, KernelError> {
    let watch = pairs.as_ref().map(|pairs| pairs.watch);
    let mut places = Places::default();
    let rules = policy.rules.iter().map(|rule| SlotOwner {
        location: Some(places.of(&rule.source)),
        ..SlotOwner::of(rule)
    });
    let pairs = pairs.into_iter().flat_map(|pairs| pairs.owners);
    let wanted: Vec<SlotOwner> = rules.chain(pairs).collect();
    let mut known: HashMap<Key<'_>, &SlotOwner> = HashMap::new();
    let mut retired_before = HashSet::new();
    if let Some(state) = previous {
        retired_before.extend(state.retired.iter().map(|o| o.slot));
        known.extend(state.owners().map(|owner| (owner.key(), owner)));
    }
    let kept: Vec<Option<&SlotOwner>> = wanted
        .iter()
        .map(|owner| known.remove(&owner.key()))
        .collect();
    // The programs that are about to be replaced still count in a slot that is retired now.
    let (gone, mut retired): (Vec<SlotOwner>, Vec<SlotOwner>) = known
        .into_values()
        .cloned()
        .partition(|owner| retired_before.contains(&owner.slot));
    // This must come before reading the counters, so that they include all that expired flows have
    // counted.
    let named = match gone.is_empty() {
        true => None,
        false => in_use.named_by_flows(),
    };
    let missing = kept.iter().filter(|owner| owner.is_none()).count();
    let counted = match named.is_some() || missing > 0 {
        true => in_use.counted()?,
        false => Vec::new(),
    };
    let counted = |slot: u32| counted.get(slot as usize).copied().unwrap_or_default();
    let mut lost = Vec::new();
    for owner in gone {
        match &named {
            Some(named) if !named.contains(&owner.slot) => {
                let counts = owner.counts(counted(owner.slot));
                lost.push((owner, counts));
            }
            _ => retired.push(owner),
        }
    }
    retired.sort_by_key(|owner| owner.slot);

    let mut taken: BTreeSet<u32> = kept.iter().flatten().map(|owner| owner.slot).collect();
    taken.extend(retired.iter().map(|owner| owner.slot));
    let free = |capacity: u32| {
        (capacity.saturating_sub(FIRST_RULE_SLOT) as usize).saturating_sub(taken.len())
    };
    // A policy without rules needs a map as well, for the reasons.
    let mut capacity = capacity;
    while capacity == 0 || missing > free(capacity) {
        capacity = (capacity * 2).max(MIN_CAPACITY);
    }

    let mut next = FIRST_RULE_SLOT;
    let mut place = |kept: Option<&SlotOwner>| match kept {
        Some(owner) => (owner.slot, owner.base, owner.more),
        None => {
            while taken.contains(&next) {
                next += 1;
            }
            taken.insert(next);
            // The owner before may have left counts in the slot.
            (next, counted(next), SlotCounters::default())
        }
    };
    let places: Vec<(u32, SlotCounters, SlotCounters)> = kept.into_iter().map(&mut place).collect();
    let placed = wanted.into_iter().zip(places);
    let mut rules: Vec<SlotOwner> = placed
        .map(|(owner, (slot, base, more))| SlotOwner {
            slot,
            base,
            more,
            ..owner
        })
        .collect();
    let pairs = rules.split_off(policy.rules.len());
    let mut assignment = Assignment {
        rules,
        pairs,
        retired,
        forgotten: previous.map_or_else(Vec::new, |state| state.forgotten.clone()),
        gone: gone_before(previous, watch),
        watch,
        capacity,
    };
    assignment.forget(lost);
    Ok(assignment)
}

/// The names of files, as whoever reads the record from another directory finds them.
#[derive(Default)]
struct Places<'p>(HashMap<&'p str, String>);

impl<'p> Places<'p> {
    fn of(&mut self, source: &'p Location) -> Location {
        let file = self.0.entry(&source.file).or_insert_with(|| {
            let path = Path::new(&source.file);
            let whole = std::path::absolute(path).ok();
            let whole = whole.filter(|_| path.is_relative() && path.is_file());
            whole.map_or_else(|| source.file.clone(), |path| path.display().to_string())
        });
        Location {
            file: file.clone(),
            ..*source
        }
    }
}

/// Adds the counts of an owner to the sum of its direction and action.
fn add_to(sums: &mut Vec<Forgotten>, owner: &SlotOwner, counts: SlotCounters) {
    let new = Forgotten {
        direction: owner.direction,
        action: owner.action,
        is_no_match: !owner.is_rule(),
        counts,
    };
    forget(sums, new);
}

/// Adds counts to the sum of their kind.
pub(super) fn forget(sums: &mut Vec<Forgotten>, new: Forgotten) {
    if new.counts == SlotCounters::default() {
        return;
    }
    match sums.iter_mut().find(|it| it.is_as(&new)) {
        Some(sum) => sum.counts = add(sum.counts, new.counts),
        None => sums.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::state::tests::sample;
    use sg_common::verdict::{Action, Direction};
    use sg_policy::policy::rules_from_lines;

    /// The slots that flows name, and the counts of every slot.
    #[derive(Default)]
    struct Used {
        named: HashSet<u32>,
        counted: HashMap<u32, SlotCounters>,
    }

    impl Used {
        fn count(&mut self, owner: &SlotOwner, packets: u64) {
            self.counted.entry(owner.slot).or_default().packets += packets;
        }

        /// The packets in the row of an owner.
        fn of(&self, owner: &SlotOwner) -> u64 {
            let counted = self.counted.get(&owner.slot).copied().unwrap_or_default();
            since(counted, owner.base).packets
        }

        /// The packets of all listed rows, by direction and action.
        fn listed(&self, now: &Assignment) -> HashMap<(Direction, Action), u64> {
            let mut sums = HashMap::new();
            for owner in now.rules.iter().chain(&now.retired) {
                *sums.entry((owner.direction, owner.action)).or_default() += self.of(owner);
            }
            for gone in &now.forgotten {
                *sums.entry((gone.direction, gone.action)).or_default() += gone.counts.packets;
            }
            sums
        }
    }

    impl SlotUse for Used {
        fn named_by_flows(&self) -> Option<HashSet<u32>> {
            Some(self.named.clone())
        }

        fn counted(&self) -> Result<Vec<SlotCounters>, KernelError> {
            let len = self.counted.keys().max().map_or(0, |slot| slot + 1);
            let of = |slot| self.counted.get(&slot).copied().unwrap_or_default();
            Ok((0..len).map(of).collect())
        }
    }

    /// The flows cannot be read.
    struct Unknown;

    impl SlotUse for Unknown {
        fn named_by_flows(&self) -> Option<HashSet<u32>> {
            None
        }

        fn counted(&self) -> Result<Vec<SlotCounters>, KernelError> {
            Ok(Vec::new())
        }
    }

    fn assign(policy: &Policy, previous: Option<&Assignment>, in_use: &dyn SlotUse) -> Assignment {
        let state = previous.map(state);
        let capacity = previous.map_or(0, |a| a.capacity);
        super::assign(policy, None, state.as_ref(), capacity, in_use).unwrap()
    }

    fn state(assignment: &Assignment) -> State {
        State {
            rules: assignment.rules.clone(),
            pairs: assignment.pairs.clone(),
            retired: assignment.retired.clone(),
            forgotten: assignment.forgotten.clone(),
            ..sample()
        }
    }

    /// `count` rules, for ports from `first` on.
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
        let first = assign(&ports(10, 3), None, &none);
        let moved = rules_from_lines(
            "in tcp 12 from any accept\nin udp 1 from any drop\nin tcp 10 from any accept",
        );
        let second = assign(&moved, Some(&first), &none);
        assert_eq!(second.rules[0].slot, first.rules[2].slot);
        assert_eq!(second.rules[2].slot, first.rules[0].slot);
        assert_eq!(second.retired, [first.rules[1].clone()]);
        // The rule gets its slot back.
        let third = assign(&ports(10, 3), Some(&second), &none);
        assert_eq!(third.slots(), first.slots());
    }

    #[test]
    fn no_two_rules_ever_share_a_slot() {
        let mut previous: Option<Assignment> = None;
        for round in 0..12 {
            let now = assign(
                &ports(round * 150, 400),
                previous.as_ref(),
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
            assert!(now.retired.len() <= 150, "those of the last change");
            previous = Some(now);
        }
        // In each round 150 rules come and go, and their slots are used again.
        assert_eq!(previous.unwrap().capacity, MIN_CAPACITY);
    }

    #[test]
    fn a_rule_is_forgotten_only_when_no_flow_names_it_and_its_counts_are_kept() {
        let mut used = Used::default();
        let first = assign(&ports(1, 500), None, &used);
        for owner in &first.rules {
            used.count(owner, 3);
        }
        let second = assign(&ports(1000, 400), Some(&first), &used);
        assert_eq!(second.retired.len(), 500, "just now");
        assert_eq!(second.forgotten, []);
        let named = first.rules[7].clone();
        used.named.insert(named.slot);
        let third = assign(&ports(2000, 500), Some(&second), &used);
        assert_eq!(third.capacity, second.capacity, "no growth was needed");
        assert!(third.rules.iter().all(|o| o.slot != named.slot));
        assert!(third.retired.contains(&named));
        assert_eq!(third.retired.len(), 401);
        let reused = third.rules.iter().filter(|o| o.base.packets == 3).count();
        assert_eq!(
            reused, 499,
            "the slots that are free again, with what they counted"
        );
        assert_eq!(third.forgotten.len(), 1);
        assert_eq!(third.forgotten[0].counts.packets, 499 * 3);
        // The flow is gone as well.
        used.named.clear();
        let fourth = assign(&ports(2000, 500), Some(&third), &used);
        assert_eq!((fourth.retired.len(), fourth.forgotten.len()), (0, 1));
        assert_eq!(fourth.forgotten[0].counts.packets, 500 * 3);
        // A rule that has counted nothing leaves nothing to add.
        let quiet = Used::default();
        let first = assign(&ports(1, 5), None, &quiet);
        let second = assign(&ports(10, 5), Some(&first), &quiet);
        let third = assign(&ports(20, 5), Some(&second), &quiet);
        assert_eq!((third.retired.len(), third.forgotten.len()), (5, 0));
    }

    #[test]
    fn where_flows_cannot_be_read_nothing_is_forgotten() {
        let mut last = assign(&ports(0, 100), None, &Unknown);
        for round in 1..8 {
            last = assign(&ports(round * 100, 100), Some(&last), &Unknown);
            assert_eq!(last.retired.len(), round * 100);
            assert_eq!(last.forgotten, []);
        }
    }

    #[test]
    fn a_slot_retired_just_now_is_not_used_again_at_once() {
        let none = Used::default();
        let first = assign(&ports(1, 900), None, &none);
        let second = assign(&ports(2000, 900), Some(&first), &none);
        assert!(second.capacity > first.capacity);
        assert_eq!(second.retired.len(), 900);
    }

    /// Proves A2 for two interfaces that share slots but not counters, one of which joins later and
    /// is left out for a while: the rows of each show what was counted there.
    #[test]
    fn each_interface_of_an_attachment_has_counts_of_its_own() {
        let mut used = [Used::default(), Used::default()];
        let mut sent = [HashMap::new(), HashMap::new()];
        let mut last: [Option<Assignment>; 2] = [None, None];
        let shape = |round: usize| {
            let action = ["accept", "drop"][round % 2];
            let line = |port| format!("in tcp {port} from any {action}");
            let lines: Vec<String> = (round * 7..round * 7 + 20).map(line).collect();
            rules_from_lines(&lines.join("\n"))
        };
        for round in 0..12 {
            let lead = assign(&shape(round), last[0].as_ref(), &used[0]);
            // The second one joins in the third round, and is left out in two later ones.
            let takes_part = round >= 2 && !(6..8).contains(&round);
            let previous = last[1].as_ref().map(state);
            let counts = used[1].counted().unwrap();
            let second = takes_part.then(|| lead.of_interface(previous.as_ref(), &counts));
            for (interface, now) in [(0, Some(&lead)), (1, second.as_ref())] {
                let Some(now) = now else { continue };
                assert_eq!(now.slots(), lead.slots(), "one numbering");
                for (i, owner) in (1..).zip(&now.rules) {
                    used[interface].count(owner, i * (interface as u64 + 1));
                    *sent[interface]
                        .entry((owner.direction, owner.action))
                        .or_default() += i * (interface as u64 + 1);
                }
                // A removed rule is listed also where this interface has never counted for it.
                let mut listed = used[interface].listed(now);
                listed.retain(|_, packets| *packets > 0);
                assert_eq!(
                    listed, sent[interface],
                    "interface {interface} in round {round}"
                );
            }
            last[0] = Some(lead);
            last[1] = second.or(last[1].take());
        }
        assert!(sent[1].len() == 2 && sent[0] != sent[1]);
    }

    /// Proves A2 for slots with several owners, of both actions and directions: no count is lost,
    /// moves to another direction or action, or is shown for another rule.
    #[test]
    fn a_slot_that_has_counted_may_be_used_again_and_again() {
        let rules = |round: usize| {
            let both = ["accept", "drop"][round % 2];
            let other = ["drop", "accept"][round % 2];
            let lines: Vec<String> = (0..10)
                .flat_map(|i| {
                    let port = round * 100 + i;
                    [
                        format!("in tcp {port} from any {both}"),
                        format!("in udp {port} from any {other}"),
                        format!("out tcp {port} to any {other}"),
                        format!("out udp {port} to any {both}"),
                    ]
                })
                .collect();
            rules_from_lines(&lines.join("\n"))
        };
        let mut used = Used::default();
        let mut last: Option<Assignment> = None;
        let mut sent: HashMap<(Direction, Action), u64> = HashMap::new();
        let mut owners: HashMap<u32, usize> = HashMap::new();
        for round in 0..9 {
            let now = assign(&rules(round), last.as_ref(), &used);
            for (i, owner) in (1..).zip(&now.rules) {
                assert_eq!(used.of(owner), 0, "a new rule has counted nothing");
                *owners.entry(owner.slot).or_default() += 1;
                used.count(owner, i);
                *sent.entry((owner.direction, owner.action)).or_default() += i;
                assert_eq!(used.of(owner), i);
            }
            assert_eq!(used.listed(&now), sent, "round {round}");
            assert!(
                now.forgotten.len() <= 4,
                "one for each direction and action"
            );
            assert_eq!(now.capacity, MIN_CAPACITY);
            // Applying the same rules again changes no owner.
            let again = assign(&rules(round), Some(&now), &used);
            for (i, owner) in (1..).zip(&again.rules) {
                assert_eq!(
                    used.of(owner),
                    i,
                    "a rule that stays has counted what it has"
                );
            }
            assert_eq!(used.listed(&again), sent, "round {round}, again");
            last = Some(again);
        }
        assert!(owners.values().any(|count| *count >= 3), "{owners:?}");
    }
}
