//! What numbers in events mean: interfaces, rules and times. The records that say so are read again
//! only when they have changed.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use sg_common::event::{Event, LATER_FRAGMENT};
use sg_common::flow::{ipv4, ipv6};
use sg_common::protocol::{Kind, kind_of};
use sg_common::verdict::{Direction, Reason};

use super::frame::Headers;
use super::packet::{CandidateSays, LoggedPacket, LoggingRule};
use super::tally::{Counts, Delivered, Tally};
use crate::kernel::KernelError;
use crate::kernel::event_ring::Taken;
use crate::kernel::pins::InterfacePins;
use crate::kernel::records::Stamp;
use crate::kernel::state::{SlotOwner, no_match, reason_of_slot};
use crate::kernel::trial::monotonic_offset;
use crate::observe::attached::name_now;
use crate::observe::decided::DecidedBy;

/// The names of one attachment.
#[derive(Default)]
pub(super) struct Names {
    /// Each interface with the stamp of its record, or `None` if it had none.
    read: Vec<(u32, Option<Stamp>)>,
    /// By index.
    interfaces: HashMap<u32, String>,
    rules: HashMap<u32, Owner>,
    /// The slots of pairs in which no rule of the policy matches.
    reasons: HashMap<u32, (Direction, Reason)>,
    /// What the candidate says of what is counted in the slots of pairs.
    candidates: HashMap<u32, CandidateSays>,
}

/// The owner of a counter slot.
struct Owner {
    direction: Direction,
    rule: LoggingRule,
}

impl Names {
    pub(super) fn packets(&self, taken: Vec<Taken>) -> Vec<LoggedPacket> {
        let booted = booted();
        let packets = taken.into_iter();
        packets.map(|one| self.packet(one, booted)).collect()
    }

    /// Reads the records, unless they are the same as before, and what the interfaces are called
    /// now.
    pub(super) fn refresh(&mut self, pins: &InterfacePins) -> Result<(), KernelError> {
        let all = pins.of_attachment()?;
        if !self.is_current(&all)? {
            self.read_records(&all)?;
        }
        for one in &all {
            let name = name_now(one);
            self.interfaces.extend(name.map(|name| (one.ifindex, name)));
        }
        Ok(())
    }

    fn is_current(&self, all: &[InterfacePins]) -> Result<bool, KernelError> {
        if all.len() != self.read.len() {
            return Ok(false);
        }
        for (one, (ifindex, stamp)) in all.iter().zip(&self.read) {
            let is_same = match stamp {
                Some(stamp) => one.ifindex == *ifindex && stamp.is_current(one)?,
                None => false,
            };
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_records(&mut self, all: &[InterfacePins]) -> Result<(), KernelError> {
        let mut read = Vec::new();
        let (mut rules, mut reasons) = (HashMap::new(), HashMap::new());
        let mut candidates = HashMap::new();
        for one in all {
            let Some((state, stamp)) = Stamp::read(one)? else {
                read.push((one.ifindex, None));
                continue;
            };
            read.push((one.ifindex, Some(stamp)));
            self.interfaces.insert(one.ifindex, state.interface.clone());
            for (slot, (owner, is_there)) in state.rules_by_slot() {
                rules.insert(slot, Owner::of(owner, is_there));
            }
            let pairs = state.pairs.iter().chain(&state.retired);
            for owner in pairs.filter(|owner| !owner.is_rule()) {
                reasons.insert(owner.slot, (owner.direction, no_match(owner.action)));
            }
            for owner in &state.pairs {
                let says = owner.beside.as_ref().map(CandidateSays::of);
                candidates.extend(says.map(|says| (owner.slot, says)));
            }
        }
        (self.read, self.rules) = (read, rules);
        (self.reasons, self.candidates) = (reasons, candidates);
        Ok(())
    }

    fn interface(&self, ifindex: u32) -> String {
        let name = self.interfaces.get(&ifindex).cloned();
        // One that is not in the attachment any more, and was not since the reader began.
        name.unwrap_or_else(|| format!("if{ifindex}"))
    }

    /// Whose slot it is, and in which direction. `None` if nobody is known to own it.
    fn owner(&self, slot: u32) -> Option<(Direction, DecidedBy, Option<&LoggingRule>)> {
        let reason = reason_of_slot(slot).or_else(|| self.reasons.get(&slot).copied());
        if let Some((direction, reason)) = reason {
            return Some((direction, DecidedBy::Reason(reason), None));
        }
        let owner = self.rules.get(&slot)?;
        Some((owner.direction, DecidedBy::Rule, Some(&owner.rule)))
    }

    /// Who decided what is counted in a slot, and whether it is a reply to that. What no rule
    /// matches may have replies, which count for it too (C9).
    fn decided(&self, direction: Direction, slot: u32) -> (DecidedBy, Option<&LoggingRule>, bool) {
        match self.owner(slot) {
            Some((of, reason, rule)) => (reason, rule, of != direction),
            None => (DecidedBy::Rule, None, false),
        }
    }

    fn packet(&self, taken: Taken, booted: Timestamp) -> LoggedPacket {
        let Taken { event, bytes } = taken;
        let headers = Headers::of(&bytes, (event.has_tag != 0).then_some(event.tag));
        let direction = direction_of(&event);
        let (reason, rule, reply) = self.decided(direction, event.slot);
        let ends = Ends::of(&event, &headers, reason);
        let kind = ends.protocol.map(|protocol| kind_of(protocol, ends.is_v6));
        let kind = kind.filter(|_| ends.is_parsed);
        let has_ports = kind.is_some_and(Kind::has_ports);
        let is_icmp = kind == Some(Kind::Icmp);
        let [icmp_type, icmp_code] = event.icmp.to_be_bytes();
        let nanoseconds = i64::try_from(event.time).unwrap_or(i64::MAX);
        let at = booted.checked_add(SignedDuration::from_nanos(nanoseconds));
        LoggedPacket {
            at: at.unwrap_or(booted),
            interface: self.interface(event.ifindex),
            direction,
            verdict: event.action(),
            generation: event.generation,
            ether_type: headers.ether_type,
            vlans: headers.vlans,
            protocol: ends.protocol,
            later_fragment: ends.is_later_fragment,
            local: ends.local,
            local_port: has_ports.then_some(event.local_port),
            remote: ends.remote,
            remote_port: has_ports.then_some(event.remote_port),
            icmp_type: is_icmp.then_some(icmp_type),
            icmp_code: is_icmp.then_some(icmp_code),
            tcp_flags: (kind == Some(Kind::Tcp)).then_some(event.tcp_flags),
            bytes: event.bytes,
            packets: event.packets.max(1),
            queue: event.queue,
            tag_beside: (event.has_tag != 0).then_some(event.tag),
            rule: rule.cloned(),
            reason,
            reply,
            candidate: self.candidates.get(&event.slot).cloned(),
            head: bytes,
        }
    }

    /// See [`super::Events::tally`].
    pub(super) fn tallies(&self, from: &Counts, to: &Counts, delivered: &Delivered) -> Vec<Tally> {
        // A rule has several slots while a candidate is evaluated beside the policy, and one rule's
        // packets of the other direction are listed apart.
        let mut rows: BTreeMap<(u32, u8, &str, Option<u32>, u32), Tally> = BTreeMap::new();
        for (map, one) in to.maps() {
            let ifindex = one.ifindex;
            for (slot, now) in (0_u32..).zip(&one.slots) {
                let before = from.of(map, slot as usize);
                let written = now.written().saturating_sub(before.written());
                let suppressed = now.suppressed().saturating_sub(before.suppressed());
                let got = delivered.of(map, slot);
                // What has come since the last reading of what is not attached any more.
                let written = written.max(got);
                if written + suppressed == 0 {
                    continue;
                }
                let nobody = (Direction::Inbound, DecidedBy::Rule, None);
                let (direction, reason, rule) = self.owner(slot).unwrap_or(nobody);
                let position = rule.and_then(|rule| rule.position);
                // Rules that are gone are listed by slot.
                let apart = match (reason, position) {
                    (DecidedBy::Rule, None) => slot,
                    _ => 0,
                };
                let key = (ifindex, direction as u8, reason.name(), position, apart);
                let row = rows.entry(key).or_insert_with(|| Tally {
                    interface: self.interface(ifindex),
                    direction,
                    reason,
                    rule: rule.cloned(),
                    produced: 0,
                    delivered: 0,
                    lost: 0,
                    suppressed: 0,
                });
                row.produced += written + suppressed;
                row.delivered += got;
                row.lost += written - got;
                row.suppressed += suppressed;
            }
        }
        rows.into_values().collect()
    }
}

impl Owner {
    fn of(owner: &SlotOwner, is_there: bool) -> Owner {
        Owner {
            direction: owner.direction,
            rule: LoggingRule {
                group: owner.group.clone(),
                position: is_there.then_some(owner.position),
                name: owner.name.clone(),
                summary: owner.summary.clone(),
                location: owner.location.clone(),
            },
        }
    }
}

/// The ends of a packet: as the packet path has parsed them, or else as far as its headers go.
struct Ends {
    protocol: Option<u8>,
    is_v6: bool,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    /// Whether ports and ICMP message are known too.
    is_parsed: bool,
    /// Whether it is a fragment that is not the first, and has none of these.
    is_later_fragment: bool,
}

impl Ends {
    fn of(event: &Event, headers: &Headers, reason: DecidedBy) -> Ends {
        let address = |words: [u32; 4]| -> IpAddr {
            match event.v6 {
                0 => ipv4(words[0]).into(),
                _ => ipv6(words).into(),
            }
        };
        let is_broken = matches!(
            reason,
            DecidedBy::Reason(Reason::Malformed | Reason::MalformedAudited)
        );
        if !is_broken && headers.is_ip() {
            let is_later_fragment = event.marks & LATER_FRAGMENT != 0;
            // The packet path stops at the header of a fragment, and its first bytes say more.
            let said = headers.ip.filter(|_| is_later_fragment);
            return Ends {
                protocol: Some(said.map_or(event.protocol, |(protocol, ..)| protocol)),
                is_v6: event.v6 != 0,
                local: Some(address(event.local)),
                remote: Some(address(event.remote)),
                is_parsed: !is_later_fragment,
                is_later_fragment,
            };
        }
        let (protocol, source, destination) = match headers.ip {
            Some((protocol, source, destination)) => {
                (Some(protocol), Some(source), Some(destination))
            }
            None => (None, None, None),
        };
        let (local, remote) = match direction_of(event) {
            Direction::Inbound => (destination, source),
            Direction::Outbound => (source, destination),
        };
        Ends {
            protocol,
            is_v6: source.is_some_and(|source| source.is_ipv6()),
            local,
            remote,
            is_parsed: false,
            is_later_fragment: false,
        }
    }
}

fn direction_of(event: &Event) -> Direction {
    match event.is_inbound() {
        true => Direction::Inbound,
        false => Direction::Outbound,
    }
}

/// The wall clock time at which the clock of events was zero. The two clocks are read one after the
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
    let offset = SignedDuration::from_nanos(monotonic_offset());
    shortest.map_or_else(Timestamp::now, |(_, now, since)| {
        now.checked_sub(since - offset).unwrap_or(now)
    })
}
