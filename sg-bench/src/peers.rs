//! What other filters do with the packets of a row: the same rules in nftables' words, and
//! addresses for xdp-filter.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use fastrand::Rng;
use sg_policy::policy::Direction;

use crate::nftables::{self, Ruleset};
use crate::policies::{self, Peer, Workload};

/// nftables' best form of [`rules`](policies::rules): all of them in one set of addresses and
/// ports.
pub(crate) fn nft_rules(count: u32) -> Result<Workload> {
    let workload = policies::rules(count)?;
    let inbound = workload.policy.rules_of(Direction::Inbound);
    let elements: Vec<String> = inbound
        .filter_map(|rule| {
            let prefix = rule.remote.v4.first()?;
            let (first, last) = *rule.ports.as_ref()?.first()?;
            let network = Ipv4Addr::from(prefix.bits);
            Some(format!("{network}/{} . {first}-{last}", prefix.len))
        })
        .collect();
    let rule = "ip saddr . udp dport @listed counter accept";
    Ok(Workload {
        peer: Some(Peer::Nftables(nftables::set(
            "ipv4_addr . inet_service",
            &elements,
            rule,
        ))),
        ..workload
    })
}

/// As many addresses for xdp-filter, which knows no prefixes and no ranges, and the packets of
/// [`rules`](policies::rules). It finds none of them in its list, which is its shortest path.
pub(crate) fn xdp_filter(count: u32) -> Result<Workload> {
    let mut rng = Rng::with_seed(0x0078_6470 + u64::from(count));
    let addresses = (0..count).map(|_| rng.u32(..).into()).collect();
    Ok(Workload {
        peer: Some(Peer::XdpFilter(addresses)),
        note: "the packets of live/rules, single addresses in place of rules, stateless".into(),
        ..policies::rules(count)?
    })
}

/// One set of addresses that are dropped, as nftables has it.
fn nft_blocklist(workload: Workload) -> Workload {
    let lists = workload.policy.rules_of(Direction::Inbound);
    let prefixes = lists.flat_map(|rule| &rule.remote.v4);
    let elements: Vec<String> = prefixes
        .map(|prefix| format!("{}/{}", Ipv4Addr::from(prefix.bits), prefix.len))
        .collect();
    let rule = "ip saddr @listed counter drop";
    Workload {
        peer: Some(Peer::Nftables(nftables::set("ipv4_addr", &elements, rule))),
        ..workload
    }
}

pub(crate) fn nft_prefixes(count: u32, folder: &Path) -> Result<Workload> {
    Ok(nft_blocklist(policies::prefixes(count, folder)?))
}

pub(crate) fn nft_ipsum(data: &Path, folder: &Path) -> Result<Workload> {
    Ok(nft_blocklist(policies::ipsum(data, folder)?))
}

pub(crate) fn nft_flow(flows: u32) -> Result<Workload> {
    Ok(Workload {
        peer: Some(Peer::Nftables(Ruleset::Established)),
        note: format!("UDP replies in {flows} flows at random, conntrack, dropped behind it"),
        ..policies::flow(flows)?
    })
}

/// The template's inbound rules. Without connection tracking, which comes
/// behind the ingress hook.
pub(crate) fn nft_tke_drop() -> Result<Workload> {
    Ok(Workload {
        peer: Some(Peer::Nftables(nftables::list(
            "tcp dport 30000-32768 counter accept\n\
             udp dport 30000-32768 counter accept\n\
             ip saddr 10.0.0.0/8 counter accept\n\
             ip saddr 172.16.0.0/12 counter accept\n\
             ip saddr 192.168.0.0/16 counter accept\n\
             tcp dport 22 counter accept",
        ))),
        ..policies::tke_drop()?
    })
}
