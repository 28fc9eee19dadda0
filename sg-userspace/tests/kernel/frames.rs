//! Frames for the tests: each is built from one line of text, and then changed if a test needs
//! that.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, IpNumber, PacketBuilder, PacketBuilderStep, TcpHeader};

/// Bytes of an Ethernet frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame(Vec<u8>);

const ETHERNET: usize = 14;
const PAYLOAD: [u8; 24] = [0x5a; 24];
/// The sequence number at which every TCP segment ends, and which every other one acknowledges.
pub(crate) const ACKNOWLEDGED: u32 = 2000;

/// Builds a frame from text:
///
/// `tcp ADDRESS:PORT > ADDRESS:PORT FLAGS` with FLAGS among `syn ack fin rst`. Each segment
/// acknowledges what any other one has sent, except with the flag `blind`. `udp …`, `sctp …`, `icmp
/// ADDRESS > ADDRESS TYPE/CODE [id N]` (ICMPv6 for IPv6 addresses), `proto N ADDRESS > ADDRESS`.
pub(crate) fn frame(text: &str) -> Frame {
    parse(text).unwrap_or_else(|| panic!("cannot read the packet `{text}`"))
}

fn parse(text: &str) -> Option<Frame> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["tcp", source, ">", destination, flags @ ..] => {
            let (s, d): (SocketAddr, SocketAddr) =
                (source.parse().ok()?, destination.parse().ok()?);
            let mut header = TcpHeader::new(s.port(), d.port(), 0, 65535);
            header.acknowledgment_number = ACKNOWLEDGED;
            for flag in flags {
                match *flag {
                    "syn" => header.syn = true,
                    "ack" => header.ack = true,
                    "fin" => header.fin = true,
                    "rst" => header.rst = true,
                    "blind" => header.acknowledgment_number = ACKNOWLEDGED + 1,
                    _ => return None,
                }
            }
            let len = PAYLOAD.len() as u32 + u32::from(header.syn) + u32::from(header.fin);
            header.sequence_number = ACKNOWLEDGED - len;
            let builder = ip(s.ip(), d.ip()).tcp_header(header);
            let mut bytes = Vec::new();
            builder.write(&mut bytes, &PAYLOAD).ok()?;
            Some(Frame(bytes))
        }
        ["udp", source, ">", destination] => {
            let (s, d): (SocketAddr, SocketAddr) =
                (source.parse().ok()?, destination.parse().ok()?);
            let builder = ip(s.ip(), d.ip()).udp(s.port(), d.port());
            let mut bytes = Vec::new();
            builder.write(&mut bytes, &PAYLOAD).ok()?;
            Some(Frame(bytes))
        }
        ["sctp", source, ">", destination] => {
            let (s, d): (SocketAddr, SocketAddr) =
                (source.parse().ok()?, destination.parse().ok()?);
            let mut payload = Vec::new();
            payload.extend_from_slice(&s.port().to_be_bytes());
            payload.extend_from_slice(&d.port().to_be_bytes());
            payload.extend_from_slice(&PAYLOAD);
            Some(other(132, s.ip(), d.ip(), &payload))
        }
        ["icmp", source, ">", destination, message, rest @ ..] => {
            let (s, d): (IpAddr, IpAddr) = (source.parse().ok()?, destination.parse().ok()?);
            let (kind, code) = message.split_once('/')?;
            let id: u16 = match rest {
                [] => 0,
                ["id", id] => id.parse().ok()?,
                _ => return None,
            };
            let [a, b] = id.to_be_bytes();
            let (kind, code) = (kind.parse().ok()?, code.parse().ok()?);
            let mut bytes = Vec::new();
            let rest = [a, b, 0, 1];
            if s.is_ipv4() {
                ip(s, d)
                    .icmpv4_raw(kind, code, rest)
                    .write(&mut bytes, &PAYLOAD)
                    .ok()?;
            } else {
                ip(s, d)
                    .icmpv6_raw(kind, code, rest)
                    .write(&mut bytes, &PAYLOAD)
                    .ok()?;
            }
            Some(Frame(bytes))
        }
        ["proto", number, source, ">", destination] => Some(other(
            number.parse().ok()?,
            source.parse().ok()?,
            destination.parse().ok()?,
            &PAYLOAD,
        )),
        _ => None,
    }
}

fn ip(source: IpAddr, destination: IpAddr) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => ethernet.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => ethernet.ipv6(s.octets(), d.octets(), 64),
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// A packet of any protocol.
pub(crate) fn other(protocol: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Frame {
    let mut bytes = Vec::new();
    ip(source, destination)
        .write(&mut bytes, IpNumber(protocol), payload)
        .expect("writing to memory");
    Frame(bytes)
}

/// A frame that is neither IPv4 nor IPv6.
pub(crate) fn non_ip(ether_type: u16) -> Frame {
    let mut bytes = vec![0xff; 12];
    bytes.extend_from_slice(&EtherType(ether_type).0.to_be_bytes());
    bytes.extend_from_slice(&[0; 46]);
    Frame(bytes)
}

impl Frame {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Inserts a VLAN tag after the addresses.
    pub(crate) fn vlan(mut self, tpid: u16, id: u16) -> Frame {
        let mut tag = tpid.to_be_bytes().to_vec();
        tag.extend_from_slice(&id.to_be_bytes());
        self.0.splice(12..12, tag);
        self
    }

    /// Overwrites bytes, counted from the network header of an untagged frame.
    pub(crate) fn set(mut self, offset: usize, bytes: &[u8]) -> Frame {
        let at = ETHERNET + offset;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Changes the Ethernet type of an untagged frame.
    pub(crate) fn ethertype(mut self, ether_type: u16) -> Frame {
        self.0[12..14].copy_from_slice(&ether_type.to_be_bytes());
        self
    }

    /// Appends bytes that the lengths in the headers do not include.
    pub(crate) fn padded(mut self, bytes: usize) -> Frame {
        self.0.extend(std::iter::repeat_n(0, bytes));
        self
    }

    /// Keeps the first `len` bytes of the frame.
    pub(crate) fn cut(mut self, len: usize) -> Frame {
        self.0.truncate(len);
        self
    }

    /// Inserts IPv4 options (a multiple of four bytes) and corrects the header's lengths.
    pub(crate) fn ipv4_options(mut self, options: &[u8]) -> Frame {
        assert!(options.len().is_multiple_of(4));
        let at = ETHERNET + 20;
        self.0.splice(at..at, options.iter().copied());
        self.0[ETHERNET] += (options.len() / 4) as u8;
        self.grow_length(ETHERNET + 2, options.len());
        self
    }

    /// Inserts one IPv6 extension header of `protocol` after the IPv6 header. Its next-header field
    /// and the lengths are corrected.
    pub(crate) fn extension(mut self, protocol: u8, mut header: Vec<u8>) -> Frame {
        let at = ETHERNET + 40;
        header[0] = self.0[ETHERNET + 6];
        self.0[ETHERNET + 6] = protocol;
        self.grow_length(ETHERNET + 4, header.len());
        self.0.splice(at..at, header);
        self
    }

    /// Makes an IPv4 packet a fragment of datagram `id` at offset `units` times eight bytes. The
    /// payload does not change.
    pub(crate) fn fragment4(self, id: u16, units: u16, more: bool) -> Frame {
        let word = u16::from(more) << 13 | units;
        self.set(4, &id.to_be_bytes()).set(6, &word.to_be_bytes())
    }

    /// The same for IPv6, by inserting a fragment header after the IPv6 header.
    pub(crate) fn fragment6(self, id: u32, units: u16, more: bool) -> Frame {
        let mut header = vec![0; 8];
        header[2..4].copy_from_slice(&(units << 3 | u16::from(more)).to_be_bytes());
        header[4..].copy_from_slice(&id.to_be_bytes());
        self.extension(44, header)
    }

    /// The ICMP error of this type and code that `router` sends to `host` about this packet, with
    /// `len` bytes of it quoted. The packet must be untagged.
    pub(crate) fn error(self, router: &str, host: &str, message: (u8, u8), len: usize) -> Frame {
        let addresses: (IpAddr, IpAddr) = match (router.parse(), host.parse()) {
            (Ok(router), Ok(host)) => (router, host),
            _ => panic!("`{router}` or `{host}` is no address"),
        };
        let packet = &self.0[ETHERNET..];
        let mut payload = vec![message.0, message.1, 0, 0, 0, 0, 5, 0];
        payload.extend_from_slice(&packet[..len.min(packet.len())]);
        let protocol = if addresses.0.is_ipv4() { 1 } else { 58 };
        other(protocol, addresses.0, addresses.1, &payload)
    }

    fn grow_length(&mut self, at: usize, by: usize) {
        let len = u16::from_be_bytes([self.0[at], self.0[at + 1]]) + by as u16;
        self.0[at..at + 2].copy_from_slice(&len.to_be_bytes());
    }
}
