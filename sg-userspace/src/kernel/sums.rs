//! What rules have counted, from the counts of slots: the sum of all slots of a rule, and the same
//! of what no rule matches (SPEC A1). A rule has more than one where a candidate is or was beside
//! its policy.

use std::cell::LazyCell;
use std::collections::HashMap;

use sg_common::counters::SlotCounters;
use sg_common::verdict::{Action, Direction, Reason, reason_slot};

use super::owners::Key;
use super::slots::{add, since};
use super::state::{Forgotten, SlotOwner, State};
use super::zero::Before;

/// The counters of an interface.
pub(crate) struct Sums<'a> {
    /// Of each rule of the policy, in its order.
    pub(crate) rules: Vec<(&'a SlotOwner, SlotCounters)>,
    /// Of each rule of earlier policies that has counted and is still known.
    pub(crate) former: Vec<(&'a SlotOwner, SlotCounters)>,
    /// Of all rules that are not known any more, by direction and action.
    pub(crate) forgotten: Vec<Forgotten>,
    /// Of each pair of the candidate, in their order.
    pub(crate) pairs: Vec<(&'a SlotOwner, SlotCounters)>,
    /// Of each pair of the candidate that is not there any more because one of its rules is not.
    pub(crate) former_pairs: Vec<(&'a SlotOwner, SlotCounters)>,
    /// What no rule matches, as far as it is not in the slot of its reason.
    no_match: HashMap<(Direction, Action), SlotCounters>,
    raw: &'a [SlotCounters],
    before: Option<&'a Before<'a>>,
}

impl<'a> Sums<'a> {
    /// `raw` are the counts of each slot since its map was created.
    pub(crate) fn of(state: &'a State, raw: &'a [SlotCounters]) -> Sums<'a> {
        Sums::since(state, raw, None)
    }

    /// The sums of `raw` without what had been counted before a zero.
    pub(crate) fn since(
        state: &'a State,
        raw: &'a [SlotCounters],
        before: Option<&'a Before<'a>>,
    ) -> Sums<'a> {
        let of_owner = |owner: &'a SlotOwner| {
            let raw = raw.get(owner.slot as usize).copied();
            let now = owner.counts(raw.unwrap_or_default());
            let before = before.map(|before| before.of_rule(owner));
            (owner, since(now, before.unwrap_or_default()))
        };
        let of_forgotten = |gone: &Forgotten| {
            let before = before.map(|before| before.of_forgotten(gone));
            Forgotten {
                counts: since(gone.counts, before.unwrap_or_default()),
                ..gone.clone()
            }
        };
        let mut sums = Sums {
            rules: state.rules.iter().map(of_owner).collect(),
            former: Vec::new(),
            forgotten: state.forgotten.iter().map(of_forgotten).collect(),
            pairs: state.pairs.iter().map(of_owner).collect(),
            former_pairs: Vec::new(),
            no_match: HashMap::new(),
            raw,
            before,
        };
        // Only where a rule has more than one slot, which is seldom.
        let rules = LazyCell::new(|| {
            let rules = (0..).zip(&state.rules);
            let by_key = rules.map(|(at, rule)| (rule.key(), at));
            by_key.collect::<HashMap<Key<'_>, usize>>()
        });
        let mut former: HashMap<Key<'_>, usize> = HashMap::new();
        let watch = state.candidate.as_ref().map(|candidate| candidate.watch);
        let retired: Vec<_> = state.retired.iter().map(of_owner).collect();
        for (owner, counts) in retired.iter().chain(&sums.pairs.clone()).copied() {
            if counts == SlotCounters::default() {
                continue;
            }
            if !owner.is_rule() {
                let sum = sums.no_match.entry((owner.direction, owner.action));
                let sum = sum.or_default();
                *sum = add(*sum, counts);
                continue;
            }
            let key = owner.key_of_rule();
            let (all, at) = match rules.get(&key) {
                Some(at) => (&mut sums.rules, *at),
                None => {
                    let at = *former.entry(key).or_insert_with(|| {
                        sums.former.push((owner, SlotCounters::default()));
                        sums.former.len() - 1
                    });
                    (&mut sums.former, at)
                }
            };
            if let Some((_, sum)) = all.get_mut(at) {
                *sum = add(*sum, counts);
            }
        }
        let of_watch = |owner: &SlotOwner| {
            let beside = owner.beside.as_ref();
            beside.is_some_and(|beside| Some(beside.watch) == watch)
        };
        let former_pairs = retired.into_iter().filter(|(owner, _)| of_watch(owner));
        sums.former_pairs = former_pairs.collect();
        for gone in sums.forgotten.iter().filter(|it| it.is_no_match) {
            let sum = sums.no_match.entry((gone.direction, gone.action));
            let sum = sum.or_default();
            *sum = add(*sum, gone.counts);
        }
        sums.forgotten.retain(|it| !it.is_no_match);
        sums
    }

    /// All counts, each with its direction and action: of rules, of those that are not known any
    /// more, and of reasons.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Direction, Action, SlotCounters)> {
        let of_rules = self.rules.iter().chain(&self.former);
        let of_rules = of_rules.map(|(owner, counts)| (owner.direction, owner.action, *counts));
        let of_forgotten = self.forgotten.iter();
        let of_forgotten = of_forgotten.map(|gone| (gone.direction, gone.action, gone.counts));
        let of_reasons = Direction::BOTH.into_iter().flat_map(move |direction| {
            let counts = |reason: Reason| self.reason(direction, reason);
            Reason::ALL.map(|reason| (direction, reason.action(), counts(reason)))
        });
        of_rules.chain(of_forgotten).chain(of_reasons)
    }

    /// The counts of a reason in the direction of its packets; their replies cross the other way.
    pub(crate) fn reason(&self, direction: Direction, reason: Reason) -> SlotCounters {
        let slot = reason_slot(direction, reason);
        let now = self.raw.get(slot as usize).copied().unwrap_or_default();
        let before = self.before.map(|before| before.of_reason_slot(slot));
        let own = since(now, before.unwrap_or_default());
        match reason {
            Reason::NoMatch | Reason::NoMatchAudited => {
                let more = self.no_match.get(&(direction, reason.action()));
                add(own, more.copied().unwrap_or_default())
            }
            _ => own,
        }
    }

    /// Packets and bytes that crossed in a direction because of a reason: what it decided there,
    /// and the replies to what it let pass in the other direction (A2).
    pub(crate) fn crossed(&self, direction: Direction, reason: Reason) -> [u64; 2] {
        let counts = self.reason(direction, reason);
        let replies = self.reason(direction.opposite(), reason);
        [
            counts.packets + replies.reply_packets,
            counts.bytes + replies.reply_bytes,
        ]
    }

    /// How many packets the rules have decided, those that none matches too, by direction. It never
    /// gets less, whatever policies come and go.
    pub(crate) fn decided(&self) -> [u64; 2] {
        Direction::BOTH.map(|direction| {
            let rules = self.rules.iter().chain(&self.former);
            let rules = rules.filter(|(owner, _)| owner.direction == direction);
            let forgotten = self.forgotten.iter().filter(|it| it.direction == direction);
            let reasons = [Reason::NoMatch, Reason::NoMatchAudited];
            let reasons = reasons.map(|reason| self.reason(direction, reason).packets);
            let packets = rules
                .map(|(_, counts)| counts.packets)
                .chain(forgotten.map(|it| it.counts.packets))
                .chain(reasons);
            packets.fold(0, u64::wrapping_add)
        })
    }

    /// What pairs of the candidate have counted, by direction.
    pub(crate) fn differing(&self, state: &State) -> [SlotCounters; 2] {
        let gone = state.candidate.as_ref().map_or(&[][..], |it| &it.gone);
        let gone = gone.iter().map(|gone| (gone.direction, gone.counts));
        let pairs = self.pairs.iter().chain(&self.former_pairs);
        let pairs = pairs.map(|(owner, counts)| (owner.direction, *counts));
        let mut sums = [SlotCounters::default(); 2];
        for (direction, counts) in pairs.chain(gone) {
            let sum = &mut sums[direction as usize];
            *sum = add(*sum, counts);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use fastrand::Rng;
    use sg_policy::partition::Candidate;
    use sg_policy::policy::{Policy, rules_from_lines};

    use super::super::error::KernelError;
    use super::super::slots::{PairsOf, SlotUse, assign};
    use super::super::state::tests::sample;
    use super::super::watch::Watch;
    use super::super::zero::Zero;
    use super::*;

    /// What the kernel knows of an interface.
    #[derive(Default)]
    struct Kernel {
        raw: Vec<SlotCounters>,
        /// The slots that flows name.
        named: HashSet<u32>,
    }

    impl Kernel {
        fn of(&mut self, slot: u32) -> &mut SlotCounters {
            let len = self.raw.len().max(slot as usize + 1);
            self.raw.resize(len, SlotCounters::default());
            &mut self.raw[slot as usize]
        }
    }

    impl SlotUse for Kernel {
        fn named_by_flows(&self) -> Option<HashSet<u32>> {
            Some(self.named.clone())
        }

        fn counted(&self) -> Result<Vec<SlotCounters>, KernelError> {
            Ok(self.raw.clone())
        }
    }

    /// Some rules in random order; one of them is in every policy, and so counts all the time.
    fn policy(rng: &mut Rng) -> Policy {
        let mut lines = vec!["in tcp 22 from 192.0.2.0/24 accept".to_owned()];
        for _ in 0..rng.usize(1..8) {
            let port = rng.u8(20..26);
            let action = ["accept", "drop"][rng.usize(..2)];
            let line = match rng.bool() {
                true => format!("in tcp {port} from any {action}"),
                false => format!("out tcp {port} to any {action}"),
            };
            lines.push(line);
        }
        let at = rng.usize(..lines.len());
        lines.swap(0, at);
        rules_from_lines(&lines.join("\n"))
    }

    /// The record after another apply.
    fn next(
        before: Option<&State>,
        policy: &Policy,
        watch: Option<&Watch>,
        kernel: &Kernel,
    ) -> State {
        let pairs = watch.map(|watch| PairsOf {
            watch: watch.number,
            owners: watch.owners(policy),
        });
        let capacity = before.map_or(0, |_| 1 << 12);
        let found = assign(policy, pairs, before, capacity, kernel).unwrap();
        State {
            candidate: watch.map(|watch| watch.record("", before, found.gone.clone())),
            rules: found.rules,
            pairs: found.pairs,
            retired: found.retired,
            forgotten: found.forgotten,
            ..sample()
        }
    }

    /// Packets and replies, by direction and action.
    type Rows = HashMap<(Direction, Action), [u64; 2]>;

    /// All rows.
    fn listed(sums: &Sums<'_>) -> Rows {
        let mut listed = Rows::new();
        let mut list = |direction, action, counts: SlotCounters| {
            let [packets, replies] = listed.entry((direction, action)).or_default();
            *packets = packets.wrapping_add(counts.packets);
            *replies = replies.wrapping_add(counts.reply_packets);
        };
        for (owner, counts) in sums.rules.iter().chain(&sums.former) {
            list(owner.direction, owner.action, *counts);
        }
        for gone in &sums.forgotten {
            list(gone.direction, gone.action, gone.counts);
        }
        for direction in Direction::BOTH {
            let counts = sums.reason(direction, Reason::NoMatch);
            list(direction, Action::Drop, counts);
        }
        listed.retain(|_, counts| *counts != [0, 0]);
        listed
    }

    /// Proves A1, A2, A3 and A5 for rules with several slots: whatever policies and candidates come
    /// and go, and with replies of flows that outlive them, no packet is lost or counted twice,
    /// none moves to another direction or action, and a rule that stays has all of its packets.
    #[test]
    fn counters_are_exact_while_candidates_come_and_go() {
        let mut folded = 0;
        for seed in 0..60 {
            let mut rng = Rng::with_seed(seed);
            let mut kernel = Kernel::default();
            let mut state: Option<State> = None;
            let mut watched: Option<(u32, Arc<Policy>)> = None;
            let mut sent = Rows::new();
            let mut of_one = [0u64; 2];
            let mut zero: Option<(Zero, Rows)> = None;
            let mut differing: HashMap<u32, u64> = HashMap::new();
            for round in 1..40 {
                match rng.u8(..4) {
                    0 => watched = None,
                    1 => watched = Some((round, Arc::new(policy(&mut rng)))),
                    _ => {}
                }
                let policy = policy(&mut rng);
                let watch = watched.as_ref().map(|(number, candidate)| Watch {
                    policy: Arc::clone(candidate),
                    found: Candidate::new(&policy, candidate).unwrap(),
                    number: *number,
                    logs: false,
                    text: None,
                });
                let now = next(state.as_ref(), &policy, watch.as_ref(), &kernel);
                let before = state.as_ref().map_or(0, |before| before.retired.len());
                folded += before.saturating_sub(now.retired.len());
                let one = now.rules.iter().find(|it| it.summary.contains("192.0.2"));
                let one = one.expect("it is in every policy").key_of_rule();
                for _ in 0..30 {
                    let owners: Vec<&SlotOwner> = now.owners().collect();
                    let owner = owners[rng.usize(..owners.len())];
                    // Packets of rules in force, and replies of any flow.
                    let is_in_force = now.slots().any(|slot| slot == owner.slot);
                    let is_reply = !is_in_force || rng.bool();
                    if is_reply && !is_in_force && !kernel.named.contains(&owner.slot) {
                        continue;
                    }
                    let counters = kernel.of(owner.slot);
                    let n = match is_reply {
                        true => &mut counters.reply_packets,
                        false => &mut counters.packets,
                    };
                    *n += 1;
                    let at = usize::from(is_reply);
                    sent.entry((owner.direction, owner.action)).or_default()[at] += 1;
                    if owner.key_of_rule() == one {
                        of_one[at] += 1;
                    }
                    if let Some(beside) = owner.beside.as_ref().filter(|_| !is_reply) {
                        *differing.entry(beside.watch).or_default() += 1;
                    }
                    match rng.u8(..3) {
                        0 => _ = kernel.named.insert(owner.slot),
                        1 => kernel.named.clear(),
                        _ => {}
                    }
                }
                let sums = Sums::of(&now, &kernel.raw);
                let about = format!("seed {seed}, round {round}");
                assert_eq!(listed(&sums), sent, "{about}");
                if let Some((zero, before)) = &zero {
                    let taken = zero.before(&now);
                    let sums = Sums::since(&now, &kernel.raw, Some(&taken));
                    let mut after = sent.clone();
                    for (key, counts) in before {
                        let all = after.entry(*key).or_default();
                        *all = [all[0] - counts[0], all[1] - counts[1]];
                    }
                    after.retain(|_, counts| *counts != [0, 0]);
                    assert_eq!(listed(&sums), after, "since the zero: {about}");
                }
                if rng.u8(..5) == 0 {
                    zero = Some((Zero::of(&now, &kernel.raw), sent.clone()));
                }
                let (_, counts) = sums.rules.iter().find(|(it, _)| it.key() == one).unwrap();
                assert_eq!([counts.packets, counts.reply_packets], of_one, "{about}");
                let decided: u64 = sums.decided().iter().sum();
                let all: u64 = sent.values().map(|[packets, _]| packets).sum();
                assert_eq!(decided, all, "{about}");
                if let Some((number, _)) = &watched {
                    let found: u64 = sums.differing(&now).iter().map(|it| it.packets).sum();
                    let counted = differing.get(number).copied().unwrap_or_default();
                    assert_eq!(found, counted, "{about}");
                }
                state = Some(now);
            }
        }
        assert!(folded > 100, "{folded}");
    }
}
