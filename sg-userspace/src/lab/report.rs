//! The results of the lab, ready for a table or for JSON.

use serde::Serialize;
use sg_common::verdict::{Action, Direction};

use crate::kernel::{EgressHook, XdpMode};
use crate::observe::counters::Counters;
use crate::observe::decided::DecidedBy;
use crate::observe::explain::ExplainedRule;

/// `lab --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether everything was as the policy says.
    pub ok: bool,
    pub seconds: f64,
    pub enforcer: Enforcer,
    pub attempts: Vec<Attempt>,
    pub counters: Counters,
    /// The packet counts of the node's interface while the policy was enforced.
    pub interface: Vec<InterfaceCount>,
    /// Describes each difference between what happened and what the policy says.
    pub differences: Vec<String>,
    /// What could not be tried on this machine, and why.
    pub notes: Vec<String>,
}

/// How the policy was enforced.
#[derive(Clone, Debug, Serialize)]
pub struct Enforcer {
    pub xdp_mode: XdpMode,
    pub egress_hook: EgressHook,
    /// The ids of the programs, which do not exist any more.
    pub inbound_program: u32,
    pub outbound_program: u32,
}

/// One attempt to get a reply through the node's interface.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    pub from: &'static str,
    pub from_address: String,
    pub to: &'static str,
    pub to_address: String,
    /// The direction of the packet that opens the flow, as seen from the node.
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp` or `icmpv6`; the last two are pings.
    pub transport: &'static str,
    pub port: Option<u16>,
    /// What the policy says.
    pub expected: Action,
    /// Accept if the reply came, drop if nothing came.
    pub got: Action,
    /// The rule that decides the opening packet. If none does, `reason` says why.
    pub rule: Option<ExplainedRule>,
    pub reason: DecidedBy,
    /// What admits the reply.
    pub answer: Option<AnswerBy>,
    pub as_policy_says: bool,
    /// Anything else that was seen: a refused connection, or another reply than expected.
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerBy {
    /// The rules of the other direction accept it.
    Rules,
    /// Only its flow admits it.
    FlowTable,
}

/// The interface's own count, and that of the enforcer.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceCount {
    pub direction: Direction,
    /// Inbound: all packets that arrived. Outbound: all that left, which are the accepted ones.
    pub packets: u64,
    /// How many of them may have passed before the enforcer, because the interface counted them
    /// while it was being attached.
    pub uncertain: u64,
    /// The enforcer's count of the same.
    pub counted: u64,
}
