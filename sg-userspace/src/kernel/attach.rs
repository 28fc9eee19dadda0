//! Applies a policy to an interface: assigns slots, compiles, loads, and puts the programs in place
//! of those that are there. On an error nothing has changed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::MapInfo;
use aya::programs::ProgramError;

use super::flow_tables::{Ledger, each_flow, flush};
use super::hooks::{other_xdp, put_in_place, remove_clsact};
use super::pins::{InterfacePins, PinTree};
use super::programs::{Generation, Programs, SharedMaps};
use super::seed::{Seeded, Seeding};
use super::shared::PinnedUse;
use super::slots;
use super::state::{PolicyRecord, State};
use super::tables::LiveTables;
use super::{KernelError, bpffs, interfaces, netns, running_program, stages};
use crate::compile::{Budget, Compiled, TableSizes, compile};
use crate::policy::{Established, Policy};

/// Established flows unless asked otherwise: about 22 MiB, with the half-open ones.
pub const DEFAULT_MAX_FLOWS: u32 = 131_072;

/// Where in the receive path the inbound program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver has it, else generic.
    #[default]
    Auto,
    Native,
    Generic,
}

/// How the outbound program hangs on the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressHook {
    /// tcx where the kernel has it (Linux 6.6), else a clsact filter.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// In the current network namespace.
    pub interface: String,
    /// As `--netns` named the current namespace, for `status` and `detach`.
    pub netns: Option<String>,
    pub bpffs: PathBuf,
    pub xdp_mode: XdpMode,
    pub egress_hook: EgressHook,
    /// Established flows for which the flow table has room, when it is created.
    pub max_flows: u32,
    pub budget: Budget,
    /// Does not keep connections that exist at a first attachment, nor those that the policy which is
    /// replaced passed by its rules alone.
    pub cut_existing: bool,
    /// See [`Generation::log_level`].
    pub log_level: u8,
}

impl ApplyOptions {
    pub fn new(interface: &str) -> Self {
        ApplyOptions {
            interface: interface.to_owned(),
            netns: None,
            bpffs: PathBuf::from(bpffs::DEFAULT_PATH),
            xdp_mode: XdpMode::Auto,
            egress_hook: EgressHook::Auto,
            max_flows: DEFAULT_MAX_FLOWS,
            budget: Budget::default(),
            cut_existing: false,
            log_level: 0,
        }
    }
}

/// What `apply` did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// False when a policy was there and has been replaced.
    pub is_first: bool,
    pub state: State,
    pub sizes: TableSizes,
    /// What became of flows that were there; `None` unless this was a first attachment that asked.
    pub seeded: Option<Seeded>,
    pub compile_time: Duration,
    pub load_time: Duration,
    /// Set when the BPF file system had to be mounted.
    pub mounted: Option<PathBuf>,
}

/// Compiles `policy` and attaches it, or replaces the policy that is attached. On an error nothing
/// has changed.
pub fn apply(policy: &Policy, options: &ApplyOptions) -> Result<Applied, KernelError> {
    let ifindex = interfaces::index_of(&options.interface)?;
    let cookie = netns::cookie()?;
    let bpffs = bpffs::find_or_mount(&options.bpffs)?;
    let tree = PinTree::new(&bpffs.path);
    let _lock = tree.lock()?;
    let pins = tree.interface(cookie, ifindex);
    let applied = tree
        .refuse_other_layouts(&pins)
        .and_then(|()| apply_locked(policy, options, &pins));
    if applied.is_err() {
        tree.prune();
    }
    applied.map(|mut applied| {
        applied.mounted = bpffs.just_mounted.then_some(bpffs.path);
        applied
    })
}

fn apply_locked(
    policy: &Policy,
    options: &ApplyOptions,
    pins: &InterfacePins,
) -> Result<Applied, KernelError> {
    let previous = previous_state(pins)?;
    if previous.is_none() {
        let link = interfaces::inspect(pins.ifindex)?;
        if !link.is_ethernet {
            return Err(KernelError::NotEthernet {
                interface: options.interface.clone(),
            });
        }
        if let Some(id) = link.xdp_program {
            return Err(other_xdp(&options.interface, id));
        }
    }

    let maps = previous.as_ref().map_or(0, |s| s.counter_maps);
    let capacity = match maps {
        0 => 0,
        n => map_entries(&pins.counters(n - 1))?,
    };
    let runs_alone = previous.as_ref().is_some_and(|state| {
        let outbound = match state.egress_hook.as_str() {
            "tcx" => running_program(&pins.tcx_link()),
            _ => Some(state.outbound_program),
        };
        running_program(&pins.xdp_link()) == Some(state.inbound_program)
            && outbound == Some(state.outbound_program)
    });
    let in_use = PinnedUse::new(pins, previous.as_ref(), runs_alone);
    let assignment = slots::assign(policy, previous.as_ref(), capacity, &in_use)?;
    let counter_maps = maps + usize::from(assignment.capacity > capacity);

    let started = Instant::now();
    let compiled = compile(policy, &assignment.slots(), options.budget)?;
    let compile_time = started.elapsed();

    let opens_flows = compiled.opens_flows();
    let has_flows = opens_flows
        || match &previous {
            // What is there already may be entered.
            None => !options.cut_existing,
            // Where the policy before opened none, what is not there will not come.
            Some(s) => s.has_flows && (s.opens_flows || has_any_flow(pins)),
        };
    let generation = previous.as_ref().map_or(0, |s| s.policy.generation) + 1;
    let max_flows = previous.as_ref().map_or(options.max_flows, |s| s.max_flows);
    let now = jiff::Timestamp::now().round(jiff::Unit::Second);
    let now = now.unwrap_or_else(|_| jiff::Timestamp::now()).to_string();
    let mut state = State {
        interface: options.interface.clone(),
        ifindex: pins.ifindex,
        netns: options.netns.clone(),
        netns_cookie: pins.netns_cookie,
        attached_at: previous
            .as_ref()
            .map_or_else(|| now.clone(), |s| s.attached_at.clone()),
        xdp_mode: String::new(),
        egress_hook: String::new(),
        added_clsact: previous.as_ref().is_some_and(|s| s.added_clsact),
        policy: PolicyRecord {
            name: policy.name.clone(),
            digest: policy.digest.clone(),
            generation,
            applied_at: now,
        },
        inbound_program: 0,
        outbound_program: 0,
        counter_maps,
        max_flows,
        essential: policy.essential,
        non_ip: policy.non_ip,
        timeouts: policy.timeouts,
        opens_flows,
        has_flows,
        rules: assignment.rules,
        retired: assignment.retired,
        forgotten: assignment.forgotten,
    };

    let is_first = previous.is_none();
    let result = (|| {
        pins.create()?;
        Ledger::create(pins)?;
        let shared = SharedMaps {
            pins: Some(pins.clone()),
            counter_map: counter_maps - 1,
            counter_slots: assignment.capacity,
            max_flows,
        };
        shared.check()?;
        let mut seeding = match &previous {
            Some(replaced) if !options.cut_existing && policy.established != Established::Flush => {
                carry_over(&compiled, replaced, generation, pins)?
            }
            _ => None,
        };
        // Where there are no flows nobody would look for one that came about meanwhile.
        let entered = seeding.as_ref().map_or(0, Seeding::entered);
        state.has_flows |= entered > 0;
        seeding = seeding.filter(|_| state.has_flows);
        let mut told = Generation::of(policy, generation);
        told.log_level = options.log_level;
        told.has_flows = state.has_flows;
        let mut programs = Programs::load(&compiled, &told, &shared)?;
        state.inbound_program = program_id(programs.inbound()?.info())?;
        state.outbound_program = program_id(programs.outbound()?.info())?;
        if is_first && !options.cut_existing {
            let timeouts = &policy.timeouts;
            let new = Seeding::new(&compiled, generation, pins, max_flows, timeouts)?;
            let seeding = seeding.insert(new);
            seeding.before()?;
        }
        programs.pin_stages(pins, generation)?;
        put_in_place(&mut programs, &mut state, previous.as_ref(), pins, options)?;
        stages::leave_only(pins, generation)?;
        let seeded = seeding.map(Seeding::after).transpose()?;
        let seeded = seeded.filter(|_| is_first);
        if policy.established == Established::Flush && !is_first {
            flush(pins)?;
        }
        Ok((programs.load_time, seeded))
    })();
    let (load_time, seeded) = match result {
        Ok(done) => done,
        Err(error) => {
            undo(pins, previous.as_ref(), &state);
            return Err(error);
        }
    };
    Ok(Applied {
        is_first,
        state,
        sizes: compiled.sizes(),
        seeded,
        compile_time,
        load_time,
        mounted: None,
    })
}

/// Enters what the policy that is to be replaced passes without an entry, and this one does not. None
/// where an attachment is damaged: applying again is what puts it right.
fn carry_over<'a>(
    compiled: &'a Compiled,
    replaced: &State,
    generation: u32,
    pins: &InterfacePins,
) -> Result<Option<Seeding<'a>>, KernelError> {
    if running_program(&pins.xdp_link()) != Some(replaced.inbound_program) {
        return Ok(None);
    }
    let timeouts = &replaced.timeouts;
    let seeding = Seeding::new(compiled, generation, pins, replaced.max_flows, timeouts);
    let mut seeding = match seeding {
        Err(KernelError::MissingPin { .. }) => return Ok(None),
        seeding => seeding?,
    };
    let tables = LiveTables::open(pins)?;
    seeding.before_replacing(tables, replaced.policy.generation)?;
    Ok(Some(seeding))
}

/// The record of what is attached; leftovers of an attempt that was killed, or of an interface
/// that is gone, are removed first.
fn previous_state(pins: &InterfacePins) -> Result<Option<State>, KernelError> {
    let has_live_link = [pins.xdp_link(), pins.tcx_link()]
        .iter()
        .any(|path| super::link_ifindex(path).is_some_and(|index| index != 0));
    if !has_live_link {
        if pins.exists() {
            pins.remove()?;
        }
        return Ok(None);
    }
    match State::read(pins)? {
        Some(state) => Ok(Some(state)),
        None => Err(KernelError::DamagedState {
            path: pins.state(),
            reason: "it is missing".into(),
        }),
    }
}

/// After a failure: nothing of a first attachment stays, and a replacement leaves the record of
/// what is still running.
fn undo(pins: &InterfacePins, previous: Option<&State>, attempted: &State) {
    match previous {
        None => {
            if attempted.egress_hook == "clsact" {
                let _ = remove_clsact(&attempted.interface, attempted.added_clsact);
            }
            let _ = pins.remove();
        }
        Some(state) => {
            // Once a link has been swapped the attempted record is the one that knows the slots of
            // what runs; before that, the previous one is still the truth.
            let outbound = match state.egress_hook.as_str() {
                "tcx" => running_program(&pins.tcx_link()),
                // A filter is replaced as the last step that can fail before the inbound swap.
                _ => Some(state.outbound_program),
            };
            let inbound = running_program(&pins.xdp_link());
            if inbound == Some(state.inbound_program) && outbound == Some(state.outbound_program) {
                let _ = state.write(pins);
                stages::forget(pins, attempted.policy.generation);
                if attempted.counter_maps > state.counter_maps {
                    let _ = std::fs::remove_file(pins.counters(attempted.counter_maps - 1));
                }
            }
        }
    }
}

/// Whether there is a flow in the tables; where they cannot be read, there may be.
fn has_any_flow(pins: &InterfacePins) -> bool {
    let mut has_any = false;
    each_flow(pins, |_| has_any = true).is_err() || has_any
}

fn map_entries(path: &Path) -> Result<u32, KernelError> {
    MapInfo::from_pin(path)
        .map(|info| info.max_entries())
        .map_err(|e| KernelError::bpf(format!("opening {}", path.display()), e))
}

fn program_id(info: Result<aya::programs::ProgramInfo, ProgramError>) -> Result<u32, KernelError> {
    info.map(|i| i.id())
        .map_err(|e| KernelError::bpf("asking for a program's id", e))
}
