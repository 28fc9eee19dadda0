//! Reads what metrics show, again and again. The labels of series are made when the record of an
//! interface has changed, and a reading takes few system calls, however many rules there are: all
//! counters of an interface come in batches, and flows are seen in mapped memory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use sg_common::flow::{CUT, FlowKind, is_expired, seconds};
use sg_common::verdict::Direction;

use super::events::EventCounts;
use super::known::Known;
use super::labels::{Labels, of_direction};
use super::sample::{Sample, Series, seconds_of};
use crate::kernel::flow_tables::{each_flow, evicted, monotonic_now};
use crate::kernel::pins::{InterfacePins, PinTree};
use crate::kernel::state::State;
use crate::kernel::trial::left_until;
use crate::kernel::{KernelError, bpffs};
use crate::observe::attached::{Attached, Scope, attached};
use crate::observe::flows::FlowState;
use crate::observe::pace::Pace;

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
        let mut by_state = [0; STATES];
        let counted = both().all(|(pins, state)| count_flows(pins, state, &mut by_state).is_ok());
        sample.flows = counted.then(|| {
            let of_state = |state: FlowState| {
                let labels = Labels::new(&[("state", state.name())]);
                (labels, by_state[usize::from(state.number())])
            };
            FlowState::all().map(of_state).collect()
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

/// The pins of all attached interfaces. None if there is no BPF file system.
fn all_pins(path: &Path) -> Result<Vec<InterfacePins>, KernelError> {
    match bpffs::find(path)? {
        None => Ok(Vec::new()),
        Some(found) => PinTree::new(&found.path).interfaces(),
    }
}

/// The numbers of states: that of a cut flow is the highest.
const STATES: usize = CUT as usize + 1;

/// Adds the flows of a table that have not expired, by the numbers of their states.
fn count_flows(
    pins: &InterfacePins,
    state: &State,
    by_state: &mut [u64; STATES],
) -> Result<(), KernelError> {
    let now = monotonic_now();
    each_flow(pins, |flow| {
        let (number, seen) = (flow.value.state, flow.value.last_seen);
        if !is_expired(now, seen, seconds(&state.timeouts, number)) {
            by_state[usize::from(number) % STATES] += 1;
        }
    })
}
