//! The pinned records of an interface, and which of them is valid.
//!
//! While programs are being replaced there are two records: `state` of the policy that was in force
//! before, and `state_next` of the new one. The attached programs show which of them is valid. An
//! `apply` that is killed leaves both, and nothing of either is lost. The record of a policy that
//! is not confirmed holds that of the policy before it as well, and the word of its trial says
//! which of the two is valid.

use std::collections::{HashMap, HashSet};

use sg_common::counters::SlotCounters;
use sg_common::verdict::Direction;

use super::error::KernelError;
use super::pins::{InterfacePins, unpin};
use super::state::{CandidateRecord, SlotOwner, State, read_at};
use super::sys;
use super::trial::{self, Stands};

/// The records that are pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The record of the last policy that was put in force completely.
    pub current: Option<State>,
    /// The record of a policy that is being put in force, or was when a process was killed.
    pub next: Option<State>,
}

impl Records {
    pub fn read(pins: &InterfacePins) -> Result<Records, KernelError> {
        let read = |path| {
            let mut state = read_at(path)?;
            if let Some(state) = &mut state {
                let number = state.number();
                if let Some(trial) = &mut state.trial {
                    trial.stands = trial::stands(pins, number, trial.deadline)?;
                }
            }
            Ok::<_, KernelError>(state)
        };
        Ok(Records {
            current: read(&pins.state())?,
            next: read(&pins.state_next())?,
        })
    }

    /// Removes the words of trials that no record of the attachment names.
    pub(super) fn forget_trials(pins: &InterfacePins) -> Result<(), KernelError> {
        let trials = pins.trials()?;
        if trials.is_empty() {
            return Ok(());
        }
        let mut named = Vec::new();
        for one in pins.of_attachment()? {
            let records = Records::read(&one)?;
            let on_trial = records.both().filter(|state| state.trial.is_some());
            named.extend(on_trial.map(State::number));
        }
        let gone = trials.iter().filter(|(number, _)| !named.contains(number));
        gone.map(|(_, path)| path).try_for_each(|path| unpin(path))
    }

    fn both(&self) -> impl Iterator<Item = &State> {
        [&self.next, &self.current].into_iter().flatten()
    }

    /// The records of all policies that may decide, those that may return among them.
    pub(super) fn all(&self) -> impl Iterator<Item = &State> {
        self.both().flat_map(|state| {
            let trial = state.trial.as_ref();
            [Some(state), trial.and_then(|it| it.returns_to.as_deref())]
                .into_iter()
                .flatten()
        })
    }

    /// The record that a program belongs to.
    pub(crate) fn owner_of(&self, direction: Direction, program: u32) -> Option<&State> {
        self.all().find(|state| state.program(direction) == program)
    }

    /// The generation that a program belongs to.
    pub(crate) fn generation_of(&self, direction: Direction, program: u32) -> Option<u32> {
        let owner = self.owner_of(direction, program);
        owner.map(|state| state.policy.generation)
    }

    /// The record of the policy whose gate this program is.
    pub(super) fn on_trial_behind(&self, direction: Direction, program: u32) -> Option<&State> {
        self.both().find(|state| state.has_gate(direction, program))
    }

    /// Whether a program is the first one of a known policy, or the gate of one.
    pub(super) fn knows(&self, direction: Direction, program: u32) -> bool {
        self.owner_of(direction, program).is_some()
            || self.on_trial_behind(direction, program).is_some()
    }

    /// The first program of the policy that decides where `attached` is: that one, unless it is a
    /// gate. `None` if it is a gate that passes everything.
    pub(super) fn behind(&self, direction: Direction, attached: u32) -> Option<u32> {
        let Some(state) = self.on_trial_behind(direction, attached) else {
            return Some(attached);
        };
        let trial = state.trial.as_ref()?;
        match trial.stands {
            Stands::OnTrial | Stands::Confirmed => Some(state.program(direction)),
            Stands::Returned => trial
                .returns_to
                .as_ref()
                .map(|state| state.program(direction)),
        }
    }

    /// The record that is valid while these programs are attached, inbound first.
    pub(crate) fn effective(self, attached: [Option<u32>; 2]) -> Option<State> {
        let has_begun = |next: &State| {
            let mut hooks = Direction::BOTH.into_iter().zip(attached);
            hooks.any(|(direction, program)| {
                program.is_some_and(|program| next.has_attached(direction, program))
            })
        };
        match (self.current, self.next) {
            (Some(_), Some(next)) if has_begun(&next) => Some(next.decided()),
            (Some(current), Some(next)) => Some(taken_back(current.decided(), next)),
            (current, next) => current.or(next).map(State::decided),
        }
    }
}

/// The record of a policy that is in force again or still, after `attempted` failed to replace it.
/// Packets may have been counted in the slots of that one.
pub(super) fn taken_back(current: State, attempted: State) -> State {
    let is_in_force: HashSet<u32> = current.slots().collect();
    let last_generation = attempted.latest_number().max(current.last_generation);
    let mut retired: Vec<SlotOwner> = Vec::new();
    let mut seen = HashSet::new();
    // What pairs have counted that have lost their slots since was added to their rules there.
    let mut bases: HashMap<u32, [SlotCounters; 2]> = HashMap::new();
    // A policy that may return owns its slots until it cannot any more.
    let returns_to = attempted.trial.and_then(|trial| trial.returns_to);
    let returning = returns_to.into_iter().flat_map(|state| {
        let State { rules, pairs, .. } = *state;
        rules.into_iter().chain(pairs)
    });
    let all = attempted.rules.into_iter().chain(attempted.pairs);
    for owner in all.chain(attempted.retired).chain(returning) {
        if !seen.insert(owner.slot) {
            continue;
        }
        match is_in_force.contains(&owner.slot) {
            true => _ = bases.insert(owner.slot, [owner.base, owner.more]),
            false => retired.push(owner),
        }
    }
    let based = |owners: Vec<SlotOwner>| -> Vec<SlotOwner> {
        let based = |owner: SlotOwner| {
            let own = [owner.base, owner.more];
            let [base, more] = bases.get(&owner.slot).copied().unwrap_or(own);
            SlotOwner {
                base,
                more,
                ..owner
            }
        };
        owners.into_iter().map(based).collect()
    };
    let same_watch = |candidate: &CandidateRecord| {
        let other = attempted.candidate.as_ref();
        let other = other.filter(|other| other.watch == candidate.watch);
        other.map_or_else(|| candidate.gone.clone(), |other| other.gone.clone())
    };
    let candidate = current.candidate.map(|candidate| CandidateRecord {
        gone: same_watch(&candidate),
        ..candidate
    });
    State {
        rules: based(current.rules),
        pairs: based(current.pairs),
        candidate,
        retired,
        forgotten: attempted.forgotten,
        counter_maps: attempted.counter_maps,
        last_generation,
        ..current
    }
}

/// Tells whether the records of an interface have changed since one was read. A record is never
/// changed in place: a new map takes its pin.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// The ids of the maps that hold the two records.
    maps: [Option<u32>; 2],
    /// The number of the policy that is on trial, its deadline, and which policy stood.
    trial: Option<(u32, u64, Stands)>,
}

impl Stamp {
    /// The record of the policy in force, with its stamp. `None` if there is no record.
    pub fn read(pins: &InterfacePins) -> Result<Option<(State, Stamp)>, KernelError> {
        // Before the record, so that a change in between is noticed later.
        let maps = maps_of(pins)?;
        let Some(state) = State::read(pins)? else {
            return Ok(None);
        };
        let trial = state.trial.as_ref();
        let trial = trial.map(|trial| (state.number(), trial.deadline, trial.stands));
        Ok(Some((state, Stamp { maps, trial })))
    }

    /// Whether the record would be the same if it was read again. False if that is not known.
    pub fn is_current(&self, pins: &InterfacePins) -> Result<bool, KernelError> {
        // While there is a second record, the attached programs show which one is valid.
        let has_one = self.maps[1].is_none();
        if !has_one || maps_of(pins)? != self.maps {
            return Ok(false);
        }
        match self.trial {
            None => Ok(true),
            Some((number, deadline, stood)) => Ok(trial::stands(pins, number, deadline)? == stood),
        }
    }
}

fn maps_of(pins: &InterfacePins) -> Result<[Option<u32>; 2], KernelError> {
    let id = |path: std::path::PathBuf| match sys::map_info(&path) {
        Ok(info) => Ok(Some(info.id())),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(KernelError::at_pin("opening", &path, e)),
    };
    Ok([id(pins.state())?, id(pins.state_next())?])
}

impl State {
    fn has_gate(&self, direction: Direction, program: u32) -> bool {
        let trial = self.trial.as_ref();
        trial.is_some_and(|trial| trial.gates[direction as usize] == program)
    }

    /// Whether `program`, which is attached, shows that this policy was being put in force.
    fn has_attached(&self, direction: Direction, program: u32) -> bool {
        self.program(direction) == program || self.has_gate(direction, program)
    }

    /// The record of the policy that decides: of this one, or of the one that it has returned to.
    /// If this one was undone and there was none before, its own, with a trial that says so.
    pub(super) fn decided(mut self) -> State {
        let Some(trial) = self.trial.take() else {
            return self;
        };
        match trial.stands {
            Stands::Confirmed => self,
            Stands::OnTrial => State {
                trial: Some(trial),
                ..self
            },
            Stands::Returned => match trial.returns_to {
                None => State {
                    trial: Some(trial),
                    ..self
                },
                Some(before) => State {
                    // What belongs to the interface, and not to the policy.
                    interface: self.interface.clone(),
                    ifindex: self.ifindex,
                    netns: self.netns.clone(),
                    netns_cookie: self.netns_cookie,
                    attached_at: self.attached_at.clone(),
                    xdp_mode: self.xdp_mode,
                    egress_hook: self.egress_hook,
                    added_clsact: self.added_clsact,
                    max_flows: self.max_flows,
                    ..taken_back(*before, self)
                },
            },
        }
    }
}
