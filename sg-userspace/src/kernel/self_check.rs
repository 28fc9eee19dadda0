//! The self-check of `apply`: before anything changes, the new programs judge a packet at each edge
//! of each rule, and the oracle says what should become of it. The programs are a private copy with
//! the tables that are to be put in force; their other maps are their own, nothing of them is
//! pinned or attached, and the packets exist only in test runs (`BPF_PROG_TEST_RUN`, which takes no
//! more privilege than loading).
//!
//! Counters are read once for many packets: each packet of a round has another length, so that the
//! bytes of a slot show which packets were counted in it. Where a round differs, its packets are
//! judged again one by one, and the first that differs is named.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use sg_common::counters::SlotCounters;
use sg_common::essential::{Headers, is_essential};
use sg_common::protocol::Kind;
use sg_common::tcp::SYN;
use sg_common::verdict::{Action, Direction, Reason, reason_slot};

use super::error::KernelError;
use super::load::frame::{Body, HOP_LIMIT, Wire};
use super::load::generation::Generation;
use super::load::programs::Programs;
use super::load::rehearsal::passes;
use super::load::shared_maps::SharedMaps;
use super::slots::add;
use sg_policy::compile::Compiled;
use sg_policy::edges::{Edges, edges};
use sg_policy::oracle::{self, Packet, kind_and_number};
use sg_policy::partition::{Pair, Partition};
use sg_policy::policy::{Policy, protocol_worded};

/// The most packets that are tried.
const MOST_PACKETS: usize = 40_000;
/// For how many rules of all packets together the oracle is asked.
const RULES_OF_PACKETS: usize = 40_000_000;
/// The fewest packets that are tried, if there are so many edges.
const FEWEST_PACKETS: usize = 200;
/// Packets of a round: as many lengths as there are.
const ROUND: usize = 1000;
/// Room for flows of the packets that are tried.
const FLOWS: u32 = 4096;

/// What was tried, all of which agreed.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct SelfCheck {
    /// How many packets were tried.
    pub packets: usize,
    /// How many packets there are at the edges of the classes of addresses that were looked at.
    pub edges: usize,
    /// How many classes of addresses were looked at, and how many there are.
    pub classes: usize,
    pub all_classes: usize,
    pub seconds: f64,
}

impl SelfCheck {
    /// Whether there was no edge that was not tried.
    pub fn is_whole(&self) -> bool {
        self.packets == self.edges && self.classes == self.all_classes
    }
}

/// A policy whose programs are checked.
pub struct CheckedRules<'a> {
    pub policy: &'a Policy,
    /// That of the policy.
    pub partition: &'a Partition,
    /// The counter slot of each rule.
    pub slots: &'a [u32],
    /// The candidate that is compiled in, if there is one.
    pub beside: Option<CheckedBeside<'a>>,
}

/// A candidate beside it.
pub struct CheckedBeside<'a> {
    pub policy: &'a Policy,
    pub pairs: &'a [Pair],
    /// The counter slot of each pair.
    pub slots: &'a [u32],
}

/// Judges packets at the edges of a policy, and of a candidate beside it, by the programs of
/// `generation`. Their tables are those of `loaded`, if there are loaded programs, and else
/// `compiled`.
///
/// # Errors
/// [`KernelError::SelfCheck`] for the first packet on which programs and oracle differ.
pub fn self_check(
    checked: &CheckedRules<'_>,
    compiled: &Compiled,
    generation: &Generation,
    loaded: Option<&Programs>,
) -> Result<SelfCheck, KernelError> {
    let started = Instant::now();
    let CheckedRules {
        policy,
        partition,
        slots,
        beside,
    } = checked;
    let of_candidate = beside.as_ref().map(|it| it.policy.rules.len());
    let rules = policy.rules.len() + of_candidate.unwrap_or_default();
    let most = (RULES_OF_PACKETS / (rules + 1)).clamp(FEWEST_PACKETS, MOST_PACKETS);
    let mut all = edges(partition, policy.rules.len(), most);
    if let Some(beside) = beside {
        // Its edges are boundaries in the tables too.
        let rules = beside.policy.rules.len();
        let more = edges(&Partition::new(beside.policy), rules, most);
        all.packets.extend(more.packets);
        all.of += more.of;
        all.classes += more.classes;
        all.all_classes += more.all_classes;
    }
    let Edges {
        packets,
        of,
        classes,
        all_classes,
    } = all;
    let pairs = beside.iter().flat_map(|it| it.pairs.iter().zip(it.slots));
    let pairs: HashMap<Pair, u32> = pairs.map(|(pair, slot)| (*pair, *slot)).collect();
    let shared = SharedMaps::private(slots.iter().chain(pairs.values()).copied(), FLOWS);
    let programs = Programs::load_sharing(compiled, generation, &shared, loaded)?;
    let mut judge = Judge {
        policy,
        slots,
        candidate: beside.as_ref().map(|it| it.policy),
        pairs,
        programs,
        frame: Vec::new(),
    };
    for round in packets.chunks(ROUND) {
        judge.round(round)?;
    }
    Ok(SelfCheck {
        packets: packets.len(),
        edges: of,
        classes,
        all_classes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

struct Judge<'a> {
    policy: &'a Policy,
    slots: &'a [u32],
    candidate: Option<&'a Policy>,
    /// The counter slots of pairs.
    pairs: HashMap<Pair, u32>,
    programs: Programs,
    /// Memory for the frame of a packet.
    frame: Vec<u8>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    action: Action,
    slot: u32,
}

impl Judge<'_> {
    fn round(&mut self, packets: &[Packet]) -> Result<(), KernelError> {
        let before = self.counted()?;
        let mut expected: BTreeMap<u32, SlotCounters> = BTreeMap::new();
        for (number, packet) in packets.iter().enumerate() {
            let fate = self.expected(packet);
            let passes = self.run(packet, number)?;
            if passes != fate.action.passes() {
                return Err(self.differs(packet, number, fate));
            }
            let counters = expected.entry(fate.slot).or_default();
            counters.packets += 1;
            counters.bytes += self.frame.len() as u64;
        }
        let now = self.counted()?;
        let as_expected = (0u32..)
            .zip(before.iter().zip(&now))
            .all(|(slot, (before, now))| {
                let expected = expected.get(&slot).copied().unwrap_or_default();
                *now == add(*before, expected)
            });
        if as_expected {
            return Ok(());
        }
        for (number, packet) in packets.iter().enumerate() {
            let fate = self.expected(packet);
            if self.counted_in(packet, number)? != Some(fate.slot) {
                return Err(self.differs(packet, number, fate));
            }
        }
        Err(KernelError::SelfCheck {
            packet: format!("{} packets at the edges of its rules", packets.len()),
            expected: "as many for each rule as the rules say".into(),
            found: "other numbers, though each of them by itself counts for its rule".into(),
        })
    }

    fn counted(&self) -> Result<Vec<SlotCounters>, KernelError> {
        self.programs.counters()?.all()
    }

    /// The slot that counts the packet, unless none does or several do.
    fn counted_in(&mut self, packet: &Packet, number: usize) -> Result<Option<u32>, KernelError> {
        let before = self.counted()?;
        self.run(packet, number)?;
        let now = self.counted()?;
        let moved = (0u32..).zip(before.iter().zip(&now));
        let mut moved = moved.filter(|(_, (before, now))| before != now);
        let first = moved.next().map(|(slot, _)| slot);
        Ok(first.filter(|_| moved.next().is_none()))
    }

    /// What the rules say.
    fn expected(&self, packet: &Packet) -> Fate {
        let reason = |reason: Reason| Fate {
            action: reason.action(),
            slot: reason_slot(packet.direction, reason),
        };
        if self.policy.essential && is_essential(&headers(packet)) {
            return reason(Reason::Essential);
        }
        let first = oracle::first_match(self.policy, packet);
        let rule = first.and_then(|i| Some((self.policy.rules.get(i)?, self.slots.get(i)?)));
        let fate = match (rule, self.policy.no_match()) {
            (Some((rule, slot)), _) => Fate {
                action: rule.action,
                slot: *slot,
            },
            (None, Action::Audit) => reason(Reason::NoMatchAudited),
            (None, Action::Accept | Action::Drop) => reason(Reason::NoMatch),
        };
        match self.pair_of(packet, first, fate.action) {
            Some(slot) => Fate { slot, ..fate },
            None => fate,
        }
    }

    /// The slot of the pair of rules that decides the packet, if the candidate would have another
    /// outcome.
    fn pair_of(&self, packet: &Packet, enforced: Option<usize>, action: Action) -> Option<u32> {
        let candidate = self.candidate?;
        let other = oracle::first_match(candidate, packet);
        let would = other.and_then(|i| candidate.rules.get(i));
        let would = would.map_or(candidate.no_match(), |rule| rule.action);
        if would.passes() == action.passes() {
            return None;
        }
        let pair = Pair {
            direction: packet.direction,
            enforced: enforced.map(|rule| rule as u32),
            candidate: other.map(|rule| rule as u32),
        };
        // One that is not known has no slot, and the difference is seen.
        Some(self.pairs.get(&pair).copied().unwrap_or(u32::MAX))
    }

    /// Whether the programs let the packet pass. Its length goes by its number.
    fn run(&mut self, packet: &Packet, number: usize) -> Result<bool, KernelError> {
        build(&mut self.frame, packet, number % ROUND);
        passes(&mut self.programs, packet.direction, &self.frame)
    }

    /// The error about a packet whose fate is another one.
    fn differs(&mut self, packet: &Packet, number: usize, expected: Fate) -> KernelError {
        let found = match (self.run(packet, number), self.counted_in(packet, number)) {
            (Ok(passes), Ok(slot)) => {
                let verdict = if passes { "let it pass" } else { "drop it" };
                format!(
                    "{verdict}, counted {}",
                    self.name_of(packet.direction, slot)
                )
            }
            (Err(error), _) | (_, Err(error)) => return error,
        };
        let verdict = if expected.action.passes() {
            "passes"
        } else {
            "is dropped"
        };
        KernelError::SelfCheck {
            packet: Shown(packet).to_string(),
            expected: format!(
                "it {verdict}, counted {}",
                self.name_of(packet.direction, Some(expected.slot))
            ),
            found,
        }
    }

    /// `by inbound rule 3 (tcp 22 from any)`, or `as no-match`.
    fn name_of(&self, direction: Direction, slot: Option<u32>) -> String {
        let Some(slot) = slot else {
            return "by no single rule".into();
        };
        let mut rules = self.policy.rules.iter().zip(self.slots);
        if let Some((rule, _)) = rules.find(|(_, its)| **its == slot) {
            return format!(
                "by {} rule {} ({})",
                rule.direction,
                rule.position,
                rule.title()
            );
        }
        if let Some((pair, _)) = self.pairs.iter().find(|(_, its)| **its == slot) {
            let rule = |policy: &Policy, rule: Option<u32>| {
                let rule = rule.and_then(|rule| policy.rules.get(rule as usize));
                rule.map_or_else(
                    || "no rule".to_owned(),
                    |it| format!("rule {}", it.position),
                )
            };
            let candidate = self.candidate.unwrap_or(self.policy);
            return format!(
                "by {} {} and {} of the candidate",
                pair.direction,
                rule(self.policy, pair.enforced),
                rule(candidate, pair.candidate)
            );
        }
        let reason = |reason: &Reason| reason_slot(direction, *reason) == slot;
        match Reason::ALL.into_iter().find(reason) {
            Some(reason) => format!("as {reason}"),
            None => format!("in counter slot {slot}, which no rule has"),
        }
    }
}

/// Shows a packet: `an inbound packet of protocol 6 from 192.0.2.7 to port 22`.
struct Shown<'a>(&'a Packet);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet {
            direction,
            remote,
            protocol,
            port,
            icmp: (kind, code),
        } = self.0;
        let towards = match direction {
            Direction::Inbound => "from",
            Direction::Outbound => "to",
        };
        write!(f, "{direction} {}", protocol_worded(*protocol))?;
        match kind_and_number(self.0).0 {
            Kind::Icmp => write!(f, " {kind}/{code} {towards} {remote}"),
            Kind::Other => write!(f, " {towards} {remote}"),
            Kind::Tcp | Kind::Udp | Kind::Sctp => write!(f, " {towards} {remote}, port {port}"),
        }
    }
}

/// The node's addresses: another one for each direction, so that no packet is a reply to one of the
/// other direction.
fn local(direction: Direction, is_v4: bool) -> IpAddr {
    let last = direction as u16 + 1;
    match is_v4 {
        true => Ipv4Addr::new(192, 0, 2, last as u8).into(),
        false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into(),
    }
}

/// The port at the end that opens the flow; rules do not look at it.
const OPENING_PORT: u16 = 61_001;

fn source_and_destination(packet: &Packet) -> (IpAddr, IpAddr) {
    let local = local(packet.direction, packet.remote.is_ipv4());
    match packet.direction {
        Direction::Inbound => (packet.remote, local),
        Direction::Outbound => (local, packet.remote),
    }
}

/// What decides whether the packet is essential traffic.
fn headers(packet: &Packet) -> Headers<'static> {
    const LINK_LOCAL: [u32; 4] = [u32::from_ne_bytes([0xfe, 0x80, 0, 0]), 0, 0, 0];
    const GLOBAL: [u32; 4] = [u32::from_ne_bytes([0x20, 1, 0xd, 0xb8]), 0, 0, 1];
    const UNSPECIFIED: [u32; 4] = [0; 4];
    let (kind, number) = kind_and_number(packet);
    let (source, _) = source_and_destination(packet);
    Headers {
        is_v6: source.is_ipv6(),
        kind: kind as u8,
        number,
        hop_limit: HOP_LIMIT,
        source: match source {
            IpAddr::V6(source) if source.is_unicast_link_local() => &LINK_LOCAL,
            IpAddr::V6(source) if source.is_unspecified() => &UNSPECIFIED,
            _ => &GLOBAL,
        },
        ports: (OPENING_PORT, packet.port),
    }
}

/// Writes the frame of a packet, with so many bytes of payload beyond the fewest that a test run
/// takes.
fn build(frame: &mut Vec<u8>, packet: &Packet, more: usize) {
    let (source, destination) = source_and_destination(packet);
    let ports = (OPENING_PORT, packet.port);
    let (kind, code) = packet.icmp;
    let body = match kind_and_number(packet).0 {
        Kind::Tcp => Body::Tcp {
            ports,
            flags: SYN,
            numbers: (1, 0),
        },
        Kind::Udp => Body::Udp { ports },
        Kind::Sctp => Body::Sctp { ports },
        Kind::Icmp => Body::Icmp { kind, code, id: 1 },
        Kind::Other => Body::Other(packet.protocol),
    };
    let wire = Wire {
        source,
        destination,
        hop_limit: HOP_LIMIT,
        body,
    };
    wire.write(frame, more);
}
