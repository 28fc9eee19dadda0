//! Reads an interface again and again, as cheaply as that goes: its counters and the use of its
//! flow table at every reading; its record only when it has changed, since that of ten thousand
//! rules takes longer to parse than all the rest; and its health as often as takes a small share of
//! the time.

use super::attached::Attached;
use super::candidate::{CandidateStatus, status_of};
use super::counters::{Counters, Origin, assemble};
use super::history::Past;
use super::pace::Pace;
use super::status::{Condition, Unconfirmed};
use crate::kernel::flow_tables::{FlowTableUse, table_use};
use crate::kernel::pins::InterfacePins;
use crate::kernel::records::Stamp;
use crate::kernel::sums::Sums;
use crate::kernel::{KernelError, history, owned_counters};

/// A reader of one interface, which remembers what seldom changes.
pub struct Sampler {
    attached: Attached,
    stamp: Stamp,
    condition: Condition,
    past: Vec<Past>,
    health: Pace,
}

/// What an interface counts at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Since the interface was attached. Whether a zero was set is not read, so that `reset_at` is
    /// always null.
    pub counters: Counters,
    /// The use of the flow table, which the interfaces of an attachment share: of half-open and of
    /// established flows.
    pub flows: [FlowTableUse; 2],
    pub max_flows: u32,
    /// `None` if no policy waits to be confirmed.
    pub unconfirmed: Option<Unconfirmed>,
    /// The candidate beside the policy, with what would have another outcome.
    pub candidate: Option<CandidateStatus>,
    /// The policy in force and those before it, the newest first. Empty if that cannot be read.
    pub past: Vec<Past>,
}

impl Sampler {
    pub fn open(mut attached: Attached) -> Result<Sampler, KernelError> {
        // An error of the record has a remedy of its own.
        attached.state()?;
        let (state, stamp) = read(&attached.pins)?;
        attached.state = Ok(state);
        let mut health = Pace::default();
        let condition = health.pass(|| attached.condition_if_known());
        Ok(Sampler {
            past: past(&attached.pins),
            attached,
            stamp,
            condition,
            health,
        })
    }

    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    pub fn pins(&self) -> &InterfacePins {
        &self.attached.pins
    }

    /// Reads the interface now.
    ///
    /// # Errors
    /// When it is not attached any more, or cannot be read.
    pub fn sample(&mut self) -> Result<Sample, KernelError> {
        let mut has_changed = self.refresh()?;
        let (sampled_at, raw) = loop {
            let sampled_at = jiff::Timestamp::now().to_string();
            let raw = owned_counters(self.pins(), self.attached.state()?)?;
            // While a policy is being replaced, a slot may get another owner.
            if !self.refresh()? {
                break (sampled_at, raw);
            }
            has_changed = true;
        };
        if has_changed {
            self.past = past(self.pins());
        }
        if has_changed || self.health.is_due() {
            self.condition = self.health.pass(|| self.attached.condition_if_known());
        }
        let state = self.attached.state()?;
        let watched = state.candidate.as_ref();
        let candidate = watched.and_then(|_| status_of(state, &Sums::of(state, &raw)));
        Ok(Sample {
            counters: assemble(
                state,
                sampled_at,
                &raw,
                self.condition.clone(),
                (None, Origin::Attachment),
            ),
            flows: table_use(self.pins(), &state.timeouts)?,
            max_flows: state.max_flows,
            unconfirmed: Unconfirmed::of(state),
            candidate: candidate.map(|(status, _)| status),
            past: self.past.clone(),
        })
    }

    /// Reads the record again if it may have changed, and returns whether it has.
    fn refresh(&mut self) -> Result<bool, KernelError> {
        if self.stamp.is_current(self.pins())? {
            return Ok(false);
        }
        let (state, stamp) = read(self.pins())?;
        self.stamp = stamp;
        let has_changed = self.attached.state()? != &state;
        self.attached.state = Ok(state);
        Ok(has_changed)
    }
}

fn read(pins: &InterfacePins) -> Result<(crate::kernel::state::State, Stamp), KernelError> {
    Stamp::read(pins)?.ok_or_else(|| KernelError::NotAttached {
        scope: format!("the interface of {}", pins.dir.display()),
    })
}

fn past(pins: &InterfacePins) -> Vec<Past> {
    let found = history::history(pins).unwrap_or_default();
    found.into_iter().map(Past::from).collect()
}
