//! The least that keeps the operator's connection, for the refusal of the lock-out guard: one port
//! for one address and nothing else, which is found out and not believed.

use std::net::IpAddr;

use sg_common::protocol::IPPROTO_TCP;
use sg_common::verdict::{Action, Direction};
use sg_policy::analysis::access;
use sg_policy::oracle::Packet;
use sg_policy::policy::{Loaded, Policy, Protocol, Rule, SetOverride};
use sg_userspace::kernel::impact::OwnConnection;

use super::policy_args::Policies;

/// What keeps a connection. `None` where nothing does that admits no other packet.
pub(super) fn remedy(policies: &Policies, policy: &Policy, one: &OwnConnection) -> Option<String> {
    if one.new.is_none() {
        return match one.cut.as_ref()?.reason {
            "flush" => Some("`established: revalidate` in the policy keeps it".to_owned()),
            "cut-existing" => Some("without --cut-existing it goes on".to_owned()),
            _ => None,
        };
    }
    let packet = Packet {
        direction: one.opened,
        remote: one.remote,
        protocol: IPPROTO_TCP,
        port: one.port(),
        icmp: (0, 0),
    };
    if let Some(set) = set_for(policies, policy, &packet) {
        return Some(format!("{set} admits a new one, and nothing else"));
    }
    let (list, key) = match one.opened {
        Direction::Inbound => ("inbound", "from"),
        Direction::Outbound => ("outbound", "to"),
    };
    let line = format!(
        "{{protocol: tcp, ports: {}, {key}: {}, action: accept}}",
        packet.port,
        yaml(one.remote)
    );
    Some(format!(
        "`- {line}` as the first rule of `{list}` admits a new one, and nothing else"
    ))
}

/// An address as YAML has it in braces: a colon needs quotes.
fn yaml(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"{address}\""),
    }
}

/// `--set NAME=...` with the address added, if a set of the policy is there for exactly this port,
/// so that nothing else is admitted.
fn set_for(policies: &Policies, policy: &Policy, packet: &Packet) -> Option<String> {
    /// A set with more members than this belongs into its file.
    const MEMBERS: usize = 8;
    if policies.are_from_stdin() {
        return None;
    }
    let is_for_it = |rule: &&Rule| {
        let has_port = |ports: &Vec<(u16, u16)>| ports.contains(&(packet.port, packet.port));
        rule.direction == packet.direction
            && rule.action == Action::Accept
            && rule.protocol == Protocol::Number(packet.protocol)
            && rule.ports.as_ref().is_some_and(has_port)
    };
    let sets = || policy.groups.iter().flat_map(|group| &group.sets.addresses);
    for rule in policy.rules.iter().filter(is_for_it) {
        for name in rule.written.remote.split(',') {
            let Some(set) = sets().find(|set| set.name == name) else {
                continue;
            };
            let members = set.entries.split(',').filter(|member| !member.is_empty());
            let members: Vec<&str> = members.collect();
            let address = packet.remote.to_string();
            let with: Vec<&str> = members.iter().copied().chain([&*address]).collect();
            let argument = format!("{name}={}", with.join(","));
            let Ok(set) = argument.parse::<SetOverride>() else {
                continue;
            };
            let with = policies.with_set(set);
            let is_least = |with: &Loaded| access::is_wider_only_by(policy, &with.policy, packet);
            let is_short = members.len() <= MEMBERS;
            if is_short && with.load().is_ok_and(|with| is_least(&with)) {
                return Some(format!("`--set {argument}`"));
            }
        }
    }
    None
}
