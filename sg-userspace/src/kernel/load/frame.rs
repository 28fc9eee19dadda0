//! Frames for test runs: Ethernet, IP and a transport header, with a payload of zeros. Checksums,
//! which the packet path does not look at, are zero.

use std::net::IpAddr;

use sg_common::protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

/// What comes behind the IP header, or in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Source and destination port, flags, and the numbers of sequence and acknowledgement.
    Tcp {
        ports: (u16, u16),
        flags: u8,
        numbers: (u32, u32),
    },
    Udp {
        ports: (u16, u16),
    },
    Sctp {
        ports: (u16, u16),
    },
    /// ICMP or ICMPv6, by the family of the addresses.
    Icmp {
        kind: u8,
        code: u8,
        id: u16,
    },
    /// Nothing but zeros.
    Other(u8),
    /// A frame without an IP header, by its EtherType.
    NotIp(u16),
}

/// The EtherTypes of frames that are not IP: ARP (RFC 826), and LLDP (IEEE 802.1AB) for any other.
pub const ARP: u16 = 0x0806;
pub const LLDP: u16 = 0x88cc;

/// Neither 1 nor 255, with which IGMP and neighbour discovery are essential.
pub const HOP_LIMIT: u8 = 64;

/// The fewest bytes behind the IP header: the kernel refuses test runs of packets that are shorter
/// than this behind Ethernet's header (`bpf_prog_test_run_skb` in net/bpf/test_run.c).
const FEWEST: usize = 40;

/// A packet of which a frame is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    pub source: IpAddr,
    /// Of the same family.
    pub destination: IpAddr,
    pub hop_limit: u8,
    pub body: Body,
}

impl Wire {
    /// Writes the frame, with so many bytes of payload more than the fewest that a test run takes.
    pub fn write(&self, frame: &mut Vec<u8>, more: usize) {
        let transport = self.body.bytes();
        let len = transport.len() + FEWEST + more;
        let protocol = self.body.protocol(self.source.is_ipv6());
        frame.clear();
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        match (self.body, self.source, self.destination) {
            (Body::NotIp(kind), _, _) => frame.extend_from_slice(&kind.to_be_bytes()),
            (_, IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
                frame.extend_from_slice(&((20 + len) as u16).to_be_bytes());
                frame.extend_from_slice(&[0, 1, 0, 0, self.hop_limit, protocol, 0, 0]);
                frame.extend_from_slice(&source.octets());
                frame.extend_from_slice(&destination.octets());
            }
            (_, IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
                frame.extend_from_slice(&[protocol, self.hop_limit]);
                frame.extend_from_slice(&source.octets());
                frame.extend_from_slice(&destination.octets());
            }
            // Both are of one family.
            _ => {}
        }
        let payload = frame.len() + len;
        frame.extend_from_slice(&transport);
        if let Body::Udp { .. } = self.body {
            let at = frame.len() - 4;
            if let Some(length) = frame.get_mut(at..at + 2) {
                length.copy_from_slice(&(len as u16).to_be_bytes());
            }
        }
        frame.resize(payload, 0);
    }
}

impl Body {
    fn protocol(self, is_v6: bool) -> u8 {
        match self {
            Body::Tcp { .. } => IPPROTO_TCP,
            Body::Udp { .. } => IPPROTO_UDP,
            Body::Sctp { .. } => IPPROTO_SCTP,
            Body::Icmp { .. } if is_v6 => IPPROTO_ICMPV6,
            Body::Icmp { .. } => IPPROTO_ICMP,
            Body::Other(number) => number,
            Body::NotIp(_) => 0,
        }
    }

    /// The transport header.
    fn bytes(self) -> Vec<u8> {
        let two = |(from, to): (u16, u16)| {
            let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
            [a, b, c, d]
        };
        match self {
            Body::Tcp {
                ports,
                flags,
                numbers: (sequence, acknowledgement),
            } => {
                let mut header = two(ports).to_vec();
                header.extend(sequence.to_be_bytes());
                header.extend(acknowledgement.to_be_bytes());
                header.extend([0x50, flags, 255, 255, 0, 0, 0, 0]);
                header
            }
            Body::Udp { ports } => [two(ports), [0; 4]].concat(),
            Body::Sctp { ports } => [two(ports), [0; 4], [0; 4]].concat(),
            Body::Icmp { kind, code, id } => {
                let [a, b] = id.to_be_bytes();
                vec![kind, code, 0, 0, a, b, 0, 1]
            }
            Body::Other(_) | Body::NotIp(_) => Vec::new(),
        }
    }
}
