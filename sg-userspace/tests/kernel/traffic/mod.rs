//! Random traffic for a policy: packets at the edges of its rules, packets that follow them,
//! fragments, ICMP errors, essential traffic, and damaged versions of all these.

mod draft;
mod follow;
mod mangle;
pub(crate) mod policies;
pub(crate) mod talks;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use sg_common::verdict::Direction;
use sg_policy::policy::Policy;
use sg_policy::testing;

use crate::reference::parse::{Numbers, SCTP, TCP, Transport, UDP, icmp_of};
use crate::world::script::Sent;
use draft::Draft;

/// How many packets are kept, so that others can follow them.
const MEMORY: usize = 48;

pub(crate) struct Traffic {
    pub(crate) rng: Rng,
    /// The policy, whose rules have the edges.
    policy: Policy,
    past: Vec<Draft>,
    /// The first fragments that were sent.
    firsts: Vec<Draft>,
}

/// How many of a hundred packets are of each kind.
const FRESH: u8 = 40;
const FOLLOWING: u8 = 26;
const FRAGMENTS: u8 = 8;
const ERRORS: u8 = 12;
const ESSENTIAL: u8 = 8;
const NON_IP: u8 = 3;
// The rest of the hundred are random bytes.

impl Traffic {
    pub(crate) fn new(rng: Rng, policy: Policy) -> Self {
        Traffic {
            rng,
            policy,
            past: Vec::new(),
            firsts: Vec::new(),
        }
    }

    pub(crate) fn next(&mut self) -> Sent {
        let mut kind = self.rng.u8(..100);
        // Returns true for the share of packets that are of this kind. Otherwise it subtracts the
        // share from the number, for the next kind.
        let mut is = |share: u8| match kind.checked_sub(share) {
            None => true,
            Some(rest) => {
                kind = rest;
                false
            }
        };
        let draft = if is(FRESH) {
            Some(self.fresh())
        } else if is(FOLLOWING) {
            Some(self.following())
        } else if is(FRAGMENTS) {
            Some(self.later_fragment())
        } else if is(ERRORS) {
            Some(self.error())
        } else if is(ESSENTIAL) {
            Some(self.nearly_essential())
        } else {
            None
        };
        let (direction, mut bytes) = match draft {
            Some(draft) => self.dressed(draft),
            None if is(NON_IP) => (self.direction(), self.non_ip()),
            None => (self.direction(), self.random_bytes()),
        };
        if self.rng.u8(..8) == 0 {
            mangle::mangle(&mut self.rng, &mut bytes);
        }
        // With segmentation offload the stack passes several packets to the interface as one.
        let is_offloaded = direction == Direction::Outbound && self.rng.u8(..30) == 0;
        Sent {
            direction,
            segments: if is_offloaded { self.rng.u32(2..50) } else { 1 },
            bytes,
            expected: None,
        }
    }

    fn direction(&mut self) -> Direction {
        if self.rng.bool() {
            Direction::Inbound
        } else {
            Direction::Outbound
        }
    }

    fn local(&mut self, is_v4: bool) -> IpAddr {
        if is_v4 {
            Ipv4Addr::new(192, 0, 2, self.rng.u8(1..4)).into()
        } else {
            let host = self.rng.u16(1..4);
            let network = *self.rng.choice(&[0x2001, 0xfe80]).unwrap_or(&0x2001);
            Ipv6Addr::new(network, 0xdb8, 0, 0, 0, 0, 0, host).into()
        }
    }

    /// A port of the originator: one of a few, or one that a rule names.
    fn opening_port(&mut self) -> u16 {
        if self.rng.bool() {
            return *self
                .rng
                .choice(&[0, 22, 67, 547, 40000, 40001, 50000, 65535])
                .unwrap_or(&40000);
        }
        let rng = &mut self.rng;
        let ports = rng.choice(&self.policy.rules).and_then(|r| r.ports.clone());
        match ports.as_deref() {
            Some([_, ..]) => {
                let ports = ports.unwrap_or_default();
                let (first, last) = ports[rng.usize(..ports.len())];
                *rng.choice(&[first, last, first.wrapping_sub(1), last.wrapping_add(1)])
                    .unwrap_or(&first)
            }
            _ => rng.u16(..),
        }
    }

    fn tcp_flags(&mut self) -> u8 {
        // SYN, SYN-ACK, ACK, PSH-ACK, FIN-ACK, FIN, RST, RST-ACK, none, SYN-FIN, SYN-RST, and all
        // flags.
        *self
            .rng
            .choice(&[
                0x02, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x01, 0x04, 0x14, 0x00, 0x03, 0x06, 0x3f,
                0xc2, 0x52,
            ])
            .unwrap_or(&0x10)
    }

    /// One of a few numbers, so that some segments acknowledge others.
    fn numbers(&mut self) -> Numbers {
        let rng = &mut self.rng;
        Numbers {
            sequence: *rng.choice(&[0, 1000, u32::MAX]).unwrap_or(&0),
            acknowledges: *rng.choice(&[0, 1, 1000, 1001]).unwrap_or(&0),
            // The length is set when the draft is sent.
            length: 0,
        }
    }

    /// A packet at the edge of some rule.
    fn fresh(&mut self) -> Draft {
        let packet = testing::packet(&mut self.rng, &self.policy);
        let local = self.local(packet.remote.is_ipv4());
        let (source, destination) = match packet.direction {
            Direction::Inbound => (packet.remote, local),
            Direction::Outbound => (local, packet.remote),
        };
        let (a, b) = (self.opening_port(), packet.port);
        let transport = match packet.protocol {
            TCP => Transport::Tcp {
                source: a,
                destination: b,
                flags: self.tcp_flags(),
                numbers: self.numbers(),
            },
            UDP => Transport::Udp {
                source: a,
                destination: b,
            },
            SCTP => Transport::Sctp {
                source: a,
                destination: b,
            },
            p if p == icmp_of(packet.remote) => Transport::Icmp {
                kind: packet.icmp.0,
                code: packet.icmp.1,
                identifier: self.rng.u16(..4),
            },
            _ => Transport::Other,
        };
        let draft = Draft::new(
            packet.direction,
            source,
            destination,
            packet.protocol,
            transport,
        );
        self.remember(draft)
    }

    /// Essential traffic (K5), and packets that differ from it in one field and are not essential.
    fn nearly_essential(&mut self) -> Draft {
        let rng = &mut self.rng;
        let direction = if rng.bool() {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        if rng.u8(..8) == 0 {
            let (source, destination) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(224, 0, 0, 22));
            let protocol = *rng.choice(&[2, 2, 2, 3]).unwrap_or(&2);
            let other = Transport::Other;
            let mut draft = Draft::new(
                direction,
                source.into(),
                destination.into(),
                protocol,
                other,
            );
            draft.hop_limit = *rng.choice(&[1, 1, 2, 0, 255]).unwrap_or(&1);
            return draft;
        }
        if rng.u8(..3) == 0 {
            let is_v4 = rng.bool();
            let (source, destination): (IpAddr, IpAddr) = match is_v4 {
                true => (
                    Ipv4Addr::new(192, 0, 2, 254).into(),
                    Ipv4Addr::new(192, 0, 2, 1).into(),
                ),
                false => (
                    Ipv6Addr::new(
                        *rng.choice(&[0xfe80, 0x2001]).unwrap_or(&0xfe80),
                        0,
                        0,
                        0,
                        0,
                        0,
                        0,
                        9,
                    )
                    .into(),
                    Ipv6Addr::new(0xfe80, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
                ),
            };
            let mut ports = match rng.bool() {
                true => (67, 68),
                false => (547, 546),
            };
            match rng.u8(..8) {
                0 => ports.0 += 1,
                1 => ports.1 += 1,
                2 => ports = (ports.1, ports.0),
                _ => {}
            }
            let transport = Transport::Udp {
                source: ports.0,
                destination: ports.1,
            };
            return Draft::new(direction, source, destination, UDP, transport);
        }
        let source = *rng
            .choice(&[0xfe80, 0xfe80, 0xfebf, 0xfec0, 0x2001, 0])
            .unwrap_or(&0xfe80);
        // Source addresses: the unspecified address, and one that differs from it in one bit.
        let host = if source == 0 { rng.u16(..2) } else { 9 };
        let source = Ipv6Addr::new(source, 0, 0, 0, 0, 0, 0, host);
        let destination = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let transport = Transport::Icmp {
            kind: match rng.u8(..4) {
                0 => 143,
                _ => rng.u8(128..140),
            },
            code: 0,
            identifier: 0,
        };
        let mut draft = Draft::new(direction, source.into(), destination.into(), 58, transport);
        draft.hop_limit = *rng.choice(&[255, 255, 255, 254, 1, 0]).unwrap_or(&255);
        draft
    }

    fn non_ip(&mut self) -> Vec<u8> {
        let ether_type: u16 = *self
            .rng
            .choice(&[0x0806, 0x88cc, 0x0026, 0x9100, 0x0801, 0x86dc, 0xffff])
            .unwrap_or(&0x0806);
        let mut frame = vec![2; 12];
        for _ in 0..self.rng.usize(..4) {
            frame.extend_from_slice(&[0x81, 0x00, 0x00, 0x07]);
        }
        frame.extend_from_slice(&ether_type.to_be_bytes());
        frame.resize(frame.len() + self.rng.usize(..50), 0x45);
        frame
    }

    /// Random bytes after an EtherType of IP.
    fn random_bytes(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let mut frame = vec![2; 12];
        let (ether_type, version): (u16, u8) = match rng.bool() {
            true => (0x0800, 0x45),
            false => (0x86dd, 0x60),
        };
        frame.extend_from_slice(&ether_type.to_be_bytes());
        frame.push(version);
        let len = rng.usize(..120);
        frame.extend(std::iter::repeat_with(|| rng.u8(..)).take(len));
        frame
    }
}
