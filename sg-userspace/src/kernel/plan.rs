//! The first step of `apply`: compiles the policy, and decides what is to be done on each interface
//! and what its record is to say. It changes nothing. `before` has what is in force until then, and
//! `record` what is written down.

mod before;
mod record;

use std::time::{Duration, Instant};

use super::error::KernelError;
use super::found::{Found, attachment_of};
use super::gate;
use super::load::object::INBOUND;
use super::options::{ApplyOptions, EgressHook, XdpMode};
use super::outcome::{Applied, EndedCandidate};
use super::pins::{InterfacePins, PinTree};
use super::slots::Assignment;
use super::start::{Replaced, Start};
use super::state::State;
use super::watch::Watch;
use sg_policy::compile::{Budget, Compiled, TooLarge, compile, compile_beside};
use sg_policy::partition::{Partition, Verdicts};
use sg_policy::policy::{AuditScope, Policy};

use self::before::Before;
use self::record::Own;

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
    /// What the policy decides about which packets, laid out in `compiled`.
    pub(super) partition: Partition,
    pub(super) compiled: Compiled,
    pub(super) compile_time: Duration,
    /// The candidate beside the policy.
    pub(super) watch: Option<Watch>,
    /// The candidate that was there before and cannot be kept.
    pub(super) ended_candidate: Option<EndedCandidate>,
    /// The policy in force stays, and so do its epoch and its entry in the history: another
    /// candidate is put beside it, or none.
    pub(super) keeps_policy: bool,
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
    /// Whether no packet passes it before the policy is in force.
    pub(super) is_held: bool,
    /// The record of the policy, without what is only known after loading the programs.
    pub(super) state: State,
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

    /// The epoch that is to be: see [`super::load::generation::Generation::epoch`].
    pub(super) fn epoch(&self) -> u32 {
        let mut states = self.interfaces.iter();
        states.next().map_or(0, |one| one.state.epoch)
    }

    /// The number of the policy that returns if this one is not confirmed.
    pub(super) fn fallback_number(&self) -> u32 {
        self.generation() + 1
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
    let audited = match options.audit {
        AuditScope::Rules => None,
        scope => Some(policy.clone().audited(scope)),
    };
    let policy = audited.as_ref().unwrap_or(policy);
    loop {
        match plan_at_once(policy, options, tree, cookie) {
            Err(KernelError::OtherXdp { ref program, .. })
                if (program == INBOUND || gate::is_one(program))
                    && started.elapsed() < LINK_LEAVES_WITHIN =>
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
    cookie: u64,
) -> Result<Planned, KernelError> {
    let look = |name: &String| Found::look(tree, cookie, name, options);
    let found: Vec<Found> = options
        .interfaces
        .iter()
        .map(look)
        .collect::<Result<_, _>>()?;
    let attachment = attachment_of(tree, cookie, &found)?;
    let pins_of = |index| tree.interface_of(cookie, attachment, index);
    let (before, mut beside) = Before::of(policy, options, &found)?;
    before.expect(options)?;
    let has_run = found.iter().any(|one| tree.has_run(cookie, &one.name));

    let started = Instant::now();
    let partition = Partition::new(policy);
    let (assignment, compiled) = loop {
        let watch = beside.watch.as_ref();
        let assignment = before.assign(policy, watch, (options, has_run), &pins_of(0))?;
        match compiled(policy, &partition, watch, &assignment, options.budget) {
            Ok(compiled) => break (assignment, compiled),
            // The policy comes before a candidate that was there.
            Err(error) if beside.is_kept && beside.watch.is_some() => {
                beside.give_up(error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    };
    let compile_time = started.elapsed();
    let before = before.with(&beside);
    if let Some(unchanged) = before.all_unchanged(&compiled, compile_time) {
        return Ok(Planned::Unchanged(Box::new(unchanged)));
    }

    let keeps_policy = before.is_same_policy && !before.is_same;
    let common = before.common(policy, options, &compiled);
    let unchanged = before.unchanged();
    let own = |one: &Found| match before.leaves(one) {
        true => Ok(None),
        false => Own::of(one, &assignment, before.leads(one)).map(Some),
    };
    let own: Vec<Option<Own>> = found.iter().map(own).collect::<Result<_, _>>()?;
    let changed = found
        .into_iter()
        .zip(own)
        .filter_map(|(one, own)| Some((one, own?)));
    let interfaces = changed.map(|(one, own)| InterfacePlan {
        pins: pins_of(one.interface.index),
        state: common.state(&one, &own, beside.watch.as_ref(), cookie),
        counter_slots: own.assignment.capacity,
        has_qdisc: own.has_qdisc,
        is_held: options.held.contains(&one.name),
        xdp_mode: one.options.xdp_mode,
        egress_hook: one.options.egress_hook,
        name: one.name,
        start: one.start,
    });
    Ok(Planned::Change(Box::new(Plan {
        interfaces: interfaces.collect(),
        policy: policy.clone(),
        options: options.clone(),
        unchanged,
        partition,
        compiled,
        compile_time,
        keeps_policy,
        watch: beside.watch,
        ended_candidate: beside.ended,
    })))
}

/// The tables of a policy, with a candidate beside it or without.
fn compiled(
    policy: &Policy,
    partition: &Partition,
    watch: Option<&Watch>,
    assignment: &Assignment,
    budget: Budget,
) -> Result<Compiled, TooLarge> {
    let slots = assignment.slots();
    let Some(watch) = watch else {
        return compile(partition, &Verdicts::new(policy, &slots), budget);
    };
    let pairs = watch.found.pairs();
    let verdicts = Verdicts::beside(policy, &slots, pairs, &assignment.pair_slots());
    let verdicts = match watch.logs {
        true => verdicts.logging_pairs(policy),
        false => verdicts,
    };
    compile_beside(&watch.found, &verdicts, budget)
}
