//! Echo requests over raw sockets, for IPv4 and IPv6, which take no `ping` program and no sysctl.
//! Each attempt has its own identifier, and so is a separate flow.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const HEADER: usize = 8;
const PAYLOAD: &[u8; 24] = b"security groups: the lab";

/// Sends an echo request every `pause`, until one gets a reply.
pub(super) async fn ping(
    from: IpAddr,
    to: IpAddr,
    identifier: u16,
    pause: Duration,
) -> io::Result<Option<u16>> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    // From now on the socket only receives packets from that address.
    socket.connect(&SocketAddr::new(to, 0).into())?;
    // A connected raw socket sends and receives as a datagram socket does.
    let socket = UdpSocket::from_std(socket.into())?;
    for sequence in 1.. {
        let request = request(to.is_ipv6(), identifier, sequence);
        match socket.send(&request).await {
            // The kernel reports this error to raw IPv6 sockets when tc drops the packet, and no
            // error to others.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
            result => result.map(drop)?,
        }
        if let Ok(answered) = timeout(pause, answer(&socket, to.is_ipv6(), identifier)).await {
            return answered.map(|()| None);
        }
    }
    Ok(None)
}

async fn answer(socket: &UdpSocket, is_v6: bool, identifier: u16) -> io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if is_answer(&buffer[..len], is_v6, identifier) {
            return Ok(());
        }
    }
}

fn request(is_v6: bool, identifier: u16, sequence: u16) -> [u8; HEADER + PAYLOAD.len()] {
    let mut packet = [0; HEADER + PAYLOAD.len()];
    packet[0] = if is_v6 { 128 } else { 8 };
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[HEADER..].copy_from_slice(PAYLOAD);
    // The checksum of ICMPv6 covers the addresses as well, and the kernel computes it.
    if !is_v6 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Whether this is the echo reply with this identifier. With IPv4 the packet includes the IP
/// header.
fn is_answer(received: &[u8], is_v6: bool, identifier: u16) -> bool {
    let skipped = match received.first() {
        Some(first) if !is_v6 => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let Some(packet) = received.get(skipped..).filter(|p| p.len() >= HEADER) else {
        return false;
    };
    let kind = if is_v6 { 129 } else { 0 };
    packet[0] == kind && packet[4..6] == identifier.to_be_bytes() && packet[HEADER..] == PAYLOAD[..]
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_to_zero() {
        assert_eq!(checksum(&request(false, 7, 1)), 0);
        assert_eq!(checksum(&[0x45, 0x00, 0x01]), !0x4600);
    }

    #[test]
    fn only_the_reply_with_the_same_identifier_is_an_answer() {
        let mut reply = [0; 20 + HEADER + PAYLOAD.len()];
        reply[0] = 0x45;
        reply[20..].copy_from_slice(&request(false, 7, 1));
        assert!(!is_answer(&reply, false, 7), "a request");
        reply[20] = 0;
        assert!(is_answer(&reply, false, 7));
        assert!(!is_answer(&reply, false, 8));
        assert!(!is_answer(&reply[..24], false, 7));
        assert!(!is_answer(&[], false, 7) && !is_answer(&[], true, 7));
        let mut reply = request(true, 7, 1);
        reply[0] = 129;
        assert!(is_answer(&reply, true, 7));
    }
}
