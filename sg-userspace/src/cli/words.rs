//! Words for what several views show, so that a thing is called the same in all of them.

use sg_common::verdict::{Direction, Reason};

/// What decided a packet or admitted a flow when that rule is not known any more.
pub(super) const GONE_RULE: &str = "a rule that is gone";

/// What admitted a flow that is older than the first policy.
pub(super) const SEEDED: &str = "was there before the first policy";

/// A direction where there is little room.
pub(super) fn short_direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    }
}

/// The position of a rule, or what stands in its place if the rule is not in the policy any more.
pub(super) fn position_of(position: Option<u32>) -> String {
    position.map_or_else(|| "gone".to_owned(), |position| position.to_string())
}

/// What follows the name of an interface: ` in NETNS`, or nothing in a namespace without a name.
pub(super) fn in_netns(netns: Option<&str>) -> String {
    netns.map_or_else(String::new, |netns| format!(" in {netns}"))
}

/// Describes a reason for which packets are counted.
pub(super) fn about(reason: Reason) -> &'static str {
    match reason {
        Reason::NonIp | Reason::NonIpDropped | Reason::NonIpAudited => {
            "neither IPv4 nor IPv6: ARP and the like"
        }
        Reason::Essential => "neighbour discovery, MLD, IGMP, DHCP replies",
        Reason::Related => "ICMP errors about admitted traffic",
        Reason::RelatedAudited => "ICMP errors about audited traffic",
        Reason::Seeded => "flows from before the first attachment",
        Reason::NoMatch | Reason::NoMatchAudited => "no rule matched",
        Reason::Malformed | Reason::MalformedAudited => "headers that do not parse",
        Reason::Fragment | Reason::FragmentAudited => "fragments whose first one is unknown",
        Reason::Revoked | Reason::RevokedAudited => "flows cut by a later policy or by --kill",
        Reason::Incomplete => "programs of the enforcer are missing: apply the policy again",
    }
}
