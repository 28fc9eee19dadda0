//! The state record: names, digests and slot owners, in a pinned map beside the links, so that it
//! exists exactly as long as what it describes. It is replaced atomically, by renaming a new pin
//! over the old one.
//!
//! Which record is valid is said in `records`.
//!
//! It is a blob (`blob`) whose body is JSON.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sg_common::flow::TIMEOUTS;
use sg_common::verdict::{Action, Direction, FIRST_RULE_SLOT, Reason, reason_slot};

use super::attempted::Attempted;
use super::blob::Kind;
use super::error::KernelError;
use super::machine::places;
use super::options::{EgressHook, XdpMode};
use super::owners::Key;
pub use super::owners::{Beside, CandidateRule, Forgotten, SlotOwner};
use super::pins::InterfacePins;
use super::trial::Stands;
use super::{blob, links};
use sg_policy::policy::{AuditScope, Established, NonIp};

/// What has to be known about an attached interface and cannot be read from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub interface: String,
    pub ifindex: u32,
    /// The name in `--netns` when the policy was last applied. See [`State::netns_name`].
    pub netns: Option<String>,
    pub netns_cookie: u64,
    /// RFC 3339.
    pub attached_at: String,
    /// Mode and hook in use, `Auto` until the policy is in force.
    pub xdp_mode: XdpMode,
    pub egress_hook: EgressHook,
    /// Whether the enforcer has added the clsact qdisc, so that it also has to remove it.
    pub added_clsact: bool,
    pub policy: PolicyRecord,
    /// See [`crate::kernel::load::generation::Generation::epoch`].
    pub epoch: u32,
    /// Ids of the programs that belong to this record. If a link runs another program, an `apply`
    /// was interrupted between the record and the swap.
    pub inbound_program: u32,
    pub outbound_program: u32,
    /// Ids of the remembering programs that both directions run while this first policy is being
    /// attached. `None` once it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remembering: Option<[u32; 2]>,
    /// The trial that the policy is on, or was, until a command has tidied up after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// The number in the names of its pins, where it is not that of the generation: the programs
    /// of a policy that returned were loaded anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_as: Option<u32>,
    pub counter_maps: usize,
    pub max_flows: u32,
    /// The options of the programs: see [`sg_policy::policy::Policy`] and
    /// [`sg_policy::compile::Compiled`].
    pub essential: bool,
    pub non_ip: NonIp,
    pub established: Established,
    pub timeouts: [u32; TIMEOUTS],
    /// Whether packets that the policy accepts may open flows.
    pub opens_flows: bool,
    /// Whether the programs look at the flow tables. If not, no flow concerns a packet that the
    /// rules accept.
    pub has_flows: bool,
    /// Whether the programs look up cut flows for every TCP packet that the rules accept: see
    /// [`crate::kernel::load::generation::Generation::may_have_cut`].
    pub may_have_cut: bool,
    /// See [`crate::kernel::load::generation::Generation::log_level`].
    #[serde(default)]
    pub log_level: u8,
    /// The latest generation or epoch that has run, if it is not the one in force. A number is
    /// used only once, because the stamp of a flow shows whether it has been judged.
    #[serde(default)]
    pub last_generation: u32,
    /// Which build's object the programs are of. Empty if it was put in force by one that did not
    /// record it.
    #[serde(default)]
    pub object: String,
    /// See [`super::options::ApplyOptions::forced`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// The policy that is evaluated beside it and changes no verdict (C10). `None` if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateRecord>,
    /// The rules of the policy in force, inbound first, in order of position.
    pub rules: Vec<SlotOwner>,
    /// The slots of what has another outcome under the candidate. Each belongs to a rule of the
    /// policy as well, or to what no rule matches, whose counter is the sum of all its slots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<SlotOwner>,
    /// Rules of earlier policies whose slots flows may still name, or which have counted packets.
    pub retired: Vec<SlotOwner>,
    /// The counts of rules that nothing names any more and whose slots were reused.
    pub forgotten: Vec<Forgotten>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    pub name: String,
    pub digest: String,
    pub generation: u32,
    /// RFC 3339.
    pub applied_at: String,
    /// What passes that the policy would drop (C9). Null if nothing does.
    #[serde(default)]
    pub audit: Option<AuditScope>,
}

/// A policy that is evaluated beside the one in force, for every packet, and changes no verdict
/// (C10).
///
/// A *watch* is the time in which one candidate is beside the policy in force, whatever that is. It
/// has the number of the generation with which it began. The candidate's text is pinned under that
/// number, and pairs of different watches have different slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateRecord {
    pub name: String,
    pub digest: String,
    /// How many rules it has.
    pub rules: usize,
    /// The number of the watch.
    pub watch: u32,
    /// Since when this interface evaluates it, RFC 3339.
    pub since: String,
    /// How many packets the rules of the policy had decided by then, by direction. `None` if that
    /// is not known, because `apply` was killed, or because another policy was in force in between
    /// without this candidate.
    pub began: Option<[u64; 2]>,
    /// Whether each packet with another outcome leaves an event.
    pub logs: bool,
    /// The counts of pairs that are gone, because one of their rules is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Forgotten>,
}

impl CandidateRecord {
    /// The record where this candidate was not evaluated for a while: how many packets were is not
    /// known any more.
    pub(super) fn interrupted(self) -> CandidateRecord {
        CandidateRecord {
            began: None,
            ..self
        }
    }
}

/// A policy that is in force and not confirmed: the gate in front of its programs, and what comes
/// back if nobody confirms it (C4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The ids of the gates, inbound first. They are attached in the place of the programs.
    pub gates: [u32; 2],
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub deadline: u64,
    /// The deadline as RFC 3339, for people: the clock of the machine may be set.
    pub until: String,
    /// The record of the policy that returns. `None` if none was in force.
    pub returns_to: Option<Box<State>>,
    /// Which policy decides, read with the record.
    #[serde(skip)]
    pub stands: Stands,
}

impl State {
    /// The name of its network namespace: that of `--netns`, or else the one that `ip netns` has.
    pub fn netns_name(&self) -> Option<String> {
        let found = || places::name_of(self.netns_cookie);
        self.netns.clone().or_else(found)
    }

    /// The id of the program of a direction.
    pub fn program(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Inbound => self.inbound_program,
            Direction::Outbound => self.outbound_program,
        }
    }

    /// Whether anything passes that the policy would drop (C9).
    pub fn audits(&self) -> bool {
        self.policy.audit.is_some()
    }

    /// How many rules of the policy are only watched.
    pub fn audited_rules(&self) -> usize {
        let audited = self
            .rules
            .iter()
            .filter(|owner| owner.action == Action::Audit);
        audited.count()
    }

    /// The record of this policy when it comes back. `meanwhile` is that of the policy that was in
    /// force since: if it had another candidate, or none, some packets were not evaluated for ours.
    pub(super) fn back_after(mut self, meanwhile: &State) -> State {
        let goes_on = |candidate: &CandidateRecord| {
            let other = meanwhile.candidate.as_ref();
            other.is_some_and(|other| other.watch == candidate.watch)
        };
        if let Some(candidate) = self.candidate.take() {
            self.candidate = Some(match goes_on(&candidate) {
                true => candidate,
                false => candidate.interrupted(),
            });
        }
        self
    }

    /// All owners of slots that packets may be counted in: rules, pairs, and rules and pairs of
    /// earlier policies.
    pub(super) fn owners(&self) -> impl Iterator<Item = &SlotOwner> {
        let in_force = self.rules.iter().chain(&self.pairs);
        in_force.chain(&self.retired)
    }

    /// The slots that the programs of this policy write.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.rules.iter().chain(&self.pairs).map(|owner| owner.slot)
    }

    /// The rule that a counter slot belongs to, and whether it is still in the policy. The slot of
    /// a pair belongs to the rule of the policy.
    pub fn rule_of(&self, slot: u32) -> Option<(&SlotOwner, bool)> {
        let owner = self.owners().find(|owner| owner.slot == slot)?;
        let mut rules = self.rules.iter();
        let rule = rules.find(|rule| rule.key() == owner.key_of_rule());
        let found = rule.map_or((owner, false), |rule| (rule, true));
        owner.is_rule().then_some(found)
    }

    /// The rule of each counter slot, and whether it is still in the policy: see
    /// [`State::rule_of`].
    pub(crate) fn rules_by_slot(&self) -> HashMap<u32, (&SlotOwner, bool)> {
        let rules = self.rules.iter().map(|rule| (rule.key(), rule));
        let rules: HashMap<Key<'_>, &SlotOwner> = rules.collect();
        let owners = self.owners().filter(|owner| owner.is_rule());
        let found = owners.map(|owner| {
            let rule = rules.get(&owner.key_of_rule());
            let found = rule.map_or((owner, false), |rule| (*rule, true));
            (owner.slot, found)
        });
        found.collect()
    }

    /// Why packets are counted in a slot that belongs to no rule, and their direction.
    pub(crate) fn reason_of(&self, slot: u32) -> Option<(Direction, Reason)> {
        if slot < FIRST_RULE_SLOT {
            return reason_of_slot(slot);
        }
        let mut owners = self.owners();
        let owner = owners.find(|owner| owner.slot == slot && !owner.is_rule())?;
        Some((owner.direction, no_match(owner.action)))
    }

    /// What has to be known if the policy does not come into force.
    pub fn attempted(&self) -> Attempted {
        Attempted {
            interface: self.interface.clone(),
            netns_cookie: self.netns_cookie,
            ifindex: self.ifindex,
            generation: self.policy.generation,
            programs: [self.inbound_program, self.outbound_program],
            timeouts: self.timeouts,
        }
    }

    /// The highest number that a generation or an epoch has had.
    pub(super) fn latest_number(&self) -> u32 {
        let numbers = [
            self.policy.generation,
            self.number(),
            self.epoch,
            self.last_generation,
        ];
        numbers.into_iter().max().unwrap_or_default()
    }

    /// The number in the names of its pins.
    pub(crate) fn number(&self) -> u32 {
        self.pinned_as.unwrap_or(self.policy.generation)
    }

    /// The trial, if the policy is in force and not confirmed.
    pub fn open_trial(&self) -> Option<&Trial> {
        let trial = self.trial.as_ref();
        trial.filter(|trial| trial.stands == Stands::OnTrial)
    }

    /// Whether the policy is in force again because another one was not confirmed.
    pub fn has_returned(&self) -> bool {
        self.pinned_as.is_some()
    }

    /// Whether the policy was undone and none was in force before it.
    pub fn has_ended(&self) -> bool {
        let trial = self.trial.as_ref();
        trial.is_some_and(|trial| trial.stands == Stands::Returned)
    }

    /// Whether `program` is one of this policy's remembering programs.
    pub(crate) fn only_remembers(&self, direction: Direction, program: u32) -> bool {
        self.remembering
            .is_some_and(|programs| programs[direction as usize] == program)
    }

    /// Writes the record of the policy that is about to be put in force.
    pub(super) fn write_next(&self, pins: &InterfacePins) -> Result<(), KernelError> {
        blob::write_json(&pins.state_next(), Kind::State, self)
    }

    /// Makes the record written by `write_next` the one in force.
    pub(super) fn promote(pins: &InterfacePins) -> Result<(), KernelError> {
        let path = pins.state();
        links::rename(&pins.state_next(), &path)
            .map_err(|e| KernelError::io(format!("writing {}", path.display()), e))
    }

    /// Writes the record of the policy in force, replacing any other.
    pub(super) fn write(&self, pins: &InterfacePins) -> Result<(), KernelError> {
        blob::write_json(&pins.state(), Kind::State, self)
    }
}

/// The reason that a slot counts which belongs to neither rules nor pairs, and the direction.
pub(crate) fn reason_of_slot(slot: u32) -> Option<(Direction, Reason)> {
    let mut reasons = Direction::BOTH
        .into_iter()
        .flat_map(|direction| Reason::ALL.map(|reason| (direction, reason)));
    reasons.find(|(direction, reason)| reason_slot(*direction, *reason) == slot)
}

/// The reason of packets that no rule matches, by what becomes of them.
pub(crate) fn no_match(action: Action) -> Reason {
    match action {
        Action::Audit => Reason::NoMatchAudited,
        Action::Accept | Action::Drop => Reason::NoMatch,
    }
}

/// The record pinned at `path`. `None` if nothing is pinned there.
pub(super) fn read_at(path: &Path) -> Result<Option<State>, KernelError> {
    let state = blob::read_json(path, Kind::State)?.transpose();
    state.map_err(|reason| KernelError::DamagedState {
        path: path.to_owned(),
        reason,
    })
}

/// Reads the body of a record, for fuzzing. What is read is written and read as the same.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(body: &[u8]) -> bool {
    let Ok(state) = serde_json::from_slice::<State>(body) else {
        return false;
    };
    let json = serde_json::to_vec(&state).unwrap_or_default();
    assert_eq!(
        serde_json::from_slice::<State>(&json).ok().as_ref(),
        Some(&state)
    );
    for direction in Direction::BOTH {
        let _ = state.program(direction);
    }
    let _ = (
        state.audits(),
        state.audited_rules(),
        state.slots().count(),
        state.attempted(),
    );
    let _ = state.decided();
    true
}

/// The body of a record, for fuzzing.
#[cfg(test)]
pub(super) fn samples() -> Vec<Vec<u8>> {
    serde_json::to_vec_pretty(&tests::sample())
        .into_iter()
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use sg_common::counters::SlotCounters;

    pub(in crate::kernel) fn sample() -> State {
        State {
            interface: "eth0".into(),
            ifindex: 2,
            netns: None,
            netns_cookie: 1,
            attached_at: "2026-01-01T00:00:00Z".into(),
            xdp_mode: XdpMode::Native,
            egress_hook: EgressHook::Tcx,
            added_clsact: false,
            policy: PolicyRecord {
                name: "p".into(),
                digest: "sha256:0".into(),
                generation: 3,
                applied_at: "2026-01-01T00:00:00Z".into(),
                audit: Some(AuditScope::Policy),
            },
            epoch: 2,
            inbound_program: 1,
            outbound_program: 2,
            remembering: None,
            trial: None,
            pinned_as: None,
            counter_maps: 1,
            max_flows: 10,
            essential: true,
            non_ip: NonIp::Accept,
            established: Established::default(),
            timeouts: sg_common::flow::Timeout::defaults(),
            opens_flows: true,
            has_flows: true,
            may_have_cut: false,
            log_level: 0,
            last_generation: 0,
            object: String::new(),
            forced: false,
            candidate: None,
            pairs: vec![],
            rules: vec![SlotOwner {
                slot: 32,
                direction: Direction::Inbound,
                position: 1,
                group: "g".into(),
                action: Action::Accept,
                name: None,
                summary: "tcp 22 from any".into(),
                description: None,
                identity: "id".into(),
                location: Some(sg_policy::policy::Location {
                    file: "/etc/sgctl/p.yaml".into(),
                    line: 3,
                    column: 5,
                }),
                base: SlotCounters {
                    packets: 1,
                    bytes: 2,
                    reply_packets: 3,
                    reply_bytes: 4,
                },
                more: SlotCounters::default(),
                beside: None,
            }],
            retired: vec![],
            forgotten: vec![],
        }
    }

    /// That a blob which was cut or changed is refused is tested in `blob`.
    #[test]
    fn a_record_reads_back_as_written() {
        let json = serde_json::to_vec(&sample()).unwrap();
        assert_eq!(serde_json::from_slice::<State>(&json).unwrap(), sample());
    }
}
