//! The counts of events: what was produced, delivered to a reader, lost and suppressed.

use std::collections::BTreeMap;

use serde::Serialize;
use sg_common::event::Event;
use sg_common::verdict::Direction;

use super::packet::LoggingRule;
use crate::kernel::KernelError;
use crate::kernel::event_counts::{SlotEvents, event_counts};
use crate::kernel::pins::InterfacePins;
use crate::observe::attached::Attached;
use crate::observe::decided::DecidedBy;

/// What has become of the events of one rule or reason on one interface: `produced` is always
/// `delivered` and `lost` and `suppressed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub interface: String,
    pub direction: Direction,
    pub reason: DecidedBy,
    /// Null if a reason decided, or if the rule is gone.
    pub rule: Option<LoggingRule>,
    /// Packets that were to have an event.
    pub produced: u64,
    /// Events that this reader got.
    pub delivered: u64,
    /// Events that were overwritten before it read them.
    pub lost: u64,
    /// Packets that have none, since they were over a limit.
    pub suppressed: u64,
}

/// Events since the attachment was made, of all its interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventTotals {
    /// Packets that were to have an event.
    pub produced: u64,
    /// Events that were written, for whoever read them in time.
    pub written: u64,
    /// Packets that have none, since they were over a limit.
    pub suppressed: u64,
}

/// The events of an attachment, without watching.
pub fn event_totals(attached: &Attached) -> Result<EventTotals, KernelError> {
    let counts = Counts::read(&attached.pins)?;
    let (written, suppressed) = (counts.written(), counts.suppressed());
    Ok(EventTotals {
        produced: written + suppressed,
        written,
        suppressed,
    })
}

/// The counts of all slots, by the index of the interface.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(pub(super) BTreeMap<u32, Vec<SlotEvents>>);

impl Counts {
    pub(super) fn read(pins: &InterfacePins) -> Result<Counts, KernelError> {
        event_counts(pins).map(Counts)
    }

    fn sum(&self, of: impl Fn(&SlotEvents) -> u64) -> u64 {
        self.0.values().flatten().map(of).sum()
    }

    pub(super) fn written(&self) -> u64 {
        self.sum(SlotEvents::written)
    }

    pub(super) fn suppressed(&self) -> u64 {
        self.sum(SlotEvents::suppressed)
    }

    pub(super) fn of(&self, ifindex: u32, slot: usize) -> SlotEvents {
        let slots = self.0.get(&ifindex);
        slots
            .and_then(|slots| slots.get(slot))
            .copied()
            .unwrap_or_default()
    }
}

/// How many events a reader got, by interface and slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivered(BTreeMap<(u32, u32), u64>);

impl Delivered {
    pub(super) fn count(&mut self, event: &Event) {
        *self.0.entry((event.ifindex, event.slot)).or_default() += 1;
    }

    pub(super) fn of(&self, ifindex: u32, slot: u32) -> u64 {
        self.0.get(&(ifindex, slot)).copied().unwrap_or_default()
    }
}
