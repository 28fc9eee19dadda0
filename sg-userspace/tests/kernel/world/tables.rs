//! The kernel's tables of flows and fragments: read as the reference has them, and made older, which
//! is how time passes in the tests.

use std::net::IpAddr;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use sg_common::flow::{FlowKey4, FlowKey6, FlowKind, FlowStats, FlowValue};
use sg_common::fragment::{FragmentKey4, FragmentKey6, FragmentValue};
use sg_common::verdict::Direction;
use sg_userspace::kernel::pins::InterfacePins;

use crate::reference::flows::{Flow, Moves};
use crate::reference::identity::{By, FlowKey, FragmentKey};
use crate::reference::{First, Outcome};

type Table<K, V> = HashMap<MapData, K, V>;

pub(crate) struct Tables {
    /// In the order of `FlowKind::BOTH`.
    flows4: [Table<FlowKey4, FlowValue>; 2],
    flows6: [Table<FlowKey6, FlowValue>; 2],
    fragments4: Table<FragmentKey4, FragmentValue>,
    fragments6: Table<FragmentKey6, FragmentValue>,
    stats: PerCpuArray<MapData, FlowStats>,
}

fn pinned(path: std::path::PathBuf) -> MapData {
    MapData::from_pin(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn table<K: Pod, V: Pod>(path: std::path::PathBuf) -> Table<K, V> {
    HashMap::try_from(Map::LruHashMap(pinned(path))).expect("the tables' layout is known")
}

fn entries<K: Pod, V: Pod>(table: &Table<K, V>) -> Vec<(K, V)> {
    table
        .iter()
        .collect::<Result<_, _>>()
        .expect("nobody else changes the table")
}

impl Tables {
    pub(crate) fn open(pins: &InterfacePins) -> Self {
        Tables {
            flows4: [table(pins.half_open4()), table(pins.flows4())],
            flows6: [table(pins.half_open6()), table(pins.flows6())],
            fragments4: table(pins.fragments4()),
            fragments6: table(pins.fragments6()),
            stats: PerCpuArray::try_from(Map::PerCpuArray(pinned(pins.flow_stats())))
                .expect("the layout is known"),
        }
    }

    pub(crate) fn flows(&self) -> Vec<(FlowKey, Flow)> {
        let mut flows = Vec::new();
        for kind in FlowKind::BOTH {
            for (key, value) in entries(&self.flows4[kind as usize]) {
                let (local, remote) = key.addresses();
                let ports = (key.local_port, key.remote_port);
                let key = flow_key(local.into(), remote.into(), key.protocol, ports);
                flows.push((key, flow(kind, &value)));
            }
            for (key, value) in entries(&self.flows6[kind as usize]) {
                let (local, remote) = key.addresses();
                let ports = (key.local_port, key.remote_port);
                let key = flow_key(local.into(), remote.into(), key.protocol, ports);
                flows.push((key, flow(kind, &value)));
            }
        }
        flows
    }

    pub(crate) fn fragments(&self) -> Vec<(FragmentKey, First)> {
        let mut fragments = Vec::new();
        for (key, value) in entries(&self.fragments4) {
            let key = FragmentKey {
                direction: direction(key.direction),
                local: sg_common::flow::ipv4(key.local).into(),
                remote: sg_common::flow::ipv4(key.remote).into(),
                identification: key.identification,
                protocol: key.protocol,
            };
            fragments.push((key, first(&value)));
        }
        for (key, value) in entries(&self.fragments6) {
            let key = FragmentKey {
                direction: direction(key.direction),
                local: sg_common::flow::ipv6(key.local).into(),
                remote: sg_common::flow::ipv6(key.remote).into(),
                identification: key.identification,
                protocol: key.protocol,
            };
            fragments.push((key, first(&value)));
        }
        fragments
    }

    /// What the programs have counted, in the order of `FlowKind::BOTH`.
    pub(crate) fn moves(&self) -> [Moves; 2] {
        FlowKind::BOTH.map(|kind| {
            let stats = self
                .stats
                .get(&(kind as u32), 0)
                .expect("one for each kind");
            stats.iter().fold(Moves::default(), |sum, cpu| Moves {
                entered: sum.entered + cpu.entered,
                left: sum.left + cpu.left,
            })
        })
    }

    /// Moves every time that is remembered `nanoseconds` into the past, which may be before the
    /// machine was started.
    pub(crate) fn age(&mut self, nanoseconds: u64) {
        let back = |value: FlowValue| FlowValue {
            created: value.created.wrapping_sub(nanoseconds),
            last_seen: value.last_seen.wrapping_sub(nanoseconds),
            ..value
        };
        for table in &mut self.flows4 {
            rewrite(table, back);
        }
        for table in &mut self.flows6 {
            rewrite(table, back);
        }
        let back = |value: FragmentValue| FragmentValue {
            seen: value.seen.wrapping_sub(nanoseconds),
            ..value
        };
        rewrite(&mut self.fragments4, back);
        rewrite(&mut self.fragments6, back);
    }

    /// Forgets everything, as `established: flush` does when a policy is put in force.
    pub(crate) fn flush(&mut self) {
        self.flows4.iter_mut().for_each(clear);
        self.flows6.iter_mut().for_each(clear);
        clear(&mut self.fragments4);
        clear(&mut self.fragments6);
    }

    /// Enters a flow as it is entered for a connection that was there before the first policy.
    pub(crate) fn seed(&mut self, key: &FlowKey, flow: &Flow) {
        let By::Ports { local, remote } = key.by else {
            panic!("only flows with ports are seeded");
        };
        let value = FlowValue {
            created: flow.created,
            last_seen: flow.last_seen,
            slot: flow.slot,
            generation: flow.generation,
            opener: flow.opener as u8,
            state: flow.state,
            flags: FlowValue::SEEDED | FlowValue::ANSWERED,
            ..FlowValue::EMPTY
        };
        let kind = flow.kind as usize;
        let result = match (key.local, key.remote) {
            (IpAddr::V4(l), IpAddr::V4(r)) => {
                let key = FlowKey4 {
                    local: u32::from_ne_bytes(l.octets()),
                    remote: u32::from_ne_bytes(r.octets()),
                    local_port: local,
                    remote_port: remote,
                    protocol: key.protocol,
                    zero: [0; 3],
                };
                self.flows4[kind].insert(key, value, 0)
            }
            (IpAddr::V6(l), IpAddr::V6(r)) => {
                let key = FlowKey6 {
                    local: words(l.octets()),
                    remote: words(r.octets()),
                    local_port: local,
                    remote_port: remote,
                    protocol: key.protocol,
                    zero: [0; 3],
                };
                self.flows6[kind].insert(key, value, 0)
            }
            _ => panic!("{key:?} is of two families"),
        };
        result.expect("entering a flow");
    }
}

fn words(octets: [u8; 16]) -> [u32; 4] {
    let (words, _) = octets.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_ne_bytes(words[i]))
}

fn rewrite<K: Pod, V: Pod>(table: &mut Table<K, V>, change: impl Fn(V) -> V) {
    const EXISTING: u64 = 2;
    for (key, value) in entries(table) {
        match table.insert(key, change(value), EXISTING) {
            Ok(()) => {}
            // Rewriting takes a second entry for a moment, for which a full table evicts.
            Err(aya::maps::MapError::SyscallError(e))
                if e.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => panic!("rewriting an entry: {e:?}"),
        }
    }
}

fn clear<K: Pod, V: Pod>(table: &mut Table<K, V>) {
    for (key, _) in entries(table) {
        table.remove(&key).expect("nobody else removes entries");
    }
}

fn direction(number: u8) -> Direction {
    Direction::BOTH
        .into_iter()
        .find(|d| *d as u8 == number)
        .unwrap_or_else(|| panic!("{number} is no direction"))
}

fn flow_key(local: IpAddr, remote: IpAddr, protocol: u8, ports: (u16, u16)) -> FlowKey {
    let by = match protocol {
        6 | 17 | 132 => By::Ports {
            local: ports.0,
            remote: ports.1,
        },
        p if p == (if local.is_ipv4() { 1 } else { 58 }) => By::Query {
            request: ports.1 as u8,
            asked_inbound: ports.1 >> 8 == 1,
            identifier: ports.0,
        },
        _ => {
            assert_eq!(ports, (0, 0), "protocol {protocol} has no ports");
            By::Addresses
        }
    };
    FlowKey {
        local,
        remote,
        protocol,
        by,
    }
}

fn flow(kind: FlowKind, value: &FlowValue) -> Flow {
    let known = FlowValue::ANSWERED | FlowValue::SEEDED;
    assert_eq!(value.flags & !known, 0, "unknown flags");
    assert_eq!(value.zero, [0; 5], "padding");
    Flow {
        kind,
        created: value.created,
        last_seen: value.last_seen,
        slot: value.slot,
        generation: value.generation,
        opener: direction(value.opener),
        state: value.state,
        answered: value.is_answered(),
        seeded: value.is_seeded(),
    }
}

fn first(value: &FragmentValue) -> First {
    let known = FragmentValue::ACCEPT | FragmentValue::REPLY;
    assert_eq!(value.flags & !known, 0, "unknown flags");
    First {
        seen: value.seen,
        outcome: Outcome {
            accept: value.flags & FragmentValue::ACCEPT != 0,
            slot: value.slot,
            is_reply: value.flags & FragmentValue::REPLY != 0,
        },
    }
}
