//! The flow table, as far as seeding writes it.

use sg_common::flow::{FlowKind, FlowValue, TIMEOUTS};

use super::super::error::KernelError;
use super::super::flow_memory::{FlowTable, key_of};
use super::super::flow_tables::{Ledger, monotonic_now};
use super::super::load::shared_maps::half_open_entries;
use super::super::pins::InterfacePins;
use super::existing::Key;

pub(super) struct SeededTable {
    table: FlowTable,
    ledger: Ledger,
    max_flows: u32,
}

/// What happened to a flow that was to be seeded.
pub(super) struct Seeding {
    pub(super) is_new: bool,
    /// Whether it had no room, or only that of another flow, which was evicted for it.
    pub(super) lacks_room: bool,
}

impl SeededTable {
    pub(super) fn open(
        pins: &InterfacePins,
        max_flows: u32,
        timeouts: &[u32; TIMEOUTS],
    ) -> Result<Self, KernelError> {
        Ok(SeededTable {
            table: FlowTable::open(pins, timeouts)?,
            ledger: Ledger::open(pins)?,
            max_flows,
        })
    }

    /// How many flows of a kind fit.
    pub(super) fn room(&self, kind: FlowKind) -> usize {
        let entries = match kind {
            FlowKind::HalfOpen => half_open_entries(self.max_flows),
            FlowKind::Established => self.max_flows,
        };
        entries as usize
    }

    /// Enters a flow, unless it has an entry.
    pub(super) fn enter(&self, kind: FlowKind, key: &Key, value: &FlowValue) -> Seeding {
        let ports = (key.local_port, key.remote_port);
        let key = key_of(key.local, key.remote, ports, key.protocol);
        let entered = self.table.enter(&key, value, kind, monotonic_now());
        self.ledger.add_entered(kind, entered);
        Seeding {
            is_new: entered.is_new,
            lacks_room: entered.evicted || !(entered.is_new || entered.was_there),
        }
    }
}
