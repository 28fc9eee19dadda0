//! Which rule decides a packet, and why: for a policy by the oracle, and by the tables of an
//! interface where its programs cannot be asked (`inquiry`).

use std::net::IpAddr;

use serde::Serialize;
use sg_common::essential::{Headers, IGMP_TTL, NEIGHBOUR_HOP_LIMIT, is_essential};
use sg_common::protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6, Kind, icmp_number, kind_of, other_number};
use sg_common::verdict::{Action, Direction, Reason};

use super::attached::Attached;
use super::decided::DecidedBy;
use super::status::{Health, Standing};
pub use super::way::ExplainedRule;
use super::way::{Decision, Way};
use crate::kernel::state::{self, State};
use crate::kernel::tables::LiveTables;
use crate::kernel::{Fault, KernelError};
use sg_policy::oracle;
use sg_policy::policy::{AuditScope, NonIp, Policy};

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

impl Transport {
    /// Whether its packets have ports.
    pub fn has_ports(self) -> bool {
        match self {
            Transport::Protocol(number) => kind_of(number, false).has_ports(),
            Transport::Arp | Transport::NonIp | Transport::Icmp { .. } => false,
        }
    }
}

/// `explain --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The interface whose tables were evaluated. Null for a policy.
    pub interface: Option<String>,
    /// Whether the interface enforces these tables, with all faults, as in `status`. Null for a
    /// policy.
    pub health: Option<Health>,
    pub faults: Vec<Fault>,
    /// See [`super::status::Condition::elsewhere`].
    #[serde(skip)]
    pub elsewhere: Option<String>,
    pub verdict: Action,
    pub direction: Direction,
    pub rule: Option<ExplainedRule>,
    pub reason: DecidedBy,
    /// The way to it. Left out for a policy.
    #[serde(flatten)]
    pub way: Option<Box<Way>>,
}

impl Explanation {
    /// That of the interface. `None` for a policy.
    pub fn standing(&self) -> Option<Standing> {
        Some(Standing {
            interface: self.interface.clone()?,
            netns: None,
            health: self.health?,
            faults: self.faults.clone(),
            elsewhere: self.elsewhere.clone(),
        })
    }

    /// Only the decision: nothing is known of an interface and of the way through it.
    pub(super) fn of(direction: Direction, decision: Decision) -> Explanation {
        Explanation {
            interface: None,
            health: None,
            faults: Vec::new(),
            elsewhere: None,
            verdict: decision.verdict,
            direction,
            rule: decision.rule,
            reason: decision.reason,
            way: None,
        }
    }
}

/// Evaluates the rules of `policy` in order.
pub fn explain_policy(policy: &Policy, question: &Question) -> Explanation {
    if let Some(early) = before_the_rules(question, policy.essential, policy.non_ip, policy.audit) {
        return early;
    }
    match oracle::first_match(policy, &question.packet()).map(|i| &policy.rules[i]) {
        None => no_match(question, policy.no_match()),
        Some(rule) => by_rule(question, rule.action, ExplainedRule::of(rule)),
    }
}

/// Evaluates the tables that the interface enforces at this moment.
pub(super) fn by_tables(
    attached: &Attached,
    state: &State,
    question: &Question,
) -> Result<Explanation, KernelError> {
    let audit = state.policy.audit.unwrap_or_default();
    if let Some(early) = before_the_rules(question, state.essential, state.non_ip, audit) {
        return Ok(early);
    }
    let tables = LiveTables::of_running(&attached.pins, state)?;
    let (kind, number) = question.lookup();
    let verdict = tables.decide(question.direction, question.remote, kind, number);
    if state.reason_of(verdict.slot()).is_some() {
        return Ok(no_match(question, verdict.action()));
    }
    let Some((owner, _)) = state.rule_of(verdict.slot()) else {
        return Err(KernelError::DamagedState {
            path: attached.pins.state(),
            reason: format!("no rule owns counter slot {}", verdict.slot()),
        });
    };
    let rule = ExplainedRule::of_owner(owner);
    Ok(by_rule(question, owner.action, rule))
}

/// What is decided before any rule is asked. `None` if the rules decide.
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
    Some(by_reason(question, reason.action(), reason))
}

fn no_match(question: &Question, verdict: Action) -> Explanation {
    by_reason(question, verdict, state::no_match(verdict))
}

fn by_reason(question: &Question, verdict: Action, reason: Reason) -> Explanation {
    let decision = Decision {
        verdict,
        rule: None,
        reason: DecidedBy::Reason(reason),
        by_flow: false,
    };
    Explanation::of(question.direction, decision)
}

fn by_rule(question: &Question, action: Action, rule: ExplainedRule) -> Explanation {
    let decision = Decision {
        verdict: action,
        rule: Some(rule),
        reason: DecidedBy::Rule,
        by_flow: false,
    };
    Explanation::of(question.direction, decision)
}

impl Question {
    /// The packet as rules see it.
    pub fn packet(&self) -> oracle::Packet {
        oracle::Packet {
            direction: self.direction,
            remote: self.remote,
            protocol: self.protocol(),
            port: self.destination_port(),
            icmp: self.icmp(),
        }
    }

    /// The destination port of the packet: the local one inbound, the remote one outbound.
    fn destination_port(&self) -> u16 {
        let port = match self.direction {
            Direction::Inbound => self.local_port,
            Direction::Outbound => self.remote_port,
        };
        port.unwrap_or(0)
    }

    pub(super) fn protocol(&self) -> u8 {
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
        self.hop_limit().is_some()
    }

    /// The hop limit with which it is essential traffic, if it can be: that of neighbour discovery
    /// or that of IGMP, and any other packet is essential with either.
    pub(super) fn hop_limit(&self) -> Option<u8> {
        let (source, source_port, destination_port) = match self.direction {
            Direction::Inbound => (self.remote, self.remote_port, self.local_port),
            Direction::Outbound => (self.local, self.local_port, self.remote_port),
        };
        let ports = (source_port.unwrap_or(0), destination_port.unwrap_or(0));
        let source = words(source);
        let (kind, number) = self.lookup();
        let is_essential_with = |hop_limit: &u8| {
            is_essential(&Headers {
                is_v6: self.remote.is_ipv6(),
                kind: kind as u8,
                number,
                hop_limit: *hop_limit,
                source: &source,
                ports,
            })
        };
        let all = [NEIGHBOUR_HOP_LIMIT, IGMP_TTL];
        all.into_iter().find(is_essential_with)
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
