//! The readers of what the kernel says of connections, for fuzzing: the first byte says whose
//! answer it is.

use std::collections::HashSet;
use std::net::IpAddr;

use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP};

use super::existing::Existing;
use super::link::Link;
use super::{conntrack, sctp, sockets};

/// Reads an answer of the kernel. What comes of it has both ends in one family.
pub(in crate::kernel) fn fuzz(bytes: &[u8]) -> bool {
    let Some((whose, payload)) = bytes.split_first() else {
        return false;
    };
    let own = ["192.0.2.1", "10.0.0.2", "2001:db8::1"];
    let own: HashSet<IpAddr> = own.iter().filter_map(|it| it.parse().ok()).collect();
    let flows: Vec<Existing> = match whose {
        0 => match conntrack::read(payload) {
            Some(entry) => {
                let flows: Vec<Existing> = conntrack::flows(&entry, &own).collect();
                assert!(flows.len() <= 2, "{flows:?}");
                assert!(conntrack::translations(&entry).count() <= 2);
                flows
            }
            None => return false,
        },
        1 | 2 => {
            let protocol = if *whose == 1 {
                IPPROTO_TCP
            } else {
                IPPROTO_UDP
            };
            let Some(socket) = sockets::read(protocol, payload) else {
                return false;
            };
            let sockets = [socket];
            let listeners: Vec<_> = sockets::listeners(&sockets).collect();
            let flows = sockets::flows(&sockets, &own);
            assert!(
                listeners.len() + flows.len() <= 1,
                "{listeners:?} {flows:?}"
            );
            assert!(sockets::inodes(&sockets).count() <= 1);
            flows
        }
        3 => {
            let text = String::from_utf8_lossy(payload);
            let associations: Vec<_> = text.lines().filter_map(sctp::association).collect();
            let served = text.lines().filter_map(sctp::served).collect();
            sctp::flows(&associations, &served, &own)
        }
        _ => return Link::read(payload).is_some(),
    };
    for flow in &flows {
        let ends: [IpAddr; 2] = [flow.key.local, flow.key.remote];
        assert_eq!(ends[0].is_ipv4(), ends[1].is_ipv4(), "{flow:?}");
        assert!(
            !own.contains(&flow.key.remote),
            "one of our own is no remote end: {flow:?}"
        );
    }
    true
}

/// An answer of each kind.
#[cfg(test)]
pub(in crate::kernel) fn samples() -> Vec<Vec<u8>> {
    let of = |whose: u8, payload: &[u8]| [&[whose], payload].concat();
    let conntrack = conntrack::tests::samples();
    let mut found: Vec<Vec<u8>> = conntrack.iter().map(|payload| of(0, payload)).collect();
    // struct inet_diag_msg: family, state, timer, retransmissions, ports and addresses in network
    // order, interface, cookie, expiry, queues, user, inode.
    let mut socket = vec![2u8, 1, 0, 0, 0x30, 0x39, 0x01, 0xbb];
    socket.extend([192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    socket.extend([198, 51, 100, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    socket.extend([0; 12 + 20]);
    found.extend([of(1, &socket), of(2, &socket)]);
    let line = b" ffff ffff 2 1 3 1 1 0 0 0 77 5000 443 *192.0.2.1 10.0.0.1 <-> *198.51.100.7 \t 7500 3 3\n";
    found.push(of(3, line));
    // struct ifinfomsg, and the attribute of the name.
    let mut link = vec![0u8; 16];
    link[4] = 7;
    link.extend([9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0]);
    found.push(of(4, &link));
    found
}
