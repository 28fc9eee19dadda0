//! Parses frames as K2 to K4 say: by an independent parser where that is as strict, and by hand
//! where it is not.

use std::net::IpAddr;

use etherparse::{
    Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice, SingleVlanHeaderSlice, TcpHeaderSlice,
    UdpHeaderSlice,
};

/// What a frame is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    Arp,
    /// Neither IPv4 nor IPv6 nor ARP.
    NonIp,
    /// Malformed, with the defect.
    Malformed(&'static str),
    LaterFragment(Datagram),
    Packet(Packet),
}

/// What all fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Datagram {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) identification: u32,
    /// The protocol. For IPv6, the next header after the fragment header.
    pub(crate) protocol: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    pub(crate) protocol: u8,
    pub(crate) transport: Transport,
    /// The datagram, if this packet is its first fragment.
    pub(crate) first_fragment_of: Option<Datagram>,
    /// The length of all headers in bytes.
    pub(crate) headers: usize,
    /// What follows the header of an ICMP message, up to the length in the IP header.
    pub(crate) icmp_payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp {
        source: u16,
        destination: u16,
        flags: u8,
        numbers: Numbers,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    Sctp {
        source: u16,
        destination: u16,
    },
    /// ICMP in IPv4 and ICMPv6 in IPv6.
    Icmp {
        kind: u8,
        code: u8,
        identifier: u16,
    },
    Other,
}

/// The sequence numbers of a TCP segment (RFC 9293, section 3.4). For a quoted one they are
/// unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) sequence: u32,
    pub(crate) acknowledges: u32,
    /// Bytes after the TCP header, up to the length in the IP header.
    pub(crate) length: u32,
}

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOST_EXTENSION_HEADERS: usize = 8;

const MOST_TAGS: usize = 2;
const LONGEST_DATAGRAM: usize = 65_535;

/// The number of the protocol ICMP in the family of `address`.
pub(crate) fn icmp_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { ICMP } else { ICMPV6 }
}

/// Parses a frame that is `segments` packets on the wire.
pub(crate) fn parse(frame: &[u8], segments: u32) -> Frame {
    let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(frame) else {
        return Frame::Malformed("no Ethernet header");
    };
    let mut ether_type = ethernet.ether_type().0;
    let mut at = ethernet.slice().len();
    let mut tags = 0;
    while ether_type == 0x8100 || ether_type == 0x88a8 {
        if tags == MOST_TAGS {
            return Frame::Malformed("three tags");
        }
        let Ok(tag) = SingleVlanHeaderSlice::from_slice(&frame[at..]) else {
            return Frame::Malformed("a tag is cut off");
        };
        ether_type = tag.ether_type().0;
        at += tag.slice().len();
        tags += 1;
    }
    let rest = &frame[at..];
    let parsed = match ether_type {
        0x0800 => ipv4(rest, segments),
        0x86dd => ipv6(rest, segments),
        0x0806 => return Frame::Arp,
        _ => return Frame::NonIp,
    };
    match parsed {
        Ok(Ip::Whole(mut packet)) => {
            packet.headers += at;
            Frame::Packet(packet)
        }
        Ok(Ip::Later(datagram)) => Frame::LaterFragment(datagram),
        Err(why) => Frame::Malformed(why),
    }
}

enum Ip {
    Whole(Packet),
    Later(Datagram),
}

fn ipv4(bytes: &[u8], segments: u32) -> Result<Ip, &'static str> {
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|_| "IPv4 header")?;
    let header_len = header.slice().len();
    let total = length(header.total_len(), bytes);
    if total < header_len {
        return Err("IPv4 length below the header's");
    }
    let packet = bytes.get(..total).ok_or("IPv4 length beyond the frame")?;
    let payload = &packet[header_len..];
    let datagram = Datagram {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        identification: header.identification().into(),
        protocol: header.protocol().0,
    };
    let offset = usize::from(header.fragments_offset().value()) * 8;
    if offset > 0 {
        return later(datagram, offset, payload.len());
    }
    whole(
        datagram,
        header.more_fragments(),
        header.ttl(),
        datagram.protocol,
        header_len,
        payload,
        segments,
    )
}

/// The length that a 16-bit field gives for `bytes`. Zero means all of them if they are too many
/// for the field.
fn length(field: u16, bytes: &[u8]) -> usize {
    match field {
        0 if bytes.len() > LONGEST_DATAGRAM => bytes.len(),
        said => said.into(),
    }
}

fn ipv6(bytes: &[u8], segments: u32) -> Result<Ip, &'static str> {
    let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|_| "IPv6 header")?;
    let (_, rest) = bytes.split_at(header.slice().len());
    let claimed = length(header.payload_length(), rest);
    let payload = rest.get(..claimed).ok_or("IPv6 length beyond the frame")?;
    let mut chain = Chain::walk(header.next_header().0, payload)?;
    let datagram = Datagram {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        identification: chain.fragment.map_or(0, |f| f.identification),
        protocol: chain.fragment.map_or(0, |f| f.next),
    };
    let payload = chain.rest(payload);
    if let Some(fragment) = chain.fragment.take_if(|f| f.offset > 0) {
        return later(datagram, fragment.offset, payload.len());
    }
    whole(
        datagram,
        chain.fragment.is_some(),
        header.hop_limit(),
        chain.protocol,
        header.slice().len() + chain.len,
        payload,
        segments,
    )
}

/// Walks along the extension headers of an IPv6 packet, to a later fragment or the first header
/// that is no extension header.
pub(crate) struct Chain {
    pub(crate) protocol: u8,
    pub(crate) len: usize,
    pub(crate) fragment: Option<Fragment>,
}

#[derive(Clone, Copy)]
pub(crate) struct Fragment {
    identification: u32,
    next: u8,
    pub(crate) offset: usize,
}

impl Chain {
    pub(crate) fn walk(first: u8, payload: &[u8]) -> Result<Chain, &'static str> {
        let mut chain = Chain {
            protocol: first,
            len: 0,
            fragment: None,
        };
        let mut headers = 0;
        while matches!(
            chain.protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
        ) {
            if headers == MOST_EXTENSION_HEADERS {
                return Err("nine extension headers");
            }
            headers += 1;
            let header = chain.rest(payload);
            let &[next, length, a, b, c, d, e, f, ..] = header else {
                return Err("an extension header is cut off");
            };
            let len = match chain.protocol {
                FRAGMENT => 8,
                AUTHENTICATION if length == 0 => return Err("a short authentication header"),
                AUTHENTICATION => (usize::from(length) + 2) * 4,
                _ => (usize::from(length) + 1) * 8,
            };
            if len > header.len() {
                return Err("an extension header is cut off");
            }
            let word = u16::from_be_bytes([a, b]);
            let (offset, more) = (usize::from(word >> 3) * 8, word & 1 != 0);
            let is_fragment = chain.protocol == FRAGMENT && (offset > 0 || more);
            chain.len += len;
            chain.protocol = next;
            if is_fragment {
                let fragment = Fragment {
                    identification: u32::from_be_bytes([c, d, e, f]),
                    next,
                    offset,
                };
                if chain.fragment.replace(fragment).is_some() {
                    return Err("a fragment of a fragment");
                }
                if offset > 0 {
                    break;
                }
            }
        }
        Ok(chain)
    }

    pub(crate) fn rest<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        &payload[self.len..]
    }
}

fn later(datagram: Datagram, offset: usize, len: usize) -> Result<Ip, &'static str> {
    let judged_by = match datagram.protocol {
        TCP => 20,
        SCTP => 12,
        _ => 8,
    };
    if offset < judged_by {
        return Err("a fragment overlaps the transport header");
    }
    if offset + len > LONGEST_DATAGRAM {
        return Err("a fragment ends beyond the longest datagram");
    }
    Ok(Ip::Later(datagram))
}

fn whole(
    datagram: Datagram,
    is_fragment: bool,
    hop_limit: u8,
    protocol: u8,
    network_headers: usize,
    payload: &[u8],
    segments: u32,
) -> Result<Ip, &'static str> {
    let (transport, len) = transport(datagram.source, protocol, payload)?;
    if protocol == UDP && segments == 1 && payload.len() <= LONGEST_DATAGRAM {
        match usize::from(u16::from_be_bytes([payload[4], payload[5]])) {
            ..8 => return Err("UDP length below the header's"),
            said if said > payload.len() && !is_fragment => {
                return Err("UDP length beyond the packet");
            }
            _ => {}
        }
    }
    Ok(Ip::Whole(Packet {
        source: datagram.source,
        destination: datagram.destination,
        hop_limit,
        protocol,
        transport,
        first_fragment_of: is_fragment.then_some(datagram),
        headers: network_headers + len,
        icmp_payload: match transport {
            Transport::Icmp { .. } => payload[len..].to_vec(),
            _ => Vec::new(),
        },
    }))
}

fn transport(
    source: IpAddr,
    protocol: u8,
    bytes: &[u8],
) -> Result<(Transport, usize), &'static str> {
    if protocol == TCP {
        let header = TcpHeaderSlice::from_slice(bytes).map_err(|_| "TCP header")?;
        let tcp = Transport::Tcp {
            source: header.source_port(),
            destination: header.destination_port(),
            flags: header.slice()[13],
            numbers: Numbers {
                sequence: header.sequence_number(),
                acknowledges: header.acknowledgment_number(),
                length: (bytes.len() - header.slice().len()) as u32,
            },
        };
        return Ok((tcp, header.slice().len()));
    }
    if protocol == UDP {
        let header = UdpHeaderSlice::from_slice(bytes).map_err(|_| "UDP header")?;
        let udp = Transport::Udp {
            source: header.source_port(),
            destination: header.destination_port(),
        };
        return Ok((udp, header.slice().len()));
    }
    if protocol == SCTP {
        let header = bytes.get(..12).ok_or("SCTP header")?;
        let (source, destination) = ports(header);
        return Ok((
            Transport::Sctp {
                source,
                destination,
            },
            header.len(),
        ));
    }
    if protocol == icmp_of(source) {
        let header = bytes.get(..8).ok_or("ICMP header")?;
        return Ok((icmp(header), header.len()));
    }
    Ok((Transport::Other, 0))
}

/// The ports, which are the first four bytes of TCP, UDP and SCTP headers.
pub(crate) fn ports(header: &[u8]) -> (u16, u16) {
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    (word(0), word(2))
}

pub(crate) fn icmp(header: &[u8]) -> Transport {
    Transport::Icmp {
        kind: header[0],
        code: header[1],
        identifier: u16::from_be_bytes([header[4], header[5]]),
    }
}
