//! Logged packets from the rings of an attachment.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sg_common::event::Event;
use sg_common::flow::{ipv4, ipv6};
use sg_common::protocol::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, Kind, kind_of,
};
use sg_common::verdict::{Action, Direction, Reason, reason_slot};

use super::attached::Attached;
use super::decided::DecidedBy;
use crate::kernel::KernelError;
use crate::kernel::event_ring::EventReader;
use crate::kernel::pins::InterfacePins;
use crate::kernel::state::{SlotOwner, State};
use sg_policy::policy::titled;

/// A reader of the rings that an interface shares with the others of its attachment. It does not
/// affect other readers.
pub struct Events {
    pins: InterfacePins,
    reader: EventReader,
}

/// The events since the last reading. `packets`, `lost` and `suppressed` together are all packets
/// that were to be logged.
#[derive(Clone, Debug, Default)]
pub struct Logged {
    /// The packets, oldest first.
    pub packets: Vec<LoggedPacket>,
    /// How many were overwritten before they were read.
    pub lost: u64,
    /// How many were over the rate limit.
    pub suppressed: u64,
}

/// A logged packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggedPacket {
    /// When the packet was judged.
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    pub interface: String,
    pub direction: Direction,
    pub verdict: Action,
    /// The generation that judged the packet.
    pub generation: u32,
    pub protocol: u8,
    pub local: IpAddr,
    pub local_port: Option<u16>,
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    /// The flags of the TCP header.
    pub tcp_flags: Option<u8>,
    pub bytes: u32,
    /// The rule that decided. Null if none did, or if it is gone since then.
    pub rule: Option<LoggingRule>,
    pub reason: DecidedBy,
    /// Whether it is a reply to what the rule or the reason decided, in the other direction.
    pub reply: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggingRule {
    pub group: String,
    /// Null if the rule is not in the policy any more.
    pub position: Option<u32>,
    pub name: Option<String>,
    pub summary: String,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

impl Events {
    /// Opens the rings of an attached interface, for packets from now on.
    pub fn open(attached: &Attached) -> Result<Self, KernelError> {
        Ok(Events {
            pins: attached.pins.clone(),
            reader: EventReader::open(&attached.pins)?,
        })
    }

    /// Opens the rings of an interface that was just attached, for all packets.
    pub fn from_the_first(attached: &Attached) -> Result<Self, KernelError> {
        Ok(Events {
            pins: attached.pins.clone(),
            reader: EventReader::from_the_first(&attached.pins)?,
        })
    }

    /// Sets the pins, after they were moved.
    pub fn moved_to(&mut self, pins: &InterfacePins) {
        self.pins = pins.clone();
    }

    /// All events since the last call.
    pub fn drain(&mut self) -> Result<Logged, KernelError> {
        let drained = self.reader.drain();
        // The record is only needed to name rules.
        let state = match drained.events.is_empty() {
            true => None,
            false => State::read(&self.pins)?,
        };
        let booted = booted();
        let names = match drained.events.is_empty() {
            true => HashMap::new(),
            false => names(&self.pins),
        };
        let packets = drained.events.iter();
        Ok(Logged {
            packets: packets
                .map(|event| logged(event, booted, state.as_ref(), &names))
                .collect(),
            lost: drained.lost,
            suppressed: drained.suppressed,
        })
    }
}

/// The names of the attachment's interfaces by their indices.
fn names(pins: &InterfacePins) -> HashMap<u32, String> {
    let all = pins.of_attachment().unwrap_or_default().into_iter();
    all.filter_map(|one| Some((one.ifindex, State::read(&one).ok()??.interface)))
        .collect()
}

/// The wall clock time at which `CLOCK_MONOTONIC` was zero. The two clocks are read one after the
/// other, and the thread may lose its processor in between. Of several readings, the one that took
/// the shortest time counts.
fn booted() -> Timestamp {
    const READINGS: usize = 5;
    let monotonic = || {
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(SignedDuration::ZERO, |t| {
            SignedDuration::new(t.tv_sec(), t.tv_nsec() as i32)
        })
    };
    let readings = (0..READINGS).map(|_| {
        let before = monotonic();
        let now = Timestamp::now();
        (monotonic() - before, now, before)
    });
    let shortest = readings.min_by_key(|(took, ..)| *took);
    shortest.map_or_else(Timestamp::now, |(_, now, since)| {
        now.checked_sub(since).unwrap_or(now)
    })
}

fn logged(
    event: &Event,
    booted: Timestamp,
    state: Option<&State>,
    names: &HashMap<u32, String>,
) -> LoggedPacket {
    // An interface that was created anew had another index when the packet was logged.
    let by_record = || state.map_or_else(String::new, |state| state.interface.clone());
    let name = names.get(&event.ifindex).cloned();
    let address = |words: [u32; 4]| -> IpAddr {
        match event.v6 {
            0 => ipv4(words[0]).into(),
            _ => ipv6(words).into(),
        }
    };
    let kind = kind_of(event.protocol, event.v6 != 0);
    let has_ports = kind.has_ports();
    let [icmp_type, icmp_code] = event.icmp.to_be_bytes();
    let is_icmp = kind == Kind::Icmp;
    let direction = if event.is_inbound() {
        Direction::Inbound
    } else {
        Direction::Outbound
    };
    let nanoseconds = i64::try_from(event.time).unwrap_or(i64::MAX);
    let at = booted.checked_add(SignedDuration::from_nanos(nanoseconds));
    // What no rule matches may have replies, which count for it too (C9).
    let of_reply = || reason_of(direction.opposite(), event.slot);
    let reason = reason_of(direction, event.slot);
    let (reason, is_reply) = match reason {
        Some(reason) => (Some(reason), false),
        None => (of_reply(), of_reply().is_some()),
    };
    let owner = state
        .filter(|_| reason.is_none())
        .and_then(|state| owner_of(state, event.slot));
    LoggedPacket {
        at: at.unwrap_or(booted),
        interface: name.unwrap_or_else(by_record),
        direction,
        verdict: event.action(),
        generation: event.generation,
        protocol: event.protocol,
        local: address(event.local),
        local_port: has_ports.then_some(event.local_port),
        remote: address(event.remote),
        remote_port: has_ports.then_some(event.remote_port),
        icmp_type: is_icmp.then_some(icmp_type),
        icmp_code: is_icmp.then_some(icmp_code),
        bytes: event.bytes,
        tcp_flags: (kind == Kind::Tcp).then_some(event.tcp_flags),
        reply: is_reply || owner.is_some_and(|(owner, _)| owner.direction != direction),
        rule: owner.map(|(owner, is_there)| LoggingRule {
            group: owner.group.clone(),
            position: is_there.then_some(owner.position),
            name: owner.name.clone(),
            summary: owner.summary.clone(),
        }),
        reason: reason.map_or(DecidedBy::Rule, DecidedBy::Reason),
    }
}

/// The reason that a slot counts, unless it belongs to a rule.
fn reason_of(direction: Direction, slot: u32) -> Option<Reason> {
    Reason::ALL
        .into_iter()
        .find(|reason| reason_slot(direction, *reason) == slot)
}

/// The rule that a slot belongs to, and whether it is still in the policy.
fn owner_of(state: &State, slot: u32) -> Option<(&SlotOwner, bool)> {
    let of = |owners: &'_ [SlotOwner]| owners.iter().position(|owner| owner.slot == slot);
    let current = of(&state.rules).and_then(|at| Some((state.rules.get(at)?, true)));
    current.or_else(|| of(&state.retired).and_then(|at| Some((state.retired.get(at)?, false))))
}

/// Formats a line such as `drop inbound tcp 198.51.100.1:4000 → 192.0.2.1:3306, 60 bytes, by rule 7
/// of tke (all from 0.0.0.0/0)`.
impl fmt::Display for LoggedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |address: IpAddr, port: Option<u16>| match (address, port) {
            (address, None) => address.to_string(),
            (IpAddr::V4(a), Some(port)) => format!("{a}:{port}"),
            (IpAddr::V6(a), Some(port)) => format!("[{a}]:{port}"),
        };
        let local = end(self.local, self.local_port);
        let remote = end(self.remote, self.remote_port);
        let (from, to) = match self.direction {
            Direction::Inbound => (remote, local),
            Direction::Outbound => (local, remote),
        };
        let protocol = match self.protocol {
            IPPROTO_TCP => "tcp".to_owned(),
            IPPROTO_UDP => "udp".to_owned(),
            IPPROTO_SCTP => "sctp".to_owned(),
            IPPROTO_ICMP => "icmp".to_owned(),
            IPPROTO_ICMPV6 => "icmpv6".to_owned(),
            other => format!("protocol {other}"),
        };
        write!(
            f,
            "{} {} {protocol} {from} → {to}",
            self.verdict, self.direction
        )?;
        if let (Some(kind), Some(code)) = (self.icmp_type, self.icmp_code) {
            write!(f, " type {kind}/{code}")?;
        }
        write!(f, ", {} bytes", self.bytes)?;
        if self.reply {
            write!(f, ", a reply")?;
        }
        match &self.rule {
            Some(rule) => write!(f, ", by {rule}"),
            None if self.reason == DecidedBy::Rule => write!(f, ", by a rule that is gone"),
            None => write!(f, ", {}", self.reason),
        }
    }
}

impl fmt::Display for LoggingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "rule {position}")?,
            None => write!(f, "a former rule")?,
        }
        let title = titled(self.name.as_deref(), &self.summary);
        write!(f, " of {} ({title})", self.group)
    }
}
