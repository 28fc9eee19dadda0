//! The flow tables as seeding writes them: whole batches while nobody else does, one by one after.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use sg_common::flow::{FlowKey4, FlowKey6, FlowKind, FlowValue};

use super::super::flow_tables::{Ledger, pins_of};
use super::super::pins::InterfacePins;
use super::super::programs::half_open_entries;
use super::super::{KernelError, sys};
use super::existing::Key;

/// The tables of both kinds and families, in the order of [`FlowKind::BOTH`].
pub(super) struct FlowTables {
    tables: [[Table; 2]; 2],
    ledger: Ledger,
    max_flows: u32,
}

struct Table {
    map: OwnedFd,
    path: PathBuf,
}

impl Table {
    fn open(path: PathBuf) -> Result<Self, KernelError> {
        let map = sys::open_pin(&path).map_err(|e| failed(&path, e))?;
        Ok(Table { map, path })
    }
}

fn failed(path: &Path, error: io::Error) -> KernelError {
    KernelError::io(format!("entering flows into {}", path.display()), error)
}

impl FlowTables {
    pub(super) fn open(pins: &InterfacePins, max_flows: u32) -> Result<Self, KernelError> {
        let open = |kind| -> Result<[Table; 2], KernelError> {
            let [v4, v6] = pins_of(pins, kind);
            Ok([Table::open(v4)?, Table::open(v6)?])
        };
        let [half_open, established] = FlowKind::BOTH;
        Ok(FlowTables {
            tables: [open(half_open)?, open(established)?],
            ledger: Ledger::open(pins)?,
            max_flows,
        })
    }

    /// How many flows of a kind and family there is room for.
    pub(super) fn room(&self, kind: FlowKind) -> usize {
        let entries = match kind {
            FlowKind::HalfOpen => half_open_entries(self.max_flows),
            FlowKind::Established => self.max_flows,
        };
        entries as usize
    }

    fn table(&self, kind: FlowKind, is_v6: bool) -> &Table {
        &self.tables[kind as usize][usize::from(is_v6)]
    }

    /// Enters all of `flows`, which are of one family, in their order.
    pub(super) fn fill(
        &self,
        kind: FlowKind,
        is_v6: bool,
        flows: &[(Key, FlowValue)],
    ) -> Result<(), KernelError> {
        let table = self.table(kind, is_v6);
        let values: Vec<FlowValue> = flows.iter().map(|(_, value)| *value).collect();
        let map = table.map.as_fd();
        let result = if is_v6 {
            let keys: Vec<FlowKey6> = flows.iter().map(|(key, _)| key6(key)).collect();
            sys::update_batch(map, &keys, &values)
        } else {
            let keys: Vec<FlowKey4> = flows.iter().map(|(key, _)| key4(key)).collect();
            sys::update_batch(map, &keys, &values)
        };
        result.map_err(|e| failed(&table.path, e))?;
        self.ledger.add_entered(kind, values.len() as u64);
        Ok(())
    }

    /// Enters one flow, unless it is there. True if it was not.
    pub(super) fn enter(
        &self,
        kind: FlowKind,
        key: &Key,
        value: &FlowValue,
    ) -> Result<bool, KernelError> {
        let is_v6 = key.remote.is_ipv6();
        let table = self.table(kind, is_v6);
        let result = if is_v6 {
            sys::add_entry(table.map.as_fd(), &key6(key), value)
        } else {
            sys::add_entry(table.map.as_fd(), &key4(key), value)
        };
        let is_new = result.map_err(|e| failed(&table.path, e))?;
        self.ledger.add_entered(kind, is_new.into());
        Ok(is_new)
    }
}

/// The bytes of an address as they are on the wire, in words.
fn words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(a) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&a.octets());
            octets
        }
        IpAddr::V6(a) => a.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

fn key4(key: &Key) -> FlowKey4 {
    FlowKey4 {
        local: words(key.local)[0],
        remote: words(key.remote)[0],
        local_port: key.local_port,
        remote_port: key.remote_port,
        protocol: key.protocol,
        zero: [0; 3],
    }
}

fn key6(key: &Key) -> FlowKey6 {
    FlowKey6 {
        local: words(key.local),
        remote: words(key.remote),
        local_port: key.local_port,
        remote_port: key.remote_port,
        protocol: key.protocol,
        zero: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hold_addresses_as_on_the_wire() {
        let key = |local: &str, remote: &str| Key {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            local_port: 22,
            remote_port: 5000,
            protocol: 6,
        };
        let v4 = key("192.0.2.1", "198.51.100.7");
        let found = key4(&v4);
        assert_eq!(
            found.addresses(),
            (
                "192.0.2.1".parse().unwrap(),
                "198.51.100.7".parse().unwrap()
            )
        );
        let v6 = key("2001:db8::1", "2001:db8::7");
        let found6 = key6(&v6);
        assert_eq!(
            found6.addresses(),
            (
                "2001:db8::1".parse().unwrap(),
                "2001:db8::7".parse().unwrap()
            )
        );
        for ports in [
            (found.local_port, found.remote_port),
            (found6.local_port, found6.remote_port),
        ] {
            assert_eq!(ports, (22, 5000));
        }
    }
}
