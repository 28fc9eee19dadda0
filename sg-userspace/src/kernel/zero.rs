//! The zero of an interface's counters: what they had counted when somebody asked for a new
//! beginning (A5). Counters never go back, and nobody else sees a difference; who asks for the
//! counts since the zero gets the counters less what is kept here.
//!
//! The zero is a blob in the directory of the interface, so that it goes with the counters that it
//! belongs to.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sg_common::counters::SlotCounters;
use sg_common::verdict::{Action, Direction, FIRST_RULE_SLOT};

use super::blob::{self, Kind};
use super::error::KernelError;
use super::owners::{Key, counts};
use super::pins::{InterfacePins, PinTree};
use super::shared::raw_counters;
use super::slots::{add, forget};
use super::state::{Forgotten, SlotOwner, State};
use super::who::Who;

/// What an interface had counted at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zero {
    /// RFC 3339.
    pub at: String,
    pub by: Who,
    /// Of the slots of reasons, in their order, as [`counts::words`].
    reasons: Vec<[u64; 4]>,
    /// Of the rules that had counted something.
    rules: Vec<Owned>,
    /// See [`State::forgotten`].
    forgotten: Vec<Forgotten>,
}

/// What a rule had counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owned {
    place: Place,
    direction: Direction,
    action: Action,
    /// Whether it is the slot of a pair in which no rule of the policy matches.
    #[serde(default)]
    is_no_match: bool,
    /// Of the slot of a pair, slot and base of the rule, to which its counts are added in the end.
    #[serde(default)]
    rule: Option<Place>,
    #[serde(with = "counts")]
    counts: SlotCounters,
}

/// What tells an owner of a slot from all others that the slot ever has. The base differs too,
/// unless the owner before has counted nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Place {
    slot: u32,
    /// As [`counts::words`].
    base: [u64; 4],
    /// The rule's, and of the slot of a pair the other rule's.
    identity: String,
}

impl Place {
    fn of(owner: &SlotOwner) -> Place {
        let beside = owner.beside.as_ref();
        let other = beside.map(|it| {
            let other = it.rule.as_ref().map(|rule| rule.identity.as_str());
            format!(" beside {} {}", it.watch, other.unwrap_or_default())
        });
        Place {
            slot: owner.slot,
            base: counts::words(owner.base),
            identity: owner.identity.clone() + &other.unwrap_or_default(),
        }
    }
}

impl Zero {
    /// What is counted now, by the record and the counts of all slots.
    pub(super) fn of(state: &State, raw: &[SlotCounters]) -> Zero {
        let of_slot = |slot: u32| raw.get(slot as usize).copied().unwrap_or_default();
        let rules = state.owners().filter(|owner| owner.beside.is_none());
        let by_key: HashMap<Key<'_>, &SlotOwner> = rules.map(|it| (it.key(), it)).collect();
        let rules = state.owners().filter_map(|owner| {
            let counts = owner.counts(of_slot(owner.slot));
            let is_pair = owner.beside.is_some();
            (counts != SlotCounters::default()).then_some(Owned {
                place: Place::of(owner),
                direction: owner.direction,
                action: owner.action,
                is_no_match: !owner.is_rule(),
                rule: by_key
                    .get(&owner.key_of_rule())
                    .filter(|_| is_pair)
                    .map(|rule| Place::of(rule)),
                counts,
            })
        });
        Zero {
            at: jiff::Timestamp::now().to_string(),
            by: Who::here(),
            reasons: (0..FIRST_RULE_SLOT)
                .map(|slot| counts::words(of_slot(slot)))
                .collect(),
            rules: rules.collect(),
            forgotten: state.forgotten.clone(),
        }
    }

    /// The zero of an interface. `None` if none was ever set.
    ///
    /// It has to be read before the counters: what is counted in between is counted since then.
    pub(crate) fn read(pins: &InterfacePins) -> Result<Option<Zero>, KernelError> {
        let path = pins.zero();
        let zero = blob::read_json(&path, Kind::Zero)?.transpose();
        zero.map_err(|reason| KernelError::DamagedZero { path, reason })
    }

    /// What the zero takes away from the counters of this record.
    pub(crate) fn before(&self, state: &State) -> Before<'_> {
        let there: HashSet<Place> = state.owners().map(Place::of).collect();
        let mut forgotten = self.forgotten.clone();
        let mut of_pairs: HashMap<u32, SlotCounters> = HashMap::new();
        for gone in &self.rules {
            if there.contains(&gone.place) {
                continue;
            }
            match gone.rule.as_ref().filter(|rule| there.contains(*rule)) {
                // What these pairs had counted is in the counters of their rules now.
                Some(rule) => {
                    let sum = of_pairs.entry(rule.slot).or_default();
                    *sum = add(*sum, gone.counts);
                }
                // And of these rules in the sums of forgotten ones.
                None => forget(
                    &mut forgotten,
                    Forgotten {
                        direction: gone.direction,
                        action: gone.action,
                        is_no_match: gone.is_no_match,
                        counts: gone.counts,
                    },
                ),
            }
        }
        Before {
            zero: self,
            of_pairs,
            by_slot: self
                .rules
                .iter()
                .map(|owned| (owned.place.slot, owned))
                .collect(),
            forgotten,
        }
    }

    fn write(&self, pins: &InterfacePins) -> Result<(), KernelError> {
        blob::write_json(&pins.zero(), Kind::Zero, self)
    }
}

/// What had been counted before a zero, by the owners of today.
pub(crate) struct Before<'a> {
    zero: &'a Zero,
    by_slot: HashMap<u32, &'a Owned>,
    /// What pairs that are gone had counted for the rules with these slots.
    of_pairs: HashMap<u32, SlotCounters>,
    forgotten: Vec<Forgotten>,
}

impl Before<'_> {
    pub(crate) fn of_rule(&self, owner: &SlotOwner) -> SlotCounters {
        let known = self.by_slot.get(&owner.slot);
        let known = known.filter(|owned| owned.place == Place::of(owner));
        let own = known.map_or_else(SlotCounters::default, |owned| owned.counts);
        let of_pairs = self.of_pairs.get(&owner.slot).copied();
        add(own, of_pairs.unwrap_or_default())
    }

    pub(crate) fn of_reason_slot(&self, slot: u32) -> SlotCounters {
        let words = self.zero.reasons.get(slot as usize).copied();
        counts::of_words(words.unwrap_or_default())
    }

    pub(crate) fn of_forgotten(&self, gone: &Forgotten) -> SlotCounters {
        let known = self.forgotten.iter().find(|it| it.is_as(gone));
        known.map_or_else(SlotCounters::default, |known| known.counts)
    }
}

/// Makes what an interface has counted until now its zero, in place of the one before. Returns it.
///
/// # Errors
/// [`KernelError::NotAttached`] if no policy is in force there any more.
pub fn set_zero(bpffs: &Path, pins: &InterfacePins) -> Result<Zero, KernelError> {
    let tree = PinTree::new(bpffs);
    // The record and the counters have to belong together.
    let _lock = tree.lock()?;
    let Some(state) = State::read(pins)? else {
        tree.prune();
        return Err(KernelError::NotAttached {
            scope: format!("interface #{}", pins.ifindex),
        });
    };
    let raw = raw_counters(pins, state.counter_maps)?;
    let zero = Zero::of(&state, &raw);
    zero.write(pins)?;
    Ok(zero)
}

#[cfg(test)]
mod tests {
    use super::super::slots::{SlotUse, assign, since};
    use super::super::state::tests::sample;
    use super::*;
    use sg_policy::policy::rules_from_lines;

    /// Slots that count, and flows that name none.
    struct Counted(Vec<SlotCounters>);

    impl SlotUse for Counted {
        fn named_by_flows(&self) -> Option<HashSet<u32>> {
            Some(HashSet::new())
        }

        fn counted(&self) -> Result<Vec<SlotCounters>, KernelError> {
            Ok(self.0.clone())
        }
    }

    type Sums = HashMap<(Direction, Action), u64>;

    /// What the rows show since a zero, in all and for the rules in force.
    fn shown(state: &State, raw: &[SlotCounters], zero: &Zero) -> (Sums, Vec<u64>) {
        let before = zero.before(state);
        let of_owner = |owner: &SlotOwner| {
            let now = since(raw[owner.slot as usize], owner.base);
            since(now, before.of_rule(owner)).packets
        };
        let mut sums = Sums::new();
        for owner in state.rules.iter().chain(&state.retired) {
            *sums.entry((owner.direction, owner.action)).or_default() += of_owner(owner);
        }
        for gone in &state.forgotten {
            let counts = since(gone.counts, before.of_forgotten(gone));
            *sums.entry((gone.direction, gone.action)).or_default() += counts.packets;
        }
        sums.retain(|_, packets| *packets > 0);
        (sums, state.rules.iter().map(of_owner).collect())
    }

    /// Proves A5 and A2: since a zero no count is lost or invented, whatever rules come, go and
    /// come back, and whoever gets their slots.
    #[test]
    fn since_a_zero_exactly_what_came_after_it_is_counted() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..50 {
            let mut state = sample();
            (state.rules, state.retired) = (Vec::new(), Vec::new());
            let (mut used, mut capacity) = (Counted(vec![SlotCounters::default(); 1024]), 0);
            let mut zero = Zero::of(&state, &used.0);
            let (mut sent, mut of_rule): (Sums, HashMap<String, u64>) = Default::default();
            for _ in 0..20 {
                let lines: Vec<String> = (1..9)
                    .filter(|_| random.bool())
                    .map(|port| {
                        let action = ["accept", "drop"][port % 2];
                        match port % 3 {
                            0 => format!("out tcp {port} to any {action}"),
                            _ => format!("in tcp {port} from any {action}"),
                        }
                    })
                    .collect();
                let policy = rules_from_lines(&lines.join("\n"));
                let previous = (capacity > 0).then_some(&state);
                let now = assign(&policy, None, previous, capacity, &used).unwrap();
                capacity = now.capacity;
                (state.rules, state.retired) = (now.rules, now.retired);
                state.forgotten = now.forgotten;
                let there: HashSet<&str> = state
                    .rules
                    .iter()
                    .map(|owner| owner.identity.as_str())
                    .collect();
                // A rule that is forgotten and comes back begins anew.
                let is_known = |identity: &str| {
                    let mut retired = state.retired.iter();
                    there.contains(identity) || retired.any(|owner| owner.identity == identity)
                };
                of_rule.retain(|identity, _| is_known(identity));
                if random.u8(..3) == 0 {
                    zero = Zero::of(&state, &used.0);
                    sent.clear();
                    of_rule.clear();
                }
                for owner in &state.rules {
                    let packets = u64::from(random.u8(..4));
                    used.0[owner.slot as usize].packets += packets;
                    *sent.entry((owner.direction, owner.action)).or_default() += packets;
                    *of_rule.entry(owner.identity.clone()).or_default() += packets;
                }
                sent.retain(|_, packets| *packets > 0);
                let (sums, rules) = shown(&state, &used.0, &zero);
                assert_eq!(sums, sent);
                let expected = state.rules.iter().map(|owner| of_rule[&owner.identity]);
                assert_eq!(rules, expected.collect::<Vec<u64>>());
            }
        }
    }

    #[test]
    fn a_zero_reads_back_as_written() {
        let raw: Vec<SlotCounters> = (0..64)
            .map(|slot| counts::of_words([slot, 2 * slot, 3, 4 + slot]))
            .collect();
        let zero = Zero::of(&sample(), &raw);
        assert_eq!(zero.rules.len(), 1);
        let json = serde_json::to_vec(&zero).unwrap();
        assert_eq!(serde_json::from_slice::<Zero>(&json).unwrap(), zero);
    }
}
