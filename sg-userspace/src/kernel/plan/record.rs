//! The record that each interface is to have: what is the same on all that change, and what is its
//! own.

use std::path::Path;

use super::super::error::KernelError;
use super::super::found::{Found, has_qdisc};
use super::super::options::{ApplyOptions, EgressHook, XdpMode};
use super::super::shared::raw_counters;
use super::super::slots::Assignment;
use super::super::start::Replaced;
use super::super::state::{PolicyRecord, State};
use super::super::sys;
use super::super::watch::Watch;
use sg_policy::policy::Policy;

/// The part of the records that is the same on all interfaces that change.
pub(super) struct Common<'p> {
    pub(super) policy: &'p Policy,
    pub(super) options: &'p ApplyOptions,
    pub(super) record: PolicyRecord,
    /// RFC 3339.
    pub(super) now: String,
    pub(super) epoch: u32,
    pub(super) max_flows: u32,
    pub(super) opens_flows: bool,
    pub(super) has_flows: bool,
}

impl Common<'_> {
    /// The record of an interface, without what is only known after loading the programs.
    pub(super) fn state(
        &self,
        one: &Found,
        own: &Own,
        watch: Option<&Watch>,
        cookie: u64,
    ) -> State {
        let before = one.start.replaced().map(|it| &it.state);
        let Common {
            policy,
            options,
            record,
            now,
            ..
        } = self;
        let assignment = own.assignment.clone();
        State {
            interface: one.name.clone(),
            ifindex: one.interface.index,
            netns: options.netns.clone(),
            netns_cookie: cookie,
            attached_at: before.map_or_else(|| now.clone(), |s| s.attached_at.clone()),
            xdp_mode: before.map_or(XdpMode::Auto, |s| s.xdp_mode),
            egress_hook: before.map_or(EgressHook::Auto, |s| s.egress_hook),
            // If the qdisc was not there before, it is removed with the enforcer.
            added_clsact: before.is_some_and(|s| s.added_clsact) || !own.has_qdisc,
            policy: record.clone(),
            epoch: self.epoch,
            inbound_program: 0,
            outbound_program: 0,
            remembering: None,
            counter_maps: own.maps,
            max_flows: self.max_flows,
            essential: policy.essential,
            non_ip: policy.non_ip,
            established: policy.established,
            timeouts: policy.timeouts,
            opens_flows: self.opens_flows,
            has_flows: self.has_flows,
            // Determined when the programs are loaded.
            may_have_cut: false,
            log_level: options.log_level,
            trial: None,
            pinned_as: None,
            last_generation: 0,
            object: options.object().to_owned(),
            forced: options.forced,
            candidate: watch.map(|watch| watch.record(now, before, assignment.gone)),
            rules: assignment.rules,
            pairs: assignment.pairs,
            retired: assignment.retired,
            forgotten: assignment.forgotten,
        }
    }
}

/// The part of the record that differs between interfaces.
pub(super) struct Own {
    pub(super) assignment: Assignment,
    /// How many counter maps it has.
    pub(super) maps: usize,
    pub(super) has_qdisc: bool,
}

impl Own {
    /// `lead` is the assignment of the interface that `is_lead`.
    pub(super) fn of(one: &Found, lead: &Assignment, is_lead: bool) -> Result<Own, KernelError> {
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
pub(super) fn capacity_of(replaced: &Replaced) -> Result<u32, KernelError> {
    match replaced.state.counter_maps {
        0 => Ok(0),
        n => map_entries(&replaced.inspection.pins.counters(n - 1)),
    }
}

fn map_entries(path: &Path) -> Result<u32, KernelError> {
    sys::map_info(path)
        .map(|info| info.max_entries())
        .map_err(|e| KernelError::at_pin("opening", path, e))
}
