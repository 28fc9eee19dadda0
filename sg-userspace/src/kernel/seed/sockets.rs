//! Reads the host's connected TCP and UDP sockets (sock_diag(7)) as flows.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, SOCK_DIAG_BY_FAMILY};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use sg_common::flow::Timeout;
use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP};
use sg_common::verdict::Direction;

use super::super::machine::netlink;
use super::existing::{Existing, Key};

/// Socket states (include/net/tcp_states.h). A UDP socket is in ESTABLISHED if it is connected, and
/// otherwise in CLOSE.
mod state {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const SYN_SENT: u8 = 2;
    pub(super) const SYN_RECV: u8 = 3;
    pub(super) const FIN_WAIT1: u8 = 4;
    pub(super) const FIN_WAIT2: u8 = 5;
    pub(super) const TIME_WAIT: u8 = 6;
    pub(super) const CLOSE: u8 = 7;
    pub(super) const CLOSE_WAIT: u8 = 8;
    pub(super) const LAST_ACK: u8 = 9;
    pub(super) const LISTEN: u8 = 10;
    pub(super) const CLOSING: u8 = 11;
    pub(super) const NEW_SYN_RECV: u8 = 12;
}

/// A socket that the kernel has listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    protocol: u8,
    state: u8,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    /// Zero for one that no process has open any more.
    inode: u32,
    /// The interface that it is bound to, or zero.
    device: u32,
}

/// A socket to which anybody may send, as far as a policy lets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Listener {
    pub(in crate::kernel) protocol: u8,
    pub(in crate::kernel) local: IpAddr,
    pub(in crate::kernel) port: u16,
    /// See [`Socket`].
    pub(in crate::kernel) inode: u32,
    pub(in crate::kernel) device: u32,
}

/// The sockets of `protocol` in the current network namespace, of both families.
pub(super) fn list(protocol: u8) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (family, socket_id) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        let request = InetRequest {
            family,
            protocol,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::from_bits_retain((1 << (state::NEW_SYN_RECV + 1)) - 1),
            socket_id,
        };
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut bytes);
        netlink::dump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, &bytes, |payload| {
            sockets.extend(read(protocol, payload));
        })?;
    }
    Ok(sockets)
}

/// Parses one message. `None` if it is not complete.
pub(super) fn read(protocol: u8, payload: &[u8]) -> Option<Socket> {
    let header = InetResponseHeader::parse(payload).ok()?;
    let id = header.socket_id;
    // IPv4 on an IPv6 socket is IPv4 on the wire.
    Some(Socket {
        protocol,
        state: header.state,
        local: (id.source_address.to_canonical(), id.source_port),
        remote: (id.destination_address.to_canonical(), id.destination_port),
        inode: header.inode,
        device: id.interface_id,
    })
}

impl Socket {
    /// Whether it takes packets of any remote end: a TCP listener, or a UDP socket without a peer.
    fn serves(&self) -> bool {
        match self.protocol {
            IPPROTO_TCP => self.state == state::LISTEN,
            _ => self.state == state::CLOSE && self.local.1 != 0,
        }
    }

    fn listener(&self) -> Listener {
        Listener {
            protocol: self.protocol,
            local: self.local.0,
            port: self.local.1,
            inode: self.inode,
            device: self.device,
        }
    }

    fn key(&self) -> Key {
        Key {
            local: self.local.0,
            remote: self.remote.0,
            local_port: self.local.1,
            remote_port: self.remote.1,
            protocol: self.protocol,
        }
    }
}

/// All sockets of `protocol` in the current network namespace that take packets of any remote end,
/// those that only this host can reach among them.
pub(in crate::kernel) fn listening(protocol: u8) -> io::Result<Vec<Listener>> {
    let sockets = list(protocol)?;
    let listening = sockets.iter().filter(|socket| socket.serves());
    Ok(listening.map(Socket::listener).collect())
}

/// The sockets to which anybody may send, but for those that only this host can reach.
pub(super) fn listeners(sockets: &[Socket]) -> impl Iterator<Item = Listener> {
    let listening = sockets.iter().filter(|socket| socket.serves());
    let listening = listening.filter(|socket| !socket.local.0.is_loopback());
    listening.map(Socket::listener)
}

/// The inodes of the sockets that have a peer, by which their processes are found.
pub(super) fn inodes(sockets: &[Socket]) -> impl Iterator<Item = (Key, u32)> {
    let connected = sockets.iter().filter(|socket| timeout(socket).is_some());
    let connected = connected.filter(|socket| socket.inode != 0);
    connected.map(|socket| (socket.key(), socket.inode))
}

/// The flows of the sockets that have a peer. `own` are the host's addresses.
pub(super) fn flows(sockets: &[Socket], own: &HashSet<IpAddr>) -> Vec<Existing> {
    // Listeners are compared by port only, because they may be bound to all addresses or to one
    // family.
    let served: HashSet<(u8, u16)> = sockets
        .iter()
        .filter(|s| s.serves())
        .map(|s| (s.protocol, s.local.1))
        .collect();
    sockets
        .iter()
        .filter_map(|socket| {
            let state = timeout(socket)?;
            let key = socket.key();
            let is_one_family = key.local.is_ipv4() == key.remote.is_ipv4();
            if !is_one_family || !key.can_be_on_the_wire(own) {
                return None;
            }
            let is_served = served.contains(&(key.protocol, key.local_port));
            // In all other states the originator is a guess: the listener may have been closed, and
            // a UDP socket that shares its port with another one may be on either side.
            let (originator, is_originator_known) = match state {
                Timeout::TcpSynSent => (Direction::Outbound, true),
                Timeout::TcpSynRecv => (Direction::Inbound, true),
                _ if is_served => (Direction::Inbound, key.protocol == IPPROTO_TCP),
                _ => (Direction::Outbound, false),
            };
            Some(Existing {
                key,
                originator,
                is_originator_known,
                state,
                has_seen_reply: state != Timeout::TcpSynSent,
                is_ours: originator == Direction::Outbound,
                // The socket is open at this moment, so it counts as most recent.
                recency: u32::MAX,
            })
        })
        .collect()
}

/// The state of a connected socket's flow, in the terms of the kernel's connection tracking. It
/// depends on the segments seen, not on which side sent them.
fn timeout(socket: &Socket) -> Option<Timeout> {
    if socket.protocol == IPPROTO_UDP {
        return (socket.state == state::ESTABLISHED).then_some(Timeout::UdpStream);
    }
    Some(match socket.state {
        state::ESTABLISHED => Timeout::TcpEstablished,
        state::SYN_SENT => Timeout::TcpSynSent,
        state::SYN_RECV | state::NEW_SYN_RECV => Timeout::TcpSynRecv,
        state::FIN_WAIT1 => Timeout::TcpFinWait,
        // One side has closed, and the other has acknowledged that.
        state::FIN_WAIT2 | state::CLOSE_WAIT => Timeout::TcpCloseWait,
        state::LAST_ACK | state::CLOSING => Timeout::TcpLastAck,
        state::TIME_WAIT => Timeout::TcpTimeWait,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(protocol: u8, state: u8, local: &str, remote: &str) -> Socket {
        let end = |text: &str| {
            let end: std::net::SocketAddr = text.parse().unwrap();
            (end.ip(), end.port())
        };
        Socket {
            protocol,
            state,
            local: end(local),
            remote: end(remote),
            inode: 0,
            device: 0,
        }
    }

    fn own() -> HashSet<IpAddr> {
        ["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"]
            .map(|a| a.parse().unwrap())
            .into()
    }

    /// Proves K12: which sockets become flows, in which state, and with which originator. A `?`
    /// marks a guess.
    #[test]
    fn connected_sockets_are_flows() {
        const TCP: u8 = IPPROTO_TCP;
        const UDP: u8 = IPPROTO_UDP;
        let listeners = [
            socket(TCP, state::LISTEN, "[::]:22", "[::]:0"),
            socket(UDP, state::CLOSE, "0.0.0.0:443", "0.0.0.0:0"),
            socket(UDP, state::CLOSE, "0.0.0.0:0", "0.0.0.0:0"),
        ];
        let v4 = ("192.0.2.1:5000", "198.51.100.7:443");
        for (protocol, number, (local, remote), expected) in [
            (TCP, state::ESTABLISHED, v4, Some("out? tcp-established")),
            (TCP, state::SYN_SENT, v4, Some("out tcp-syn-sent")),
            (TCP, state::SYN_RECV, v4, Some("in tcp-syn-recv")),
            (TCP, state::NEW_SYN_RECV, v4, Some("in tcp-syn-recv")),
            (TCP, state::FIN_WAIT1, v4, Some("out? tcp-fin-wait")),
            (TCP, state::FIN_WAIT2, v4, Some("out? tcp-close-wait")),
            (TCP, state::CLOSE_WAIT, v4, Some("out? tcp-close-wait")),
            (TCP, state::LAST_ACK, v4, Some("out? tcp-last-ack")),
            (TCP, state::CLOSING, v4, Some("out? tcp-last-ack")),
            (TCP, state::TIME_WAIT, v4, Some("out? tcp-time-wait")),
            (TCP, state::CLOSE, v4, None),
            (TCP, state::LISTEN, v4, None),
            (TCP, 77, v4, None),
            (UDP, state::ESTABLISHED, v4, Some("out? udp-stream")),
            (UDP, state::CLOSE, v4, None),
            // There is a listener at the same port, with any address.
            (
                TCP,
                state::ESTABLISHED,
                ("192.0.2.1:22", "198.51.100.7:5000"),
                Some("in tcp-established"),
            ),
            (
                TCP,
                state::ESTABLISHED,
                ("[2001:db8::1]:22", "[2001:db8::7]:5000"),
                Some("in tcp-established"),
            ),
            (
                UDP,
                state::ESTABLISHED,
                ("192.0.2.1:443", "198.51.100.7:5000"),
                Some("in? udp-stream"),
            ),
            (
                UDP,
                state::ESTABLISHED,
                ("192.0.2.1:22", "198.51.100.7:5000"),
                Some("out? udp-stream"),
            ),
            // Sockets whose packets do not leave the host.
            (
                TCP,
                state::ESTABLISHED,
                ("127.0.0.1:5000", "127.0.0.1:80"),
                None,
            ),
            (TCP, state::ESTABLISHED, ("[::1]:5000", "[::1]:80"), None),
            (
                TCP,
                state::ESTABLISHED,
                ("192.0.2.1:5000", "192.0.2.1:80"),
                None,
            ),
            (
                TCP,
                state::ESTABLISHED,
                ("[2001:db8::2]:5000", "[2001:db8::1]:80"),
                None,
            ),
            (UDP, state::ESTABLISHED, ("0.0.0.0:5000", "0.0.0.0:0"), None),
        ] {
            let mut sockets = listeners.to_vec();
            sockets.push(socket(protocol, number, local, remote));
            let found: Vec<String> = flows(&sockets, &own())
                .iter()
                .map(|f| {
                    assert_eq!(f.has_seen_reply, f.state != Timeout::TcpSynSent);
                    let originator = match f.originator {
                        Direction::Inbound => "in",
                        Direction::Outbound => "out",
                    };
                    let is_known = if f.is_originator_known { "" } else { "?" };
                    format!("{originator}{is_known} {}", f.state.name())
                })
                .collect();
            let about = format!("protocol {protocol} state {number} {local} {remote}");
            assert_eq!(found, Vec::from_iter(expected), "{about}");
        }
    }

    /// A message as the kernel sent it: 72 bytes about a connection that an IPv6 socket has
    /// accepted over IPv4.
    #[rustfmt::skip]
    const MAPPED: [u8; 72] = [
        10, 1, 0, 0,
        0x00, 0x16, 0x13, 0x88,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7,
        0, 0, 0, 0, 1, 0x10, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x2a, 0, 0, 0,
    ];

    /// Proves K12: IPv4 on an IPv6 socket becomes an IPv4 flow.
    #[test]
    fn a_mapped_address_is_ipv4() {
        let (local, remote) = ("192.0.2.1:22", "198.51.100.7:5000");
        let expected = Socket {
            inode: 42,
            ..socket(IPPROTO_TCP, state::ESTABLISHED, local, remote)
        };
        assert_eq!(read(IPPROTO_TCP, &MAPPED), Some(expected));
    }

    #[test]
    fn cut_answers_are_no_sockets() {
        for end in 0..MAPPED.len() {
            assert_eq!(read(IPPROTO_TCP, &MAPPED[..end]), None, "{end} bytes");
        }
        let mut unknown = MAPPED;
        unknown[0] = 17;
        assert_eq!(read(IPPROTO_TCP, &unknown), None);
    }
}
