//! A packet as its parts, from which its bytes are built.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpAuthHeader, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options,
    Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, SingleVlanHeader, TcpHeader,
    UdpHeader, VlanId,
};
use sg_common::verdict::Direction;

use crate::reference::parse::{SCTP, TCP, Transport, UDP};

#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) direction: Direction,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) transport: Transport,
    pub(crate) hop_limit: u8,
    /// The EtherType of each VLAN tag.
    pub(crate) tags: Vec<u16>,
    /// IPv4 options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers.
    pub(crate) extensions: Vec<Extension>,
    pub(crate) fragment: Option<Fragment>,
    /// What is added to the right value of UDP's length field.
    pub(crate) udp_lie: i16,
    /// How many 32-bit words of TCP options there are.
    pub(crate) tcp_options: u8,
    pub(crate) payload: Vec<u8>,
    /// The most bytes after the network headers, whose lengths are adapted.
    pub(crate) cut: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum Extension {
    /// A header with this protocol number, and with this many eight-byte units after the first.
    Generic(u8, u8),
    /// An authentication header with this many four-byte words after its fixed part.
    Authentication(u8),
    /// An authentication header that claims to be eight bytes long.
    ShortAuthentication,
    /// The place of the draft's fragment header.
    Fragment,
    AtomicFragment,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment {
    pub(crate) identification: u32,
    /// The offset in units of eight bytes.
    pub(crate) offset: u16,
    pub(crate) more: bool,
}

impl Draft {
    pub(crate) fn new(
        direction: Direction,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        transport: Transport,
    ) -> Self {
        Draft {
            direction,
            source,
            destination,
            protocol,
            transport,
            hop_limit: 64,
            tags: Vec::new(),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            udp_lie: 0,
            tcp_options: 0,
            payload: Vec::new(),
            cut: None,
        }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let ether_type = match self.source {
            IpAddr::V4(_) => EtherType::IPV4,
            IpAddr::V6(_) => EtherType::IPV6,
        };
        let mut types: Vec<EtherType> = self.tags.iter().map(|t| EtherType(*t)).collect();
        types.push(ether_type);
        let ethernet = Ethernet2Header {
            source: [2, 0, 0, 0, 0, 1],
            destination: [2, 0, 0, 0, 0, 2],
            ether_type: types[0],
        };
        let mut bytes = ethernet.to_bytes().to_vec();
        for next in &types[1..] {
            let tag = SingleVlanHeader {
                vlan_id: VlanId::try_new(7).expect("a small number"),
                ether_type: *next,
                ..SingleVlanHeader::default()
            };
            bytes.extend_from_slice(&tag.to_bytes());
        }
        bytes.extend(self.packet());
        bytes
    }

    /// The packet from its network header on.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut transport = match self.fragment {
            // A later fragment has no transport header.
            Some(Fragment { offset: 1.., .. }) => self.payload.clone(),
            _ => self.transport_bytes(),
        };
        transport.truncate(self.cut.unwrap_or(usize::MAX));
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header {
                    identification: self.fragment.map_or(0, |f| f.identification as u16),
                    fragment_offset: frag_offset(self.fragment.map_or(0, |f| f.offset)),
                    more_fragments: self.fragment.is_some_and(|f| f.more),
                    time_to_live: self.hop_limit,
                    protocol: IpNumber(self.protocol),
                    source: source.octets(),
                    destination: destination.octets(),
                    options: Ipv4Options::try_from(&self.options[..])
                        .expect("a multiple of four, forty bytes at most"),
                    ..Ipv4Header::default()
                };
                header
                    .set_payload_len(transport.len())
                    .expect("packets of the tests are short");
                header.header_checksum = header.calc_header_checksum();
                let mut bytes = header.to_bytes().to_vec();
                bytes.extend(transport);
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (first, mut payload) = self.chain();
                payload.extend(transport);
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: payload.len() as u16,
                    next_header: IpNumber(first),
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                let mut bytes = header.to_bytes().to_vec();
                bytes.extend(payload);
                bytes
            }
            _ => panic!(
                "{} and {} are of two families",
                self.source, self.destination
            ),
        }
    }

    /// The extension headers, and the protocol number of the first of them.
    fn chain(&self) -> (u8, Vec<u8>) {
        let mut extensions = self.extensions.clone();
        if self.fragment.is_some() && !extensions.iter().any(|e| matches!(e, Extension::Fragment)) {
            extensions.push(Extension::Fragment);
        }
        let mut next = self.protocol;
        let mut bytes = Vec::new();
        for extension in extensions.iter().rev() {
            let following = IpNumber(next);
            let (number, mut header) = match extension {
                Extension::Generic(number, units) => {
                    let payload = vec![0; 6 + 8 * usize::from(*units)];
                    let header = Ipv6RawExtHeader::new_raw(following, &payload)
                        .expect("a multiple of eight");
                    (*number, header.to_bytes().to_vec())
                }
                Extension::Authentication(words) => {
                    let icv = vec![0; 4 * usize::from(*words)];
                    let header =
                        IpAuthHeader::new(following, 1, 1, &icv).expect("a multiple of four");
                    (51, header.to_bytes().to_vec())
                }
                Extension::ShortAuthentication => (51, vec![next, 0, 0, 0, 0, 0, 0, 1]),
                Extension::Fragment => {
                    let Some(fragment) = self.fragment else {
                        continue;
                    };
                    let header = Ipv6FragmentHeader::new(
                        following,
                        frag_offset(fragment.offset),
                        fragment.more,
                        fragment.identification,
                    );
                    (44, header.to_bytes().to_vec())
                }
                Extension::AtomicFragment => {
                    let header = Ipv6FragmentHeader::new(following, frag_offset(0), false, 9);
                    (44, header.to_bytes().to_vec())
                }
            };
            header.extend(bytes);
            bytes = header;
            next = number;
        }
        (next, bytes)
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let mut bytes = match self.transport {
            Transport::Tcp {
                source,
                destination,
                flags,
                numbers,
            } => {
                debug_assert_eq!(self.protocol, TCP);
                let mut header = TcpHeader::new(source, destination, numbers.sequence, 65535);
                header.acknowledgment_number = numbers.acknowledges;
                let options = vec![1; usize::from(self.tcp_options) * 4];
                header.set_options_raw(&options).expect("ten words at most");
                let mut bytes = header.to_bytes().to_vec();
                bytes[13] = flags;
                bytes
            }
            Transport::Udp {
                source,
                destination,
            } => {
                debug_assert_eq!(self.protocol, UDP);
                let header = UdpHeader {
                    source_port: source,
                    destination_port: destination,
                    length: (8 + self.payload.len() as u16).wrapping_add_signed(self.udp_lie),
                    checksum: 0,
                };
                header.to_bytes().to_vec()
            }
            Transport::Sctp {
                source,
                destination,
            } => {
                debug_assert_eq!(self.protocol, SCTP);
                let mut bytes = source.to_be_bytes().to_vec();
                bytes.extend_from_slice(&destination.to_be_bytes());
                // The verification tag and the checksum.
                bytes.extend_from_slice(&[0; 8]);
                bytes
            }
            Transport::Icmp {
                kind,
                code,
                identifier,
            } => {
                let [a, b] = identifier.to_be_bytes();
                vec![kind, code, 0, 0, a, b, 0, 1]
            }
            Transport::Other => Vec::new(),
        };
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

fn frag_offset(units: u16) -> IpFragOffset {
    IpFragOffset::try_new(units & 0x1fff).expect("thirteen bits")
}
