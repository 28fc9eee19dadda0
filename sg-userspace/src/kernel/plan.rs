//! The first step of `apply`: compiles the policy, and decides what is to be done on each interface
//! and what its record is to say. It changes nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use super::error::KernelError;
use super::flow_tables::each_flow;
use super::found::{Found, attachment_of, has_qdisc};
use super::load::object::INBOUND;
use super::options::{ApplyOptions, DEFAULT_MAX_FLOWS, EgressHook, XdpMode};
use super::outcome::{Applied, AppliedTo, EndedCandidate, Outcome};
use super::pins::{InterfacePins, PinTree};
use super::shared::{PinnedUse, raw_counters};
use super::slots::{self, Assignment, PairsOf};
use super::start::{Replaced, Start};
use super::state::{PolicyRecord, State};
use super::watch::{self, Watch};
use super::{gate, sys};
use sg_policy::compile::{Budget, Compiled, TooLarge, compile, compile_beside};
use sg_policy::partition::{Partition, Verdicts};
use sg_policy::policy::{AuditScope, Policy};

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

/// What is in force on the interfaces before the policy.
struct Before<'a> {
    found: &'a [Found],
    /// Where the record counts: after an `apply` that was interrupted, on an interface with the
    /// latest generation. `None` if no policy is in force anywhere.
    lead: Option<&'a Replaced>,
    /// Wherever a policy is in force it is the same one, with the same options and no fault.
    is_same_policy: bool,
    /// And so is what is beside it.
    is_same: bool,
}

impl<'a> Before<'a> {
    /// Returns also what is to be beside the policy.
    fn of(
        policy: &Policy,
        options: &ApplyOptions,
        found: &'a [Found],
    ) -> Result<(Self, watch::Planned), KernelError> {
        let replaced = found.iter().filter_map(|one| one.start.replaced());
        let lead = replaced.max_by_key(|it| it.state.policy.generation);
        let is_new = |one: &Found| one.start.replaced().is_none();
        let mut all = found.iter();
        let is_same_policy =
            lead.is_some() && all.all(|one| is_new(one) || one.is_unchanged(policy));
        let before = Before {
            found,
            lead,
            is_same_policy,
            is_same: false,
        };
        let next = before.next_generation();
        let beside = watch::Planned::of(policy, &options.candidate, lead, next)?;
        Ok((before.with(&beside), beside))
    }

    /// Says also whether all stays the same with `beside` beside the policy.
    fn with(self, beside: &watch::Planned) -> Self {
        let is_same = self.is_same_policy && self.replaced().all(|it| beside.is_of(&it.state));
        Before { is_same, ..self }
    }

    /// Fails unless what is in force is what the options say.
    fn expect(&self, options: &ApplyOptions) -> Result<(), KernelError> {
        let in_force = self.previous().map(|state| state.policy.generation);
        match options.only_over {
            Some(expected) if in_force != Some(expected) => Err(KernelError::Fixed {
                what: format!("changing what is in force with generation {expected}"),
                reason: match in_force {
                    Some(other) => format!("generation {other} has come in its place"),
                    None => "nothing is in force any more".into(),
                },
                help: "look at it with `sgctl status`, and repeat the command".into(),
            }),
            _ => Ok(()),
        }
    }

    /// The number of a generation that would follow.
    fn next_generation(&self) -> u32 {
        let latest = self.replaced().map(|it| it.state.latest_number());
        latest.max().unwrap_or(0) + 1
    }

    fn replaced(&self) -> impl Iterator<Item = &'a Replaced> {
        self.found.iter().filter_map(|one| one.start.replaced())
    }

    fn previous(&self) -> Option<&'a State> {
        self.lead.map(|lead| &lead.state)
    }

    /// Whether the interface runs the same policy already and is left as it is.
    fn leaves(&self, one: &Found) -> bool {
        self.is_same && one.start.replaced().is_some()
    }

    fn leads(&self, one: &Found) -> bool {
        let both = one.start.replaced().zip(self.lead);
        both.is_some_and(|(it, lead)| std::ptr::eq(it, lead))
    }

    /// The records of the interfaces that are left as they are.
    fn unchanged(&self) -> Vec<State> {
        let left = self.found.iter().filter(|one| self.leaves(one));
        let states = left.filter_map(|one| Some(one.start.replaced()?.state.clone()));
        states.collect()
    }

    /// The result if there is nothing to do on any interface.
    fn all_unchanged(&self, compiled: &Compiled, compile_time: Duration) -> Option<Applied> {
        let mut states = self.unchanged().into_iter();
        if states.len() < self.found.len() {
            return None;
        }
        Some(Applied {
            outcome: Outcome::Unchanged,
            replaced: None,
            has_ended_trial: false,
            first: AppliedTo::unchanged(states.next()?),
            others: states.map(AppliedTo::unchanged).collect(),
            sizes: compiled.sizes(),
            seeded: None,
            cut: None,
            ended_candidate: None,
            self_check: None,
            compile_time,
            load_time: Duration::ZERO,
            decided: Vec::new(),
            mounted: None,
        })
    }

    /// The counter slots of the policy's rules, and of the pairs with the candidate's. `has_run`
    /// says whether a `run` looks after the interfaces. `nowhere` are pins that need not exist.
    fn assign(
        &self,
        policy: &Policy,
        watch: Option<&Watch>,
        (options, has_run): (&ApplyOptions, bool),
        nowhere: &InterfacePins,
    ) -> Result<Assignment, KernelError> {
        let capacity = match self.lead {
            Some(lead) => capacity_of(lead)?,
            None => 0,
        };
        // If only the candidate changes while a `run` is active, that `run` may still return to the
        // record from before, and only it knows that record's slots. So no slot is taken away.
        let keeps_all = self.is_same || self.is_same_policy && has_run;
        let runs_alone = !keeps_all && self.replaced().all(|it| it.inspection.runs(&it.state));
        // If no policy is in force, the pins are not read.
        let pins = self.lead.map_or(nowhere, |it| &it.inspection.pins);
        // A policy that may return counts in its slots.
        let mut held = options.held_slots.clone();
        let trials = self.replaced().filter_map(|it| it.state.open_trial());
        let returning = trials.filter_map(|trial| trial.returns_to.as_ref());
        held.extend(returning.flat_map(|state| state.slots()));
        let in_use = PinnedUse::new(pins, self.previous(), runs_alone, &held);
        let pairs = watch.map(|watch| PairsOf {
            watch: watch.number,
            owners: watch.owners(policy),
        });
        slots::assign(policy, pairs, self.previous(), capacity, &in_use)
    }

    /// What is the same on all interfaces that change.
    fn common<'p>(
        &self,
        policy: &'p Policy,
        options: &'p ApplyOptions,
        compiled: &Compiled,
    ) -> Common<'p> {
        let previous = self.previous();
        let opens_flows = compiled.opens_flows();
        let has_flows = opens_flows
            || match self.lead {
                // Existing flows may be entered.
                None => !options.cut_existing,
                // If the policy before opens no flows, none can be added until it is replaced.
                Some(Replaced {
                    state, inspection, ..
                }) => state.has_flows && (state.opens_flows || has_any_flow(&inspection.pins)),
            };
        let generation = match previous {
            // Added interfaces get the same generation.
            Some(state) if self.is_same => state.policy.generation,
            _ => self.next_generation(),
        };
        // The rules of an epoch are the same wherever it runs, so that its flows stay admitted.
        let is_of_epoch = |state: &State| {
            let same = previous.map(|previous| previous.epoch) == Some(state.epoch);
            // What passes only because it is watched is judged again when that ends.
            let same_audit = state.policy.audit == policy.audit_in_force();
            same && same_audit && state.policy.digest == policy.digest
        };
        let epoch = match previous {
            Some(state) if self.replaced().all(|it| is_of_epoch(&it.state)) => state.epoch,
            _ => generation,
        };
        // A preliminary time, until the policy takes effect.
        let now = jiff::Timestamp::now().to_string();
        Common {
            policy,
            options,
            record: PolicyRecord {
                name: policy.name.clone(),
                digest: policy.digest.clone(),
                generation,
                applied_at: match previous {
                    Some(state) if self.is_same_policy => state.policy.applied_at.clone(),
                    _ => now.clone(),
                },
                audit: policy.audit_in_force(),
            },
            now,
            epoch,
            max_flows: match previous {
                Some(state) => state.max_flows,
                None => options.max_flows.unwrap_or(DEFAULT_MAX_FLOWS),
            },
            opens_flows,
            has_flows,
        }
    }
}

/// The part of the records that is the same on all interfaces that change.
struct Common<'p> {
    policy: &'p Policy,
    options: &'p ApplyOptions,
    record: PolicyRecord,
    /// RFC 3339.
    now: String,
    epoch: u32,
    max_flows: u32,
    opens_flows: bool,
    has_flows: bool,
}

impl Common<'_> {
    /// The record of an interface, without what is only known after loading the programs.
    fn state(&self, one: &Found, own: &Own, watch: Option<&Watch>, cookie: u64) -> State {
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
