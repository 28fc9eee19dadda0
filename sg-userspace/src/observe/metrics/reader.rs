//! Reads what metrics show, again and again. The labels of series are made when the record of an
//! interface has changed, and a reading takes few system calls, however many rules there are: all
//! counters of an interface come in batches, and flows are seen in mapped memory.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use sg_common::flow::{CUT, FlowKind, Timeout, is_expired, seconds, state_name};
use sg_common::verdict::{Action, Direction, Reason};

use super::events::EventCounts;
use super::labels::{self, Labels, OTHER};
use super::sample::{Sample, Series};
use crate::kernel::flow_tables::{each_flow, evicted, monotonic_now};
use crate::kernel::pins::{InterfacePins, PinTree};
use crate::kernel::records::Stamp;
use crate::kernel::state::{SlotOwner, State};
use crate::kernel::sums::Sums;
use crate::kernel::trial::left_until;
use crate::kernel::{FaultCode, KernelError, bpffs, owned_counters};
use crate::observe::attached::{Attached, Scope, attached};
use crate::observe::candidate;
use crate::observe::counters::Totals;
use crate::observe::pace::Pace;
use crate::observe::status::Condition;

/// How often a reading begins anew when policies are replaced meanwhile.
const ATTEMPTS: usize = 4;

/// Reads the attached interfaces of a scope.
pub struct Reader {
    bpffs: PathBuf,
    scope: Scope,
    /// Interfaces that should be attached: one that is not is not healthy.
    expected: Vec<String>,
    /// The pins of all interfaces when `known` was looked for.
    pins: Vec<InterfacePins>,
    known: Vec<Known>,
    /// What became of events, where this process reads them.
    events: Option<Arc<EventCounts>>,
    /// When to look for interfaces again although no pin has come or gone: one may have been moved
    /// or renamed.
    look: Pace,
}

impl Reader {
    pub fn new(bpffs: &Path, scope: Scope, expected: Vec<String>) -> Reader {
        Reader {
            bpffs: bpffs.to_owned(),
            scope,
            expected,
            pins: Vec::new(),
            known: Vec::new(),
            events: None,
            look: Pace::default(),
        }
    }

    /// With what becomes of events as well.
    pub fn with_events(self, events: Arc<EventCounts>) -> Reader {
        Reader {
            events: Some(events),
            ..self
        }
    }

    /// Reads everything now. What cannot be read is absent.
    ///
    /// # Errors
    /// If nothing can be read: the BPF file system is closed to this process, say.
    pub fn read(&mut self) -> Result<Sample, KernelError> {
        let mut sample = Sample::default();
        for _ in 0..ATTEMPTS {
            let pins = all_pins(&self.bpffs)?;
            let is_due = pins != self.pins || self.look.is_due();
            if is_due || !self.known.iter().all(Known::is_current) {
                self.find(pins)?;
            }
            sample = Sample::default();
            let mut have_changed = false;
            for one in &mut self.known {
                have_changed |= !one.read(&mut sample);
            }
            if !have_changed {
                break;
            }
        }
        self.healths(&mut sample);
        self.flows(&mut sample);
        sample.events = self.events.as_ref().map_or_else(Vec::new, |it| it.series());
        sample.policies = self.policies();
        sample.confirm_deadline = self.confirm_deadline();
        Ok(sample)
    }

    fn find(&mut self, pins: Vec<InterfacePins>) -> Result<(), KernelError> {
        let (bpffs, scope) = (&self.bpffs, &self.scope);
        let found = self.look.pass(|| match scope {
            // One that is missing does not hide the others.
            Scope::Interfaces(names) => {
                let one = |name: &String| attached(bpffs, &Scope::Interfaces(vec![name.clone()]));
                let mut all = Vec::new();
                for found in names.iter().map(one) {
                    match found {
                        Ok(found) => all.extend(found),
                        Err(KernelError::NotAttached { .. } | KernelError::NoInterface { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                all.sort_by(|a: &Attached, b| a.pins.cmp(&b.pins));
                all.dedup_by(|a, b| a.pins == b.pins);
                Ok(all)
            }
            scope => attached(bpffs, scope),
        })?;
        // Labels are made anew only where the record is another one.
        let mut before = std::mem::take(&mut self.known);
        let known = found.into_iter().map(|one| {
            let mut same = before.iter();
            let same = same.position(|it| it.attached.pins == one.pins && it.is_current());
            same.map_or_else(|| Known::new(one), |at| before.swap_remove(at))
        });
        self.known = known.collect();
        self.pins = pins;
        Ok(())
    }

    fn healths(&self, sample: &mut Sample) {
        let mut seen = BTreeSet::new();
        for one in &self.known {
            seen.insert(one.name.clone());
            for direction in Direction::BOTH {
                if let Some(is_healthy) = one.is_healthy(direction) {
                    let labels = of_direction(&one.name, direction, &[]);
                    sample.healthy.push((labels, is_healthy));
                }
            }
        }
        for name in self.expected.iter().filter(|name| !seen.contains(*name)) {
            for direction in Direction::BOTH {
                let labels = of_direction(name, direction, &[]);
                sample.healthy.push((labels, false));
            }
        }
    }

    /// One reading for each attachment, whose interfaces share their flows.
    fn flows(&self, sample: &mut Sample) {
        let mut tables: Vec<&Known> = Vec::new();
        for one in &self.known {
            let pins = &one.attached.pins;
            if !tables.iter().any(|it| it.attached.pins.shares_with(pins)) {
                tables.push(one);
            }
        }
        if tables.is_empty() {
            return;
        }
        let states: Option<Vec<&State>> =
            tables.iter().map(|it| it.attached.state().ok()).collect();
        let Some(states) = states else {
            return;
        };
        let both = || tables.iter().map(|it| &it.attached.pins).zip(&states);
        let mut by_state = [0; 16];
        let counted = both().all(|(pins, state)| count_flows(pins, state, &mut by_state).is_ok());
        sample.flows = counted.then(|| {
            let numbers = Timeout::ALL.map(|timeout| timeout as u8).into_iter();
            let of_flows = numbers.filter(|number| *number != Timeout::Fragment as u8);
            of_flows
                .chain([CUT])
                .map(|number| {
                    let labels = Labels::new(&[("state", state_name(number))]);
                    (labels, by_state[usize::from(number)])
                })
                .collect()
        });
        let capacity = states.iter().map(|state| u64::from(state.max_flows));
        sample.capacity = Some(capacity.sum());
        let evictions: Result<Vec<_>, KernelError> =
            both().map(|(pins, _)| evicted(pins)).collect();
        if let Ok(evictions) = evictions {
            let created = states.iter().map(|state| seconds_of(&state.attached_at));
            let created = created.min().unwrap_or_default();
            for kind in FlowKind::BOTH {
                let evicted = evictions.iter().map(|it| it[kind as usize]);
                sample.evictions.push(Series {
                    labels: Labels::new(&[("kind", kind.name())]),
                    counts: [evicted.sum()],
                    created,
                });
            }
        }
    }

    fn states(&self) -> impl Iterator<Item = &State> {
        self.known.iter().filter_map(|it| it.attached.state().ok())
    }

    fn policies(&self) -> Vec<Labels> {
        let all: BTreeSet<(&str, &str, u32)> = self
            .states()
            .map(|state| &state.policy)
            .map(|policy| {
                (
                    policy.name.as_str(),
                    policy.digest.as_str(),
                    policy.generation,
                )
            })
            .collect();
        let labels = |(name, digest, generation): (&str, &str, u32)| {
            let generation = generation.to_string();
            Labels::new(&[
                ("name", name),
                ("digest", digest),
                ("generation", &generation),
            ])
        };
        all.into_iter().map(labels).collect()
    }

    /// The earliest deadline, by the clock of the machine. Deadlines are on a clock that cannot be
    /// set, so that the time left is added to the present time.
    fn confirm_deadline(&self) -> Option<f64> {
        let trials = self.states().filter_map(State::open_trial);
        let left = trials.map(|trial| left_until(trial.deadline).as_secs_f64());
        let left = left.min_by(f64::total_cmp)?;
        // To the second, so that it does not tremble.
        Some((Timestamp::now().as_millisecond() as f64 / 1000.0 + left).round())
    }
}

fn all_pins(path: &Path) -> Result<Vec<InterfacePins>, KernelError> {
    match bpffs::find(path)? {
        None => Ok(Vec::new()),
        Some(found) => PinTree::new(&found.path).interfaces(),
    }
}

fn count_flows(
    pins: &InterfacePins,
    state: &State,
    by_state: &mut [u64; 16],
) -> Result<(), KernelError> {
    let now = monotonic_now();
    each_flow(pins, |flow| {
        let (number, seen) = (flow.value.state, flow.value.last_seen);
        if !is_expired(now, seen, seconds(&state.timeouts, number)) {
            by_state[usize::from(number & 15)] += 1;
        }
    })
}

/// The labels of a series about one direction of an interface.
fn of_direction(interface: &str, direction: Direction, more: &[(&str, &str)]) -> Labels {
    let first = [("interface", interface), ("direction", direction.name())];
    Labels::new(&[&first, more].concat())
}

/// An RFC 3339 time as whole seconds since 1970, of which thousands are written much faster than
/// fractions.
fn seconds_of(at: &str) -> i64 {
    at.parse().map_or(0, Timestamp::as_second)
}

/// An attached interface, with what seldom changes.
struct Known {
    attached: Attached,
    /// `None` if the record cannot be read, and is to be tried again.
    stamp: Option<Stamp>,
    name: String,
    condition: Option<Condition>,
    health: Pace,
    /// The labels of the series of rules.
    rules: Vec<Labels>,
    /// Which of these series counts for the rule that owns a slot, itself or by a pair.
    series: HashMap<u32, usize>,
    reasons: Vec<(Direction, Reason, Labels)>,
}

impl Known {
    fn new(mut attached: Attached) -> Known {
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

    /// Makes the labels of all series.
    fn label(&mut self) {
        let Ok(state) = self.attached.state() else {
            return;
        };
        self.rules.clear();
        self.series.clear();
        self.reasons.clear();
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

    fn is_current(&self) -> bool {
        let stamp = self.stamp.as_ref();
        stamp.is_some_and(|stamp| stamp.is_current(&self.attached.pins).unwrap_or(false))
    }

    fn is_healthy(&self, direction: Direction) -> Option<bool> {
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
    fn read(&mut self, sample: &mut Sample) -> bool {
        if self.health.is_due() {
            self.condition = self.health.pass(|| self.attached.condition().ok());
            let name = name_of(&self.attached, self.condition.as_ref());
            if name != self.name {
                self.name = name;
                self.label();
            }
        }
        let Ok(state) = self.attached.state() else {
            return true;
        };
        let Ok(raw) = owned_counters(&self.attached.pins, state) else {
            return true;
        };
        if self.has_changed() {
            return false;
        }
        let created = seconds_of(&state.attached_at);
        let sums = Sums::of(state, &raw);
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
        if let Some((candidate, totals)) = candidate::status_of(state, &sums) {
            let series = totals.iter().map(|total| Series {
                labels: of_direction(&self.name, total.direction, &[]),
                counts: [total.packets],
                created: seconds_of(&candidate.since),
            });
            sample.differences.extend(series);
        }
        true
    }
}

/// The name of an interface as a label: with its network namespace in front where that is not the
/// one of this process, where another interface may have the same name.
fn name_of(attached: &Attached, condition: Option<&Condition>) -> String {
    let index = || format!("#{}", attached.pins.ifindex);
    match condition {
        None => attached.name().unwrap_or_else(index),
        Some(condition) => match condition.elsewhere() {
            None => condition.interface.clone(),
            Some(netns) => format!("{netns}/{}", condition.interface),
        },
    }
}
