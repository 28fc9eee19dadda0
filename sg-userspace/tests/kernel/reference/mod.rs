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
use sg_policy::policy::NonIp;

use flows::{Flows, Found, SECOND, Terms, elapsed};
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
            accept: reason.action() == Action::Accept,
            slot: reason_slot(direction, reason),
            is_reply: false,
        }
    }

    fn rule(ruling: Ruling) -> Self {
        Outcome {
            accept: ruling.accept,
            slot: ruling.slot,
            is_reply: false,
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
                (self.reason(direction, Reason::Malformed), None)
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
                    Outcome { is_reply: true, .. } => "fragment follows a reply",
                    Outcome { accept: true, .. } => "fragment follows an accept",
                    _ => "fragment follows a drop",
                });
                first.outcome
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
            let path = self.open(&seen, ruling, now);
            if path == flows::REVOKED {
                return self.reason(direction, Reason::Revoked);
            }
            self.went(path);
            return Outcome::rule(ruling);
        }
        if let Some(outcome) = self.look_up(&seen, now) {
            return outcome;
        }
        if self.is_related(&seen, packet, now) {
            return self.reason(direction, Reason::Related);
        }
        if ruling.slot == reason_slot(direction, Reason::NoMatch) {
            return self.reason(direction, Reason::NoMatch);
        }
        self.went("drop");
        Outcome::rule(ruling)
    }

    /// K7: enters an accepted packet's flow. If the rules accept the replies by themselves, no
    /// entry is needed, and the table only matters for a connection that was cut (K11).
    fn open(&mut self, seen: &Seen, ruling: Ruling, now: u64) -> &'static str {
        match seen.flow_key() {
            None => "accept, of no flow",
            Some(key) if self.rules.ask(&seen.reply_question()).accept => {
                let path = self.flows.pass(seen, key, now, &self.terms);
                if path == flows::REVOKED {
                    self.went("revoked, although the rules pass both sides");
                }
                path
            }
            Some(key) => self
                .flows
                .remember(seen, key, ruling.slot, now, &self.terms),
        }
    }

    /// K6: what the flow table says about a packet that no rule accepts.
    fn look_up(&mut self, seen: &Seen, now: u64) -> Option<Outcome> {
        let key = seen.flow_key()?;
        if states::asks_to_open(seen) {
            return None;
        }
        let rules = &self.rules;
        let accepts_reply = || rules.accepting_slot(&seen.reply_question());
        let found = self.flows.find(seen, key, now, &self.terms, accepts_reply);
        let direction = seen.direction;
        match found {
            Found::Nothing => None,
            Found::Seeded => Some(self.reason(direction, Reason::Seeded)),
            Found::Revoked => Some(self.reason(direction, Reason::Revoked)),
            Found::Reply(slot) => {
                self.went("reply");
                Some(Outcome {
                    accept: true,
                    slot,
                    is_reply: true,
                })
            }
            Found::Kept(slot) => {
                self.went("kept");
                Some(Outcome {
                    accept: true,
                    slot,
                    is_reply: false,
                })
            }
        }
    }

    /// K8: whether an ICMP error is about a packet of a tracked flow or of accepted traffic.
    fn is_related(&mut self, error: &Seen, packet: &Packet, now: u64) -> bool {
        let Transport::Icmp { kind, .. } = error.transport else {
            return false;
        };
        if !quoted::is_error(error.remote, kind) {
            return false;
        }
        let is_v6 = error.remote.is_ipv6();
        let other_way = error.direction.opposite();
        let Some(quoted) = quoted::quoted(is_v6, other_way, &packet.icmp_payload) else {
            self.went("an error with an unreadable quotation");
            return false;
        };
        // An error must go to the sender of the packet that it quotes.
        let (to, about) = match error.direction {
            Direction::Inbound => (error.local, quoted.local),
            Direction::Outbound => (error.remote, quoted.remote),
        };
        if to != about {
            self.went("an error about another host's packet");
            return false;
        }
        if error.direction == Direction::Outbound && quoted.local != error.local {
            self.went("an error from behind the node");
        }
        if self.rules.ask(&quoted.question()).accept {
            self.went("related to what the rules accept");
            return true;
        }
        let rules = &self.rules;
        let accepts_reply = || rules.accepting_slot(&quoted.reply_question());
        let is_related = self.flows.has(&quoted, now, &self.terms, accepts_reply);
        self.went(match is_related {
            true => "related to a flow",
            false => "an error about nothing that is admitted",
        });
        is_related
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
