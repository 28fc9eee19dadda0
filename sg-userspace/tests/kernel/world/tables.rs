//! The kernel's tables of flows and fragments, converted for comparison with the reference. Time
//! passes in the tests by moving the times of entries back.

use std::net::IpAddr;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use sg_common::flow::{FlowKind, FlowStats, FlowValue, Timeout};
use sg_common::flow_entry::{Contents, TICK_SHIFT, begun_word, created_of, number_of};
use sg_common::flow_table::Place;
use sg_common::fragment::{FragmentKey4, FragmentKey6, FragmentValue};
use sg_common::verdict::Direction;
use sg_userspace::kernel::flow_tables::{FlowTable, key_of};
use sg_userspace::kernel::pins::InterfacePins;

use super::live::now;
use crate::reference::flows::{Flow, Moves, Number};
use crate::reference::identity::{By, FlowKey, FragmentKey};
use crate::reference::states::State;
use crate::reference::{First, Outcome};

type Table<K, V> = HashMap<MapData, K, V>;

pub(crate) struct Tables {
    flow_table: FlowTable,
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
        .expect("the table does not change while it is read")
}

impl Tables {
    pub(crate) fn open(pins: &InterfacePins) -> Self {
        Tables {
            // The timeouts only affect which flow userspace evicts first.
            flow_table: FlowTable::open(pins, &Timeout::defaults()).expect("the layout is known"),
            fragments4: table(pins.fragments4()),
            fragments6: table(pins.fragments6()),
            stats: PerCpuArray::try_from(Map::PerCpuArray(pinned(pins.flow_stats())))
                .expect("the layout is known"),
        }
    }

    /// Every flow, with its place in the table.
    pub(crate) fn flows(&self) -> Vec<(FlowKey, Flow, Place)> {
        let mut flows = Vec::new();
        self.flow_table.each(now(), |e| {
            let ports = (e.local_port, e.remote_port);
            let key = flow_key(e.local, e.remote, e.protocol, ports);
            flows.push((key, flow(e.kind, &e.value), e.place));
        });
        flows
    }

    /// The tag that a flow has in the table: a byte of the hash of its key.
    pub(crate) fn tag(&self, key: &FlowKey) -> u64 {
        let ports = match key.by {
            By::Ports { local, remote } => (local, remote),
            By::Query {
                request,
                asked_inbound,
                identifier,
            } => (
                identifier,
                u16::from(request) | u16::from(asked_inbound) << 8,
            ),
            By::Addresses => (0, 0),
        };
        let key = key_of(key.local, key.remote, ports, key.protocol);
        self.flow_table.spot(&key).tag
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
                .expect("statistics of each kind");
            stats.iter().fold(Moves::default(), |sum, cpu| Moves {
                entered: sum.entered + cpu.entered,
                left: sum.left + cpu.left,
                evicted: sum.evicted + cpu.evicted,
            })
        })
    }

    /// Moves all times back by `nanoseconds`, possibly to before the machine was started.
    pub(crate) fn age(&mut self, nanoseconds: u64) {
        self.flow_table.rewrite(|flow| {
            let ticks = (nanoseconds >> TICK_SHIFT) as u32;
            Contents {
                head: flow.head.seen_at(flow.head.last_seen().wrapping_sub(ticks)),
                begun: begun_word(
                    created_of(flow.begun).wrapping_sub(ticks),
                    number_of(flow.begun),
                ),
                ..flow
            }
        });
        let back = |value: FragmentValue| FragmentValue {
            seen: value.seen.wrapping_sub(nanoseconds),
            ..value
        };
        rewrite(&mut self.fragments4, back);
        rewrite(&mut self.fragments6, back);
    }

    /// Does what `apply` does for `established: flush`, after the policy of this generation is in
    /// force.
    pub(crate) fn flush(&mut self, generation: u32) {
        self.flow_table.flush(generation, now());
        clear(&mut self.fragments4);
        clear(&mut self.fragments6);
    }

    /// Enters a flow as for a connection that existed before the first policy. Returns whether
    /// another flow was evicted.
    pub(crate) fn seed(&mut self, key: &FlowKey, flow: &Flow) -> bool {
        let By::Ports { local, remote } = key.by else {
            panic!("only flows with ports are seeded");
        };
        let value = FlowValue {
            created: flow.created,
            last_seen: flow.last_seen,
            slot: flow.slot,
            generation: flow.generation,
            originator: flow.originator as u8,
            state: flow.state.number(),
            flags: FlowValue::SEEDED | FlowValue::SEEN_REPLY,
            ..FlowValue::EMPTY
        };
        let key = key_of(key.local, key.remote, (local, remote), key.protocol);
        let entered = self.flow_table.enter(&key, &value, flow.kind, now());
        assert!(entered.is_new, "entering a flow: {entered:?}");
        entered.evicted
    }
}

fn rewrite<K: Pod, V: Pod>(table: &mut Table<K, V>, change: impl Fn(V) -> V) {
    const EXISTING: u64 = 2;
    for (key, value) in entries(table) {
        match table.insert(key, change(value), EXISTING) {
            Ok(()) => {}
            // Updating an entry needs a second one for a moment, and a full map evicts for it.
            Err(aya::maps::MapError::SyscallError(e))
                if e.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => panic!("rewriting an entry: {e:?}"),
        }
    }
}

fn clear<K: Pod, V: Pod>(table: &mut Table<K, V>) {
    for (key, _) in entries(table) {
        table.remove(&key).expect("the entry exists");
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
    let opened = FlowValue::OPENED_OTHERWISE | FlowValue::ORIGINATOR_UNKNOWN;
    let known = FlowValue::SEEN_REPLY | FlowValue::SEEDED | FlowValue::AUDITED | opened;
    assert_eq!(value.flags & !known, 0, "unknown flags");
    assert_eq!(value.zero, [0; 5], "padding");
    Flow {
        kind,
        created: value.created,
        last_seen: value.last_seen,
        slot: value.slot,
        generation: value.generation,
        originator: direction(value.originator),
        opened: value.opened_by(),
        state: State::of_number(value.state),
        has_seen_reply: value.has_seen_reply(),
        seeded: value.is_seeded(),
        audited: value.is_audited(),
        number: Number::Unknown,
    }
}

fn first(value: &FragmentValue) -> First {
    assert_eq!(value.flags & !FragmentValue::FLAGS, 0, "unknown flags");
    First {
        seen: value.seen,
        outcome: Outcome {
            accept: value.flags & FragmentValue::ACCEPT != 0,
            slot: value.slot,
            is_reply: value.flags & FragmentValue::REPLY != 0,
            audit: value.flags & FragmentValue::AUDIT != 0,
        },
    }
}
