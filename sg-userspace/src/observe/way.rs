//! The way to the verdict on a packet, as `explain` shows it: types without behaviour.

use std::net::IpAddr;

use serde::Serialize;
use sg_common::verdict::Action;
use sg_policy::analysis::Miss;
use sg_policy::policy::{Location, Rule};

use super::decided::DecidedBy;
use super::flows::Flow;
use crate::kernel::state::SlotOwner;

/// A rule with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedRule {
    pub group: String,
    pub position: u32,
    pub name: Option<String>,
    pub summary: String,
    pub description: Option<String>,
    /// Where the rule is in its file, or was when the policy was applied. Null if that was not
    /// written down.
    pub location: Option<Location>,
}

impl ExplainedRule {
    /// A rule of a policy.
    pub fn of(rule: &Rule) -> Self {
        ExplainedRule {
            group: rule.group.clone(),
            position: rule.position,
            name: rule.name.clone(),
            summary: rule.summary.clone(),
            description: rule.description.clone(),
            location: Some(rule.source.clone()),
        }
    }

    /// A rule in force.
    pub(crate) fn of_owner(owner: &SlotOwner) -> Self {
        ExplainedRule {
            group: owner.group.clone(),
            position: owner.position,
            name: owner.name.clone(),
            summary: owner.summary.clone(),
            description: owner.description.clone(),
            location: owner.location.clone(),
        }
    }
}

/// By what a packet was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JudgedBy {
    /// A private copy of the programs in force, in a test run.
    Programs,
    /// The tables in force, evaluated here: loading programs was not permitted.
    Tables,
}

/// The way to a verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Way {
    pub judged_by: JudgedBy,
    /// The ends of the packet that was judged, as they were given or taken from the interface.
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
    pub local: IpAddr,
    pub local_port: Option<u16>,
    /// Whether it passes, or is dropped, because of the flow that it belongs to.
    pub by_flow: bool,
    /// The flow that has exactly these ends. Null if there is none, or if not both ports are
    /// given.
    pub flow: Option<Flow>,
    /// What becomes of the next segment of that flow from the same side. Null but for TCP: the
    /// packet that was asked about opens a connection.
    pub next: Option<Decision>,
    /// How many flows there are between these ends, as far as they are given.
    pub flows_between: usize,
    /// What becomes of the reply. Null if the packet is dropped, if it has no reply, or if only
    /// the tables were asked.
    pub reply: Option<Decision>,
    /// The rules that nearly decide it, the nearest first. Null if the text of the policy is not
    /// kept, or if no rule could decide it.
    pub nearest: Option<Vec<NearRule>>,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    pub verdict: Action,
    pub rule: Option<ExplainedRule>,
    pub reason: DecidedBy,
    /// Whether its flow decides and not the rules.
    pub by_flow: bool,
}

/// A rule that nearly decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NearRule {
    pub action: Action,
    pub rule: ExplainedRule,
    /// By what it misses the packet.
    pub misses: Vec<Miss>,
}
