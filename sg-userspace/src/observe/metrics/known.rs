//! One attached interface as metrics show it: the labels of its series, which are made when its
//! record has changed, its health, and what it counts.

use std::collections::HashMap;

use sg_common::verdict::{Action, Direction, Reason};

use super::labels::{self, Labels, OTHER, of_direction};
use super::sample::{Sample, Series, seconds_of};
use crate::kernel::records::Stamp;
use crate::kernel::state::{SlotOwner, State};
use crate::kernel::sums::Sums;
use crate::kernel::{FaultCode, owned_counters};
use crate::observe::attached::Attached;
use crate::observe::candidate;
use crate::observe::counters::Totals;
use crate::observe::pace::Pace;
use crate::observe::status::Condition;

/// An attached interface, with what seldom changes.
pub(super) struct Known {
    pub(super) attached: Attached,
    /// `None` if the record cannot be read, and is to be tried again.
    stamp: Option<Stamp>,
    /// Its name as a label.
    pub(super) name: String,
    condition: Option<Condition>,
    health: Pace,
    /// The labels of the series of rules.
    rules: Vec<Labels>,
    /// Which of these series counts for the rule that owns a slot, itself or by a pair.
    series: HashMap<u32, usize>,
    reasons: Vec<(Direction, Reason, Labels)>,
}

impl Known {
    pub(super) fn new(mut attached: Attached) -> Known {
        let stamped = Stamp::read(&attached.pins).ok().flatten();
        let stamp = stamped.map(|(state, stamp)| {
            attached.state = Ok(state);
            stamp
        });
        let mut health = Pace::default();
        let condition = health.pass(|| attached.condition().ok());
        let name = name_of(&attached, condition.as_ref());
        let mut known = Known {
            attached,
            stamp,
            condition,
            health,
            rules: Vec::new(),
            series: HashMap::new(),
            reasons: Vec::new(),
            name,
        };
        known.label();
        known
    }

    /// Makes the labels of all series, if there is a record.
    fn label(&mut self) {
        if self.attached.state().is_ok() {
            self.label_rules();
            self.label_reasons();
        }
    }

    /// Makes the labels of the series of rules, and finds the series of each slot.
    fn label_rules(&mut self) {
        let Ok(state) = self.attached.state() else {
            return;
        };
        self.rules.clear();
        self.series.clear();
        // A rule that flows still refer to has been removed, but goes on to count.
        let owners = state.rules.iter().chain(&state.retired);
        let mut owners: Vec<&SlotOwner> = owners.filter(|it| it.beside.is_none()).collect();
        // A reload leaves slots as they are.
        owners.sort_by_key(|owner| owner.slot);
        let labels = labels::of_rules(&self.name, &owners, labels::RULES);
        let mut others: HashMap<(Direction, Action), usize> = HashMap::new();
        let mut other = |series: &mut Vec<Labels>, owner: &SlotOwner| {
            let at = others.entry((owner.direction, owner.action));
            *at.or_insert_with(|| {
                let action = owner.action.name();
                let more = [("group", ""), ("rule", OTHER), ("action", action)];
                series.push(of_direction(&self.name, owner.direction, &more));
                series.len() - 1
            })
        };
        let mut by_identity: HashMap<(Direction, &str), usize> = HashMap::new();
        for (owner, labels) in owners.into_iter().zip(labels) {
            let series = match labels {
                Some(labels) => {
                    self.rules.push(labels);
                    self.rules.len() - 1
                }
                None => other(&mut self.rules, owner),
            };
            by_identity.insert((owner.direction, &owner.identity), series);
            self.series.insert(owner.slot, series);
        }
        // The slots of a rule's pairs count for it.
        let pairs = state.pairs.iter().chain(&state.retired);
        for owner in pairs.filter(|it| it.beside.is_some() && it.is_rule()) {
            let of_rule = by_identity.get(&(owner.direction, owner.identity.as_str()));
            let of_rule = of_rule.copied();
            let series = of_rule.unwrap_or_else(|| other(&mut self.rules, owner));
            self.series.insert(owner.slot, series);
        }
    }

    /// Makes the labels of the series of reasons.
    fn label_reasons(&mut self) {
        self.reasons.clear();
        for direction in Direction::BOTH {
            for reason in Reason::ALL {
                let name = reason.to_string();
                let more = [
                    ("action", reason.action().name()),
                    ("reason", name.as_str()),
                ];
                let labels = of_direction(&self.name, direction, &more);
                self.reasons.push((direction, reason, labels));
            }
        }
    }

    /// Whether its record is the one that was read.
    pub(super) fn is_current(&self) -> bool {
        let stamp = self.stamp.as_ref();
        stamp.is_some_and(|stamp| stamp.is_current(&self.attached.pins).unwrap_or(false))
    }

    /// Whether a direction runs what it has to. `None` if that is not known.
    pub(super) fn is_healthy(&self, direction: Direction) -> Option<bool> {
        if self.attached.state().is_err() {
            return Some(false);
        }
        let faults = &self.condition.as_ref()?.faults;
        let mut mine = faults
            .iter()
            .filter(|fault| fault.direction.is_none_or(|it| it == direction));
        match mine.next() {
            None => Some(true),
            // Nothing is known then.
            Some(fault) if fault.code == FaultCode::Unverified => None,
            Some(_) => Some(false),
        }
    }

    /// Whether the record is not what it was. If it cannot be read any more, the interface is being
    /// detached, and what was read before is right.
    fn has_changed(&self) -> bool {
        let read = || State::read(&self.attached.pins).ok().flatten();
        !self.is_current() && read().is_some_and(|now| self.attached.state().ok() != Some(&now))
    }

    /// Adds what it counts now. Returns false, and adds nothing, if a policy has come into force
    /// meanwhile, by which slots may have got other owners.
    pub(super) fn read(&mut self, sample: &mut Sample) -> bool {
        self.look();
        let Ok(state) = self.attached.state() else {
            return true;
        };
        let Ok(raw) = owned_counters(&self.attached.pins, state) else {
            return true;
        };
        if self.has_changed() {
            return false;
        }
        self.add(sample, state, &Sums::of(state, &raw));
        true
    }

    /// Looks whether it enforces its policy and what it is called now, as often as is due.
    fn look(&mut self) {
        if self.health.is_due() {
            self.condition = self.health.pass(|| self.attached.condition().ok());
            let name = name_of(&self.attached, self.condition.as_ref());
            if name != self.name {
                self.name = name;
                self.label();
            }
        }
    }

    /// Adds what was counted in one reading.
    fn add(&self, sample: &mut Sample, state: &State, sums: &Sums<'_>) {
        let created = seconds_of(&state.attached_at);
        let first = sample.rules.len();
        sample.rules.extend(self.rules.iter().map(|labels| Series {
            labels: labels.clone(),
            counts: [0; 3],
            created,
        }));
        for (owner, counts) in sums.rules.iter().chain(&sums.former) {
            let Some(series) = self.series.get(&owner.slot) else {
                continue;
            };
            let [packets, bytes, replies] = &mut sample.rules[first + series].counts;
            *packets += counts.packets;
            *bytes += counts.bytes;
            *replies += counts.reply_packets;
        }
        for (direction, reason, labels) in &self.reasons {
            let [packets, _] = sums.crossed(*direction, *reason);
            sample.reasons.push(Series {
                labels: labels.clone(),
                counts: [packets],
                created,
            });
        }
        sample.totals.extend(Direction::BOTH.map(|direction| {
            let total = Totals::sum(direction, sums.all());
            Series {
                labels: of_direction(&self.name, direction, &[]),
                counts: [total.packets, total.bytes],
                created,
            }
        }));
        if let Some((candidate, totals)) = candidate::status_of(state, sums) {
            let series = totals.iter().map(|total| Series {
                labels: of_direction(&self.name, total.direction, &[]),
                counts: [total.packets],
                created: seconds_of(&candidate.since),
            });
            sample.differences.extend(series);
        }
    }
}

/// The name of an interface as a label: with its network namespace in front where that is not the
/// one of this process, where another interface may have the same name.
fn name_of(attached: &Attached, condition: Option<&Condition>) -> String {
    match condition {
        None => attached.name_or_index(),
        Some(condition) => match condition.elsewhere() {
            None => condition.interface.clone(),
            Some(netns) => format!("{netns}/{}", condition.interface),
        },
    }
}
