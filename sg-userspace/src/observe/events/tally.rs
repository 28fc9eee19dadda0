//! The counts of events: what was produced, delivered to a reader, lost and suppressed.

use std::collections::BTreeMap;

use serde::Serialize;
use sg_common::event::Event;
use sg_common::verdict::Direction;

use super::packet::LoggingRule;
use crate::kernel::KernelError;
use crate::kernel::event_counts::{InterfaceEvents, SlotEvents, event_counts};
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

impl Tally {
    /// Adds the rows of another reader: what is of one interface and one rule or reason is one row.
    pub fn merge(rows: &mut Vec<Tally>, more: Vec<Tally>) {
        for one in more {
            let is_it = |row: &&mut Tally| {
                (&row.interface, row.direction, row.reason, &row.rule)
                    == (&one.interface, one.direction, one.reason, &one.rule)
            };
            match rows.iter_mut().find(is_it) {
                Some(row) => {
                    row.produced += one.produced;
                    row.delivered += one.delivered;
                    row.lost += one.lost;
                    row.suppressed += one.suppressed;
                }
                None => rows.push(one),
            }
        }
    }
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

/// The counts of all slots of each interface. What is counted belongs to a map and not to an index:
/// an interface that is made anew has another index, and goes on counting in the same map.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(BTreeMap<u32, InterfaceEvents>);

impl Counts {
    pub(super) fn read(pins: &InterfacePins) -> Result<Counts, KernelError> {
        event_counts(pins).map(Counts)
    }

    /// Takes over a later reading. What it has not any more stays as it was last.
    pub(super) fn update(&mut self, later: Counts) {
        self.0.extend(later.0);
    }

    fn sum(&self, of: impl Fn(&SlotEvents) -> u64) -> u64 {
        let slots = self.0.values().flat_map(|one| &one.slots);
        slots.map(of).sum()
    }

    pub(super) fn written(&self) -> u64 {
        self.sum(SlotEvents::written)
    }

    pub(super) fn suppressed(&self) -> u64 {
        self.sum(SlotEvents::suppressed)
    }

    /// Each map with what it counts.
    pub(super) fn maps(&self) -> impl Iterator<Item = (u32, &InterfaceEvents)> {
        self.0.iter().map(|(map, one)| (*map, one))
    }

    pub(super) fn of(&self, map: u32, slot: usize) -> SlotEvents {
        let slots = self.0.get(&map).map(|one| &one.slots);
        slots
            .and_then(|slots| slots.get(slot))
            .copied()
            .unwrap_or_default()
    }
}

/// How many events a reader got, by the map that counts them and by slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivered {
    by_map: BTreeMap<(u32, u32), u64>,
    /// The map of each index.
    maps: BTreeMap<u32, u32>,
    /// Those of interfaces whose map is not known yet, by index and slot.
    waiting: BTreeMap<(u32, u32), u64>,
}

impl Delivered {
    pub(super) fn count(&mut self, event: &Event) {
        let counted = match self.maps.get(&event.ifindex) {
            Some(map) => self.by_map.entry((*map, event.slot)),
            None => self.waiting.entry((event.ifindex, event.slot)),
        };
        *counted.or_default() += 1;
    }

    /// Whether it is known which map counts the events of this index.
    pub(super) fn knows(&self, ifindex: u32) -> bool {
        self.maps.contains_key(&ifindex)
    }

    /// Remembers which map counts the events of which index from now on.
    pub(super) fn note(&mut self, counts: &Counts) {
        let maps = counts.maps().map(|(map, one)| (one.ifindex, map));
        self.maps.extend(maps);
        self.waiting.retain(|(ifindex, slot), events| {
            let map = self.maps.get(ifindex);
            if let Some(map) = map {
                *self.by_map.entry((*map, *slot)).or_default() += *events;
            }
            // Else it is of one that is gone before its counts were read.
            map.is_none()
        });
    }

    pub(super) fn of(&self, map: u32, slot: u32) -> u64 {
        self.by_map.get(&(map, slot)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(map: u32, ifindex: u32, logged: u64) -> Counts {
        let slots = vec![SlotEvents {
            logged,
            ..SlotEvents::default()
        }];
        Counts(BTreeMap::from([(map, InterfaceEvents { ifindex, slots })]))
    }

    /// An interface that is made anew goes on with its map, and one that is attached again begins
    /// with another.
    #[test]
    fn what_was_delivered_belongs_to_the_map_that_counts_it() {
        let mut delivered = Delivered::default();
        let event = |ifindex| Event {
            ifindex,
            ..Event::default()
        };
        let mut last = counts(70, 3, 0);
        delivered.note(&last);
        delivered.count(&event(3));
        for (later, index, expected) in [
            (counts(70, 4, 1), 4, (1, 0)),
            (counts(70, 4, 2), 4, (2, 0)),
            (counts(71, 4, 0), 4, (3, 0)),
            (counts(71, 4, 1), 4, (3, 1)),
        ] {
            delivered.note(&later);
            last.update(later);
            assert_eq!((delivered.of(70, 0), delivered.of(71, 0)), expected);
            delivered.count(&event(index));
        }
        assert_eq!((last.written(), last.of(70, 0).logged), (3, 2));
    }
}
