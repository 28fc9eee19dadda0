//! The flow table, flow by flow.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use sg_common::flow::{CUT, FlowKind, Timeout, elapsed, is_expired, seconds, state_name};
use sg_common::verdict::Direction;

use super::attached::Attached;
use crate::kernel::KernelError;
use crate::kernel::flow_tables::each_flow;
pub use crate::kernel::flow_tables::monotonic_now;

/// One tracked flow. Ports are missing for protocols without them. An ICMP query has its identifier
/// instead.
#[derive(Clone, Debug, Serialize)]
pub struct Flow {
    pub protocol: u8,
    pub local: IpAddr,
    pub local_port: Option<u16>,
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
    pub icmp_id: Option<u16>,
    /// The direction of the packet that opened it.
    pub opened: Opened,
    pub kind: FlowKind,
    pub state: FlowState,
    /// Whether it existed before the first policy and no rule admits it.
    #[serde(rename = "seeded")]
    pub is_seeded: bool,
    /// Seconds since it was entered, and since its last packet (to about a quarter of a second).
    pub age_seconds: u64,
    pub idle_seconds: u64,
    /// The epoch in which a policy admitted it last, by the number of the generation that began
    /// it: loading the same policy again, or adding an interface, begins none.
    pub generation: u32,
    /// The rule that admitted it. Null if that rule is not known any more, or if the flow is
    /// seeded or cut.
    pub rule: Option<FlowRule>,
}

/// The direction of the packet that opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opened {
    Inbound,
    Outbound,
    /// The connection existed before the first attachment, and its originator is not known.
    Unknown,
}

impl Opened {
    pub fn name(self) -> &'static str {
        match self {
            Opened::Inbound => Direction::Inbound.name(),
            Opened::Outbound => Direction::Outbound.name(),
            Opened::Unknown => "unknown",
        }
    }
}

impl From<Option<Direction>> for Opened {
    fn from(direction: Option<Direction>) -> Opened {
        match direction {
            Some(Direction::Inbound) => Opened::Inbound,
            Some(Direction::Outbound) => Opened::Outbound,
            None => Opened::Unknown,
        }
    }
}

/// The state of a flow, written as the name of its timeout, such as `tcp-established`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    Lives(Timeout),
    /// `tcp-cut`: a connection that was revoked, flushed or cut. Its segments are dropped until a
    /// SYN that the rules accept.
    Cut,
}

impl FlowState {
    fn of(number: u8) -> FlowState {
        Timeout::from_index(number).map_or(FlowState::Cut, FlowState::Lives)
    }

    pub fn name(self) -> &'static str {
        match self {
            FlowState::Lives(timeout) => timeout.name(),
            FlowState::Cut => state_name(CUT),
        }
    }
}

impl Serialize for FlowState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct FlowRule {
    pub group: String,
    pub position: Option<u32>,
    pub name: Option<String>,
    pub summary: String,
}

/// The live flows of an interface, the most recently seen first.
pub fn flows(attached: &Attached) -> Result<Vec<Flow>, KernelError> {
    let state = attached.state()?;
    let mut rules: HashMap<u32, FlowRule> = HashMap::new();
    let owners = state.rules.iter().map(|o| (o, Some(o.position)));
    for (owner, position) in owners.chain(state.retired.iter().map(|o| (o, None))) {
        rules.insert(
            owner.slot,
            FlowRule {
                group: owner.group.clone(),
                position,
                name: owner.name.clone(),
                summary: owner.summary.clone(),
            },
        );
    }
    let timeouts = state.timeouts;
    let now = monotonic_now();
    let mut found = Vec::new();
    each_flow(&attached.pins, |entry| {
        let v = entry.value;
        if is_expired(now, v.last_seen, seconds(&timeouts, v.state)) {
            return;
        }
        let state = Timeout::from_index(v.state);
        let is_icmp = state == Some(Timeout::Icmp);
        let has_ports = !is_icmp && state != Some(Timeout::Other);
        let seconds_since = |t: u64| elapsed(now, t).max(0) as u64 / 1_000_000_000;
        let is_nobodys = v.is_seeded() || v.state == CUT;
        let rule = rules.get(&v.slot).filter(|_| !is_nobodys);
        found.push(Flow {
            protocol: entry.protocol,
            local: entry.local,
            local_port: has_ports.then_some(entry.local_port),
            remote: entry.remote,
            remote_port: has_ports.then_some(entry.remote_port),
            icmp_id: is_icmp.then_some(entry.local_port),
            opened: v.opened_by().into(),
            kind: entry.kind,
            state: FlowState::of(v.state),
            is_seeded: v.is_seeded(),
            age_seconds: seconds_since(v.created),
            idle_seconds: seconds_since(v.last_seen),
            generation: v.generation,
            rule: rule.cloned(),
        });
    })?;
    found.sort_by_key(|f| (f.idle_seconds, f.remote, f.remote_port, f.local_port));
    Ok(found)
}
