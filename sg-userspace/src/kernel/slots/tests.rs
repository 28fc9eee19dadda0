//! Each rule has one slot for as long as anything names it, and no two have the same.

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
