//! Which rule decides a packet, and why: for a policy by the oracle, for an interface by its
//! tables.

use std::net::IpAddr;

use serde::Serialize;
use sg_common::essential::{Headers, IGMP_TTL, NEIGHBOUR_HOP_LIMIT, is_essential};
use sg_common::protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6, Kind, icmp_number, kind_of, other_number};
use sg_common::verdict::{Action, Direction, FIRST_RULE_SLOT, Reason};

use super::attached::{Attached, Condition, Health};
use super::decided::DecidedBy;
use crate::kernel::tables::LiveTables;
use crate::kernel::{Fault, KernelError};
use sg_policy::oracle;
use sg_policy::policy::{AuditScope, Location, NonIp, Policy, Rule};

/// A packet that opens a flow, about which `explain` is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub direction: Direction,
    pub transport: Transport,
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
    pub local: IpAddr,
    pub local_port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Arp,
    /// Neither IPv4 nor IPv6 nor ARP.
    NonIp,
    /// ICMP or ICMPv6, depending on the family of the addresses.
    Icmp {
        kind: u8,
        code: u8,
    },
    /// Any other IANA protocol number.
    Protocol(u8),
}

/// `explain --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The interface whose tables were evaluated. Null for a policy.
    pub interface: Option<String>,
    /// Whether the interface enforces these tables, with all faults, as in `status`. Null for a
    /// policy.
    pub health: Option<Health>,
    pub faults: Vec<Fault>,
    /// See [`Condition::elsewhere`].
    #[serde(skip)]
    pub elsewhere: Option<String>,
    pub verdict: Action,
    pub direction: Direction,
    pub rule: Option<ExplainedRule>,
    pub reason: DecidedBy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedRule {
    pub group: String,
    pub position: u32,
    pub name: Option<String>,
    pub summary: String,
    pub description: Option<String>,
    /// Where the rule is in its file. Null for an interface, which does not know that.
    pub location: Option<Location>,
}

/// Evaluates the rules of `policy` in order.
pub fn explain_policy(policy: &Policy, question: &Question) -> Explanation {
    if let Some(early) = before_the_rules(question, policy.essential, policy.non_ip, policy.audit) {
        return early;
    }
    let packet = oracle::Packet {
        direction: question.direction,
        remote: question.remote,
        protocol: question.protocol(),
        port: question.destination_port(),
        icmp: question.icmp(),
    };
    match oracle::first_match(policy, &packet).map(|i| &policy.rules[i]) {
        None => no_match(question, policy.no_match()),
        Some(rule) => by_rule(question, rule.action, ExplainedRule::of(rule)),
    }
}

impl ExplainedRule {
    /// A rule of a policy.
    pub fn of(rule: &Rule) -> Self {
        ExplainedRule {
            group: rule.group.clone(),
            position: rule.position,
            name: rule.name.clone(),
            summary: rule.summary.clone(),
            description: rule.description.clone(),
            location: Some(rule.source.clone()),
        }
    }
}

/// Evaluates the tables that the interface enforces at this moment.
pub fn explain_attached(
    attached: &Attached,
    question: &Question,
) -> Result<Explanation, KernelError> {
    let state = attached.state()?;
    let condition = attached.condition_if_known()?;
    let elsewhere = condition.elsewhere();
    let Condition {
        interface,
        health,
        faults,
        ..
    } = condition;
    let of_interface = |explanation| Explanation {
        interface: Some(interface),
        health: Some(health),
        faults,
        elsewhere,
        ..explanation
    };
    let audit = state.policy.audit.unwrap_or_default();
    if let Some(early) = before_the_rules(question, state.essential, state.non_ip, audit) {
        return Ok(of_interface(early));
    }
    let tables = LiveTables::of_running(&attached.pins, state)?;
    let (kind, number) = question.lookup();
    let verdict = tables.decide(question.direction, question.remote, kind, number);
    if verdict.slot() < FIRST_RULE_SLOT {
        return Ok(of_interface(no_match(question, verdict.action())));
    }
    let Some(owner) = state.rules.iter().find(|o| o.slot == verdict.slot()) else {
        return Err(KernelError::DamagedState {
            path: attached.pins.state(),
            reason: format!("no rule owns counter slot {}", verdict.slot()),
        });
    };
    Ok(of_interface(by_rule(
        question,
        owner.action,
        ExplainedRule {
            group: owner.group.clone(),
            position: owner.position,
            name: owner.name.clone(),
            summary: owner.summary.clone(),
            description: owner.description.clone(),
            location: None,
        },
    )))
}

fn before_the_rules(
    question: &Question,
    essential: bool,
    non_ip: NonIp,
    audit: AuditScope,
) -> Option<Explanation> {
    let reason = match (question.transport, non_ip) {
        (Transport::NonIp, NonIp::ArpOnly) if audit != AuditScope::Rules => Reason::NonIpAudited,
        (Transport::NonIp, NonIp::ArpOnly) => Reason::NonIpDropped,
        (Transport::NonIp | Transport::Arp, _) => Reason::NonIp,
        _ if essential && question.is_essential() => Reason::Essential,
        _ => return None,
    };
    Some(Explanation {
        interface: None,
        health: None,
        faults: Vec::new(),
        elsewhere: None,
        verdict: reason.action(),
        direction: question.direction,
        rule: None,
        reason: DecidedBy::Reason(reason),
    })
}

fn no_match(question: &Question, verdict: Action) -> Explanation {
    Explanation {
        interface: None,
        health: None,
        faults: Vec::new(),
        elsewhere: None,
        verdict,
        direction: question.direction,
        rule: None,
        reason: DecidedBy::Reason(match verdict {
            Action::Audit => Reason::NoMatchAudited,
            Action::Accept | Action::Drop => Reason::NoMatch,
        }),
    }
}

fn by_rule(question: &Question, action: Action, rule: ExplainedRule) -> Explanation {
    Explanation {
        interface: None,
        health: None,
        faults: Vec::new(),
        elsewhere: None,
        verdict: action,
        direction: question.direction,
        rule: Some(rule),
        reason: DecidedBy::Rule,
    }
}

impl Question {
    /// The destination port of the packet: the local one inbound, the remote one outbound.
    fn destination_port(&self) -> u16 {
        let port = match self.direction {
            Direction::Inbound => self.local_port,
            Direction::Outbound => self.remote_port,
        };
        port.unwrap_or(0)
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Arp | Transport::NonIp => 0,
            Transport::Icmp { .. } if self.remote.is_ipv4() => IPPROTO_ICMP,
            Transport::Icmp { .. } => IPPROTO_ICMPV6,
            Transport::Protocol(number) => number,
        }
    }

    fn icmp(&self) -> (u8, u8) {
        match self.transport {
            Transport::Icmp { kind, code } => (kind, code),
            _ => (0, 0),
        }
    }

    /// The kind and the number of the table lookup.
    fn lookup(&self) -> (Kind, u16) {
        let protocol = self.protocol();
        let kind = kind_of(protocol, self.remote.is_ipv6());
        let number = match kind {
            Kind::Icmp => {
                let (kind, code) = self.icmp();
                icmp_number(kind, code)
            }
            Kind::Other => other_number(protocol),
            Kind::Tcp | Kind::Udp | Kind::Sctp => self.destination_port(),
        };
        (kind, number)
    }

    /// K5: whether the packet is essential traffic. Assumes that neighbour discovery and IGMP have
    /// the required hop limit.
    fn is_essential(&self) -> bool {
        let (source, source_port, destination_port) = match self.direction {
            Direction::Inbound => (self.remote, self.remote_port, self.local_port),
            Direction::Outbound => (self.local, self.local_port, self.remote_port),
        };
        let ports = (source_port.unwrap_or(0), destination_port.unwrap_or(0));
        let source = words(source);
        let (kind, number) = self.lookup();
        [NEIGHBOUR_HOP_LIMIT, IGMP_TTL].iter().any(|&hop_limit| {
            is_essential(&Headers {
                is_v6: self.remote.is_ipv6(),
                kind: kind as u8,
                number,
                hop_limit,
                source: &source,
                ports,
            })
        })
    }
}

/// An address as the packet path has it: words whose bytes in memory are those on the wire.
fn words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    };
    let (words, _) = octets.as_chunks::<4>();
    let word = |i: usize| words.get(i).map_or(0, |word| u32::from_ne_bytes(*word));
    match address {
        IpAddr::V4(_) => [word(3), 0, 0, 0],
        IpAddr::V6(_) => [0, 1, 2, 3].map(word),
    }
}
