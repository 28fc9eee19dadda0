//! The first step of `apply`: compiles the policy, and compares it and the options with the real
//! state of each interface. It changes nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use super::error::KernelError;
use super::flow_tables::each_flow;
use super::hooks::other_xdp;
use super::inspect::{Inspection, Place, inspect, is_attached_to};
use super::interfaces;
use super::interfaces::{Interface, XdpPlace};
use super::object::INBOUND;
use super::options::{ApplyOptions, DEFAULT_MAX_FLOWS, EgressHook, XdpMode};
use super::outcome::{Applied, AppliedTo, Outcome};
use super::pins::{InterfacePins, PinTree};
use super::shared::{PinnedUse, raw_counters};
use super::slots::{self, Assignment};
use super::state::{PolicyRecord, State};
use super::sys;
use sg_policy::compile::Compiled;
use sg_policy::compile_policy;
use sg_policy::policy::Policy;

/// What has to be done.
pub(super) enum Planned {
    /// Nothing, because the same policy is in force on every interface with the same options.
    Unchanged(Box<Applied>),
    Change(Box<Plan>),
}

/// How to put a policy in force.
pub(super) struct Plan {
    pub(super) policy: Policy,
    pub(super) options: ApplyOptions,
    /// The interfaces that get programs, in the order of the options. At least one.
    pub(super) interfaces: Vec<InterfacePlan>,
    /// The records of interfaces that enforce the same policy already and do not change.
    pub(super) unchanged: Vec<State>,
    pub(super) compiled: Compiled,
    pub(super) compile_time: Duration,
}

/// The plan for one interface.
pub(super) struct InterfacePlan {
    pub(super) name: String,
    /// Where the pins of the interface belong.
    pub(super) pins: InterfacePins,
    pub(super) start: Start,
    /// How to attach where nothing is attached yet.
    pub(super) xdp_mode: XdpMode,
    pub(super) egress_hook: EgressHook,
    /// How many slots its counter map needs.
    pub(super) counter_slots: u32,
    /// Whether it has a clsact qdisc that stays.
    pub(super) has_qdisc: bool,
    /// The record of the policy, without what is only known after loading the programs.
    pub(super) state: State,
}

/// The state of an interface before the policy.
pub(super) enum Start {
    /// No policy is in force.
    First,
    /// There are remains of an attempt that was killed, or of an interface that is gone. They are
    /// removed first.
    Leftovers(Box<Inspection>),
    /// There is a policy to be replaced, or a part of one.
    Replace(Box<Replaced>),
}

/// The policy to be replaced.
pub(super) struct Replaced {
    pub(super) state: State,
    pub(super) inspection: Inspection,
    /// Where its pins are, if they have to be moved, because the interface was moved to another
    /// network namespace or created anew.
    pub(super) moved_from: Option<InterfacePins>,
}

impl Start {
    fn inspection(&self) -> Option<&Inspection> {
        match self {
            Start::First => None,
            Start::Leftovers(inspection) => Some(inspection),
            Start::Replace(replaced) => Some(&replaced.inspection),
        }
    }

    fn replaced(&self) -> Option<&Replaced> {
        match self {
            Start::Replace(replaced) => Some(replaced),
            Start::First | Start::Leftovers(_) => None,
        }
    }
}

impl InterfacePlan {
    pub(super) fn replaced(&self) -> Option<&Replaced> {
        self.start.replaced()
    }
}

impl Plan {
    /// The interfaces on which a policy is replaced.
    pub(super) fn replaced(&self) -> impl Iterator<Item = (&InterfacePlan, &Replaced)> {
        let interfaces = self.interfaces.iter();
        interfaces.filter_map(|one| Some((one, one.replaced()?)))
    }

    /// No policy is in force on any interface of the attachment.
    pub(super) fn is_first(&self) -> bool {
        self.unchanged.is_empty() && self.replaced().next().is_none()
    }

    /// The indices of all interfaces of the attachment.
    pub(super) fn indices(&self) -> Vec<u32> {
        let changed = self.interfaces.iter().map(|one| one.pins.ifindex);
        let unchanged = self.unchanged.iter().map(|state| state.ifindex);
        changed.chain(unchanged).collect()
    }

    /// The epoch that is to be: see [`super::generation::Generation::epoch`].
    pub(super) fn epoch(&self) -> u32 {
        let mut states = self.interfaces.iter();
        states.next().map_or(0, |one| one.state.epoch)
    }

    /// The generation that is to be in force.
    pub(super) fn generation(&self) -> u32 {
        let mut states = self.interfaces.iter();
        states.next().map_or(0, |one| one.state.policy.generation)
    }
}

/// For how long a program may stay on the interface after the last pin of its link is gone, because
/// the kernel frees links with a delay.
const LINK_LEAVES_WITHIN: Duration = Duration::from_secs(2);

/// Plans for the interfaces of the options, which are in the network namespace with this cookie.
pub(super) fn plan(
    policy: &Policy,
    options: &ApplyOptions,
    tree: &PinTree,
    cookie: u64,
) -> Result<Planned, KernelError> {
    let started = Instant::now();
    loop {
        match plan_at_once(policy, options, tree, cookie) {
            Err(KernelError::OtherXdp { ref program, .. })
                if program == INBOUND && started.elapsed() < LINK_LEAVES_WITHIN =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            planned => return planned,
        }
    }
}

/// The state of one interface, and the options for it.
struct Found {
    options: ApplyOptions,
    name: String,
    interface: Interface,
    start: Start,
}

impl Found {
    fn look(
        tree: &PinTree,
        cookie: u64,
        name: &str,
        options: &ApplyOptions,
    ) -> Result<Found, KernelError> {
        let no_interface = || KernelError::NoInterface {
            name: name.to_owned(),
            known: interfaces::names().join(", "),
        };
        let index = interfaces::index_of(name)?;
        let interface = interfaces::inspect(index)?.ok_or_else(no_interface)?;
        if !interface.is_ethernet {
            return Err(KernelError::NotEthernet {
                interface: name.to_owned(),
            });
        }
        let start = find(tree, &tree.interface(cookie, index), &interface, name)?;
        let mut options = options.clone();
        match start.replaced() {
            Some(replaced) => settle(&mut options, name, replaced)?,
            None => {
                if let Some(id) = others_xdp(&start, &interface) {
                    return Err(other_xdp(name, id));
                }
            }
        }
        Ok(Found {
            options,
            name: name.to_owned(),
            interface,
            start,
        })
    }

    fn is_unchanged(&self, policy: &Policy) -> bool {
        let replaced = self.start.replaced();
        replaced.is_some_and(|it| is_unchanged(policy, &self.options, &self.name, it))
    }
}

/// The number of the attachment that the interfaces belong to from now on. If some belong to an
/// attachment already, it must be the same for all, and all its interfaces must be named: one that
/// is left out would keep another policy while it shares the flows.
fn attachment_of(tree: &PinTree, cookie: u64, found: &[Found]) -> Result<u32, KernelError> {
    let of = |one: &Found| {
        let pins = &one.start.replaced()?.inspection.pins;
        Some((one.name.clone(), pins.clone()))
    };
    let is_named = |pins: &InterfacePins| {
        let mut inspections = found.iter().filter_map(|one| one.start.inspection());
        inspections.any(|inspection| inspection.pins == *pins)
    };
    let attached: Vec<(String, InterfacePins)> = found.iter().filter_map(of).collect();
    let Some((name, pins)) = attached.first() else {
        return Ok(tree.free_attachment(cookie));
    };
    if let Some((other, _)) = attached.iter().find(|(_, it)| !it.shares_with(pins)) {
        return Err(KernelError::Fixed {
            what: format!("putting {name} and {other} under one policy"),
            reason: "each is attached already, with flows of its own, which cannot be joined"
                .into(),
            help: format!(
                "apply to each by itself, which replaces its policy; to have them share flows, \
                 `sgctl detach --iface {other}`, with nothing enforced on it until the next apply to both"
            ),
        });
    }
    let mut left_out = Vec::new();
    for other in pins.of_attachment()? {
        if is_named(&other) {
            continue;
        }
        let it = inspect(&other)?;
        let state = it.state();
        // An interface that is gone cannot enforce anything, and neither can an interrupted
        // attempt.
        if !matches!(it.place, Place::Gone) && (state.is_some() || it.is_attached()) {
            left_out.push(state.map_or_else(|| format!("#{}", other.ifindex), |s| s.interface));
        }
    }
    if !left_out.is_empty() {
        let named: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        let all = named
            .iter()
            .copied()
            .chain(left_out.iter().map(String::as_str));
        let all: Vec<String> = all.map(|name| format!("--iface {name}")).collect();
        return Err(KernelError::Fixed {
            what: format!("applying to {} alone", named.join(" and ")),
            reason: format!(
                "{} is under the same policy and shares its flows with {}",
                left_out.join(", "),
                name
            ),
            help: format!(
                "name all of them (`{}`); or take one out of it first with `sgctl detach --iface {}`, \
                 which ends enforcement there",
                all.join(" "),
                left_out.first().map_or("IF", String::as_str)
            ),
        });
    }
    Ok(match pins.netns_cookie == cookie {
        true => pins.attachment,
        // The interface was moved here, and its attachment comes along with a new number.
        false => tree.free_attachment(cookie),
    })
}

fn plan_at_once(
    policy: &Policy,
    options: &ApplyOptions,
    tree: &PinTree,
    cookie: u64,
) -> Result<Planned, KernelError> {
    let look = |name: &String| Found::look(tree, cookie, name, options);
    let found: Vec<Found> = options
        .interfaces
        .iter()
        .map(look)
        .collect::<Result<_, _>>()?;
    let attachment = attachment_of(tree, cookie, &found)?;
    // The interface whose record counts. After an `apply` that was interrupted, it is one with the
    // latest generation.
    let replaced = || found.iter().filter_map(|one| one.start.replaced());
    let lead = replaced().max_by_key(|it| it.state.policy.generation);
    let previous = lead.map(|lead| &lead.state);
    let is_same = lead.is_some()
        && found
            .iter()
            .all(|one| one.start.replaced().is_none() || one.is_unchanged(policy));

    let capacity = match lead {
        Some(lead) => capacity_of(lead)?,
        None => 0,
    };
    let runs_alone = !is_same && replaced().all(|it| it.inspection.runs(&it.state));
    // If no policy is in force, these pins are not read.
    let nowhere = tree.interface_of(cookie, attachment, 0);
    let pins = lead.map_or(&nowhere, |lead| &lead.inspection.pins);
    let in_use = PinnedUse::new(pins, previous, runs_alone, &options.held_slots);
    let assignment = slots::assign(policy, previous, capacity, &in_use)?;
    let started = Instant::now();
    let compiled = compile_policy(policy, &assignment.slots(), options.budget)?;
    let compile_time = started.elapsed();
    let mut states = replaced().map(|it| it.state.clone());
    if is_same
        && replaced().count() == found.len()
        && let Some(first) = states.next()
    {
        return Ok(Planned::Unchanged(Box::new(Applied {
            outcome: Outcome::Unchanged,
            first: AppliedTo::unchanged(first),
            others: states.map(AppliedTo::unchanged).collect(),
            sizes: compiled.sizes(),
            seeded: None,
            cut: None,
            compile_time,
            load_time: Duration::ZERO,
            mounted: None,
        })));
    }

    let opens_flows = compiled.opens_flows();
    let has_flows = opens_flows
        || match previous {
            // Existing flows may be entered.
            None => !options.cut_existing,
            // If the policy before opens no flows, none can be added until it is replaced.
            Some(s) => s.has_flows && (s.opens_flows || has_any_flow(pins)),
        };
    let latest = replaced().map(|it| it.state.latest_number());
    let generation = match previous {
        // Added interfaces get the same generation.
        Some(state) if is_same => state.policy.generation,
        _ => latest.max().unwrap_or(0) + 1,
    };
    // The rules of an epoch are the same wherever it runs, so that its flows stay admitted.
    let is_of_epoch = |state: &State| {
        let same = previous.map(|previous| previous.epoch) == Some(state.epoch);
        same && state.policy.digest == policy.digest
    };
    let epoch = match previous {
        Some(state) if replaced().all(|it| is_of_epoch(&it.state)) => state.epoch,
        _ => generation,
    };
    // A preliminary time, until the policy takes effect.
    let now = jiff::Timestamp::now().to_string();
    let record = PolicyRecord {
        name: policy.name.clone(),
        digest: policy.digest.clone(),
        generation,
        applied_at: match previous {
            Some(state) if is_same => state.policy.applied_at.clone(),
            _ => now.clone(),
        },
    };
    let max_flows = match previous {
        Some(state) => state.max_flows,
        None => options.max_flows.unwrap_or(DEFAULT_MAX_FLOWS),
    };
    let mut interfaces = Vec::new();
    let mut left_alone = Vec::new();
    for one in found.iter() {
        let before = one.start.replaced();
        if let Some(before) = before
            && is_same
        {
            left_alone.push(before.state.clone());
            continue;
        }
        let is_lead = before
            .zip(lead)
            .is_some_and(|(it, lead)| std::ptr::eq(it, lead));
        let Own {
            assignment,
            maps,
            has_qdisc,
        } = Own::of(one, &assignment, is_lead)?;
        let pins = tree.interface_of(cookie, attachment, one.interface.index);
        let before = before.map(|it| &it.state);
        interfaces.push((
            pins,
            assignment.capacity,
            has_qdisc,
            State {
                interface: one.name.clone(),
                ifindex: one.interface.index,
                netns: options.netns.clone(),
                netns_cookie: cookie,
                attached_at: before.map_or_else(|| now.clone(), |s| s.attached_at.clone()),
                xdp_mode: before.map_or(XdpMode::Auto, |s| s.xdp_mode),
                egress_hook: before.map_or(EgressHook::Auto, |s| s.egress_hook),
                // If the qdisc was not there before, it is removed with the enforcer.
                added_clsact: before.is_some_and(|s| s.added_clsact) || !has_qdisc,
                policy: record.clone(),
                epoch,
                inbound_program: 0,
                outbound_program: 0,
                remembering: None,
                counter_maps: maps,
                max_flows,
                essential: policy.essential,
                non_ip: policy.non_ip,
                established: policy.established,
                timeouts: policy.timeouts,
                opens_flows,
                has_flows,
                // Determined when the programs are loaded.
                may_have_cut: false,
                log_level: options.log_level,
                last_generation: 0,
                rules: assignment.rules,
                retired: assignment.retired,
                forgotten: assignment.forgotten,
            },
        ));
    }
    let changed = found
        .into_iter()
        .filter(|one| !is_same || one.start.replaced().is_none());
    let interfaces = changed.zip(interfaces);
    Ok(Planned::Change(Box::new(Plan {
        policy: policy.clone(),
        options: options.clone(),
        interfaces: interfaces
            .map(
                |(one, (pins, counter_slots, has_qdisc, state))| InterfacePlan {
                    name: one.name,
                    pins,
                    start: one.start,
                    xdp_mode: one.options.xdp_mode,
                    egress_hook: one.options.egress_hook,
                    counter_slots,
                    has_qdisc,
                    state,
                },
            )
            .collect(),
        unchanged: left_alone,
        compiled,
        compile_time,
    })))
}

/// The part of the record that differs between interfaces.
struct Own {
    assignment: Assignment,
    /// How many counter maps it has.
    maps: usize,
    has_qdisc: bool,
}

impl Own {
    /// `lead` is the assignment of the interface that `is_lead`.
    fn of(one: &Found, lead: &Assignment, is_lead: bool) -> Result<Own, KernelError> {
        let has_qdisc = has_qdisc(&one.start, one.interface.index)?;
        let Some(before) = one.start.replaced() else {
            return Ok(Own {
                assignment: lead.of_interface(None, &[]),
                maps: 1,
                has_qdisc,
            });
        };
        let maps = before.state.counter_maps;
        let capacity = capacity_of(before)?;
        let mut assignment = match is_lead {
            true => lead.clone(),
            false => {
                let counted = raw_counters(&before.inspection.pins, maps)?;
                lead.of_interface(Some(&before.state), &counted)
            }
        };
        // An existing map can have more slots than are needed.
        assignment.capacity = assignment.capacity.max(capacity);
        Ok(Own {
            maps: maps + usize::from(assignment.capacity > capacity),
            assignment,
            has_qdisc,
        })
    }
}

/// How many slots the counter map has that the programs write.
fn capacity_of(replaced: &Replaced) -> Result<u32, KernelError> {
    match replaced.state.counter_maps {
        0 => Ok(0),
        n => map_entries(&replaced.inspection.pins.counters(n - 1)),
    }
}

/// Finds what is attached to the interface: with its own pins, with those from before it was moved,
/// or with those of an earlier interface of the same name.
fn find(
    tree: &PinTree,
    pins: &InterfacePins,
    interface: &Interface,
    name: &str,
) -> Result<Start, KernelError> {
    let others = tree.interfaces()?;
    let others = || others.iter().filter(|other| *other != pins);
    for other in others() {
        if is_attached_to(other, interface)? {
            return start(inspect(other)?, Some(other.clone()));
        }
    }
    if pins.exists() {
        return start(inspect(pins)?, None);
    }
    for other in others().filter(|other| other.netns_cookie == pins.netns_cookie) {
        let inspection = inspect(other)?;
        let is_namesake = matches!(&inspection.place, Place::Recreated(at)
            if at.interface.index == interface.index);
        let state = inspection.state();
        let is_of_this_name = state.is_some_and(|state| state.interface == name);
        if is_namesake && is_of_this_name && inspection.missing.is_empty() {
            return start(inspection, Some(other.clone()));
        }
    }
    Ok(Start::First)
}

fn start(
    mut inspection: Inspection,
    moved_from: Option<InterfacePins>,
) -> Result<Start, KernelError> {
    // If the interface of these pins was moved away, its links went with it, and another interface
    // may have its index now.
    if moved_from.is_none() {
        let elsewhere = match &inspection.place {
            Place::Moved(at) => Some(at.netns().unwrap_or("this one").to_owned()),
            Place::Unknown { reason } => Some(reason.clone()),
            _ => None,
        };
        if let Some(place) = elsewhere {
            return Err(KernelError::Refused {
                what: format!("attaching where the pins are {}", inspection.pins.dir.display()),
                reason: format!(
                    "they belong to an interface that was moved to another network namespace \
                     ({place})"
                ),
                help: "apply to that interface where it is now, which takes the pins along, or detach \
                       from it"
                    .into(),
            });
        }
    }
    let is_attached = inspection.is_attached();
    let damaged = |reason: &str| KernelError::DamagedState {
        path: inspection.pins.state(),
        reason: reason.to_owned(),
    };
    let records = match &inspection.records {
        Ok(records) => records,
        Err(KernelError::DamagedState { reason, .. }) if is_attached => {
            return Err(damaged(reason));
        }
        Err(KernelError::DamagedState { .. }) => {
            return Ok(Start::Leftovers(Box::new(inspection)));
        }
        Err(_) => {
            let records = std::mem::replace(&mut inspection.records, Ok(Default::default()));
            return Err(records
                .err()
                .unwrap_or_else(|| damaged_record(&inspection.pins)));
        }
    };
    let is_complete =
        |state: &State| inspection.runs(state) && inspection.targets == [Some(true); 2];
    let goes_on = match (&records.current, &records.next) {
        (None, None) if is_attached => return Err(damaged("it is missing")),
        (None, None) => false,
        // If a first apply was killed at its very end, everything is in place.
        (None, Some(next)) => is_complete(next),
        // Counters and flows can be kept if all pins that outlive a policy exist.
        (Some(_), _) => is_attached || inspection.missing.is_empty(),
    };
    match inspection.state().filter(|_| goes_on) {
        Some(state) => Ok(Start::Replace(Box::new(Replaced {
            state,
            inspection,
            moved_from,
        }))),
        None => Ok(Start::Leftovers(Box::new(inspection))),
    }
}

fn damaged_record(pins: &InterfacePins) -> KernelError {
    KernelError::DamagedState {
        path: pins.state(),
        reason: "it cannot be read".into(),
    }
}

/// The id of an XDP program of another tool.
fn others_xdp(start: &Start, interface: &Interface) -> Option<u32> {
    match start {
        Start::First => interface.xdp.first(),
        Start::Leftovers(inspection) => inspection.inbound.others.first(),
        Start::Replace(_) => None,
    }
    .map(|(_, id)| *id)
}

/// Compares the options with what an attachment fixes when it is made, and fills in those that were
/// not given. Refuses a change that would leave a gap in enforcement.
fn settle(
    options: &mut ApplyOptions,
    interface: &str,
    replaced: &Replaced,
) -> Result<(), KernelError> {
    let Replaced {
        state, inspection, ..
    } = replaced;
    let refuse = |what: &str, reason: String, flag: &str| KernelError::Fixed {
        what: format!("changing {what} of the attachment to {interface}"),
        reason,
        help: format!(
            "leave out {flag} to go on as it is; or `sgctl detach --iface {interface}` and apply again, \
             with nothing enforced in between"
        ),
    };
    if options.cut_existing && inspection.faults().is_empty() {
        return Err(KernelError::Fixed {
            what: format!("cutting the connections that exist on {interface}"),
            reason: "that is for a first attachment, and a policy is in force there".into(),
            help: "leave out --cut-existing: the new policy judges what is there again; with \
                   `established: flush` in it, it cuts all that is not accepted as new"
                .into(),
        });
    }
    if let Some(asked) = options.max_flows
        && asked != state.max_flows
    {
        let reason = format!(
            "its flow table has room for {} flows and cannot be resized while flows are in it",
            state.max_flows
        );
        return Err(refuse("the flow table", reason, "--max-flows"));
    }
    let is_inbound_live = inspection.inbound.link.is_some_and(|link| link.is_live());
    match (options.xdp_mode, inspection.inbound.mode) {
        (XdpMode::Native, Some(XdpPlace::Generic)) | (XdpMode::Generic, Some(XdpPlace::Native))
            if is_inbound_live =>
        {
            let reason = "an interface runs XDP programs in one mode only, so that the program would \
                          have to go before it can come back";
            return Err(refuse("the XDP mode", reason.into(), "--xdp-mode"));
        }
        // The mode from before the link was detached.
        (XdpMode::Auto, _) if !is_inbound_live && state.xdp_mode == XdpMode::Generic => {
            options.xdp_mode = XdpMode::Generic;
        }
        _ => {}
    }
    if !is_inbound_live && let Some((_, id)) = inspection.inbound.others.first() {
        return Err(other_xdp(interface, *id));
    }
    if options.egress_hook == EgressHook::Auto {
        let outbound = &inspection.outbound;
        options.egress_hook = match state.egress_hook {
            _ if outbound.live_link().is_some() => EgressHook::Tcx,
            _ if outbound.filters().next().is_some() => EgressHook::Clsact,
            EgressHook::Clsact => EgressHook::Clsact,
            _ => EgressHook::Auto,
        };
    }
    Ok(())
}

fn is_unchanged(
    policy: &Policy,
    options: &ApplyOptions,
    interface: &str,
    replaced: &Replaced,
) -> bool {
    let Replaced {
        state,
        inspection,
        moved_from,
    } = replaced;
    let is_same_hook = match options.egress_hook {
        EgressHook::Auto => true,
        EgressHook::Tcx => inspection.outbound.live_link().is_some(),
        EgressHook::Clsact => inspection.outbound.live_link().is_none(),
    };
    let has_no_next = inspection
        .records
        .as_ref()
        .is_ok_and(|records| records.next.is_none());
    moved_from.is_none()
        && has_no_next
        && is_same_hook
        && state.policy.digest == policy.digest
        && state.log_level == options.log_level
        && state.interface == interface
        && inspection.faults().is_empty()
}

/// Whether the interface has a clsact qdisc, not counting one that is removed before anything is
/// attached.
fn has_qdisc(start: &Start, ifindex: u32) -> Result<bool, KernelError> {
    Ok(match start {
        Start::First => super::tc::look(ifindex)?.qdisc.is_some(),
        // Our own remains are removed first.
        Start::Leftovers(inspection) => {
            inspection.outbound.clsact.qdisc.is_some() && !inspection.owns_qdisc()
        }
        Start::Replace(replaced) => replaced.inspection.outbound.clsact.qdisc.is_some(),
    })
}

/// Whether there is a flow in the tables. True if they cannot be read.
fn has_any_flow(pins: &InterfacePins) -> bool {
    let mut has_any = false;
    each_flow(pins, |_| has_any = true).is_err() || has_any
}

fn map_entries(path: &Path) -> Result<u32, KernelError> {
    sys::map_info(path)
        .map(|info| info.max_entries())
        .map_err(|e| KernelError::at_pin("opening", path, e))
}
