//! The frames that the generator rewrites: Ethernet, IP, and a transport header that can be read
//! as UDP or as a bare TCP SYN, whichever the protocol field says.

use sg_bench_ebpf::{FRAME, FRAME6, LOCAL4};
use sg_common::verdict::Direction;

pub(crate) const UDP: u32 = 17;
pub(crate) const TCP: u32 = 6;

const LOCAL6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// The address of the receiving interface.
pub(crate) const RECEIVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SENDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Ports zero; the UDP length lies where TCP has its sequence number, and the TCP flags lie in the
/// UDP payload.
fn transport(len: u16) -> Vec<u8> {
    let mut bytes = vec![0; len.into()];
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    const FIVE_WORDS: u8 = 5 << 4;
    const SYN: u8 = 2;
    bytes[12] = FIVE_WORDS;
    bytes[13] = SYN;
    bytes
}

fn ethernet(kind: u16) -> Vec<u8> {
    [&RECEIVER_MAC[..], &SENDER_MAC, &kind.to_be_bytes()].concat()
}

/// A frame to `local`, with neither source nor protocol nor checksum.
pub(crate) fn ipv4() -> Vec<u8> {
    let mut frame = ethernet(0x0800);
    let len = (FRAME - frame.len()) as u16;
    frame.extend([0x45, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 0, 0, 0]);
    frame.extend([0; 4]);
    frame.extend(LOCAL4);
    frame.extend(transport(len - 20));
    frame
}

/// The sum of the words of its header.
pub(crate) fn ipv4_sum(frame: &[u8]) -> u32 {
    let words = frame[14..34].chunks_exact(2);
    words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum()
}

pub(crate) fn ipv6() -> Vec<u8> {
    let mut frame = ethernet(0x86dd);
    let len = (FRAME6 - frame.len() - 40) as u16;
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 64]);
    frame.extend([0; 16]);
    frame.extend(LOCAL6);
    frame.extend(transport(len));
    frame
}

/// One UDP packet between the local host and a flow's remote side; source port first.
pub(crate) fn flow4(remote: u32, ports: [u16; 2], direction: Direction) -> Vec<u8> {
    let mut frame = ipv4();
    let addresses = match direction {
        Direction::Inbound => [remote.to_be_bytes(), LOCAL4],
        Direction::Outbound => [LOCAL4, remote.to_be_bytes()],
    };
    frame[23] = UDP as u8;
    frame[26..30].copy_from_slice(&addresses[0]);
    frame[30..34].copy_from_slice(&addresses[1]);
    frame[34..36].copy_from_slice(&ports[0].to_be_bytes());
    frame[36..38].copy_from_slice(&ports[1].to_be_bytes());
    let sum = ipv4_sum(&frame);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_long_as_the_generator_expects() {
        assert_eq!(ipv4().len(), FRAME);
        assert_eq!(ipv6().len(), FRAME6);
    }

    #[test]
    fn a_whole_header_sums_up_to_all_ones() {
        let frame = flow4(0x01020304, [443, 40000], Direction::Inbound);
        let sum = ipv4_sum(&frame);
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
