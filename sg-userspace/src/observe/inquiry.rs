//! What the programs in force do with a packet, asked of a private copy of them (`rehearsal`) and
//! of the flow table: the verdict, the flow that the packet belongs to, what becomes of its reply,
//! and the rules that nearly decide it. Nothing is counted, and no flow changes, not even its
//! times.

use std::collections::HashMap;
use std::sync::Arc;

use sg_common::icmp::{query, reply_type};
use sg_common::protocol::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, is_ipv6_extension};
use sg_common::tcp::{ACK, SYN};
use sg_common::verdict::{Action, Direction, Reason};
use sg_policy::analysis::nearest;
use sg_policy::policy::Policy;

use super::attached::Attached;
use super::decided::DecidedBy;
use super::explain::{Explanation, Question, Transport, by_tables};
use super::flows::{Flow, FlowRule, FlowState, flow_of, rules};
use super::status::Standing;
use super::way::{Decision, ExplainedRule, JudgedBy, NearRule, Way};
use crate::kernel::KernelError;
use crate::kernel::capabilities::TO_ENFORCE;
use crate::kernel::flow_tables::{FlowTable, key_of, monotonic_now};
use crate::kernel::frame::{ARP, Body, HOP_LIMIT, LLDP, Wire};
use crate::kernel::rehearsal::{Judged, KnownFlow, Rehearsal};
use crate::kernel::state::State;

/// How many rules are shown that nearly decide.
const NEAREST: usize = 3;

/// The port at the end that opens a flow, where the question names none.
const OPENING_PORT: u16 = 61_001;

/// Sequence numbers of both ends: nothing depends on them.
const NUMBERS: [u32; 2] = [1000, 2000];

/// Asks about packets on one interface. The copy of the programs is loaded once.
pub struct Inquiry<'a> {
    attached: &'a Attached,
    state: &'a State,
    /// `None` if loading programs is not permitted.
    copy: Option<Rehearsal>,
    table: FlowTable,
    policy: Option<Policy>,
    rules: HashMap<u32, Arc<FlowRule>>,
    frame: Vec<u8>,
}

impl<'a> Inquiry<'a> {
    /// Loads the copy of the programs that an interface runs.
    pub fn open(attached: &'a Attached) -> Result<Inquiry<'a>, KernelError> {
        let state = attached.state()?;
        let copy = match Rehearsal::of(&attached.pins, state) {
            Ok(copy) => Some(copy),
            Err(KernelError::NotPermitted { .. }) => None,
            Err(error) => return Err(error),
        };
        let policy = attached.policy(None).ok().map(|(_, policy)| policy);
        let audit = state.policy.audit.unwrap_or_default();
        Ok(Inquiry {
            attached,
            state,
            copy,
            table: FlowTable::open_to_read(&attached.pins, &state.timeouts)?,
            policy: policy.map(|policy| policy.audited(audit)),
            rules: rules(state),
            frame: Vec::new(),
        })
    }

    /// What becomes of a packet, and why.
    pub fn ask(&mut self, question: &Question) -> Result<Explanation, KernelError> {
        let now = monotonic_now();
        let (flow, known) = self.flow(question, now);
        let (mut next, mut reply, mut by_flow) = (None, None, false);
        let judged_by = match (&self.copy, self.can_be_built(question)) {
            (Some(_), true) => JudgedBy::Programs,
            _ => JudgedBy::Tables,
        };
        let mut explanation = match judged_by {
            JudgedBy::Tables => by_tables(self.attached, self.state, question)?,
            JudgedBy::Programs => {
                let wire = self.wire(question, SYN);
                let decision = self.judge(question.direction, &wire, known.as_ref(), now)?;
                if decision.verdict.passes() {
                    reply = self.reply(question, &wire)?;
                }
                let is_tcp = question.protocol() == IPPROTO_TCP;
                if is_tcp && known.is_some() {
                    let wire = self.wire(question, ACK);
                    next = Some(self.judge(question.direction, &wire, known.as_ref(), now)?);
                }
                by_flow = decision.by_flow;
                Explanation::of(question.direction, decision)
            }
        };
        let flows_between = match question.flow_ports() {
            // There is one at most, and a table of a million flows need not be read for it.
            Some(_) => flow
                .iter()
                .filter(|flow| flow.state != FlowState::Cut)
                .count(),
            None => self.flows_between(question, now),
        };
        let way = Way {
            judged_by,
            remote: question.remote,
            remote_port: question.remote_port,
            local: question.local,
            local_port: question.local_port,
            by_flow,
            flow,
            next,
            flows_between,
            reply,
            nearest: self.nearest(question, explanation.reason),
        };
        explanation.way = Some(Box::new(way));
        Ok(explanation)
    }

    /// What becomes of a packet, and the condition of the interface.
    fn ask_and_look(mut self, question: &Question) -> Result<Explanation, KernelError> {
        let Standing {
            interface,
            health,
            faults,
            elsewhere,
            ..
        } = Standing::of(self.attached);
        Ok(Explanation {
            interface: Some(interface),
            health: Some(health),
            faults,
            elsewhere,
            ..self.ask(question)?
        })
    }

    /// The live flow with exactly these ends, and what the copy has to know of it.
    fn flow(&self, question: &Question, now: u64) -> (Option<Flow>, Option<KnownFlow>) {
        let Some(ports) = question.flow_ports() else {
            return (None, None);
        };
        let key = key_of(question.local, question.remote, ports, question.protocol());
        let entry = self.table.entry_of(&key, now);
        let timeouts = &self.state.timeouts;
        let flow = entry.and_then(|entry| flow_of(&entry, &self.rules, timeouts, now));
        let found = self.table.find(&key).filter(|_| flow.is_some());
        (flow, found.map(|found| (key, found.contents, found.kind())))
    }

    /// Judges a packet by the copy, which knows this flow and no other.
    fn judge(
        &mut self,
        direction: Direction,
        wire: &Wire,
        flow: Option<&KnownFlow>,
        now: u64,
    ) -> Result<Decision, KernelError> {
        let Some(copy) = &mut self.copy else {
            return Err(KernelError::not_permitted(
                "running a copy of the programs",
                TO_ENFORCE,
            ));
        };
        copy.begin_with(flow, now);
        wire.write(&mut self.frame, 0);
        let judged = copy.judge(direction, &self.frame)?;
        Ok(self.decision(direction, judged))
    }

    /// What becomes of the reply to a packet that the copy has just let pass.
    fn reply(&mut self, question: &Question, wire: &Wire) -> Result<Option<Decision>, KernelError> {
        let Some(body) = reply_to(wire) else {
            return Ok(None);
        };
        let reply = Wire {
            source: wire.destination,
            destination: wire.source,
            hop_limit: HOP_LIMIT,
            body,
        };
        let Some(copy) = &mut self.copy else {
            return Ok(None);
        };
        reply.write(&mut self.frame, 0);
        let direction = question.direction.opposite();
        let judged = copy.judge(direction, &self.frame)?;
        Ok(Some(self.decision(direction, judged)))
    }

    /// Who owns the slot in which a packet was counted.
    fn decision(&self, direction: Direction, judged: Judged) -> Decision {
        let Judged {
            passes,
            slot,
            is_reply,
        } = judged;
        let reason = self.state.reason_of(slot);
        let is_here = reason.is_some_and(|(of, _)| of == direction);
        let reason = reason.map(|(_, reason)| reason);
        let of_flow = |reason: Reason| match reason {
            Reason::Seeded | Reason::Revoked | Reason::RevokedAudited => true,
            // Replies to what no rule matches, and an audit lets pass, count for that.
            _ => !is_here || is_reply,
        };
        if let Some(reason) = reason {
            return Decision {
                verdict: reason.action(),
                rule: None,
                reason: DecidedBy::Reason(reason),
                by_flow: of_flow(reason),
            };
        }
        let owner = self.state.rule_of(slot).map(|(owner, _)| owner);
        let verdict = match (owner.map(|owner| owner.action), passes) {
            (Some(action), passes) if action.passes() == passes => action,
            (_, true) => Action::Accept,
            (_, false) => Action::Drop,
        };
        Decision {
            verdict,
            rule: owner.map(ExplainedRule::of_owner),
            reason: DecidedBy::Rule,
            by_flow: is_reply,
        }
    }

    /// How many flows are between the ends of a question, as far as they are given.
    fn flows_between(&self, question: &Question, now: u64) -> usize {
        if matches!(question.transport, Transport::Arp | Transport::NonIp) {
            return 0;
        }
        let has_ports = question.transport.has_ports();
        let fits = |given: Option<u16>, port: u16| {
            let given = given.filter(|_| has_ports);
            given.is_none_or(|given| given == port)
        };
        let mut count = 0;
        self.table.each(now, |entry| {
            let is_between = entry.protocol == question.protocol()
                && entry.remote == question.remote
                && entry.local == question.local
                && fits(question.local_port, entry.local_port)
                && fits(question.remote_port, entry.remote_port);
            if is_between {
                let flow = flow_of(&entry, &self.rules, &self.state.timeouts, now);
                count += usize::from(flow.is_some_and(|flow| flow.state != FlowState::Cut));
            }
        });
        count
    }

    fn nearest(&self, question: &Question, reason: DecidedBy) -> Option<Vec<NearRule>> {
        let not_ip = [Reason::NonIp, Reason::NonIpAudited, Reason::NonIpDropped];
        if not_ip.map(DecidedBy::Reason).contains(&reason) {
            return None;
        }
        let policy = self.policy.as_ref()?;
        let near = nearest(policy, &question.packet(), NEAREST).into_iter();
        let near = near.map(|near| {
            let owner = self.state.rules.iter().find(|owner| {
                (owner.direction, owner.position) == (near.rule.direction, near.rule.position)
            });
            NearRule {
                action: near.rule.action,
                rule: match owner {
                    // The record has the place in the file that was applied.
                    Some(owner) => ExplainedRule::of_owner(owner),
                    None => ExplainedRule::of(near.rule),
                },
                misses: near.misses,
            }
        });
        Some(near.collect())
    }

    /// Whether a frame shows what is asked: an extension header of IPv6 is a part of another
    /// packet.
    fn can_be_built(&self, question: &Question) -> bool {
        let is_extension = is_ipv6_extension(question.protocol());
        !(question.remote.is_ipv6()
            && is_extension
            && matches!(question.transport, Transport::Protocol(_)))
    }

    /// The packet that is asked about; one of TCP with these flags.
    fn wire(&self, question: &Question, flags: u8) -> Wire {
        let opening = || self.free_port(question);
        let (source, destination, ports) = match question.direction {
            Direction::Inbound => (
                question.remote,
                question.local,
                (question.remote_port, question.local_port),
            ),
            Direction::Outbound => (
                question.local,
                question.remote,
                (question.local_port, question.remote_port),
            ),
        };
        let ports = || (ports.0.unwrap_or_else(opening), ports.1.unwrap_or(0));
        let [sequence, acknowledged] = NUMBERS;
        let body = match question.transport {
            Transport::Arp => Body::NotIp(ARP),
            Transport::NonIp => Body::NotIp(LLDP),
            Transport::Icmp { kind, code } => Body::Icmp { kind, code, id: 1 },
            Transport::Protocol(IPPROTO_TCP) => Body::Tcp {
                ports: ports(),
                flags,
                numbers: match flags & ACK {
                    0 => (sequence, 0),
                    _ => (sequence, acknowledged),
                },
            },
            Transport::Protocol(IPPROTO_UDP) => Body::Udp { ports: ports() },
            Transport::Protocol(IPPROTO_SCTP) => Body::Sctp { ports: ports() },
            Transport::Protocol(number) => Body::Other(number),
        };
        Wire {
            source,
            destination,
            hop_limit: question.hop_limit().unwrap_or(HOP_LIMIT),
            body,
        }
    }

    /// A port at the end that opens the flow, of which the table knows nothing.
    fn free_port(&self, question: &Question) -> u16 {
        let is_free = |port: &u16| {
            let ports = match question.direction {
                Direction::Inbound => (question.local_port.unwrap_or(0), *port),
                Direction::Outbound => (*port, question.remote_port.unwrap_or(0)),
            };
            let key = key_of(question.local, question.remote, ports, question.protocol());
            self.table.find(&key).is_none()
        };
        let mut ports = OPENING_PORT..=u16::MAX;
        ports.find(is_free).unwrap_or(OPENING_PORT)
    }
}

/// The body of the reply, if there can be one.
fn reply_to(wire: &Wire) -> Option<Body> {
    let swapped = |(a, b): (u16, u16)| (b, a);
    let [_, sequence] = NUMBERS;
    Some(match wire.body {
        Body::Tcp { ports, numbers, .. } => Body::Tcp {
            ports: swapped(ports),
            flags: SYN | ACK,
            numbers: (sequence, numbers.0.wrapping_add(1)),
        },
        Body::Udp { ports } => Body::Udp {
            ports: swapped(ports),
        },
        Body::Sctp { ports } => Body::Sctp {
            ports: swapped(ports),
        },
        Body::Icmp { kind, id, .. } => {
            let (request, is_request) = query(wire.source.is_ipv6().into(), kind)?;
            Body::Icmp {
                kind: is_request.then(|| reply_type(request))?,
                code: 0,
                id,
            }
        }
        Body::Other(number) => Body::Other(number),
        Body::NotIp(_) => return None,
    })
}

impl Question {
    /// What stands for the ports in the tuple of the packet's flow, if that is given whole. The
    /// identifier of an ICMP query is not.
    fn flow_ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Arp | Transport::NonIp | Transport::Icmp { .. } => None,
            Transport::Protocol(_) if self.transport.has_ports() => {
                Some((self.local_port?, self.remote_port?))
            }
            Transport::Protocol(_) => Some((0, 0)),
        }
    }
}

/// What the programs that an interface runs do with a packet.
pub fn explain_attached(
    attached: &Attached,
    question: &Question,
) -> Result<Explanation, KernelError> {
    Inquiry::open(attached)?.ask_and_look(question)
}
