//! Loads one generation: the programs of both hooks, its own frozen tables, and the maps that all
//! generations share.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use aya::maps::Map;
use aya::programs::{Program, ProgramError, ProgramInfo, SchedClassifier, Xdp};
use aya::{Ebpf, VerifierLogLevel};
use sg_common::event_budget::halvings;
use sg_common::flow::TIMEOUTS;
use sg_common::lookup::{BSS_LINES, Plain};
use sg_common::verdict::Direction;

use super::super::error::{KernelError, broken_object};
use super::super::event_ring::{EventReader, online_cpus, possible_cpus};
use super::super::event_watch::Watch;
use super::super::flow_memory::{FlowKeys, FlowTable, keys_of, port_counts};
use super::super::pins::InterfacePins;
use super::super::shared::CounterReader;
use super::super::{event_watch, gate, sys, trial};
use super::generation::Generation;
use super::loader::{loader_without_btf, undisturbed};
use super::object::{ARRAY, EVENT_WATCH, FLOW_PORTS, INBOUND, OBJECT, OUTBOUND, PORT_COUNTS_LEN};
use super::object_maps::array_map;
use super::sections::{fill_tables, share_section, share_tables};
use super::shared_maps::SharedMaps;
use super::targets;
use sg_policy::compile::Compiled;

/// How many fragmented datagrams are remembered at a time, in each family.
pub const FRAGMENT_ENTRIES: u32 = 4096;

/// A loaded generation. Dropping it frees all that no link or pin holds.
pub struct Programs {
    ebpf: Ebpf,
    /// The multipliers of the flow table's hash.
    flow_keys: FlowKeys,
    pub load_time: Duration,
    /// How much of that the kernel has taken to verify and translate the programs of each hook,
    /// inbound first.
    pub verify_times: [Duration; 2],
}

impl Programs {
    /// Loads all programs, and fills and freezes their tables. Attaches nothing.
    pub fn load(
        compiled: &Compiled,
        generation: &Generation,
        shared: &SharedMaps,
    ) -> Result<Self, KernelError> {
        Self::load_sharing(compiled, generation, shared, None)
    }

    /// Loads the programs of another interface of an attachment. They share the tables of
    /// `tables_of`, which are of the same generation.
    pub(in crate::kernel) fn load_sharing(
        compiled: &Compiled,
        generation: &Generation,
        shared: &SharedMaps,
        tables_of: Option<&Programs>,
    ) -> Result<Self, KernelError> {
        Self::load_with(&compiled.tables(), generation, shared, tables_of)
    }

    /// Loads programs with tables that are in memory already, such as those of a running
    /// generation.
    pub(in crate::kernel) fn load_tables(
        tables: &Plain<'_>,
        generation: &Generation,
        shared: &SharedMaps,
    ) -> Result<Self, KernelError> {
        Self::load_with(tables, generation, shared, None)
    }

    /// Loads the remembering programs of the same generation, see
    /// [`REMEMBERS`](sg_common::program::REMEMBERS). They share the tables with this one.
    pub fn load_remembering(
        &self,
        compiled: &Compiled,
        generation: &Generation,
        shared: &SharedMaps,
    ) -> Result<Self, KernelError> {
        let told = Generation {
            only_remembers: true,
            ..generation.clone()
        };
        Self::load_with(&compiled.tables(), &told, shared, Some(self))
    }

    fn load_with(
        tables: &Plain<'_>,
        generation: &Generation,
        shared: &SharedMaps,
        tables_of: Option<&Programs>,
    ) -> Result<Self, KernelError> {
        let started = Instant::now();
        let flow_keys = keys_of(shared.pins.as_ref())?;
        let groups = shared.groups()?;
        let shape = tables.shape;
        let is_in_bss =
            generation.may_be_in_bss && tables.lines.len() <= BSS_LINES && shape.host_buckets == 0;
        let (cpus, event_slots) = (possible_cpus()?, shared.event_slots()?);
        // Tables in .bss need no array map, and neither do lines that another map has.
        let array_lines = match tables_of {
            None if !is_in_bss => tables.lines.len(),
            _ => 1,
        };

        let config = generation.config(groups, event_slots, halvings(online_cpus()), is_in_bss);
        let mut loader = loader_without_btf();
        loader
            // The log is only requested when a program is refused.
            .verifier_log_level(VerifierLogLevel::DEBUG)
            .override_global("SG_CONFIG", &config, true)
            .override_global("SG_SHAPE", shape, true)
            .override_global(aya_log::LEVEL, &generation.log_level, true)
            .map_max_entries(ARRAY, u32::try_from(array_lines).unwrap_or(u32::MAX))
            .map_max_entries("sg_counters", shared.counter_slots.max(1))
            .map_max_entries("sg_event_counts", shared.counter_slots.max(1))
            .map_max_entries("sg_event_rings", cpus)
            .map_max_entries("sg_event_slots", cpus * event_slots)
            .map_max_entries("sg_flow_tags", groups)
            .map_max_entries("sg_flow_pages", groups)
            .map_max_entries("sg_fragments4", FRAGMENT_ENTRIES)
            .map_max_entries("sg_fragments6", FRAGMENT_ENTRIES);
        if generation.log_level == 0 {
            // No program writes to this ring, so it has the smallest size, which is a page.
            loader.map_max_entries("AYA_LOGS", page_size());
        }
        shared.check()?;
        for (name, path) in shared.pinned()? {
            loader.map_pin_path(name, path);
        }
        if let Some(pins) = shared.pins.as_ref().filter(|_| generation.on_trial) {
            loader.map_pin_path(trial::MAP, pins.trial(generation.number));
        }

        let ebpf = undisturbed(|| loader.load(OBJECT))
            .map_err(|e| KernelError::bpf("creating the BPF maps", e))?;

        share_sections(&ebpf, shared.pins.as_ref())?;
        match tables_of {
            Some(other) => share_tables(&ebpf, &other.ebpf)?,
            None => fill_tables(&ebpf, &flow_keys, tables, is_in_bss)?,
        }

        let mut programs = Programs {
            ebpf,
            flow_keys,
            load_time: Duration::ZERO,
            verify_times: [Duration::ZERO; 2],
        };
        programs.verify_times = programs.verify(generation)?;
        targets::connect(&mut programs.ebpf)?;
        programs.load_time = started.elapsed();
        Ok(programs)
    }

    /// Lets the kernel verify and translate the programs that the generation needs, with the two
    /// hooks in parallel. Returns how long each hook took.
    fn verify(&mut self, generation: &Generation) -> Result<[Duration; 2], KernelError> {
        let started = Instant::now();
        let load = |programs: Vec<(&str, &mut Program)>| -> Result<Duration, KernelError> {
            for (name, program) in programs {
                match program {
                    Program::Xdp(program) => program.load(),
                    Program::SchedClassifier(program) => program.load(),
                    _ => return Err(broken_object(name)),
                }
                .map_err(|e| KernelError::bpf(format!("loading the program {name}"), e))?;
            }
            Ok(started.elapsed())
        };
        let (inbound, outbound) = self
            .ebpf
            .programs_mut()
            .filter(|(name, _)| {
                let is_gate = gate::is_one(name);
                let is_wanted = targets::is_wanted(name, generation.audits);
                is_wanted && (generation.on_trial || !is_gate)
            })
            .partition(|(_, program)| matches!(program, Program::Xdp(_)));
        undisturbed(|| {
            std::thread::scope(|scope| {
                let outbound = scope.spawn(|| load(outbound));
                let inbound = load(inbound)?;
                let outbound = outbound.join().unwrap_or_else(|e| resume_unwind(e))?;
                Ok([inbound, outbound])
            })
        })
    }

    /// Pins the tail-call targets: see `targets`.
    pub(in crate::kernel) fn pin_targets(
        &self,
        pins: &InterfacePins,
        generation: u32,
    ) -> Result<(), KernelError> {
        targets::pin(&self.ebpf, pins, generation)
    }

    /// Puts the first programs behind the gates, and those of the policy that returns.
    pub fn connect_gates(&mut self, fallback: Option<&Programs>) -> Result<(), KernelError> {
        gate::connect(&mut self.ebpf, fallback.map(|programs| &programs.ebpf))
    }

    /// Pins the gates: see `gate`.
    pub(in crate::kernel) fn pin_gates(
        &self,
        pins: &InterfacePins,
        number: u32,
    ) -> Result<(), KernelError> {
        gate::pin(&self.ebpf, pins, number)
    }

    /// The gate of a hook.
    pub(in crate::kernel) fn gate(&self, direction: Direction) -> Result<OwnedFd, KernelError> {
        gate::open(&self.ebpf, direction)
    }

    /// The ids of the gates, inbound first.
    pub(in crate::kernel) fn gate_ids(&self) -> Result<[u32; 2], KernelError> {
        let id = |direction| {
            sys::program_number(self.gate(direction)?.as_fd())
                .map_err(|e| KernelError::io("asking for a program's id", e))
        };
        let [inbound, outbound] = Direction::BOTH;
        Ok([id(inbound)?, id(outbound)?])
    }

    /// What the kernel reports about every program that is loaded, by name.
    pub fn infos(&self) -> Result<BTreeMap<&str, ProgramInfo>, KernelError> {
        let programs = self.ebpf.programs();
        let programs = programs.filter(|(_, program)| program.fd().is_ok());
        let infos = programs.map(|(name, program)| Ok((name, program.info()?)));
        infos
            .collect::<Result<_, ProgramError>>()
            .map_err(|e| KernelError::bpf("asking about the programs", e))
    }

    /// The XDP program that is attached.
    pub fn inbound(&mut self) -> Result<&mut Xdp, KernelError> {
        let program = self.ebpf.program_mut(INBOUND);
        program
            .and_then(|p| p.try_into().ok())
            .ok_or_else(|| broken_object(INBOUND))
    }

    /// The gate in front of it, where the policy is on trial.
    pub fn inbound_gate(&mut self) -> Result<&mut Xdp, KernelError> {
        let name = gate::program(Direction::Inbound);
        let program = self.ebpf.program_mut(name);
        program
            .and_then(|p| p.try_into().ok())
            .ok_or_else(|| broken_object(name))
    }

    /// The tc program that is attached.
    pub fn outbound(&mut self) -> Result<&mut SchedClassifier, KernelError> {
        let program = self.ebpf.program_mut(OUTBOUND);
        program
            .and_then(|p| p.try_into().ok())
            .ok_or_else(|| broken_object(OUTBOUND))
    }

    /// The ids of the programs that are attached, inbound first.
    pub(in crate::kernel) fn ids(&mut self) -> Result<[u32; 2], KernelError> {
        let id = |info: Result<ProgramInfo, ProgramError>| {
            info.map(|i| i.id())
                .map_err(|e| KernelError::bpf("asking for a program's id", e))
        };
        Ok([id(self.inbound()?.info())?, id(self.outbound()?.info())?])
    }

    /// The flow table of programs whose maps are pinned nowhere. Their counts of flows by local
    /// port are set so that the programs always ask the table.
    pub(in crate::kernel) fn private_flows(
        &self,
        timeouts: &[u32; TIMEOUTS],
    ) -> Result<FlowTable, KernelError> {
        let map = |name| array_map(&self.ebpf, name);
        sys::write_value(map(FLOW_PORTS)?.fd().as_fd(), &0, &[1; PORT_COUNTS_LEN])
            .map_err(|e| KernelError::io("preparing a private flow table", e))?;
        let (tags, pages) = (map("sg_flow_tags")?, map("sg_flow_pages")?);
        let (tags, pages) = (tags.fd().as_fd(), pages.fd().as_fd());
        FlowTable::private(tags, pages, self.flow_keys, timeouts)
    }

    /// Watches what these programs drop, and reads their events.
    pub fn events(&self) -> Result<(Watch, EventReader), KernelError> {
        let map = |name| array_map(&self.ebpf, name);
        let (rings, slots) = (map("sg_event_rings")?, map("sg_event_slots")?);
        let entries = slots
            .info()
            .map_err(|e| KernelError::bpf("opening the events", e))?;
        let share = entries.max_entries() / possible_cpus()?.max(1);
        let reader = EventReader::of_maps(rings, slots, share as usize)?;
        Ok((Watch::of_map(map(EVENT_WATCH)?)?, reader))
    }

    /// A reader of the counters that these programs write.
    pub fn counters(&self) -> Result<CounterReader, KernelError> {
        const NAME: &str = "sg_counters";
        let Some(Map::PerCpuArray(map)) = self.ebpf.map(NAME) else {
            return Err(broken_object(NAME));
        };
        let read = |e| KernelError::bpf("opening the counters", e);
        let slots = map.info().map_err(read)?.max_entries();
        let fd = map.fd().as_fd().try_clone_to_owned();
        CounterReader::new(
            fd.map_err(|e| KernelError::io("opening the counters", e))?,
            slots,
        )
    }
}

/// Puts the sections that outlive a policy in the place of the programs' own.
fn share_sections(ebpf: &Ebpf, pins: Option<&InterfacePins>) -> Result<(), KernelError> {
    let watch = match pins {
        Some(pins) => {
            let flow_ports = port_counts(pins)?;
            share_section(FLOW_PORTS, ebpf, &flow_ports, "sharing the counts of flows")?;
            event_watch::map(pins)?
        }
        None => event_watch::private()?,
    };
    share_section(EVENT_WATCH, ebpf, &watch, "sharing who watches")
}

fn page_size() -> u32 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u32::try_from(size).ok())
        .unwrap_or(4096)
}
