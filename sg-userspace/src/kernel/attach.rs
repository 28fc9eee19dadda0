//! Attaches a policy to an interface, replaces it in place, and removes every trace of it.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::{HashMap as BpfHashMap, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, loaded_programs, tc};
use sg_common::counters::SlotCounters;
use sg_common::flow::{FlowKey4, FlowKey6, FlowValue};

use super::pins::{InterfacePins, PinTree};
use super::programs::{Generation, Programs, SharedMaps};
use super::slots::{self, SlotUse};
use super::state::{PolicyRecord, State, open_map};
use super::{KernelError, bpffs, interfaces, netns};
use crate::compile::{Budget, TableSizes, compile};
use crate::observe::counters::raw_counters;
use crate::policy::{Established, Policy};

/// Entries of each flow table unless asked otherwise: about 30 MiB for both families.
pub const DEFAULT_MAX_FLOWS: u32 = 131_072;

/// The enforcer's place among the clsact filters of an interface.
const CLSACT_PRIORITY: u16 = 0x5347;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

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
    /// Entries of each flow table, when it is created.
    pub max_flows: u32,
    pub budget: Budget,
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
    if previous.is_none()
        && let Some(id) = interfaces::xdp_program(pins.ifindex)?
    {
        return Err(other_xdp(&options.interface, id));
    }

    let maps = previous.as_ref().map_or(0, |s| s.counter_maps);
    let capacity = match maps {
        0 => 0,
        n => map_entries(&pins.counters(n - 1))?,
    };
    let in_use = PinnedUse {
        pins,
        maps,
        counters: std::cell::OnceCell::new(),
    };
    let assignment = slots::assign(policy, previous.as_ref(), capacity, &in_use);
    let counter_maps = maps + usize::from(assignment.capacity > capacity);

    let started = Instant::now();
    let compiled = compile(policy, &assignment.slots(), options.budget)?;
    let compile_time = started.elapsed();

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
        timeouts: policy.timeouts,
        default_class6: compiled.default_class6,
        rules: assignment.rules,
        retired: assignment.retired,
        forgotten: assignment.forgotten,
    };

    let is_first = previous.is_none();
    let result = (|| {
        pins.create()?;
        let shared = SharedMaps {
            counters: Some(pins.counters(counter_maps - 1)),
            flows4: Some(pins.flows4()),
            flows6: Some(pins.flows6()),
            events: Some(pins.events()),
            event_limit: Some(pins.event_limit()),
            counter_slots: assignment.capacity,
            max_flows,
        };
        let mut told = Generation::of(policy, generation);
        told.log_level = options.log_level;
        let mut programs = Programs::load(&compiled, &told, &shared)?;
        state.inbound_program = program_id(programs.inbound()?.info())?;
        state.outbound_program = program_id(programs.outbound()?.info())?;
        put_in_place(&mut programs, &mut state, previous.as_ref(), pins, options)?;
        if policy.established == Established::Flush {
            flush(pins)?;
        }
        Ok(programs.load_time)
    })();
    let load_time = match result {
        Ok(load_time) => load_time,
        Err(error) => {
            undo(pins, previous.as_ref(), &state);
            return Err(error);
        }
    };
    Ok(Applied {
        is_first,
        state,
        sizes: compiled.sizes(),
        compile_time,
        load_time,
        mounted: None,
    })
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
            // Neither link was swapped, or the inbound one was: either way the slots of both
            // policies are in the attempted record; only if it was never written is there nothing
            // to repair.
            let running = |path: &Path| {
                PinnedLink::from_pin(path)
                    .ok()
                    .and_then(|link| FdLink::from(link).info().ok())
                    .map(|info| info.program_id())
            };
            if running(&pins.xdp_link()) == Some(state.inbound_program) {
                let _ = state.write(pins);
                if attempted.counter_maps > state.counter_maps {
                    let _ = std::fs::remove_file(pins.counters(attempted.counter_maps - 1));
                }
            }
        }
    }
}

/// Swaps the programs into the pinned links, or attaches and pins where there is no link yet. The
/// record is written first, so that the slots of both generations are known at every moment.
fn put_in_place(
    programs: &mut Programs,
    state: &mut State,
    previous: Option<&State>,
    pins: &InterfacePins,
    options: &ApplyOptions,
) -> Result<(), KernelError> {
    if let Some(previous) = previous {
        state.xdp_mode.clone_from(&previous.xdp_mode);
        state.egress_hook.clone_from(&previous.egress_hook);
        state.write(pins)?;
        swap_inbound(programs, &pins.xdp_link())?;
        if state.egress_hook == "tcx" && pins.tcx_link().exists() {
            return swap_outbound(programs, &pins.tcx_link());
        }
        return attach_outbound(programs, state, pins, options);
    }
    attach_inbound(programs, state, options)?;
    state.egress_hook = "unattached".into();
    state.write(pins)?;
    pin_inbound(programs, pins)?;
    attach_outbound(programs, state, pins, options)?;
    state.write(pins)
}

/// Attaches the XDP program and leaves the link with it, to be pinned.
fn attach_inbound(
    programs: &mut Programs,
    state: &mut State,
    options: &ApplyOptions,
) -> Result<(), KernelError> {
    use aya::programs::XdpMode as Flag;
    let interface = &options.interface;
    let ifindex = state.ifindex;
    let attempts: &[(Flag, &str)] = match options.xdp_mode {
        XdpMode::Auto => &[(Flag::Driver, "native"), (Flag::Skb, "generic")],
        XdpMode::Native => &[(Flag::Driver, "native")],
        XdpMode::Generic => &[(Flag::Skb, "generic")],
    };
    let mut last = None;
    for (flag, mode) in attempts {
        match programs.inbound()?.attach_to_if_index(ifindex, *flag) {
            Ok(id) => {
                let link = programs
                    .inbound()?
                    .take_link(id)
                    .map_err(|e| KernelError::bpf("keeping the XDP link", e))?;
                // A link that fell back to netlink cannot be pinned, and would end with us.
                let link: FdLink = link.try_into().map_err(|e| {
                    KernelError::bpf("the kernel has no BPF links for XDP (Linux 5.9)", e)
                })?;
                programs.inbound_link = Some(link);
                state.xdp_mode = (*mode).to_owned();
                return Ok(());
            }
            Err(error) => {
                if os_error(&error) == Some(libc::EBUSY)
                    && let Ok(Some(id)) = interfaces::xdp_program(ifindex)
                {
                    return Err(other_xdp(interface, id));
                }
                last = Some(error);
            }
        }
    }
    let what = format!("attaching the XDP program to {interface}");
    Err(match last {
        Some(error) => KernelError::bpf(what, error),
        None => KernelError::io(what, io::Error::other("no mode to try")),
    })
}

fn pin_inbound(programs: &mut Programs, pins: &InterfacePins) -> Result<(), KernelError> {
    if let Some(link) = programs.inbound_link.take() {
        link.pin(pins.xdp_link())
            .map_err(|e| KernelError::bpf("pinning the XDP link", e))?;
    }
    Ok(())
}

fn swap_inbound(programs: &mut Programs, pin: &Path) -> Result<(), KernelError> {
    let what = "replacing the inbound program";
    let link = PinnedLink::from_pin(pin).map_err(|e| KernelError::bpf(what, e))?;
    let link = FdLink::from(link)
        .try_into()
        .map_err(|e| KernelError::bpf(what, e))?;
    // The pin keeps the link when this process drops its own descriptor.
    programs
        .inbound()?
        .attach_to_link(link)
        .map(drop)
        .map_err(|e| KernelError::bpf(what, e))
}

fn swap_outbound(programs: &mut Programs, pin: &Path) -> Result<(), KernelError> {
    let what = "replacing the outbound program";
    let link = PinnedLink::from_pin(pin).map_err(|e| KernelError::bpf(what, e))?;
    let link = FdLink::from(link)
        .try_into()
        .map_err(|e| KernelError::bpf(what, e))?;
    programs
        .outbound()?
        .attach_to_link(link)
        .map(drop)
        .map_err(|e| KernelError::bpf(what, e))
}

/// Attaches the tc program by tcx, or by clsact where that is wanted or tcx is missing.
fn attach_outbound(
    programs: &mut Programs,
    state: &mut State,
    pins: &InterfacePins,
    options: &ApplyOptions,
) -> Result<(), KernelError> {
    let interface = &options.interface;
    let what = format!("attaching the tc program to {interface}");
    let replaces_clsact = state.egress_hook == "clsact";
    if options.egress_hook != EgressHook::Clsact && !replaces_clsact {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let program: &mut SchedClassifier = programs.outbound()?;
        match program.attach_with_options(interface, TcAttachType::Egress, order) {
            Ok(id) => {
                let link: FdLink = program
                    .take_link(id)
                    .map_err(|e| KernelError::bpf(&*what, e))?
                    .try_into()
                    .map_err(|e| KernelError::bpf(&*what, e))?;
                link.pin(pins.tcx_link())
                    .map_err(|e| KernelError::bpf("pinning the tcx link", e))?;
                state.egress_hook = "tcx".into();
                return Ok(());
            }
            // The answer of kernels before 6.6, which do not know the link type.
            Err(error)
                if options.egress_hook == EgressHook::Auto
                    && matches!(os_error(&error), Some(libc::EINVAL | libc::E2BIG)) => {}
            Err(error) if os_error(&error) == Some(libc::EINVAL) => {
                return Err(KernelError::Refused {
                    what,
                    reason: "this kernel has no tcx (it came with Linux 6.6)".into(),
                    help: "leave out --egress-hook, and a clsact filter is used instead".into(),
                });
            }
            Err(error) => return Err(KernelError::bpf(what, error)),
        }
    }
    let program = programs.outbound()?;
    let clsact = |e: tc::TcError| KernelError::bpf("adding the clsact qdisc", e);
    if replaces_clsact {
        let old = SchedClassifierLink::attached(
            interface,
            TcAttachType::Egress,
            CLSACT_PRIORITY,
            CLSACT_HANDLE,
            None,
        )
        .map_err(|e| KernelError::io(&*what, e))?;
        let id = program
            .attach_to_link(old)
            .map_err(|e| KernelError::bpf(&*what, e))?;
        return keep_filter(program.take_link(id), what);
    }
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => state.added_clsact = true,
        Err(e) if os_error(&e) == Some(libc::EEXIST) => {}
        Err(e) => return Err(clsact(e)),
    }
    state.egress_hook = "clsact".into();
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: CLSACT_PRIORITY,
        handle: CLSACT_HANDLE,
        classid: None,
    });
    let id = program
        .attach_with_options(interface, TcAttachType::Egress, options)
        .map_err(|e| KernelError::bpf(&*what, e))?;
    keep_filter(program.take_link(id), what)
}

/// A clsact filter stays when its owner goes, unless the library's handle of it is dropped.
fn keep_filter(
    link: Result<SchedClassifierLink, ProgramError>,
    what: String,
) -> Result<(), KernelError> {
    std::mem::forget(link.map_err(|e| KernelError::bpf(what, e))?);
    Ok(())
}

fn remove_clsact(interface: &str, added_qdisc: bool) -> Result<(), KernelError> {
    match tc::qdisc_detach_program(interface, TcAttachType::Egress, "sg_outbound") {
        Ok(()) => {}
        Err(e) if os_error(&e) == Some(libc::ENOENT) => {}
        Err(tc::TcError::IoError(e)) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(KernelError::bpf("removing the clsact filter", e)),
    }
    if added_qdisc {
        interfaces::delete_clsact(interface)?;
    }
    Ok(())
}

/// Removes everything of one interface. `bpffs` is where it was found.
pub fn detach(bpffs: &Path, pins: &InterfacePins) -> Result<(), KernelError> {
    let tree = PinTree::new(bpffs);
    let lock = tree.lock()?;
    // A damaged record must not keep anyone from detaching.
    let state = State::read(pins).ok().flatten();
    let leaving = Leaving::of(pins);
    match &state {
        Some(state) if state.egress_hook == "clsact" => {
            in_namespace_of(state, || {
                remove_clsact(&state.interface, state.added_clsact)
            })?;
        }
        Some(_) => {}
        None => {
            if netns::cookie()? == pins.netns_cookie
                && let Some(name) = interfaces::name_of(pins.ifindex)
            {
                remove_clsact(&name, false)?;
            }
        }
    }
    pins.remove()?;
    tree.prune();
    drop(lock);
    leaving.wait();
    Ok(())
}

/// Runs `act` in the network namespace that `state` belongs to.
fn in_namespace_of(
    state: &State,
    act: impl FnOnce() -> Result<(), KernelError> + Send,
) -> Result<(), KernelError> {
    if netns::cookie()? == state.netns_cookie {
        return act();
    }
    let elsewhere = || KernelError::Refused {
        what: format!(
            "detaching from {} in another network namespace",
            state.interface
        ),
        reason: "a clsact filter can only be removed from inside its namespace".into(),
        help: "name the namespace with --netns".into(),
    };
    let Some(name) = &state.netns else {
        return Err(elsewhere());
    };
    // A thread of its own, since it cannot come back.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                netns::Netns::from(name.as_str()).enter()?;
                if netns::cookie()? != state.netns_cookie {
                    return Err(elsewhere());
                }
                act()
            })
            .join()
            .unwrap_or_else(|_| Err(elsewhere()))
    })
}

/// Programs and maps that go away after their pins, some milliseconds later.
struct Leaving {
    programs: HashSet<u32>,
    maps: HashSet<u32>,
}

impl Leaving {
    fn of(pins: &InterfacePins) -> Self {
        let programs: HashSet<u32> = [pins.xdp_link(), pins.tcx_link()]
            .iter()
            .filter_map(|path| {
                let link = FdLink::from(PinnedLink::from_pin(path).ok()?);
                Some(link.info().ok()?.program_id())
            })
            .collect();
        let maps = loaded_programs()
            .filter_map(Result::ok)
            .filter(|p| programs.contains(&p.id()))
            .filter_map(|p| p.map_ids().ok().flatten())
            .flatten()
            .collect();
        Leaving { programs, maps }
    }

    /// Waits, but not for long, until the kernel has freed them: whoever lists BPF objects after
    /// `detach` should find what was there before `apply`.
    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            let program_left = loaded_programs()
                .filter_map(Result::ok)
                .any(|p| self.programs.contains(&p.id()));
            let map_left = self.maps.iter().any(|id| MapInfo::from_id(*id).is_ok());
            if !program_left && !map_left {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Forgets every flow.
fn flush(pins: &InterfacePins) -> Result<(), KernelError> {
    fn clear<K: aya::Pod>(path: &Path) -> Result<(), KernelError> {
        let mut map = open_map(path)?;
        let mut flows: BpfHashMap<_, K, FlowValue> = BpfHashMap::try_from(&mut map)
            .map_err(|e| KernelError::bpf("opening the flow table", e))?;
        let keys: Vec<K> = flows.keys().filter_map(Result::ok).collect();
        for key in keys {
            // Gone already is as good.
            let _ = flows.remove(&key);
        }
        Ok(())
    }
    clear::<FlowKey4>(&pins.flows4())?;
    clear::<FlowKey6>(&pins.flows6())
}

/// Slots of the pinned maps.
struct PinnedUse<'a> {
    pins: &'a InterfacePins,
    maps: usize,
    /// Read when it is first asked for, which most replacements never do.
    counters: std::cell::OnceCell<Vec<SlotCounters>>,
}

impl SlotUse for PinnedUse<'_> {
    fn named_by_flows(&self) -> Option<HashSet<u32>> {
        fn slots<K: aya::Pod>(path: &Path, into: &mut HashSet<u32>) -> Option<()> {
            let map = open_map(path).ok()?;
            let flows = BpfHashMap::<_, K, FlowValue>::try_from(&map).ok()?;
            into.extend(flows.iter().filter_map(Result::ok).map(|(_, f)| f.slot));
            Some(())
        }
        let mut named = HashSet::new();
        slots::<FlowKey4>(&self.pins.flows4(), &mut named)?;
        slots::<FlowKey6>(&self.pins.flows6(), &mut named)?;
        Some(named)
    }

    fn raw(&self, slot: u32) -> Option<SlotCounters> {
        self.counters
            .get_or_init(|| raw_counters(self.pins, self.maps).unwrap_or_default())
            .get(slot as usize)
            .copied()
    }
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

fn other_xdp(interface: &str, id: u32) -> KernelError {
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|p| p.id() == id)
        .and_then(|p| p.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "without a name".into());
    KernelError::OtherXdp {
        interface: interface.to_owned(),
        program,
        id,
    }
}

/// The errno at the bottom of an error, if there is one.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>()
            && let Some(code) = io.raw_os_error()
        {
            return Some(code);
        }
        next = e.source();
    }
    None
}
