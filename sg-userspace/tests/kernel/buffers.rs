//! Outbound frames of which only the beginning is in the linear part of the socket buffer, where
//! programs can read it. Forwarded packets and packets sent without a copy are like that.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::frames::{Frame, frame};
use crate::sandbox::{ip, sandbox};
use crate::watching::{apply_rules, assert_adds_up, read, under};

/// The length of `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), which precedes the
/// frame on such a packet socket.
const VNET_HEADER: usize = 10;
/// The kernel puts shorter frames into the linear part as a whole, whatever the header asks for.
const LONG: usize = 5000;

/// A raw socket whose frames have a linear part and a second piece.
struct TwoPieces(OwnedFd);

impl TwoPieces {
    fn new(interface: &str) -> Self {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "raw socket: {}", io::Error::last_os_error());
        // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let on: c_int = 1;
        // SAFETY: the option is read from a live integer of the length given.
        let set = unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of::<c_int>() as u32,
            )
        };
        assert_eq!(set, 0, "packet socket: {}", io::Error::last_os_error());
        let index = nix::net::if_::if_nametoindex(interface).expect("the interface is there");
        // SAFETY: the structure has integers only, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        // SAFETY: the address is valid for the length given.
        let bound = unsafe {
            libc::bind(
                fd,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        assert_eq!(bound, 0, "packet socket: {}", io::Error::last_os_error());
        TwoPieces(socket)
    }

    /// Sends a frame with `readable` bytes in the linear part. Returns false if the hook has
    /// dropped it.
    fn send(&self, frame: &[u8], readable: u16) -> bool {
        let mut bytes = vec![0; VNET_HEADER];
        // The field `hdr_len` of the header, in host byte order.
        bytes[2..4].copy_from_slice(&readable.to_ne_bytes());
        bytes.extend_from_slice(frame);
        // SAFETY: the buffer is valid for the length given.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent == bytes.len() as isize {
            return true;
        }
        let error = io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{error}");
        false
    }
}

/// Proves K3 and A2: headers are found wherever the linear part ends, and the counted length
/// includes both pieces.
#[test]
fn headers_outside_the_readable_piece_are_judged() {
    let rules =
        "out tcp 443 to any accept\nout icmp 3 to 198.51.100.8 drop\nin tcp 22 from any accept";
    let https = || frame("tcp 192.0.2.1:40000 > 198.51.100.7:443 syn");
    let smtp = || frame("tcp 192.0.2.1:40000 > 198.51.100.7:25 syn");
    let https6 = || frame("tcp [2001:db8::1]:40000 > [2001:db8::7]:443 syn");
    let smtp6 = || frame("tcp [2001:db8::1]:40000 > [2001:db8::7]:25 syn");
    let options = |units: u8| {
        let mut header = vec![0; 8 * (units as usize + 1)];
        header[1] = units;
        header
    };
    let longest = |frame: Frame| (0..8).fold(frame, |f, _| f.extension(60, options(255)));
    let refused = |port: u16| {
        let packet = frame(&format!("tcp 198.51.100.7:4000 > 192.0.2.1:{port} syn"));
        packet.error("192.0.2.1", "198.51.100.7", (3, 10), 40)
    };
    let refused6 = |port: u16| {
        let packet = frame(&format!(
            "tcp [2001:db8::7]:4000 > [2001:db8::1]:{port} syn"
        ));
        let packet = packet.extension(60, options(127));
        packet.error("2001:db8::1", "2001:db8::7", (1, 1), 1232)
    };
    let cases = [
        ("an accepted port", https(), true),
        ("a dropped one", smtp(), false),
        ("behind options", https().ipv4_options(&[1; 40]), true),
        (
            "dropped behind options",
            smtp().ipv4_options(&[1; 40]),
            false,
        ),
        (
            "behind two tags",
            https().vlan(0x8100, 1).vlan(0x88a8, 2),
            true,
        ),
        ("over IPv6", https6(), true),
        ("dropped over IPv6", smtp6(), false),
        (
            "behind 2 KiB of options",
            https6().extension(60, options(255)),
            true,
        ),
        (
            "dropped behind 2 KiB",
            smtp6().extension(60, options(255)),
            false,
        ),
        ("behind the longest chain", longest(https6()), true),
        ("dropped behind the longest", longest(smtp6()), false),
        ("an error about what is accepted", refused(22), true),
        ("about what is not", refused(23), false),
        (
            "about it, behind options",
            refused(22).ipv4_options(&[1; 40]),
            true,
        ),
        ("about what was behind 1 KiB of options", refused6(22), true),
        ("about what is not, behind them", refused6(23), false),
    ];
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        for end in ["sg0", "sg1"] {
            ip(&["link", "set", end, "mtu", "40000"]);
        }
        apply_rules(sandbox, rules, &sandbox.options("sg0"));
        let node = TwoPieces::new("sg0");
        let (mut sent, mut bytes) = (0, 0);
        for (sentence, frame, expected) in &cases {
            let frame = frame.clone().padded(LONG);
            for readable in [14, 15, 18, 22, 30, 34, 40, 54, 60, 100, 256, 300] {
                let is_sent = node.send(frame.bytes(), readable);
                assert_eq!(is_sent, *expected, "{sentence}, {readable} bytes readable");
                sent += 1;
                bytes += frame.bytes().len() as u64;
            }
        }
        let c = read(sandbox, "sg0");
        assert_adds_up(&c, 0, sent);
        assert_eq!(c.totals[1].bytes, bytes);
        assert_eq!(under(&c, "malformed")[1], 0);
    });
}
