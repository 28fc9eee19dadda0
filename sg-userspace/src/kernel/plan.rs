//! The first step of `apply`: compiles the policy and compares it, and what the options ask for,
//! with what is really there. Nothing is changed.

use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::MapInfo;

use super::error::KernelError;
use super::flow_tables::each_flow;
use super::hooks::other_xdp;
use super::inspect::{Inspection, Place, inspect, is_attached_to};
use super::interfaces;
use super::interfaces::{Interface, XdpPlace};
use super::object::INBOUND;
use super::options::{ApplyOptions, DEFAULT_MAX_FLOWS, EgressHook, XdpMode};
use super::outcome::{Applied, Outcome};
use super::pins::{InterfacePins, PinTree};
use super::shared::PinnedUse;
use super::slots;
use super::state::{PolicyRecord, State};
use sg_policy::compile::Compiled;
use sg_policy::compile_policy;
use sg_policy::policy::Policy;

/// What is to be done.
pub(super) enum Planned {
    /// The same policy is in force, as the options ask for it.
    Unchanged(Box<Applied>),
    Change(Box<Plan>),
}

/// How to put a policy in force.
pub(super) struct Plan {
    pub(super) policy: Policy,
    pub(super) options: ApplyOptions,
    /// Where the interface's pins belong.
    pub(super) pins: InterfacePins,
    pub(super) start: Start,
    pub(super) compiled: Compiled,
    pub(super) compile_time: Duration,
    /// Slots that the counter map must have.
    pub(super) counter_slots: u32,
    /// The interface has a clsact qdisc that stays.
    pub(super) has_qdisc: bool,
    /// The record of the policy, but for what is known only when the programs are loaded.
    pub(super) state: State,
}

/// What the policy finds.
pub(super) enum Start {
    /// Nothing: no policy is in force.
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

impl Plan {
    pub(super) fn replaced(&self) -> Option<&Replaced> {
        match &self.start {
            Start::Replace(replaced) => Some(replaced),
            Start::First | Start::Leftovers(_) => None,
        }
    }
}

/// How long a program of the enforcer's may stay on the interface after the last pin of its link
/// has gone: the kernel frees a link some time later.
const LINK_LEAVES_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn plan(
    policy: &Policy,
    options: &ApplyOptions,
    tree: &PinTree,
    pins: &InterfacePins,
) -> Result<Planned, KernelError> {
    let started = Instant::now();
    loop {
        match plan_at_once(policy, options, tree, pins) {
            Err(KernelError::OtherXdp { ref program, .. })
                if program == INBOUND && started.elapsed() < LINK_LEAVES_WITHIN =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            planned => return planned,
        }
    }
}

fn plan_at_once(
    policy: &Policy,
    options: &ApplyOptions,
    tree: &PinTree,
    pins: &InterfacePins,
) -> Result<Planned, KernelError> {
    let interface = interfaces::inspect(pins.ifindex)?.ok_or_else(|| KernelError::NoInterface {
        name: options.interface.clone(),
        known: interfaces::names().join(", "),
    })?;
    if !interface.is_ethernet {
        return Err(KernelError::NotEthernet {
            interface: options.interface.clone(),
        });
    }
    let start = find(tree, pins, &interface, options)?;
    if !matches!(&start, Start::Replace(_))
        && let Some(id) = others_xdp(&start, &interface)
    {
        return Err(other_xdp(&options.interface, id));
    }
    let mut options = options.clone();
    let mut previous = None;
    let mut found = pins;
    if let Start::Replace(replaced) = &start {
        settle(&mut options, replaced)?;
        previous = Some(&replaced.state);
        found = &replaced.inspection.pins;
    }

    let maps = previous.map_or(0, |s| s.counter_maps);
    let capacity = match maps {
        0 => 0,
        n => map_entries(&found.counters(n - 1))?,
    };
    let runs_alone = match &start {
        Start::Replace(replaced) => replaced.inspection.runs(&replaced.state),
        Start::First | Start::Leftovers(_) => false,
    };
    let in_use = PinnedUse::new(found, previous, runs_alone, &options.held_slots);
    let assignment = slots::assign(policy, previous, capacity, &in_use)?;
    let started = Instant::now();
    let compiled = compile_policy(policy, &assignment.slots(), options.budget)?;
    let compile_time = started.elapsed();
    if let Start::Replace(replaced) = &start
        && is_unchanged(policy, &options, replaced)
    {
        return Ok(Planned::Unchanged(Box::new(Applied {
            outcome: Outcome::Unchanged,
            state: replaced.state.clone(),
            sizes: compiled.sizes(),
            seeded: None,
            cut: None,
            added_clsact: false,
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
            // Where the policy before opened none, what is not there will not come.
            Some(s) => s.has_flows && (s.opens_flows || has_any_flow(found)),
        };
    let has_qdisc = has_qdisc(&start, pins)?;
    // Until it is known when it took effect.
    let now = jiff::Timestamp::now().to_string();
    let state = State {
        interface: options.interface.clone(),
        ifindex: pins.ifindex,
        netns: options.netns.clone(),
        netns_cookie: pins.netns_cookie,
        attached_at: previous.map_or_else(|| now.clone(), |s| s.attached_at.clone()),
        xdp_mode: previous.map_or_else(String::new, |s| s.xdp_mode.clone()),
        egress_hook: previous.map_or_else(String::new, |s| s.egress_hook.clone()),
        // It is removed with the enforcer if it was not there before.
        added_clsact: previous.is_some_and(|s| s.added_clsact) || !has_qdisc,
        policy: PolicyRecord {
            name: policy.name.clone(),
            digest: policy.digest.clone(),
            generation: previous.map_or(0, |s| s.policy.generation.max(s.last_generation)) + 1,
            applied_at: now,
        },
        inbound_program: 0,
        outbound_program: 0,
        remembering: None,
        counter_maps: maps + usize::from(assignment.capacity > capacity),
        max_flows: match previous {
            Some(state) => state.max_flows,
            None => options.max_flows.unwrap_or(DEFAULT_MAX_FLOWS),
        },
        essential: policy.essential,
        non_ip: policy.non_ip,
        established: policy.established,
        timeouts: policy.timeouts,
        opens_flows,
        has_flows,
        // Found out when the programs are loaded.
        may_have_cut: false,
        log_level: options.log_level,
        last_generation: 0,
        rules: assignment.rules,
        retired: assignment.retired,
        forgotten: assignment.forgotten,
    };
    Ok(Planned::Change(Box::new(Plan {
        policy: policy.clone(),
        options,
        pins: pins.clone(),
        start,
        compiled,
        compile_time,
        counter_slots: assignment.capacity,
        has_qdisc,
        state,
    })))
}

/// Finds what is attached to the interface: under its own place, under the one that it was moved
/// from, or left by an interface of the same name.
fn find(
    tree: &PinTree,
    pins: &InterfacePins,
    interface: &Interface,
    options: &ApplyOptions,
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
        let is_of_this_name = state.is_some_and(|state| state.interface == options.interface);
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

/// Compares what the options ask for with what an attachment fixes when it is made, and fills in
/// what they leave open. What cannot be changed without a gap is refused.
fn settle(options: &mut ApplyOptions, replaced: &Replaced) -> Result<(), KernelError> {
    let Replaced {
        state, inspection, ..
    } = replaced;
    let interface = &options.interface;
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
        (XdpMode::Auto, _) if !is_inbound_live && state.xdp_mode == "generic" => {
            options.xdp_mode = XdpMode::Generic;
        }
        _ => {}
    }
    if !is_inbound_live && let Some((_, id)) = inspection.inbound.others.first() {
        return Err(other_xdp(interface, *id));
    }
    if options.egress_hook == EgressHook::Auto {
        let outbound = &inspection.outbound;
        options.egress_hook = match state.egress_hook.as_str() {
            _ if outbound.live_link().is_some() => EgressHook::Tcx,
            _ if outbound.filters().next().is_some() => EgressHook::Clsact,
            "clsact" => EgressHook::Clsact,
            _ => EgressHook::Auto,
        };
    }
    Ok(())
}

fn is_unchanged(policy: &Policy, options: &ApplyOptions, replaced: &Replaced) -> bool {
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
        && state.interface == options.interface
        && inspection.faults().is_empty()
}

/// Whether the interface has a clsact qdisc, apart from one that is removed before anything is
/// attached.
fn has_qdisc(start: &Start, pins: &InterfacePins) -> Result<bool, KernelError> {
    Ok(match start {
        Start::First => super::tc::look(pins.ifindex)?.qdisc.is_some(),
        // What is left of ours is removed first.
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
    MapInfo::from_pin(path)
        .map(|info| info.max_entries())
        .map_err(|e| KernelError::bpf(format!("opening {}", path.display()), e))
}
