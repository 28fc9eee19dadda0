//! The results of the lab, ready for a table or for JSON.

use serde::Serialize;
use sg_common::verdict::{Action, Direction};

use sg_userspace::kernel::{EgressHook, XdpMode};
use sg_userspace::observe::counters::Counters;
use sg_userspace::observe::decided::DecidedBy;
use sg_userspace::observe::explain::ExplainedRule;

use super::plan::Protocol;

/// `lab --json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Whether everything was as the policy says.
    pub(crate) ok: bool,
    pub(crate) seconds: f64,
    pub(crate) enforcer: Enforcer,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) counters: Counters,
    /// The packet counts of the node's interface while the policy was enforced.
    pub(crate) interface: Vec<InterfaceCount>,
    /// Describes each difference between what happened and what the policy says.
    pub(crate) differences: Vec<String>,
    /// What could not be tried on this machine, and why.
    pub(crate) notes: Vec<String>,
}

/// How the policy was enforced.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Enforcer {
    pub(crate) xdp_mode: XdpMode,
    pub(crate) egress_hook: EgressHook,
    /// The ids of the programs, which do not exist any more.
    pub(crate) inbound_program: u32,
    pub(crate) outbound_program: u32,
}

/// One attempt to get a reply through the node's interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Attempt {
    /// A host, or a set of the policy that the address is in.
    pub(crate) from: String,
    pub(crate) from_address: String,
    pub(crate) to: String,
    pub(crate) to_address: String,
    /// The direction of the packet that opens the flow, as seen from the node.
    pub(crate) direction: Direction,
    pub(crate) transport: Protocol,
    pub(crate) port: Option<u16>,
    /// What the policy says.
    pub(crate) expected: Action,
    /// Accept if the reply came, drop if nothing came.
    pub(crate) got: Action,
    /// The rule that decides the opening packet. If none does, `reason` says why.
    pub(crate) rule: Option<ExplainedRule>,
    pub(crate) reason: DecidedBy,
    /// What admits the reply.
    pub(crate) answer: Option<AnswerBy>,
    pub(crate) as_policy_says: bool,
    /// Anything else that was seen: a refused connection, or another reply than expected.
    pub(crate) note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AnswerBy {
    /// The rules of the other direction accept it.
    Rules,
    /// Only its flow admits it.
    FlowTable,
}

/// The interface's own count, and that of the enforcer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct InterfaceCount {
    pub(crate) direction: Direction,
    /// Inbound: all packets that arrived. Outbound: all that left, which are the accepted ones.
    pub(crate) packets: u64,
    /// How many of them may have passed before the enforcer, because the interface counted them
    /// while it was being attached.
    pub(crate) uncertain: u64,
    /// The enforcer's count of the same.
    pub(crate) counted: u64,
}
