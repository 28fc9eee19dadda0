//! What is on the wires of both nodes: the first packet of each connection, as it is seen at the
//! other end of the wire.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use sg_testbed::wait_for;

use super::network::{NODES, Network, Who, name, port};
use super::services::{UDP, UDP_TARGET, port_name};

/// The direction as the node has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// The first packet of a connection, or a request over UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) node: Who,
    pub(super) direction: Direction,
    pub(super) is_udp: bool,
    pub(super) source: (Ipv4Addr, u16),
    pub(super) target: (Ipv4Addr, u16),
}

/// As the page writes it, without the node: `in C → N1:NP`.
impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::In => "in",
            Direction::Out => "out",
        };
        let (source, target) = (name(self.source.0), name(self.target.0));
        // An address that is routed to a node is one of the service's.
        let target = match target.as_str() {
            "E1" | "E2" => "E",
            target => target,
        };
        let port = port_name(self.target.1);
        write!(f, "{direction} {source} → {target}:{port}")
    }
}

type Seen = Arc<Mutex<Vec<Opening>>>;

/// For so long nothing has come when all has come.
const QUIET: TimeVal = TimeVal::new(0, 20_000);

/// Watches until it is dropped.
pub(super) struct Wires {
    seen: Seen,
    /// How often it was quiet.
    pauses: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wires {
    pub(super) fn watch(network: &Network) -> Wires {
        let (socket, nodes) = network.at_the_switch(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let all = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, all)
                .expect("root may watch interfaces");
            setsockopt(&socket, sockopt::ReceiveTimeout, &QUIET).expect("a socket option");
            let index = |node| (if_nametoindex(port(node).as_str()).expect("its port"), node);
            (socket, NODES.map(index))
        });
        let nodes = BTreeMap::from(nodes.map(|(index, node)| (index as usize, node)));
        let seen = Seen::default();
        let is_over = Arc::new(AtomicBool::new(false));
        let pauses = Arc::new(AtomicU64::new(0));
        let (list, over, paused) = (seen.clone(), is_over.clone(), pauses.clone());
        let thread = std::thread::spawn(move || {
            let mut frame = vec![0; 65_536];
            while !over.load(Ordering::Relaxed) {
                let Ok((len, Some(from))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame)
                else {
                    paused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let Some(node) = nodes.get(&from.ifindex()) else {
                    continue;
                };
                // What leaves the switch is inbound for the node.
                let is_outgoing = from.pkttype() == libc::PACKET_OUTGOING;
                let direction = if is_outgoing {
                    Direction::In
                } else {
                    Direction::Out
                };
                if let Some(opening) = opening(&frame[..len], node, direction) {
                    let mut list = list.lock().expect("nobody panics with it");
                    // One that is sent again says nothing new.
                    if !list.contains(&opening) {
                        list.push(opening);
                    }
                }
            }
        });
        Wires {
            seen,
            pauses,
            is_over,
            thread: Some(thread),
        }
    }

    /// What came since the last call, when all has come.
    pub(super) fn seen(&self) -> Vec<Opening> {
        let before = self.pauses.load(Ordering::Relaxed);
        // The first pause may have begun before the last packet.
        wait_for("quiet wires", Duration::from_secs(30), || {
            self.pauses.load(Ordering::Relaxed) >= before + 2
        });
        std::mem::take(&mut *self.seen.lock().expect("nobody panics with it"))
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn opening(frame: &[u8], node: Who, direction: Direction) -> Option<Opening> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let NetSlice::Ipv4(ip) = packet.net? else {
        return None;
    };
    let (source, target, is_udp) = match packet.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() && !tcp.ack() => {
            (tcp.source_port(), tcp.destination_port(), false)
        }
        // A reply goes to a port of the client's, or to one that the masquerade has chosen.
        TransportSlice::Udp(udp) if [UDP, UDP_TARGET].contains(&udp.destination_port()) => {
            (udp.source_port(), udp.destination_port(), true)
        }
        _ => return None,
    };
    Some(Opening {
        node,
        direction,
        is_udp,
        source: (ip.header().source_addr(), source),
        target: (ip.header().destination_addr(), target),
    })
}
