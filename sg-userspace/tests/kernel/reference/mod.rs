//! The fate of a whole packet, written a second time from K2 to K11, slowly and plainly. The
//! programs in the kernel must agree with it. It shares no code with them, only the names of
//! reasons and kinds.
//!
//! A frame becomes headers (`parse`, `quoted`), those become the tuple of a flow and questions to
//! the rules (`identity`), the rules give a verdict (`rules`), and flows and fragments are
//! remembered (`flows`, `states`, and fragments in this file).

pub(crate) mod flows;
pub(crate) mod identity;
pub(crate) mod parse;
mod quoted;
pub(crate) mod rules;
pub(crate) mod states;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use sg_common::flow::Timeout;
use sg_common::verdict::{Action, Direction, Reason, reason_slot};
use sg_policy::policy::{AuditScope, NonIp};

use flows::{Flows, Found, Member, Remembered, SECOND, Terms, elapsed};
use identity::{FragmentKey, Seen};
use parse::{Frame, Packet, Transport};
use rules::{Rules, Ruling};

/// What happens to a frame, and the counter that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) accept: bool,
    pub(crate) slot: u32,
    pub(crate) is_reply: bool,
    pub(crate) packets: u64,
    /// `None` if it cannot be known: the kernel counts the bytes of segments by their headers,
    /// which this frame does not have.
    pub(crate) bytes: Option<u64>,
}

/// Verdict and counter slot, without the numbers of packets and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) accept: bool,
    pub(crate) slot: u32,
    pub(crate) is_reply: bool,
    /// Whether it passes only because what would be dropped is watched (C9). `accept` is true
    /// then.
    pub(crate) audit: bool,
}

/// What is remembered of a first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) seen: u64,
    pub(crate) outcome: Outcome,
}

pub(crate) struct Reference {
    pub(crate) rules: Rules,
    pub(crate) terms: Terms,
    pub(crate) essential: bool,
    pub(crate) non_ip: NonIp,
    pub(crate) flows: Flows,
    pub(crate) fragments: HashMap<FragmentKey, First>,
    /// How many frames took each path.
    pub(crate) paths: BTreeMap<&'static str, u64>,
    /// A mistake made on purpose, to show that the tests find it: packets to this port are
    /// accepted.
    pub(crate) sabotaged_port: Option<u16>,
}

impl Outcome {
    fn reason(direction: Direction, reason: Reason) -> Self {
        Outcome {
            accept: reason.action() != Action::Drop,
            slot: reason_slot(direction, reason),
            is_reply: false,
            audit: reason.action() == Action::Audit,
        }
    }

    fn rule(ruling: Ruling) -> Self {
        Outcome {
            accept: ruling.accept || ruling.audit,
            slot: ruling.slot,
            is_reply: false,
            audit: ruling.audit,
        }
    }

    fn of_flow(member: Member, is_reply: bool) -> Self {
        Outcome {
            accept: true,
            slot: member.slot,
            is_reply,
            audit: member.audited,
        }
    }
}

impl Reference {
    /// Decides a frame at time `now`. On the wire it is `segments` packets.
    pub(crate) fn decide(
        &mut self,
        direction: Direction,
        frame: &[u8],
        segments: u32,
        now: u64,
    ) -> Fate {
        let (outcome, headers) = match parse::parse(frame, segments) {
            Frame::NonIp if self.non_ip == NonIp::ArpOnly && self.audits(AuditScope::Policy) => {
                self.went("non-ip, audited");
                (Outcome::reason(direction, Reason::NonIpAudited), None)
            }
            Frame::NonIp if self.non_ip == NonIp::ArpOnly => {
                self.went("non-ip, dropped");
                (Outcome::reason(direction, Reason::NonIpDropped), None)
            }
            Frame::NonIp => (self.reason(direction, Reason::NonIp), None),
            Frame::Arp => {
                self.went(match self.non_ip {
                    NonIp::Accept => "ARP",
                    NonIp::ArpOnly => "ARP and nothing else",
                });
                (Outcome::reason(direction, Reason::NonIp), None)
            }
            Frame::Malformed(why) => {
                *self.paths.entry(why).or_default() += 1;
                let outcome = match self.audits(AuditScope::All) {
                    true => {
                        self.went("malformed, audited");
                        Outcome::reason(direction, Reason::MalformedAudited)
                    }
                    false => self.reason(direction, Reason::Malformed),
                };
                (outcome, None)
            }
            Frame::LaterFragment(datagram) => {
                let key = FragmentKey::new(direction, datagram);
                (self.follow(direction, key, now), None)
            }
            Frame::Packet(packet) => {
                let outcome = self.judge(direction, &packet, now);
                if let Some(datagram) = packet.first_fragment_of {
                    self.went("first fragment");
                    let first = First { seen: now, outcome };
                    self.fragments
                        .insert(FragmentKey::new(direction, datagram), first);
                }
                (outcome, Some(packet.headers))
            }
        };
        let len = frame.len() as u64;
        let copies = u64::from(segments - 1);
        Fate {
            accept: outcome.accept,
            slot: outcome.slot,
            is_reply: outcome.is_reply,
            packets: u64::from(segments),
            bytes: match headers {
                _ if copies == 0 => Some(len),
                headers => headers.map(|headers| len + copies * headers as u64),
            },
        }
    }

    /// Whether the policy lets pass what it would drop, at least as far as `scope` says.
    fn audits(&self, scope: AuditScope) -> bool {
        self.rules.policy.audit >= scope
    }

    /// The outcome for a packet of a cut flow.
    fn revoked(&mut self, direction: Direction) -> Outcome {
        match self.audits(AuditScope::Policy) {
            true => {
                self.went("revoked, audited");
                Outcome::reason(direction, Reason::RevokedAudited)
            }
            false => self.reason(direction, Reason::Revoked),
        }
    }

    fn went(&mut self, path: &'static str) {
        *self.paths.entry(path).or_default() += 1;
    }

    fn reason(&mut self, direction: Direction, reason: Reason) -> Outcome {
        self.went(reason.name());
        Outcome::reason(direction, reason)
    }

    /// K4: decides a later fragment as its first one was decided.
    fn follow(&mut self, direction: Direction, key: FragmentKey, now: u64) -> Outcome {
        let seconds = self.terms.timeouts[Timeout::Fragment as usize];
        let first = self.fragments.get(&key).copied();
        match first.filter(|f| elapsed(now, f.seen) <= i64::from(seconds) * SECOND as i64) {
            Some(first) => {
                self.went(match first.outcome {
                    Outcome { audit: true, .. } => "fragment follows an audited one",
                    Outcome { is_reply: true, .. } => "fragment follows a reply",
                    Outcome { accept: true, .. } => "fragment follows an accept",
                    _ => "fragment follows a drop",
                });
                first.outcome
            }
            None if self.audits(AuditScope::Policy) => {
                self.went("fragment, audited");
                Outcome::reason(direction, Reason::FragmentAudited)
            }
            None => self.reason(direction, Reason::Fragment),
        }
    }

    fn judge(&mut self, direction: Direction, packet: &Packet, now: u64) -> Outcome {
        if self.essential && packet.first_fragment_of.is_none() && is_essential(packet) {
            return self.reason(direction, Reason::Essential);
        }
        let seen = Seen::new(
            direction,
            packet.source,
            packet.destination,
            packet.protocol,
            packet.transport,
        );
        if self.sabotaged_port == Some(seen.question().port) {
            return Outcome::reason(direction, Reason::NonIp);
        }
        let ruling = self.rules.ask(&seen.question());
        if ruling.accept {
            return match self.open(&seen, ruling, now) {
                Remembered::ByRules(path) => {
                    self.went(path);
                    Outcome::rule(ruling)
                }
                Remembered::Reply(member) => {
                    self.went("accept, as a reply in a watched flow");
                    Outcome::of_flow(member, true)
                }
                Remembered::Revoked => self.revoked(direction),
            };
        }
        if ruling.audit {
            return self.watch(&seen, packet, ruling, now);
        }
        if let Some(outcome) = self.look_up(&seen, now) {
            return outcome;
        }
        if let Some(reason) = self.relation(&seen, packet, now) {
            return self.reason(direction, reason);
        }
        if ruling.slot == reason_slot(direction, Reason::NoMatch) {
            return self.reason(direction, Reason::NoMatch);
        }
        self.went("drop");
        Outcome::rule(ruling)
    }

    /// K7: enters an accepted packet's flow. If the rules accept the replies by themselves, no
    /// entry is needed, and the table only matters for a connection that was cut (K11).
    fn open(&mut self, seen: &Seen, ruling: Ruling, now: u64) -> Remembered {
        let Some(key) = seen.flow_key() else {
            return Remembered::ByRules("accept, of no flow");
        };
        let of_reply = self.rules.passing(&seen.reply_question());
        if of_reply.is_some_and(|ruling| ruling.accept) {
            let path = self.flows.pass(seen, key, now, &self.terms);
            if path == flows::REVOKED {
                self.went("revoked, although the rules pass both sides");
                return Remembered::Revoked;
            }
            return Remembered::ByRules(path);
        }
        self.flows
            .remember(seen, key, ruling, of_reply, now, &self.terms)
    }

    /// C9: a packet that the rules audit.
    fn watch(&mut self, seen: &Seen, packet: &Packet, ruling: Ruling, now: u64) -> Outcome {
        let Some(key) = seen.flow_key() else {
            // An error about what the policy admits passes by itself; what it only watches the rule
            // counts.
            if self.relation(seen, packet, now) == Some(Reason::Related) {
                return self.reason(seen.direction, Reason::Related);
            }
            self.went("audit, of no flow");
            return Outcome::rule(ruling);
        };
        let of_reply = self.rules.passing(&seen.reply_question());
        let terms = &self.terms;
        match self.flows.watch(seen, key, ruling, of_reply, now, terms) {
            Ok(path) => {
                self.went(path);
                Outcome::rule(ruling)
            }
            Err(found) => self.in_flow(seen.direction, found).expect("it was found"),
        }
    }

    /// K6: what the flow table says about a packet that no rule accepts.
    fn look_up(&mut self, seen: &Seen, now: u64) -> Option<Outcome> {
        let key = seen.flow_key()?;
        if states::asks_to_open(seen) {
            return None;
        }
        let rules = &self.rules;
        let of_reply = || rules.passing(&seen.reply_question());
        let found = self.flows.find(seen, key, now, &self.terms, of_reply);
        self.in_flow(seen.direction, found)
    }

    fn in_flow(&mut self, direction: Direction, found: Found) -> Option<Outcome> {
        match found {
            Found::Nothing => None,
            Found::Seeded => Some(self.reason(direction, Reason::Seeded)),
            Found::Revoked => Some(self.revoked(direction)),
            Found::Reply(member) => {
                self.went(match member.audited {
                    true => "reply, audited",
                    false => "reply",
                });
                Some(Outcome::of_flow(member, true))
            }
            Found::Kept(member) => {
                self.went("kept");
                Some(Outcome::of_flow(member, false))
            }
        }
    }

    /// K8: whether an ICMP error is about a packet of a tracked flow or of traffic that the rules
    /// let pass, and what it is counted as then.
    fn relation(&mut self, error: &Seen, packet: &Packet, now: u64) -> Option<Reason> {
        let Transport::Icmp { kind, .. } = error.transport else {
            return None;
        };
        if !quoted::is_error(error.remote, kind) {
            return None;
        }
        let is_v6 = error.remote.is_ipv6();
        let other_way = error.direction.opposite();
        let Some(quoted) = quoted::quoted(is_v6, other_way, &packet.icmp_payload) else {
            self.went("an error with an unreadable quotation");
            return None;
        };
        // An error must go to the sender of the packet that it quotes.
        let (to, about) = match error.direction {
            Direction::Inbound => (error.local, quoted.local),
            Direction::Outbound => (error.remote, quoted.remote),
        };
        if to != about {
            self.went("an error about another host's packet");
            return None;
        }
        if error.direction == Direction::Outbound && quoted.local != error.local {
            self.went("an error from behind the node");
        }
        let ruling = self.rules.ask(&quoted.question());
        if ruling.accept {
            self.went("related to what the rules accept");
            return Some(Reason::Related);
        }
        let rules = &self.rules;
        let of_reply = || rules.passing(&quoted.reply_question());
        let is_watched = match self.flows.has(&quoted, now, &self.terms, of_reply) {
            Some(false) => false,
            Some(true) => true,
            None if ruling.audit => true,
            None => {
                self.went("an error about nothing that is admitted");
                return None;
            }
        };
        self.went(match is_watched {
            true => "related to what is audited",
            false => "related to a flow",
        });
        Some(match is_watched {
            true => Reason::RelatedAudited,
            false => Reason::Related,
        })
    }
}

/// K5: whether the packet is essential traffic.
fn is_essential(packet: &Packet) -> bool {
    const IGMP: u8 = 2;
    match (packet.source, packet.transport) {
        (IpAddr::V4(_), Transport::Other) => packet.protocol == IGMP && packet.hop_limit == 1,
        (
            IpAddr::V4(_),
            Transport::Udp {
                source,
                destination,
            },
        ) => (source, destination) == (67, 68),
        (
            IpAddr::V6(sender),
            Transport::Udp {
                source,
                destination,
            },
        ) => destination == 546 && (source == 547 || sender.is_unicast_link_local()),
        (IpAddr::V6(source), Transport::Icmp { kind, .. }) => match kind {
            133..=137 => packet.hop_limit == 255,
            130..=132 | 143 => source.is_unicast_link_local() || source.is_unspecified(),
            _ => false,
        },
        _ => false,
    }
}
