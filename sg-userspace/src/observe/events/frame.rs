//! What the first bytes of a frame say: its VLANs, its type, and the protocol and the ends of a
//! packet that the packet path has not parsed, for it is malformed or a later fragment. All numbers
//! of a frame are big-endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sg_common::protocol::{
    IPPROTO_AH, IPPROTO_DSTOPTS, IPPROTO_FRAGMENT, IPPROTO_HOPOPTS, IPPROTO_ROUTING,
};

/// Types of frames (IEEE 802), as Linux numbers them in include/uapi/linux/if_ether.h.
const CUSTOMER_VLAN: u16 = libc::ETH_P_8021Q as u16;
const SERVICE_VLAN: u16 = libc::ETH_P_8021AD as u16;
const IPV4: u16 = libc::ETH_P_IP as u16;
const IPV6: u16 = libc::ETH_P_IPV6 as u16;

/// The two MAC addresses in front of the type.
const ADDRESSES: usize = 12;

/// The headers of a frame, as far as they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Headers {
    /// The outer one first.
    pub(super) vlans: Vec<u16>,
    pub(super) ether_type: u16,
    /// Protocol, source and destination of an IP header that is whole. The protocol of IPv6 is the
    /// number behind all extension headers that are there.
    pub(super) ip: Option<(u8, IpAddr, IpAddr)>,
}

impl Headers {
    /// Reads them, behind a tag that the device has taken out of the frame.
    pub(super) fn of(frame: &[u8], tag: Option<u16>) -> Headers {
        let mut headers = Headers {
            vlans: tag.iter().map(|tag| tag & VLAN_NUMBER).collect(),
            ..Headers::default()
        };
        let mut at = ADDRESSES;
        let Some(mut found) = word(frame, at) else {
            return headers;
        };
        while [CUSTOMER_VLAN, SERVICE_VLAN].contains(&found) && headers.vlans.len() < MOST_TAGS {
            let (Some(tag), Some(next)) = (word(frame, at + 2), word(frame, at + 4)) else {
                break;
            };
            headers.vlans.push(tag & VLAN_NUMBER);
            found = next;
            at += 4;
        }
        headers.ether_type = found;
        headers.ip = frame.get(at + 2..).and_then(|packet| ip(found, packet));
        headers
    }

    pub(super) fn is_ip(&self) -> bool {
        [IPV4, IPV6].contains(&self.ether_type)
    }
}

/// The bits of a tag that are the number of the VLAN (IEEE 802.1Q).
const VLAN_NUMBER: u16 = 0x0fff;

/// A third tag makes a frame malformed (K2), and shows.
const MOST_TAGS: usize = 3;

/// The frame with this tag behind its addresses. One that is too short for both has none.
pub(super) fn with_tag(frame: &[u8], tag: u16) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    if bytes.len() >= ADDRESSES {
        let header = [CUSTOMER_VLAN, tag].map(u16::to_be_bytes);
        bytes.splice(ADDRESSES..ADDRESSES, header.concat());
    }
    bytes
}

/// The 16 bits at an offset. `None` if the frame ends before.
fn word(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

/// By RFC 791 section 3.1 and RFC 8200 section 3.
fn ip(ether_type: u16, packet: &[u8]) -> Option<(u8, IpAddr, IpAddr)> {
    match ether_type {
        IPV4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 4] = *header.get(at..)?.first_chunk()?;
                Some(Ipv4Addr::from(bytes).into())
            };
            Some((header[9], address(12)?, address(16)?))
        }
        IPV6 => {
            let header: &[u8; 40] = packet.first_chunk()?;
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 16] = *header.get(at..)?.first_chunk()?;
                Some(Ipv6Addr::from(bytes).into())
            };
            let protocol = behind_extensions(header[6], &packet[40..]);
            Some((protocol, address(8)?, address(24)?))
        }
        _ => None,
    }
}

/// By RFC 8200 section 4, and for the authentication header by RFC 4302 section 2.2.
fn behind_extensions(mut protocol: u8, mut rest: &[u8]) -> u8 {
    while let Some(&[next, length, high, low]) = rest.first_chunk() {
        let length = usize::from(length);
        let (len, is_last) = match protocol {
            IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS => ((length + 1) * 8, false),
            IPPROTO_AH => ((length + 2) * 4, false),
            // What a later fragment has behind its header is no header.
            IPPROTO_FRAGMENT => (8, u16::from_be_bytes([high, low]) >> 3 != 0),
            _ => break,
        };
        protocol = next;
        rest = rest.get(len..).filter(|_| !is_last).unwrap_or_default();
    }
    protocol
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn tags_and_addresses_are_read_as_far_as_they_are_there() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .double_vlan(7.try_into().unwrap(), 9.try_into().unwrap())
            .ipv4([192, 0, 2, 1], [198, 51, 100, 2], 64)
            .udp(1, 2)
            .write(&mut frame, &[])
            .unwrap();
        let headers = Headers::of(&frame, Some(0x2005));
        assert_eq!(headers.vlans, [5, 7, 9]);
        assert_eq!(headers.ether_type, IPV4);
        let (protocol, source, destination) = headers.ip.unwrap();
        assert_eq!(protocol, 17);
        assert_eq!(source.to_string(), "192.0.2.1");
        assert_eq!(destination.to_string(), "198.51.100.2");
        // Nothing that is cut off makes it fail.
        for len in 0..frame.len() {
            let cut = Headers::of(&frame[..len], None);
            assert_eq!(cut.ip.is_some(), len >= 14 + 8 + 20, "{len}");
        }
    }

    #[test]
    fn the_addresses_of_ipv6_are_read() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([1; 16], [2; 16], 64)
            .tcp(1, 2, 3, 4)
            .write(&mut frame, &[])
            .unwrap();
        let headers = Headers::of(&frame[..64], None);
        let (protocol, source, _) = headers.ip.unwrap();
        assert_eq!((protocol, source), (6, IpAddr::from([1; 16])));
        assert!(headers.is_ip() && headers.vlans.is_empty());
    }

    #[test]
    fn the_protocol_of_ipv6_is_behind_its_extension_headers() {
        const OPTIONS: [u8; 8] = [51, 0, 0, 0, 0, 0, 0, 0];
        const AUTHENTICATION: [u8; 12] = [44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let fragment = |next: u8, offset: u16| {
            let [high, low] = (offset << 3).to_be_bytes();
            [next, 0, high, low, 0, 0, 0, 1]
        };
        let of = |first: u8, headers: &[&[u8]]| behind_extensions(first, &headers.concat());
        let chain = |last: &[u8]| of(60, &[&OPTIONS, &AUTHENTICATION, last, &[17; 8]]);
        assert_eq!(chain(&fragment(17, 9)), 17);
        // Behind the header of a first fragment there may be others, behind that of a later one
        // not.
        assert_eq!(of(44, &[&fragment(60, 0), &[6; 8]]), 6);
        assert_eq!(of(44, &[&fragment(60, 9), &[6; 8]]), 60);
        // As far as they are there.
        assert_eq!(of(60, &[&OPTIONS]), 51);
        assert_eq!(of(60, &[&OPTIONS[..2]]), 60);
        assert_eq!(of(50, &[&OPTIONS]), 50);
    }
}
