//! Events of rules with `log`, as they come out of an interface's ring.

use std::fmt;
use std::net::IpAddr;

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use serde::Serialize;
use sg_common::event::{Event, EventLimit};
use sg_common::flow::{ipv4, ipv6};
use sg_common::protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};
use sg_common::verdict::{Action, Direction};

use super::attached::Attached;
use crate::kernel::KernelError;
use crate::kernel::pins::InterfacePins;
use crate::kernel::state::{State, open_map};

/// Reads the ring of one interface. There should be one reader at a time: an event is given once.
pub struct Events {
    pins: InterfacePins,
    ring: RingBuf<MapData>,
    limit: Map,
    suppressed: u64,
}

/// One logged packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggedPacket {
    pub direction: &'static str,
    pub verdict: &'static str,
    pub protocol: u8,
    pub local: IpAddr,
    pub local_port: Option<u16>,
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    pub bytes: u32,
    /// The rule that decided; null if it is gone since.
    pub rule: Option<LoggingRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggingRule {
    pub group: String,
    pub position: u32,
    pub summary: String,
}

impl Events {
    /// Opens the ring of an attached interface.
    pub fn open(attached: &Attached) -> Result<Self, KernelError> {
        let pins = attached.pins.clone();
        let ring = RingBuf::try_from(open_map(&pins.events())?)
            .map_err(|e| KernelError::bpf("opening the event ring", e))?;
        let limit = open_map(&pins.event_limit())?;
        let mut events = Events {
            pins,
            ring,
            limit,
            suppressed: 0,
        };
        events.suppressed = events.suppressed_in_all()?;
        Ok(events)
    }

    /// Everything in the ring, oldest first, and how many events have been held back since the
    /// last call (over the rate limit, or no room).
    pub fn drain(&mut self) -> Result<(Vec<LoggedPacket>, u64), KernelError> {
        let mut events = Vec::new();
        while let Some(item) = self.ring.next() {
            events.extend(parse(&item));
        }
        // Only who has something to name needs the names.
        let state = match events.is_empty() {
            true => None,
            false => State::read(&self.pins)?,
        };
        let packets = events.iter().map(|e| logged(e, state.as_ref())).collect();
        let suppressed = self.suppressed_in_all()?;
        let held_back = suppressed.saturating_sub(self.suppressed);
        self.suppressed = suppressed;
        Ok((packets, held_back))
    }

    fn suppressed_in_all(&self) -> Result<u64, KernelError> {
        let failed = |e| KernelError::bpf("reading the event limit", e);
        let limit: PerCpuArray<_, EventLimit> =
            PerCpuArray::try_from(&self.limit).map_err(failed)?;
        let cpus = limit.get(&0, 0).map_err(failed)?;
        Ok(cpus.iter().map(|cpu| cpu.suppressed).sum())
    }
}

fn parse(bytes: &[u8]) -> Option<Event> {
    let bytes: &[u8; size_of::<Event>()] = bytes.try_into().ok()?;
    // SAFETY: an event is plain integers, and the array has its size.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

fn logged(event: &Event, state: Option<&State>) -> LoggedPacket {
    let address = |words: [u32; 4]| -> IpAddr {
        match event.v6 {
            0 => ipv4(words[0]).into(),
            _ => ipv6(words).into(),
        }
    };
    let has_ports = matches!(event.protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP);
    let icmp = if event.v6 == 0 {
        IPPROTO_ICMP
    } else {
        IPPROTO_ICMPV6
    };
    let [kind, code] = event.icmp.to_be_bytes();
    let is_icmp = event.protocol == icmp;
    let direction = if event.is_inbound() {
        Direction::Inbound
    } else {
        Direction::Outbound
    };
    let action = if event.is_accepted() {
        Action::Accept
    } else {
        Action::Drop
    };
    LoggedPacket {
        direction: direction.name(),
        verdict: action.name(),
        protocol: event.protocol,
        local: address(event.local),
        local_port: has_ports.then_some(event.local_port),
        remote: address(event.remote),
        remote_port: has_ports.then_some(event.remote_port),
        icmp_type: is_icmp.then_some(kind),
        icmp_code: is_icmp.then_some(code),
        bytes: event.bytes,
        rule: state.and_then(|state| {
            let owner = state.rules.iter().find(|o| o.slot == event.slot)?;
            Some(LoggingRule {
                group: owner.group.clone(),
                position: owner.position,
                summary: owner.summary.clone(),
            })
        }),
    }
}

/// One line, e.g. `drop inbound tcp 198.51.100.1:4000 → 192.0.2.1:3306, 60 bytes, by rule 7 of tke
/// (all from 0.0.0.0/0)`.
impl fmt::Display for LoggedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |address: IpAddr, port: Option<u16>| match (address, port) {
            (address, None) => address.to_string(),
            (IpAddr::V4(a), Some(port)) => format!("{a}:{port}"),
            (IpAddr::V6(a), Some(port)) => format!("[{a}]:{port}"),
        };
        let local = end(self.local, self.local_port);
        let remote = end(self.remote, self.remote_port);
        let (from, to) = match self.direction == Direction::Inbound.name() {
            true => (remote, local),
            false => (local, remote),
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
        match &self.rule {
            Some(r) => write!(f, ", by rule {} of {} ({})", r.position, r.group, r.summary),
            None => write!(f, ", by a rule that is gone"),
        }
    }
}
