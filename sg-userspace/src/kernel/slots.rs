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
    let wanted = wanted(policy, pairs);
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
    let is_named = |owner: &SlotOwner| {
        let named = named.as_ref();
        named.is_none_or(|named| named.contains(&owner.slot))
    };
    let (named, lost): (Vec<SlotOwner>, Vec<SlotOwner>) = gone.into_iter().partition(is_named);
    retired.extend(named);
    retired.sort_by_key(|owner| owner.slot);
    let lost = lost.into_iter().map(|owner| {
        let counts = owner.counts(counted(owner.slot));
        (owner, counts)
    });
    let lost = lost.collect();

    let mut taken: BTreeSet<u32> = kept.iter().flatten().map(|owner| owner.slot).collect();
    taken.extend(retired.iter().map(|owner| owner.slot));
    let capacity = enlarged(capacity, taken.len(), missing);
    let mut rules = placed(wanted, kept, taken, counted);
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

/// The owners that the policy and the pairs need, without their slots.
fn wanted(policy: &Policy, pairs: Option<PairsOf>) -> Vec<SlotOwner> {
    let mut places = Places::default();
    let rules = policy.rules.iter().map(|rule| SlotOwner {
        location: Some(places.of(&rule.source)),
        ..SlotOwner::of(rule)
    });
    let pairs = pairs.into_iter().flat_map(|pairs| pairs.owners);
    rules.chain(pairs).collect()
}

/// The capacity of a map that has room for so many more slots than are taken.
fn enlarged(mut capacity: u32, taken: usize, more: usize) -> u32 {
    let free = |capacity: u32| {
        let for_rules = capacity.saturating_sub(FIRST_RULE_SLOT) as usize;
        for_rules.saturating_sub(taken)
    };
    // A policy without rules needs a map as well, for the reasons.
    while capacity == 0 || more > free(capacity) {
        capacity = (capacity * 2).max(MIN_CAPACITY);
    }
    capacity
}

/// The wanted owners with their slots: each has the one that it had, or the first that is free.
fn placed(
    wanted: Vec<SlotOwner>,
    had: Vec<Option<&SlotOwner>>,
    mut taken: BTreeSet<u32>,
    counted: impl Fn(u32) -> SlotCounters,
) -> Vec<SlotOwner> {
    let mut next = FIRST_RULE_SLOT;
    let mut place = |had: Option<&SlotOwner>| match had {
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
    let placed = wanted.into_iter().zip(had).map(|(owner, had)| {
        let (slot, base, more) = place(had);
        SlotOwner {
            slot,
            base,
            more,
            ..owner
        }
    });
    placed.collect()
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
mod tests;
