//! Writes pcapng, the format of draft-ietf-opsawg-pcapng (sections 4.1 to 4.4 and 4.6): one
//! section, a description of each interface, the packets, and at the end the statistics of each
//! interface. All numbers are little-endian; blocks and options are filled up to four bytes.

use std::io::{self, Write};

/// The types of blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

/// By which a reader knows the byte order.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

/// Options of all blocks.
const END: u16 = 0;
const COMMENT: u16 = 1;
/// Of the section.
const USER_APPLICATION: u16 = 4;
/// Of an interface.
const NAME: u16 = 2;
const RESOLUTION: u16 = 9;
/// Of a packet.
const FLAGS: u16 = 2;
const QUEUE: u16 = 6;
const VERDICT: u16 = 7;
/// Of statistics.
const START: u16 = 2;
const STOP: u16 = 3;
const RECEIVED: u16 = 4;
const DROPPED: u16 = 5;
const DELIVERED: u16 = 8;

/// Times are in nanoseconds: ten to the minus nine.
const NANOSECONDS: u8 = 9;

/// Who gave a verdict, and which: the two number theirs differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A number of `enum xdp_action` (include/uapi/linux/bpf.h).
    Xdp(i64),
    /// A TC_ACT_ number (include/uapi/linux/pkt_cls.h).
    Tc(i64),
}

impl Verdict {
    /// Whose it is in the first octet, then its number.
    fn octets(self) -> Vec<u8> {
        const BY_TC: u8 = 1;
        const BY_XDP: u8 = 2;
        let (by, number) = match self {
            Verdict::Tc(number) => (BY_TC, number),
            Verdict::Xdp(number) => (BY_XDP, number),
        };
        [&[by][..], &number.to_le_bytes()].concat()
    }
}

/// A packet that is written.
pub(super) struct Packet<'a> {
    /// The number of its interface: how many were described before that one.
    pub(super) interface: u32,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    pub(super) bytes: &'a [u8],
    /// How long the whole packet was.
    pub(super) len: u32,
    pub(super) comment: String,
    pub(super) is_inbound: bool,
    pub(super) queue: u32,
    pub(super) verdict: Verdict,
}

/// What became of the packets of an interface between two times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    /// Nanoseconds since 1970.
    pub(super) start: u64,
    pub(super) stop: u64,
    /// Packets that were to have an event.
    pub(super) received: u64,
    /// Those of them whose event was suppressed, or lost before it was read.
    pub(super) dropped: u64,
    /// Packets that are in the file.
    pub(super) delivered: u64,
}

/// The beginning of a file.
pub(super) fn section(to: &mut impl Write) -> io::Result<usize> {
    let mut block = Block::new(SECTION);
    block.u32(BYTE_ORDER);
    // Version 1.0, and a section whose length is not said.
    block.u32(1);
    block.u64(u64::MAX);
    let us = concat!("sgctl ", env!("CARGO_PKG_VERSION"));
    block.option(USER_APPLICATION, us.as_bytes());
    block.write(to)
}

/// Describes an interface, of whose packets at most `snap` bytes are written.
pub(super) fn interface(to: &mut impl Write, name: &str, snap: u32) -> io::Result<usize> {
    let mut block = Block::new(INTERFACE);
    block.u32(ETHERNET.into());
    block.u32(snap);
    block.option(NAME, name.as_bytes());
    block.option(RESOLUTION, &[NANOSECONDS]);
    block.write(to)
}

/// A packet with all that is known of it.
pub(super) fn packet(to: &mut impl Write, packet: &Packet<'_>) -> io::Result<usize> {
    let mut block = Block::new(PACKET);
    block.u32(packet.interface);
    block.bytes.extend(time(packet.time));
    block.u32(packet.bytes.len() as u32);
    block.u32(packet.len);
    block.padded(packet.bytes);
    block.option(COMMENT, packet.comment.as_bytes());
    block.option(FLAGS, &flags(packet).to_le_bytes());
    block.option(QUEUE, &packet.queue.to_le_bytes());
    block.option(VERDICT, &packet.verdict.octets());
    block.write(to)
}

/// What became of the packets of an interface, by its number.
pub(super) fn statistics(
    to: &mut impl Write,
    interface: u32,
    of: &Statistics,
) -> io::Result<usize> {
    let mut block = Block::new(STATISTICS);
    block.u32(interface);
    block.bytes.extend(time(of.stop));
    block.option(START, &time(of.start));
    block.option(STOP, &time(of.stop));
    for (code, number) in [
        (RECEIVED, of.received),
        (DROPPED, of.dropped),
        (DELIVERED, of.delivered),
    ] {
        block.option(code, &number.to_le_bytes());
    }
    block.write(to)
}

/// Direction in the lowest two bits, and behind it whether the packet was sent to one receiver, to
/// many or to all.
fn flags(packet: &Packet<'_>) -> u32 {
    const INBOUND: u32 = 1;
    const OUTBOUND: u32 = 2;
    const UNSPECIFIED: u32 = 0;
    const UNICAST: u32 = 1;
    const MULTICAST: u32 = 2;
    const BROADCAST: u32 = 3;
    let direction = if packet.is_inbound { INBOUND } else { OUTBOUND };
    let reception = match packet.bytes.first_chunk::<6>() {
        None => UNSPECIFIED,
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => BROADCAST,
        Some([first, ..]) if first & 1 != 0 => MULTICAST,
        Some(_) => UNICAST,
    };
    direction | reception << 2
}

/// A time in nanoseconds as two 32-bit numbers, the upper half first.
fn time(nanoseconds: u64) -> [u8; 8] {
    nanoseconds.rotate_left(32).to_le_bytes()
}

/// A block: its type, its length, what is in it, and its length again.
struct Block {
    bytes: Vec<u8>,
    has_options: bool,
}

impl Block {
    fn new(kind: u32) -> Block {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        Block {
            bytes,
            has_options: false,
        }
    }

    fn u32(&mut self, number: u32) {
        self.bytes.extend(number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes.extend(number.to_le_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let len = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(len, 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        // A longer one cannot be said.
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.has_options = true;
        self.bytes.extend(code.to_le_bytes());
        self.bytes.extend((value.len() as u16).to_le_bytes());
        self.padded(value);
    }

    /// Returns how many bytes were written.
    fn write(mut self, to: &mut impl Write) -> io::Result<usize> {
        if self.has_options {
            self.bytes.extend(END.to_le_bytes());
            self.bytes.extend([0; 2]);
        }
        let len = self.bytes.len() + 4;
        self.bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        self.u32(len as u32);
        to.write_all(&self.bytes)?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_say_their_length_twice_and_are_filled_up() {
        let mut out = Vec::new();
        let mut written = section(&mut out).unwrap();
        written += interface(&mut out, "eth0", 128).unwrap();
        let one = Packet {
            interface: 0,
            time: 0x1234_5678_9abc_def0,
            bytes: &[0xff; 15],
            len: 60,
            comment: "no-match".into(),
            is_inbound: true,
            queue: 3,
            verdict: Verdict::Xdp(1),
        };
        let at = written;
        written += packet(&mut out, &one).unwrap();
        written += statistics(&mut out, 0, &Statistics::default()).unwrap();
        assert_eq!(out.len(), written);
        let word = |at: usize| u32::from_le_bytes(*out[at..].first_chunk().unwrap());
        let mut next = 0;
        let mut kinds = Vec::new();
        while next < out.len() {
            let len = word(next + 4) as usize;
            assert_eq!(len % 4, 0);
            assert_eq!(word(next + len - 4) as usize, len);
            kinds.push(word(next));
            next += len;
        }
        assert_eq!(kinds, [SECTION, INTERFACE, PACKET, STATISTICS]);
        assert_eq!((word(at + 12), word(at + 16)), (0x1234_5678, 0x9abc_def0));
        assert_eq!((word(at + 20), word(at + 24)), (15, 60));
        // Inbound, to all.
        assert_eq!(flags(&one), 1 | 3 << 2);
    }
}
