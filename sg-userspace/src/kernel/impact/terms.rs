//! What decides about packets before the change and after it: rules, epochs, timeouts, and the flow
//! table as it is.

use std::collections::HashMap;
use std::net::IpAddr;

use sg_common::flow_entry::{Contents, age, clock, created_of};
use sg_common::program::STATES;
use sg_common::protocol::Kind;
use sg_common::ruling::InForce;
use sg_common::verdict::{Direction, Verdict};
use sg_policy::policy::AuditScope;

use super::super::error::KernelError;
use super::super::flow_memory::{FlowTable, key_of};
use super::super::flow_tables::monotonic_now;
use super::super::inspect::Inspection;
use super::super::load::generation::{Generation, ages};
use super::super::load::tables::LiveTables;
use super::super::plan::Plan;
use super::super::seed::Key;
use super::super::start::Replaced;
use super::super::state::State;
use super::fate::{Fate, fate};
use super::report::RuleOf;

/// Both sides of a change.
pub(super) struct Terms<'a> {
    pub(super) plan: &'a Plan,
    /// `None` where no policy is in force, and where the one in force stays.
    pub(super) before: Option<Before<'a>>,
    pub(super) after: InForce,
    ages: [u32; STATES],
    /// The flow table, if there is one.
    table: Option<FlowTable>,
    pub(super) now: u64,
    /// The rules of the new policy by counter slot.
    after_rules: HashMap<u32, RuleOf>,
}

/// The policy in force.
pub(super) struct Before<'a> {
    pub(super) state: &'a State,
    tables: LiveTables,
    policy: InForce,
    ages: [u32; STATES],
    rules: HashMap<u32, RuleOf>,
    /// Whether flows without an entry are entered before it is replaced.
    pub(super) carries: bool,
}

/// A policy that decides about packets.
pub(super) trait Decides {
    /// What its rules say of a packet.
    fn rules(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict;

    /// How it judges flows, and what it audits.
    fn in_force(&self) -> (&InForce, Option<AuditScope>);

    /// What becomes of the next packet from one side of a connection.
    fn fate(
        &self,
        key: &Key,
        originator: Direction,
        direction: Direction,
        entry: Option<&Contents>,
    ) -> Fate {
        let rules = |d| self.rules(d, key.remote, key.kind(), key.number(d, originator));
        let (policy, audits) = self.in_force();
        fate(key.kind(), direction, entry, rules, policy, audits)
    }
}

/// The new policy.
impl Decides for Terms<'_> {
    fn rules(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        self.plan.compiled.decide(direction, remote, kind, number)
    }

    fn in_force(&self) -> (&InForce, Option<AuditScope>) {
        (&self.after, self.plan.policy.audit_in_force())
    }
}

impl Decides for Before<'_> {
    fn rules(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        self.tables.decide(direction, remote, kind, number)
    }

    fn in_force(&self) -> (&InForce, Option<AuditScope>) {
        (&self.policy, self.state.policy.audit)
    }
}

impl<'a> Terms<'a> {
    pub(super) fn of(plan: &'a Plan) -> Result<Self, KernelError> {
        let now = monotonic_now();
        let before = match plan.replaced().next() {
            Some((_, replaced)) => Before::of(plan, replaced)?,
            None => None,
        };
        let mut told = Generation::of(&plan.policy, plan.generation());
        told.epoch = plan.epoch();
        let states = plan.interfaces.iter().map(|one| &one.state);
        let owners = states.flat_map(|state| state.rules.iter().chain(&state.pairs));
        let after_rules = owners
            .filter(|owner| owner.is_rule())
            .map(|owner| (owner.slot, RuleOf::owner(owner, true)))
            .collect();
        let table = match inspection(plan) {
            Some(inspection) => {
                match FlowTable::open_to_read(&inspection.pins, &plan.policy.timeouts) {
                    Ok(table) => Some(table),
                    // `apply` makes it anew.
                    Err(KernelError::MissingPin { .. }) => None,
                    Err(error) => return Err(error),
                }
            }
            None => None,
        };
        Ok(Terms {
            plan,
            before,
            after: told.in_force(),
            ages: ages(&plan.policy.timeouts),
            table,
            now,
            after_rules,
        })
    }

    /// Visits the entries of the flow table.
    pub(super) fn each_entry(&self, mut visit: impl FnMut(Key, Contents)) {
        let Some(table) = &self.table else {
            return;
        };
        table.each(self.now, |flow| {
            let key = Key {
                local: flow.local,
                remote: flow.remote,
                local_port: flow.local_port,
                remote_port: flow.remote_port,
                protocol: flow.protocol,
            };
            visit(key, Contents::of(&flow.value));
        });
    }

    /// The entry of a flow.
    pub(super) fn entry(&self, key: &Key) -> Option<Contents> {
        let ports = (key.local_port, key.remote_port);
        let key = key_of(key.local, key.remote, ports, key.protocol);
        let found = self.table.as_ref()?.find(&key)?;
        Some(found.contents)
    }

    /// Whether an entry has not expired under the new policy.
    pub(super) fn is_live(&self, entry: &Contents) -> bool {
        is_live(entry, &self.ages, self.now)
    }

    /// The rule of the new policy that owns a verdict's slot.
    pub(super) fn rule_of(&self, verdict: Verdict) -> Option<RuleOf> {
        self.after_rules.get(&verdict.slot()).cloned()
    }

    /// Seconds since an entry was made.
    pub(super) fn age_of(&self, entry: &Contents) -> u64 {
        let value = entry.value(self.now);
        self.now.saturating_sub(value.created) / 1_000_000_000
    }

    /// Whether a packet of the flow was seen after it was entered.
    pub(super) fn was_seen_since(entry: &Contents) -> bool {
        entry.head.last_seen() != created_of(entry.begun)
    }
}

impl<'a> Before<'a> {
    /// `None` where its tables cannot be read, because the attachment is damaged: nothing is known
    /// about what it lets pass.
    fn of(plan: &Plan, replaced: &'a Replaced) -> Result<Option<Before<'a>>, KernelError> {
        let Replaced {
            state, inspection, ..
        } = replaced;
        let tables = match LiveTables::open(&inspection.pins, state.inbound_program) {
            Err(KernelError::MissingPin { .. } | KernelError::Refused { .. }) => return Ok(None),
            tables => tables?,
        };
        let rules = state.rules_by_slot().into_iter();
        let rules =
            rules.map(|(slot, (owner, is_in_policy))| (slot, RuleOf::owner(owner, is_in_policy)));
        let is_intact = |one: &Replaced| {
            one.inspection.running(Direction::Inbound) == Some(one.state.inbound_program)
        };
        Ok(Some(Before {
            state,
            tables,
            policy: Generation::recorded(state).in_force(),
            ages: ages(&state.timeouts),
            rules: rules.collect(),
            carries: !plan.options.cut_existing && plan.replaced().all(|(_, one)| is_intact(one)),
        }))
    }

    /// `entry`, if the programs in force find it and it has not expired.
    pub(super) fn finds<'e>(&self, entry: Option<&'e Contents>, now: u64) -> Option<&'e Contents> {
        entry.filter(|entry| self.state.has_flows && is_live(entry, &self.ages, now))
    }

    /// Whether it audits what no rule matches, too.
    pub(super) fn audits_all(&self) -> bool {
        let audits = self.state.policy.audit;
        audits.is_some_and(|scope| scope != AuditScope::Rules)
    }

    /// The rule that owns a counter slot.
    pub(super) fn rule_of(&self, slot: u32) -> Option<RuleOf> {
        self.rules.get(&slot).cloned()
    }
}

/// An interface of the attachment with a flow table that exists already.
fn inspection(plan: &Plan) -> Option<&Inspection> {
    plan.replaced()
        .next()
        .map(|(_, replaced)| &replaced.inspection)
}

fn is_live(entry: &Contents, ages: &[u32; STATES], now: u64) -> bool {
    let silent = age(clock(now), entry.head.last_seen());
    ages.get(usize::from(entry.head.state()))
        .is_some_and(|longest| silent <= *longest)
}
