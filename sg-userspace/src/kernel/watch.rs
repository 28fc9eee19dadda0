//! The candidate: a second policy that is evaluated beside the one in force for every packet, and
//! changes no verdict (SPEC C10). It is compiled into the tables of the policy in force: packets
//! with another outcome under the candidate are counted in a slot of the pair of rules, and in no
//! other respect treated otherwise.

use std::sync::Arc;

use sg_common::counters::SlotCounters;

use super::error::KernelError;
use super::history;
use super::options::CandidateOption;
use super::outcome::EndedCandidate;
use super::start::Replaced;
use super::state::{Beside, CandidateRecord, CandidateRule, Forgotten, SlotOwner, State};
use sg_policy::partition::{Candidate, Pair};
use sg_policy::policy::{NonIp, Policy, Rule};

/// A candidate that is to be beside a policy.
pub(super) struct Watch {
    pub(super) policy: Arc<Policy>,
    /// Where the two differ.
    pub(super) found: Candidate,
    pub(super) number: u32,
    pub(super) logs: bool,
    /// The text to be kept, where the watch begins.
    pub(super) text: Option<Vec<u8>>,
}

/// What is to be beside a policy: a candidate, or nothing.
#[derive(Default)]
pub(super) struct Planned {
    pub(super) watch: Option<Watch>,
    /// The candidate that was there and cannot be kept.
    pub(super) ended: Option<EndedCandidate>,
    /// Whether nobody asked for the candidate this time, and it is only kept because it was there.
    /// Where it cannot be kept, the policy is applied without it.
    pub(super) is_kept: bool,
}

impl Planned {
    /// What the options say to be beside `policy`, which becomes `generation` unless all stays as
    /// it is. `lead` is what is in force.
    pub(super) fn of(
        policy: &Policy,
        option: &CandidateOption,
        lead: Option<&Replaced>,
        generation: u32,
    ) -> Result<Planned, KernelError> {
        let before = lead.and_then(|lead| Some((lead, lead.state.candidate.as_ref()?)));
        match (option, before) {
            (CandidateOption::Remove, _) | (CandidateOption::Keep, None) => Ok(Planned::default()),
            (
                CandidateOption::Set {
                    policy: candidate,
                    logs,
                },
                _,
            ) => {
                if let Some(reason) = unfit(policy, candidate) {
                    return Err(refused(&candidate.name, policy, reason));
                }
                let before = before.map(|(_, record)| record);
                let same = before.filter(|it| it.digest == candidate.digest && it.logs == *logs);
                let watch = Watch::new(policy, Arc::clone(candidate), *logs, same, generation);
                Ok(Planned {
                    watch: Some(watch.map_err(|reason| refused(&candidate.name, policy, reason))?),
                    ..Planned::default()
                })
            }
            (CandidateOption::Keep, Some((lead, before))) => {
                let kept = history::candidate(&lead.inspection.pins, before);
                let kept = kept.map_err(|e| e.to_string()).and_then(|candidate| {
                    if let Some(reason) = unfit(policy, &candidate) {
                        return Err(reason);
                    }
                    let (candidate, same) = (Arc::new(candidate), Some(before));
                    Watch::new(policy, candidate, before.logs, same, generation)
                });
                Ok(match kept {
                    Ok(watch) => Planned {
                        watch: Some(watch),
                        is_kept: true,
                        ended: None,
                    },
                    Err(reason) => Planned {
                        ended: Some(EndedCandidate::of(before, reason)),
                        ..Planned::default()
                    },
                })
            }
        }
    }

    /// Gives the candidate up.
    pub(super) fn give_up(&mut self, reason: String) {
        self.ended = self.watch.take().map(|watch| EndedCandidate {
            name: watch.policy.name.clone(),
            digest: watch.policy.digest.clone(),
            reason,
        });
    }

    /// Whether this is what the record has.
    pub(super) fn is_of(&self, state: &State) -> bool {
        match (&self.watch, &state.candidate) {
            (None, None) => true,
            (Some(watch), Some(record)) => watch.number == record.watch,
            _ => false,
        }
    }
}

/// The text of a candidate, from which it can be promoted.
fn text(candidate: &Policy) -> Result<Vec<u8>, String> {
    let text = history::render(candidate).map_err(|e| e.to_string())?;
    text.ok_or_else(|| {
        "its text is too large to be kept, so that it could not be promoted".to_owned()
    })
}

fn refused(candidate: &str, policy: &Policy, reason: String) -> KernelError {
    KernelError::Fixed {
        what: format!("watching {candidate} beside {}", policy.name),
        reason,
        help:
            "what cannot be watched can be tried with `apply --confirm-within 60s`, which undoes \
               itself"
                .into(),
    }
}

/// Why a candidate cannot be evaluated beside a policy: something other than a rule would decide
/// packets otherwise.
fn unfit(policy: &Policy, candidate: &Policy) -> Option<String> {
    if policy.digest == candidate.digest && policy.audit == candidate.audit {
        return Some("it is the policy in force itself".into());
    }
    let differ = |setting: &str, [enforced, wanted]: [&str; 2]| {
        format!(
            "`{setting}` is {wanted} in it and {enforced} in the policy in force, and only rules can \
             be compared packet by packet: give both the same"
        )
    };
    let yes_no = |yes: bool| if yes { "true" } else { "false" };
    if policy.essential != candidate.essential {
        let words = [policy.essential, candidate.essential].map(yes_no);
        return Some(differ("essential", words));
    }
    if policy.non_ip != candidate.non_ip {
        return Some(differ(
            "non-ip",
            [policy.non_ip, candidate.non_ip].map(NonIp::name),
        ));
    }
    if policy.timeouts != candidate.timeouts {
        return Some(
            "its `timeouts` are others than those of the policy in force, so that its flows would end \
             at other times: give both the same"
                .into(),
        );
    }
    None
}

impl Watch {
    /// `candidate` beside `policy`, for which it is not [`unfit`], or why it cannot be there. It
    /// goes on from the record `same`, if that says what was evaluated so far. Otherwise it begins,
    /// with `generation`.
    fn new(
        policy: &Policy,
        candidate: Arc<Policy>,
        logs: bool,
        same: Option<&CandidateRecord>,
        generation: u32,
    ) -> Result<Watch, String> {
        let found = Candidate::new(policy, &candidate).map_err(|e| e.to_string())?;
        let goes_on = same.filter(|record| record.began.is_some());
        let text = match goes_on {
            Some(_) => None,
            None => Some(text(&candidate)?),
        };
        Ok(Watch {
            policy: candidate,
            found,
            number: goes_on.map_or(generation, |record| record.watch),
            logs,
            text,
        })
    }

    /// The owners of the pairs' slots, in the order of the pairs, without their slots.
    pub(super) fn owners(&self, policy: &Policy) -> Vec<SlotOwner> {
        let of = |pair: &Pair| {
            let rule_of = |policy: &'_ Policy, rule: Option<u32>| -> Option<Rule> {
                policy.rules.get(rule? as usize).cloned()
            };
            let beside = rule_of(&self.policy, pair.candidate).map(|rule| CandidateRule {
                position: rule.position,
                group: rule.group,
                action: rule.action,
                name: rule.name,
                summary: rule.summary,
                identity: rule.identity,
            });
            let owner = match rule_of(policy, pair.enforced) {
                Some(rule) => SlotOwner::of(&rule),
                None => SlotOwner {
                    slot: 0,
                    direction: pair.direction,
                    position: 0,
                    group: String::new(),
                    action: policy.no_match(),
                    name: None,
                    summary: String::new(),
                    description: None,
                    identity: String::new(),
                    location: None,
                    base: SlotCounters::default(),
                    more: SlotCounters::default(),
                    beside: None,
                },
            };
            SlotOwner {
                beside: Some(Beside {
                    watch: self.number,
                    rule: beside,
                }),
                ..owner
            }
        };
        self.found.pairs().iter().map(of).collect()
    }

    /// Its record on an interface that has this record now. `gone` is what pairs of it have counted
    /// there that are gone.
    pub(super) fn record(
        &self,
        now: &str,
        state: Option<&State>,
        gone: Vec<Forgotten>,
    ) -> CandidateRecord {
        let here = state.and_then(|state| state.candidate.as_ref());
        let here = here.filter(|it| it.watch == self.number);
        CandidateRecord {
            name: self.policy.name.clone(),
            digest: self.policy.digest.clone(),
            rules: self.policy.rules.len(),
            watch: self.number,
            // Where it begins this is a preliminary time, until the programs run.
            since: here.map_or_else(|| now.to_owned(), |it| it.since.clone()),
            began: here.and_then(|it| it.began),
            logs: self.logs,
            gone,
        }
    }
}
