//! Finds out by sending packets what an interface does in each direction: which of two policies
//! judges, whether all packets pass, or none.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::frames::{Frame, frame, non_ip};
use crate::sandbox::RawSender;

/// The two policies. Each accepts one port, in both directions.
pub(crate) const A: &str = "in udp 1000 from any accept\nout udp 1000 to any accept";
pub(crate) const B: &str = "in udp 2000 from any accept\nout udp 2000 to any accept";

/// What packets show in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    A,
    B,
    /// Everything passes.
    Open,
    /// Both ports are dropped, or frames that are not IP.
    Dead,
}

/// Sends from both ends of a pair of interfaces, and watches what arrives at the node's end.
pub(crate) struct Probe {
    node: RawSender,
    peer: RawSender,
    tap: OwnedFd,
    next: u16,
}

impl Probe {
    pub(crate) fn new(node: &str, peer: &str) -> Probe {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
        let tap = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the structure has integers only, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex =
            nix::net::if_::if_nametoindex(node).expect("the interface exists") as i32;
        // SAFETY: the address has the length that is passed.
        let bound = unsafe {
            libc::bind(
                tap.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
        Probe {
            node: RawSender::new(node),
            peer: RawSender::new(peer),
            tap,
            next: 20_000,
        }
    }

    /// What both directions show, inbound first.
    pub(crate) fn look(&mut self) -> [Seen; 2] {
        // Another port each time, so that no earlier flow admits the packets.
        self.next += 1;
        let from = self.next;
        let inbound =
            [1000, 2000].map(|port| frame(&format!("udp 198.51.100.1:{from} > 192.0.2.1:{port}")));
        // A frame with a unique number marks the end of the inbound packets.
        let last = non_ip(0x88cc).set(20, &from.to_be_bytes());
        for frame in inbound.iter().chain([&last]) {
            assert!(self.peer.send(frame.bytes()), "the peer is not judged");
        }
        let arrived = self.arrived(&inbound, &last);
        let outbound = [1000, 2000].map(|port| {
            let text = format!("udp 192.0.2.1:{from} > 198.51.100.1:{port}");
            self.node.send(frame(&text).bytes())
        });
        let passes_others = self.node.send(non_ip(0x88cc).bytes());
        [arrived, passes_others.then_some(outbound)].map(|passed| match passed {
            Some([true, false]) => Seen::A,
            Some([false, true]) => Seen::B,
            Some([true, true]) => Seen::Open,
            Some([false, false]) | None => Seen::Dead,
        })
    }

    /// Which of the frames arrive before the last one. `None` if the last one does not arrive.
    fn arrived(&self, frames: &[Frame; 2], last: &Frame) -> Option<[bool; 2]> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut seen = [false; 2];
        let mut bytes = [0u8; 2048];
        while Instant::now() < deadline {
            // SAFETY: the buffer has the length that is passed.
            let len = unsafe {
                libc::recv(
                    self.tap.as_raw_fd(),
                    bytes.as_mut_ptr().cast(),
                    bytes.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            let Ok(len) = usize::try_from(len) else {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            };
            let got = &bytes[..len];
            if got == last.bytes() {
                return Some(seen);
            }
            for (frame, seen) in frames.iter().zip(&mut seen) {
                *seen |= got == frame.bytes();
            }
        }
        None
    }
}
