//! The maps that outlive a policy: their names in the programs, where they are pinned, and what
//! they must look like to be reused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use sg_common::counters::CounterSlot;
use sg_common::event::{EventRing, EventSlot};
use sg_common::event_budget::EventCounts;
use sg_common::flow::FlowStats;
use sg_common::flow_table::{Line, Page, groups_for};
use sg_common::fragment::{FragmentKey4, FragmentKey6, FragmentValue};
use sg_common::verdict::FIRST_RULE_SLOT;

use super::super::error::KernelError;
use super::super::event_ring::{self, possible_cpus};
use super::super::flow_memory::groups_at;
use super::super::links::name_of;
use super::super::pins::InterfacePins;
use super::super::state::State;
use super::super::sys;
use super::object::{EVENT_WATCH, EVENT_WATCH_LEN, FLOW_PORTS, PORT_COUNTS_LEN};

/// Where the maps that outlive a policy are pinned, and the sizes of those that have to be created.
/// Without pins they live as long as the programs, as in tests and benches.
#[derive(Clone, Debug, Default)]
pub struct SharedMaps {
    pub pins: Option<InterfacePins>,
    /// Which of the interface's counter maps the programs write.
    pub counter_map: usize,
    /// How many slots a new counter map gets.
    pub counter_slots: u32,
    /// How many established flows of both families a new flow table has room for. It has twice as
    /// many entries, and some more for half-open flows.
    pub max_flows: u32,
}

/// For how many half-open flows there is always room: a quarter of the established ones, because
/// they live for seconds.
pub(crate) fn half_open_entries(max_flows: u32) -> u32 {
    (max_flows / 4).max(1)
}

impl SharedMaps {
    /// Maps of the programs' own, with a counter for each reason and each of these slots.
    pub(in crate::kernel) fn private(
        slots: impl Iterator<Item = u32>,
        max_flows: u32,
    ) -> SharedMaps {
        SharedMaps {
            pins: None,
            counter_map: 0,
            counter_slots: slots.fold(FIRST_RULE_SLOT, |most, slot| most.max(slot + 1)),
            max_flows,
        }
    }

    /// How many groups the flow table has: those of the pinned table, or those that `max_flows`
    /// takes.
    pub(in crate::kernel) fn groups(&self) -> Result<u32, KernelError> {
        match &self.pins {
            Some(pins) if pins.flow_pages().exists() => groups_at(&pins.flow_pages()),
            _ => Ok(groups_for(self.max_flows)),
        }
    }

    /// Room for events of one CPU: that of the pinned rings, if there are some.
    pub(in crate::kernel) fn event_slots(&self) -> Result<u32, KernelError> {
        let cpus = possible_cpus()?;
        match &self.pins {
            Some(pins) if pins.event_slots().exists() => event_ring::slots_at(pins),
            _ => Ok(event_ring::slots_for(cpus)),
        }
    }

    /// The maps that the loader takes from a pin or pins: the name in the programs, and the path.
    pub(in crate::kernel) fn pinned(&self) -> Result<Vec<(&'static str, PathBuf)>, KernelError> {
        let maps = self.layouts()?.into_iter();
        // The loader would overwrite these maps.
        let maps = maps.filter(|(name, ..)| ![FLOW_PORTS, EVENT_WATCH].contains(name));
        Ok(maps.map(|(name, path, _)| (name, path)).collect())
    }

    /// An attachment has pins that outlive its policies: the names of those that are missing.
    pub(in crate::kernel) fn missing(
        pins: &InterfacePins,
        state: &State,
    ) -> Result<Vec<String>, KernelError> {
        let shared = SharedMaps {
            pins: Some(pins.clone()),
            counter_map: state.counter_maps.saturating_sub(1),
            counter_slots: 0,
            max_flows: state.max_flows,
        };
        let maps = shared.layouts()?.into_iter().map(|(_, path, _)| path);
        let counters = (0..state.counter_maps)
            .flat_map(|index| [pins.counters(index), pins.event_counts(index)]);
        let all = maps
            .chain(counters)
            .chain([pins.flow_keys(), pins.flow_ledger()]);
        let missing: BTreeSet<String> = all
            .filter(|path| !path.exists())
            .map(|path| name_of(&path))
            .collect();
        Ok(missing.into_iter().collect())
    }

    /// Checks that the pinned maps have the right layout, since aya accepts any.
    pub(in crate::kernel) fn check(&self) -> Result<(), KernelError> {
        let maps = self.layouts()?;
        let mut there = maps.iter().filter(|(_, path, _)| path.exists());
        there.try_for_each(|(_, path, layout)| layout.check(path))
    }

    fn layouts(&self) -> Result<Vec<(&'static str, PathBuf, Layout)>, KernelError> {
        let Some(pins) = &self.pins else {
            return Ok(Vec::new());
        };
        let groups = self.groups()?;
        let cpus = possible_cpus()?;
        let slots = self.event_slots()?;
        Ok(vec![
            (
                "sg_counters",
                pins.counters(self.counter_map),
                Layout::COUNTERS,
            ),
            (
                "sg_event_counts",
                pins.event_counts(self.counter_map),
                Layout::EVENT_COUNTS,
            ),
            (
                EVENT_WATCH,
                pins.event_watch(),
                Layout::memory(EVENT_WATCH_LEN, 1),
            ),
            (
                "sg_flow_tags",
                pins.flow_tags(),
                Layout::memory(size_of::<Line<u64>>(), groups),
            ),
            (
                "sg_flow_pages",
                pins.flow_pages(),
                Layout::memory(size_of::<Page<u64>>(), groups),
            ),
            (
                FLOW_PORTS,
                pins.flow_ports(),
                Layout::memory(PORT_COUNTS_LEN, 1),
            ),
            ("sg_flow_stats", pins.flow_stats(), Layout::FLOW_STATS),
            ("sg_fragments4", pins.fragments4(), Layout::FRAGMENTS4),
            ("sg_fragments6", pins.fragments6(), Layout::FRAGMENTS6),
            (
                "sg_event_rings",
                pins.event_rings(),
                Layout::memory(size_of::<EventRing<u64>>(), cpus),
            ),
            (
                "sg_event_slots",
                pins.event_slots(),
                Layout::memory(size_of::<EventSlot<u64>>(), cpus * slots),
            ),
        ])
    }
}

/// The layout that a reused map must have.
struct Layout {
    map_type: MapType,
    key: usize,
    value: usize,
    /// The number of entries, if userspace maps it into memory and so relies on its size.
    mapped: Option<u32>,
}

impl Layout {
    /// A map that userspace maps into memory.
    const fn memory(value: usize, entries: u32) -> Layout {
        Layout {
            map_type: MapType::Array,
            key: size_of::<u32>(),
            value,
            mapped: Some(entries),
        }
    }

    /// A map that is only reached by system calls.
    const fn of<K, V>(map_type: MapType) -> Layout {
        Layout {
            map_type,
            key: size_of::<K>(),
            value: size_of::<V>(),
            mapped: None,
        }
    }

    const COUNTERS: Layout = Layout::of::<u32, CounterSlot>(MapType::PerCpuArray);
    const EVENT_COUNTS: Layout = Layout::of::<u32, EventCounts>(MapType::PerCpuArray);
    const FLOW_STATS: Layout = Layout::of::<u32, FlowStats>(MapType::PerCpuArray);
    const FRAGMENTS4: Layout = Layout::of::<FragmentKey4, FragmentValue>(MapType::LruHash);
    const FRAGMENTS6: Layout = Layout::of::<FragmentKey6, FragmentValue>(MapType::LruHash);

    /// Checks the map pinned at `path`.
    fn check(&self, path: &Path) -> Result<(), KernelError> {
        let other = |difference: String| KernelError::OtherMap {
            path: path.to_owned(),
            difference,
        };
        let info = sys::map_info(path).map_err(|e| KernelError::at_pin("opening", path, e))?;
        let map_type = info.map_type().map_err(|e| other(e.to_string()))?;
        if map_type != self.map_type {
            return Err(other(format!(
                "its type is {map_type:?}, not {:?}",
                self.map_type
            )));
        }
        for (part, found, expected) in [
            ("key", info.key_size() as usize, self.key),
            ("value", info.value_size() as usize, self.value),
        ] {
            if found != expected {
                return Err(other(format!(
                    "its {part} is {found} bytes long, not {expected}"
                )));
            }
        }
        if let Some(entries) = self.mapped {
            if info.max_entries() != entries {
                let found = info.max_entries();
                return Err(other(format!("it has {found} entries, not {entries}")));
            }
            if info.map_flags() & aya_obj::generated::BPF_F_MMAPABLE == 0 {
                return Err(other("it cannot be mapped into memory".into()));
            }
        }
        Ok(())
    }
}
