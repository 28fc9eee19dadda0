//! A few conversations in both directions at once, with packets out of order, as traffic for flows.

use std::net::SocketAddr;

use fastrand::Rng;
use sg_common::flow::Timeout;
use sg_common::verdict::Direction;
use sg_policy::policy::{AuditScope, groups_from_lines};

use super::Traffic;
use super::draft::{Draft, Fragment};
use super::follow::answer;
use super::policies::audit;
use crate::reference::parse::{Numbers, Transport};
use crate::world::script::{Group, PolicyText, Seed, Sent};

pub(crate) struct Talks {
    traffic: Traffic,
    talks: Vec<Talk>,
}

struct Talk {
    /// The first packet of the conversation.
    opening: Draft,
    /// How many packets of it were sent.
    progress: usize,
    /// The next sequence number of the originator, and of the other side.
    next: [u32; 2],
}

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;

/// The segments of a normal TCP connection: whether the originator sends it, and its flags.
const CONVERSATION: [(bool, u8); 11] = [
    (true, SYN),
    (false, SYN | ACK),
    (true, ACK),
    (true, ACK),
    (false, ACK),
    (true, ACK),
    (false, ACK),
    (true, FIN | ACK),
    (false, ACK),
    (false, FIN | ACK),
    (true, ACK),
];

impl Talks {
    pub(crate) fn new(mut rng: Rng, count: usize) -> Self {
        let openings: Vec<Draft> = (0..count).map(|_| opening(&mut rng)).collect();
        let mut traffic = Traffic::new(rng, groups_from_lines("group none"));
        traffic.past.clone_from(&openings);
        Talks {
            traffic,
            talks: openings
                .into_iter()
                .map(|opening| Talk {
                    opening,
                    progress: 0,
                    next: [1000, u32::MAX - 50],
                })
                .collect(),
        }
    }

    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.traffic.rng
    }

    /// The next packet of some conversation, or one that is out of order, a fragment, or an error.
    pub(crate) fn next(&mut self) -> Sent {
        let draft = match self.rng().u8(..20) {
            0..2 => self.traffic.error(),
            2..4 => self.traffic.later_fragment(),
            4..6 => self.traffic.following(),
            6 => Draft {
                fragment: Some(Fragment {
                    identification: self.rng().u32(..8),
                    offset: 0,
                    more: true,
                }),
                ..self.packet()
            },
            _ => self.packet(),
        };
        // Most packets are sent as they are.
        let is_plain = draft.fragment.is_none() && self.rng().u8(..8) > 0;
        let (direction, bytes) = match is_plain {
            true => (draft.direction, draft.frame()),
            false => self.traffic.dressed(draft),
        };
        Sent {
            direction,
            segments: 1,
            bytes,
            expected: None,
        }
    }

    fn packet(&mut self) -> Draft {
        let count = self.talks.len();
        let talk = &mut self.talks[self.traffic.rng.usize(..count)];
        let (from_originator, flags) = CONVERSATION[talk.progress % CONVERSATION.len()];
        let rng = &mut self.traffic.rng;
        let is_orderly = rng.u8(..8) > 0;
        if is_orderly {
            talk.progress += 1;
        }
        let from_originator = match talk.opening.transport {
            Transport::Tcp { .. } if is_orderly => from_originator,
            _ => rng.bool(),
        };
        let mut draft = match from_originator {
            true => talk.opening.clone(),
            false => answer(&talk.opening),
        };
        let [own, other] = if from_originator { [0, 1] } else { [1, 0] };
        if let Transport::Tcp {
            flags: sent,
            numbers,
            ..
        } = &mut draft.transport
        {
            let length = if rng.bool() { 0 } else { rng.u32(1..40) };
            draft.payload = vec![0x5a; length as usize];
            *numbers = Numbers {
                sequence: talk.next[own],
                // Some segments acknowledge a wrong number.
                acknowledges: match rng.u8(..10) {
                    0 => talk.next[other].wrapping_sub(1),
                    1 => talk.next[other].wrapping_add(1),
                    2 => rng.u32(..),
                    _ => talk.next[other],
                },
                length,
            };
            let odd_flags = self.traffic.tcp_flags();
            *sent = match self.traffic.rng.u8(..24) {
                0 => RST,
                _ if is_orderly => flags,
                _ => odd_flags,
            };
            let counted = u32::from(*sent & SYN != 0) + u32::from(*sent & FIN != 0);
            talk.next[own] = talk.next[own].wrapping_add(length + counted);
        }
        draft
    }

    /// Makes one conversation exist before the first policy.
    pub(crate) fn seed(&mut self) -> Option<Seed> {
        let count = self.talks.len();
        let talk = &mut self.talks[self.traffic.rng.usize(..count)];
        let opening = &talk.opening;
        let Transport::Tcp {
            source,
            destination,
            ..
        } = opening.transport
        else {
            return None;
        };
        // The conversation continues after its handshake.
        talk.progress = 3;
        let source = SocketAddr::new(opening.source, source);
        let destination = SocketAddr::new(opening.destination, destination);
        let (local, remote) = match opening.direction {
            Direction::Inbound => (destination, source),
            Direction::Outbound => (source, destination),
        };
        Some(Seed {
            local,
            remote,
            originator: opening.direction,
        })
    }
}

const LOCALS: [&str; 4] = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
const REMOTES: [&str; 4] = [
    "198.51.100.7",
    "203.0.113.9",
    "2001:db8:51::7",
    "2001:db8:113::9",
];
const SERVICES: [u16; 4] = [22, 53, 443, 8080];

/// The first packet of a conversation.
fn opening(rng: &mut Rng) -> Draft {
    let address = |text: &str| text.parse().expect("written as an address");
    let family = 2 * rng.usize(..2);
    let local = address(LOCALS[family + rng.usize(..2)]);
    let remote = address(REMOTES[family + rng.usize(..2)]);
    let (direction, source, destination) = match rng.bool() {
        true => (Direction::Inbound, remote, local),
        false => (Direction::Outbound, local, remote),
    };
    let ports = (40000 + rng.u16(..8), SERVICES[rng.usize(..4)]);
    let (protocol, transport) = match rng.u8(..10) {
        0..5 => (
            6,
            Transport::Tcp {
                source: ports.0,
                destination: ports.1,
                flags: SYN,
                numbers: Numbers::default(),
            },
        ),
        5..7 => (
            17,
            Transport::Udp {
                source: ports.0,
                destination: ports.1,
            },
        ),
        7 => (
            132,
            Transport::Sctp {
                source: ports.0,
                destination: ports.1,
            },
        ),
        8 => {
            let (protocol, kind) = match family {
                0 => (1, *rng.choice(&[8, 8, 13]).unwrap_or(&8)),
                _ => (58, 128),
            };
            let identifier = rng.u16(..4);
            // The reply has code zero, whatever the code of the request is.
            let code = *rng.choice(&[0, 0, 0, 3]).unwrap_or(&0);
            let query = Transport::Icmp {
                kind,
                code,
                identifier,
            };
            (protocol, query)
        }
        _ => (*rng.choice(&[47, 50]).unwrap_or(&47), Transport::Other),
    };
    Draft::new(direction, source, destination, protocol, transport)
}

/// Rules about these conversations. A policy has some of them.
const RULES: [&str; 26] = [
    "out all to any accept",
    "out all to 203.0.113.0/24 drop",
    "out all to 2001:db8:113::/48 drop",
    "out tcp 443,8080 to any accept",
    "out tcp 22 to any drop",
    "out udp 53 to any accept",
    "out sctp to any accept",
    "out icmp 8 to any accept",
    "out icmpv6 128 to any accept",
    "out gre to any accept",
    "out tcp 40000-40003 to any accept",
    "in all from 198.51.100.0/24 accept",
    "in all from 2001:db8:51::/48 accept",
    "in tcp 22,443 from any accept",
    "in tcp 8080 from 203.0.113.0/24 accept",
    "in udp from 0.0.0.0/0 accept",
    "in sctp from any accept",
    "in icmp from any accept",
    "in icmp 0/0 from any accept",
    "in icmpv6 129/0 from any accept",
    "out icmp 0/0 to any accept",
    "out icmpv6 129/0 to any accept",
    "in icmpv6 128 from any accept",
    "in esp from any accept",
    "in tcp 40004-40007 from any accept",
    "in all from any drop",
];

/// A policy of a few of the rules. Its timeouts are short, because the tests move times back and
/// the machine may have booted only recently.
pub(crate) fn policy(rng: &mut Rng, max_flows: u32) -> PolicyText {
    let mut rules: Vec<String> = RULES.map(str::to_owned).into();
    rng.shuffle(&mut rules);
    rules.truncate(rng.usize(2..14));
    if rng.u8(..4) == 0 {
        rules.iter_mut().for_each(|rule| audit(rng, rule));
    }
    let scope = match rng.u8(..14) {
        0 => AuditScope::Policy,
        1 => AuditScope::All,
        _ => AuditScope::Rules,
    };
    let established = *rng
        .choice(&["revalidate", "revalidate", "keep", "keep", "flush"])
        .unwrap_or(&"revalidate");
    let timeouts: Vec<String> = Timeout::ALL
        .into_iter()
        .map(|t| format!("{}: {}s", t.name(), rng.u32(5..40)))
        .collect();
    PolicyText {
        candidate: Vec::new(),
        max_flows,
        audit: scope,
        options: vec![
            "essential: false".to_owned(),
            format!("established: {established}"),
            format!("timeouts: {{{}}}", timeouts.join(", ")),
        ],
        groups: vec![Group {
            name: "talks".to_owned(),
            rules,
        }],
    }
}
