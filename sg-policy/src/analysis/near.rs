//! The rules that nearly decide a packet: those that match all of it but for a field or two, and
//! those that match it and come behind the rule that decides.

use std::net::IpAddr;

use serde::Serialize;
use sg_common::protocol::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use crate::oracle::{self, Packet};
use crate::policy::{Policy, Protocol, Remote, Rule};

/// By what a rule misses a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Miss {
    /// It matches, and an earlier rule decides.
    Order,
    /// It is for another protocol.
    Protocol,
    /// The destination port is none of its own.
    Port,
    /// The type or code of an ICMP message.
    Icmp,
    /// The remote address is none of its own.
    Address,
}

impl Miss {
    /// The name used in JSON and texts.
    pub const fn name(self) -> &'static str {
        match self {
            Miss::Order => "order",
            Miss::Protocol => "protocol",
            Miss::Port => "port",
            Miss::Icmp => "icmp",
            Miss::Address => "address",
        }
    }
}

/// A rule that does not decide a packet, and why not.
#[derive(Clone, Debug)]
pub struct Near<'p> {
    /// The rule.
    pub rule: &'p Rule,
    /// By what it misses the packet; never empty.
    pub misses: Vec<Miss>,
}

/// The rules of the packet's direction that come nearest to deciding it, at most `most`: those that
/// miss by fewer fields first; among these, those that would let it pass where it is dropped, or
/// drop it where it passes; then those whose ports or addresses are nearer; then the earlier ones.
pub fn nearest<'p>(policy: &'p Policy, packet: &Packet, most: usize) -> Vec<Near<'p>> {
    let decider = oracle::first_match(policy, packet);
    let passes = match decider.and_then(|index| policy.rules.get(index)) {
        Some(rule) => rule.action.passes(),
        None => policy.no_match().passes(),
    };
    let mut ranked: Vec<(usize, bool, u32, usize, Near<'p>)> = Vec::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        if rule.direction != packet.direction || Some(index) == decider {
            continue;
        }
        let mut misses = misses(rule, packet);
        if misses.is_empty() {
            misses.push(Miss::Order);
        }
        let far = distance(rule, packet, &misses);
        let changes_nothing = rule.action.passes() == passes;
        let near = Near { rule, misses };
        ranked.push((near.misses.len(), changes_nothing, far, index, near));
        // So that a policy of ten thousand rules takes no more memory than one of ten.
        if ranked.len() > 2 * most + 64 {
            keep(&mut ranked, most);
        }
    }
    keep(&mut ranked, most);
    ranked.into_iter().map(|(.., near)| near).collect()
}

fn keep(ranked: &mut Vec<(usize, bool, u32, usize, Near<'_>)>, most: usize) {
    ranked.sort_by_key(|(fields, changes_nothing, far, index, _)| {
        (*fields, *changes_nothing, *far, *index)
    });
    ranked.truncate(most);
}

/// The fields of a rule that do not match a packet of its direction. Empty if all do.
fn misses(rule: &Rule, packet: &Packet) -> Vec<Miss> {
    let mut misses = Vec::new();
    let has_ports = |protocol| [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP].contains(&protocol);
    if let Protocol::Number(number) = rule.protocol {
        let is_it = number == packet.protocol;
        if !is_it {
            misses.push(Miss::Protocol);
        }
        // Ports can be compared where both have some.
        let both = has_ports(number) && has_ports(packet.protocol);
        if both && let Some(ranges) = &rule.ports {
            let holds = |&(first, last): &(u16, u16)| (first..=last).contains(&packet.port);
            if !ranges.iter().any(holds) {
                misses.push(Miss::Port);
            }
        }
        if is_it && let Some(wanted) = rule.icmp {
            let (kind, code) = packet.icmp;
            if wanted.kind != kind || wanted.code.is_some_and(|wanted| wanted != code) {
                misses.push(Miss::Icmp);
            }
        }
    }
    if !rule.remote.contains(packet.remote) {
        misses.push(Miss::Address);
    }
    misses
}

/// How far a rule is from the packet in what it misses: less is nearer. The bits of the distance to
/// the next port, and those of an address that are not in the next prefix; only rules that miss by
/// as many fields are compared by it.
fn distance(rule: &Rule, packet: &Packet, misses: &[Miss]) -> u32 {
    let mut far = 0;
    for miss in misses {
        far += match miss {
            Miss::Order => 0,
            Miss::Protocol => 16,
            Miss::Icmp => 8,
            Miss::Port => bits(port_distance(rule.ports.as_deref(), packet.port)),
            Miss::Address => address_distance(&rule.remote, packet.remote),
        };
    }
    far
}

fn bits(number: u16) -> u32 {
    u16::BITS - number.leading_zeros()
}

fn port_distance(ranges: Option<&[(u16, u16)]>, port: u16) -> u16 {
    let far = |&(first, last): &(u16, u16)| match port {
        below if below < first => first - below,
        above => above.saturating_sub(last),
    };
    ranges
        .unwrap_or_default()
        .iter()
        .map(far)
        .min()
        .unwrap_or(0)
}

/// Of 32 bits, in proportion.
fn address_distance(remote: &Remote, address: IpAddr) -> u32 {
    const NO_SUCH_FAMILY: u32 = 40;
    match address {
        IpAddr::V4(address) => {
            let far = remote.v4.iter().map(|prefix| {
                let common = (address.to_bits() ^ prefix.bits).leading_zeros();
                u32::from(prefix.len).saturating_sub(common)
            });
            far.min().unwrap_or(NO_SUCH_FAMILY)
        }
        IpAddr::V6(address) => {
            let far = remote.v6.iter().map(|prefix| {
                let common = (address.to_bits() ^ prefix.bits).leading_zeros();
                u32::from(prefix.len).saturating_sub(common)
            });
            far.min().map_or(NO_SUCH_FAMILY, |far| far.div_ceil(4))
        }
    }
}

#[cfg(test)]
mod tests {
    use sg_common::verdict::Direction;

    use super::*;
    use crate::policy::rules_from_lines;

    fn inbound(protocol: u8, remote: &str, port: u16) -> Packet {
        Packet {
            direction: Direction::Inbound,
            remote: remote.parse().unwrap(),
            protocol,
            port,
            icmp: (8, 0),
        }
    }

    /// As `1 port` for a rule at position 1 that misses by its port.
    fn near(lines: &str, packet: &Packet) -> String {
        let policy = rules_from_lines(lines);
        let found = nearest(&policy, packet, 3);
        let words = found.iter().map(|near| {
            let misses: Vec<&str> = near.misses.iter().map(|miss| miss.name()).collect();
            format!("{} {}", near.rule.position, misses.join("+"))
        });
        words.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_nearest_rules_and_what_they_miss_by() {
        let rules = "\
in tcp 30000-32768 from 0.0.0.0/0 accept
in udp 3306 from 0.0.0.0/0 accept
in all from 10.0.0.0/8 accept
in tcp 3300 from 0.0.0.0/0 accept
in tcp 3306 from 203.0.113.8 accept
in icmp from any accept
in all from 0.0.0.0/0 drop
in tcp 3306 from any accept
out all to 0.0.0.0/0 accept";
        let packet = inbound(6, "203.0.113.9", 3306);
        // The last one matches and comes too late; the others miss by one field, nearer ones first.
        assert_eq!(near(rules, &packet), "8 order, 5 address, 4 port");
        // What passes: the rule that would drop it comes before those that would accept it too.
        let packet = inbound(6, "203.0.113.8", 3306);
        assert_eq!(near(rules, &packet), "7 order, 8 order, 4 port");
        let packet = inbound(1, "203.0.113.9", 0);
        assert_eq!(near(rules, &packet), "7 order, 3 address, 1 protocol");
        let packet = inbound(6, "2001:db8::1", 3306);
        assert_eq!(
            near("in tcp 1-65535 from 10.0.0.0/8 accept", &packet),
            "1 address"
        );
        assert_eq!(
            near("in udp 53 from 10.0.0.0/8 accept", &packet),
            "1 protocol+port+address"
        );
        assert_eq!(near("out tcp 3306 to any accept", &packet), "");
    }

    /// A rule misses by no field exactly if the oracle says that it matches.
    #[test]
    fn what_misses_nothing_matches() {
        let mut rng = fastrand::Rng::with_seed(7);
        let lines = "\
in tcp 22,80-90 from 192.0.2.0/28 accept
in udp from 192.0.2.0/24 drop
in icmp 8 from any accept
in icmpv6 128/0 from any accept
in all from 2001:db8::/126 accept
in 47 from 192.0.2.3 accept";
        let policy = rules_from_lines(lines);
        let mut matching = 0;
        for _ in 0..20_000 {
            let remote = match rng.bool() {
                true => format!("192.0.2.{}", rng.u8(..32)),
                false => format!("2001:db8::{:x}", rng.u8(..8)),
            };
            let protocol = *rng.choice(&[1u8, 6, 17, 47, 58, 132]).unwrap();
            let packet = Packet {
                icmp: (*rng.choice(&[0, 8, 128]).unwrap(), rng.u8(..2)),
                ..inbound(protocol, &remote, *rng.choice(&[22, 23, 80, 91]).unwrap())
            };
            for rule in &policy.rules {
                let is_match = oracle::matches(rule, &packet);
                matching += u32::from(is_match);
                // ICMP of one family never has the number of the other's in a frame.
                let is_odd = (packet.protocol == 1) != packet.remote.is_ipv4()
                    && [1, 58].contains(&packet.protocol);
                assert!(
                    is_odd || misses(rule, &packet).is_empty() == is_match,
                    "{rule:?} {packet:?}"
                );
            }
        }
        assert!(matching > 5_000, "{matching}");
    }
}
