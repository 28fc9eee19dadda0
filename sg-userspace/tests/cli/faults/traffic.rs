//! Packets in both directions that show which policy is in force. Each policy accepts one port in
//! each direction, and one more port is accepted by none.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use sg_userspace::kernel::netns::Netns;

use crate::world::{World, ip};

/// The port of a policy is this number plus its position in [`POLICIES`], counted from 1.
pub(super) const INBOUND: u16 = 1000;
pub(super) const OUTBOUND: u16 = 2000;

/// No policy accepts the port of the last one.
const POLICIES: [char; 5] = ['a', 'b', 'c', 'd', '-'];

/// What happens to the packets of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Only the port of this policy passes.
    Policy(char),
    /// All ports pass.
    Open,
    /// No port passes.
    Dead,
    /// Any other combination of ports passes.
    Mixed,
}

/// The sockets at both ends for one direction.
struct Lane {
    from: UdpSocket,
    to: Vec<UdpSocket>,
}

pub(super) struct Traffic {
    inbound: Lane,
    outbound: Lane,
}

impl Traffic {
    pub(super) fn between(world: &World) -> Traffic {
        // Static neighbour entries: no packet has to wait for ARP.
        for (netns, other, address) in [
            (&world.node, &world.peer, "192.0.2.2"),
            (&world.peer, &world.node, "192.0.2.1"),
        ] {
            let hardware = hardware_address(other);
            let words = ["-n", netns, "neigh", "replace", address, "lladdr"];
            ip(&[&words[..], &[&hardware, "dev", "nic", "nud", "permanent"]].concat());
        }
        let lane = |from: (&str, &str), to: (&str, &str), first: u16| Lane {
            from: socket(from.0, from.1, 0),
            to: (first + 1..)
                .take(POLICIES.len())
                .map(|port| socket(to.0, to.1, port))
                .collect(),
        };
        let node = (world.node.as_str(), "192.0.2.1");
        let peer = (world.peer.as_str(), "192.0.2.2");
        Traffic {
            inbound: lane(peer, node, INBOUND),
            outbound: lane(node, peer, OUTBOUND),
        }
    }

    /// What happens to packets, inbound and outbound. If it is not what is expected, packets are
    /// sent again with more time, because they can be late on a busy machine.
    pub(super) fn fates(&self, is_expected: impl Fn((Fate, Fate)) -> bool) -> (Fate, Fate) {
        let mut patience = Duration::from_millis(20);
        loop {
            let fates = (self.inbound.fate(patience), self.outbound.fate(patience));
            if is_expected(fates) || patience > Duration::from_secs(5) {
                return fates;
            }
            patience *= 3;
        }
    }
}

impl Lane {
    fn fate(&self, patience: Duration) -> Fate {
        let mut buffer = [0; 16];
        for socket in &self.to {
            while socket.recv(&mut buffer).is_ok() {}
        }
        for socket in &self.to {
            let address = socket.local_addr().expect("the socket is bound");
            // If the egress hook drops the packet, `send_to` may fail with ENOBUFS.
            let _ = self.from.send_to(b"packet", address);
        }
        let mut passed = [false; POLICIES.len()];
        let deadline = Instant::now() + patience;
        while passed.contains(&false) && Instant::now() < deadline {
            for (socket, passed) in self.to.iter().zip(&mut passed) {
                *passed |= socket.recv(&mut buffer).is_ok();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let names: Vec<char> = (POLICIES.into_iter().zip(passed))
            .filter(|(_, passed)| *passed)
            .map(|(name, _)| name)
            .collect();
        match names.as_slice() {
            [] => Fate::Dead,
            [one] if *one != '-' => Fate::Policy(*one),
            all if all.len() == POLICIES.len() => Fate::Open,
            _ => Fate::Mixed,
        }
    }
}

/// Opens a socket in a namespace. The socket keeps working outside of it.
fn socket(netns: &str, address: &str, port: u16) -> UdpSocket {
    let netns = Netns::from(netns);
    let address = (address.to_owned(), port);
    let made = std::thread::spawn(move || {
        netns.enter().expect("the namespace is there");
        let socket = UdpSocket::bind((address.0.as_str(), address.1)).expect("a free port");
        socket
            .set_nonblocking(true)
            .expect("the socket can be made non-blocking");
        socket
    });
    made.join().expect("a socket")
}

fn hardware_address(netns: &str) -> String {
    let output = Command::new("ip")
        .args(["-n", netns, "-o", "link", "show", "nic"])
        .output();
    let output = output.expect("the tests need iproute2").stdout;
    let text = String::from_utf8_lossy(&output);
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "link/ether");
    words.nth(1).expect("an Ethernet address").to_owned()
}
