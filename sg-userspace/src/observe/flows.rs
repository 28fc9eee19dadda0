//! The flow table, flow by flow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use aya::maps::HashMap as BpfHashMap;
use serde::Serialize;
use sg_common::flow::{FlowKey4, FlowKey6, FlowValue, Timeout, is_expired};
use sg_common::verdict::Direction;

use super::attached::Attached;
use crate::kernel::KernelError;
use crate::kernel::state::open_map;

/// One tracked flow. Ports are absent for protocols without them; an ICMP query has its
/// identifier instead.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Flow {
    pub protocol: u8,
    pub local: IpAddr,
    pub local_port: Option<u16>,
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
    pub icmp_id: Option<u16>,
    /// Direction of the packet that opened it.
    pub opened: &'static str,
    /// Name of the state's timeout, e.g. `tcp-established`.
    pub state: &'static str,
    /// Seconds since it was entered, and since its last packet (to about a quarter of a second).
    pub age_seconds: u64,
    pub idle_seconds: u64,
    /// Generation of the policy that admitted it last.
    pub generation: u32,
    /// The rule that admitted it; null once nobody knows it any more.
    pub rule: Option<FlowRule>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FlowRule {
    pub group: String,
    pub position: Option<u32>,
    pub summary: String,
}

/// The live flows of an interface, longest idle last.
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
                summary: owner.summary.clone(),
            },
        );
    }
    let timeouts = state.timeouts;
    let now = monotonic_now();
    let mut found = Vec::new();
    let mut push = |local, remote, lport, rport, protocol: u8, v: FlowValue| {
        let seconds = timeouts.get(v.state as usize).copied().unwrap_or(0);
        if is_expired(now, v.last_seen, seconds) {
            return;
        }
        let state = Timeout::from_index(v.state);
        let is_icmp = state == Some(Timeout::Icmp);
        let has_ports = !is_icmp && state != Some(Timeout::Other);
        let seconds_since = |t: u64| now.saturating_sub(t) / 1_000_000_000;
        found.push(Flow {
            protocol,
            local,
            local_port: has_ports.then_some(lport),
            remote,
            remote_port: has_ports.then_some(rport),
            icmp_id: is_icmp.then_some(lport),
            opened: if v.opened_by(Direction::Inbound) {
                Direction::Inbound.name()
            } else {
                Direction::Outbound.name()
            },
            state: state.map_or("unknown", Timeout::name),
            age_seconds: seconds_since(v.created),
            idle_seconds: seconds_since(v.last_seen),
            generation: v.generation,
            rule: rules.get(&v.slot).cloned(),
        });
    };
    each::<FlowKey4>(&attached.pins.flows4(), |k, v| {
        let (local, remote) = k.addresses();
        push(
            local.into(),
            remote.into(),
            k.local_port,
            k.remote_port,
            k.protocol,
            v,
        );
    })?;
    each::<FlowKey6>(&attached.pins.flows6(), |k, v| {
        let (local, remote) = k.addresses();
        push(
            local.into(),
            remote.into(),
            k.local_port,
            k.remote_port,
            k.protocol,
            v,
        );
    })?;
    found.sort_by_key(|f| (f.idle_seconds, f.remote, f.remote_port, f.local_port));
    Ok(found)
}

fn each<K: aya::Pod>(path: &Path, mut visit: impl FnMut(K, FlowValue)) -> Result<(), KernelError> {
    let map = open_map(path)?;
    let flows: BpfHashMap<_, K, FlowValue> = BpfHashMap::try_from(&map)
        .map_err(|e| KernelError::bpf(format!("reading {}", path.display()), e))?;
    // An entry that goes while it is being read is left out.
    for (key, value) in flows.iter().filter_map(Result::ok) {
        visit(key, value);
    }
    Ok(())
}

/// The clock that flow times are in.
fn monotonic_now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
        .unwrap_or(0)
}
