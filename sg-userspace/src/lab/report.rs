//! What the lab found, ready for a table or for JSON.

use serde::Serialize;

use crate::observe::counters::Counters;
use crate::observe::explain::ExplainedRule;

/// `lab --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Everything was as the policy says.
    pub ok: bool,
    pub seconds: f64,
    pub enforcer: Enforcer,
    pub attempts: Vec<Attempt>,
    pub counters: Counters,
    /// What the node's interface itself counted while the policy was enforced.
    pub interface: Vec<InterfaceCount>,
    /// Each difference between what happened and what the policy says, in words.
    pub differences: Vec<String>,
    /// What could not be tried here, and why.
    pub notes: Vec<String>,
}

/// How the policy was enforced.
#[derive(Clone, Debug, Serialize)]
pub struct Enforcer {
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// `tcx` or `clsact`.
    pub egress_hook: String,
    /// Ids that the programs had; they are gone by now.
    pub inbound_program: u32,
    pub outbound_program: u32,
}

/// One attempt to get an answer through the node's interface.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    pub from: &'static str,
    pub from_address: String,
    pub to: &'static str,
    pub to_address: String,
    /// Of the packet that opens it, seen from the node.
    pub direction: &'static str,
    /// `tcp`, `udp`, `icmp` or `icmpv6`; the last two are pings.
    pub transport: &'static str,
    pub port: Option<u16>,
    /// `accept` or `drop`, as the policy says.
    pub expected: &'static str,
    /// `accept` when the answer came, `drop` when nothing did.
    pub got: &'static str,
    /// The rule that decides the opening packet; without one, `reason` says why.
    pub rule: Option<ExplainedRule>,
    pub reason: &'static str,
    /// What lets the answer through.
    pub answer: Option<AnswerBy>,
    pub as_policy_says: bool,
    /// What else was seen: a refused connection, an answer that is another.
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerBy {
    /// Rules of the other direction accept it anyway.
    Rules,
    /// Only the flow table knows that it belongs to something the policy admitted.
    FlowTable,
}

/// The interface's own count beside the enforcer's.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceCount {
    pub direction: &'static str,
    /// Inbound every packet that arrived; outbound those that left, which are the accepted ones.
    pub packets: u64,
    /// How many of them may have passed before the enforcer was there: those that the interface
    /// counted while it was being attached.
    pub uncertain: u64,
    /// The enforcer's count of the same.
    pub counted: u64,
}
