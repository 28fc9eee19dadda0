//! The digest of a policy: SHA-256 over the resolved rules and options in a canonical form.
//! Comments, formatting and paths do not change it; a set is replaced by what it resolves to.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::model::{Established, NonIp, Policy, Protocol, Remote};

/// Changes with the canonical form.
const FORM: &str = "sg-policy 2";

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every part is preceded by its length, so that no two policies share a form.
struct Form(Sha256);

impl Form {
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn protocol(&mut self, protocol: Protocol) {
        self.number(match protocol {
            Protocol::All => 256,
            Protocol::Number(number) => u64::from(number),
        });
    }

    fn ports(&mut self, ports: Option<&[(u16, u16)]>) {
        self.number(u64::from(ports.is_some()));
        let ports = ports.unwrap_or_default();
        self.number(ports.len() as u64);
        for (first, last) in ports {
            self.number(u64::from(*first) << 16 | u64::from(*last));
        }
    }

    fn text(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.bytes(text.unwrap_or_default().as_bytes());
    }
}

/// `sha256:` and 64 hex digits.
pub(crate) fn of(policy: &Policy) -> String {
    // A name that is derived from a path is left out.
    let groups: HashMap<&str, (u64, Option<&str>)> = (0..)
        .zip(&policy.groups)
        .map(|(number, group)| {
            let name = Some(group.name.as_str()).filter(|_| group.is_named);
            (group.name.as_str(), (number, name))
        })
        .collect();
    let mut form = Form(Sha256::new());
    form.bytes(FORM.as_bytes());
    form.number(u64::from(policy.essential));
    form.number(match policy.non_ip {
        NonIp::Accept => 0,
        NonIp::ArpOnly => 1,
    });
    form.number(match policy.established {
        Established::Revalidate => 0,
        Established::Keep => 1,
        Established::Flush => 2,
    });
    for log in policy.log_no_match {
        form.number(u64::from(log));
    }
    for seconds in policy.timeouts {
        form.number(u64::from(seconds));
    }
    let mut remotes: HashMap<*const Remote, [u8; 32]> = HashMap::new();
    form.number(policy.rules.len() as u64);
    for rule in &policy.rules {
        let (number, name) = groups.get(&*rule.group).copied().unwrap_or_default();
        form.number(number);
        form.text(name);
        form.number(rule.direction as u64);
        form.text(rule.name.as_deref());
        form.text(rule.description.as_deref());
        form.protocol(rule.protocol);
        form.ports(rule.ports.as_deref());
        let icmp = rule.icmp.map(|icmp| (u64::from(icmp.kind), icmp.code));
        form.number(icmp.map_or(256, |(kind, _)| kind));
        form.number(icmp.and_then(|(_, code)| code).map_or(256, u64::from));
        let remote = remotes
            .entry(Arc::as_ptr(&rule.remote))
            .or_insert_with(|| of_remote(&rule.remote));
        form.bytes(remote);
        form.number(rule.action as u64);
        form.number(u64::from(rule.log));
    }
    // A policy without a guard has the digest that it had before there were guards.
    if !policy.guard.is_empty() {
        form.number(policy.guard.len() as u64);
    }
    for guard in &policy.guard {
        form.text(guard.description.as_deref());
        form.protocol(guard.protocol);
        form.ports(guard.ports.as_deref());
        let remote = remotes
            .entry(Arc::as_ptr(&guard.remote))
            .or_insert_with(|| of_remote(&guard.remote));
        form.bytes(remote);
    }
    format!("sha256:{}", hex(&form.0.finalize()))
}

fn of_remote(remote: &Remote) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut block = Vec::with_capacity(1 << 16);
    hasher.update((remote.v4.len() as u64).to_le_bytes());
    for prefixes in remote.v4.chunks(4096) {
        block.clear();
        for prefix in prefixes {
            block.extend_from_slice(&prefix.bits.to_le_bytes());
            block.push(prefix.len);
        }
        hasher.update(&block);
    }
    for prefixes in remote.v6.chunks(2048) {
        block.clear();
        for prefix in prefixes {
            block.extend_from_slice(&prefix.bits.to_le_bytes());
            block.push(prefix.len);
        }
        hasher.update(&block);
    }
    hasher.finalize().into()
}
