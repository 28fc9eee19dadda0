//! Packets that the kernel has joined or has yet to segment, as generic XDP sees them: TCP packets
//! longer than their length fields can express (BIG TCP), and several datagrams in one.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::{XdpMode, apply};

use crate::enforced::{Counter, Enforced};
use crate::line::{Family, Line, NIC};
use crate::sandbox::{Sandbox, sandbox};
use crate::service::{PATIENCE, again, any};
use crate::transfer::{Sender, transfer};
use sg_testbed::Host;

const SIZE: usize = 50_000_000;
const LARGEST: u32 = 185_000;

/// Sets what `ip link set dev … gso_max_size … gro_max_size … gso_ipv4_max_size … gro_ipv4_max_size
/// …` sets. Debian's `ip` does not know all of them.
fn set_largest(interface: &str) {
    // From include/uapi/linux/if_link.h. Those for IPv4 exist since Linux 6.3.
    const GSO_MAX_SIZE: u16 = 41;
    const GRO_MAX_SIZE: u16 = 58;
    const GSO_IPV4_MAX_SIZE: u16 = 63;
    const GRO_IPV4_MAX_SIZE: u16 = 64;
    let index = nix::net::if_::if_nametoindex(interface).expect("an interface");
    let mut message = Vec::new();
    // `struct nlmsghdr`, whose length is filled in at the end, and `struct ifinfomsg`.
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8 + 4]);
    message.extend_from_slice(&index.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    for kind in [
        GSO_MAX_SIZE,
        GRO_MAX_SIZE,
        GSO_IPV4_MAX_SIZE,
        GRO_IPV4_MAX_SIZE,
    ] {
        message.extend_from_slice(&8u16.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&LARGEST.to_ne_bytes());
    }
    let len = message.len() as u32;
    message[..4].copy_from_slice(&len.to_ne_bytes());

    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "netlink: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut answer = [0u8; 1024];
    // SAFETY: both buffers are valid for the lengths given.
    let received = unsafe {
        let sent = libc::send(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
        );
        assert_eq!(sent, message.len() as isize, "netlink");
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        )
    };
    assert!(received >= 20, "netlink: {}", io::Error::last_os_error());
    // After the header, `struct nlmsgerr` begins with the negative error number.
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    let error = io::Error::from_raw_os_error(-error);
    let is_set = error.raw_os_error() == Some(0);
    assert!(
        is_set,
        "{interface}: {error}; the test needs Linux 6.3 or later"
    );
}

fn set_largest_of(host: &Host, interfaces: &[&str]) {
    host.inside(|| interfaces.iter().for_each(|name| set_largest(name)));
}

fn enforce(sandbox: &Sandbox, line: &Line) -> Enforced {
    let rules = "in tcp 5001-5002 from any accept\nin tcp 5005-5006 from any drop";
    let mut options = sandbox.options(NIC);
    options.xdp_mode = XdpMode::Generic;
    apply(&rules_from_lines(rules), &options).unwrap_or_else(|e| panic!("apply: {e}"));
    line.raise_node(Enforced::new(&options.bpffs))
}

/// Uploads to the node over both families. Some of the packets that arrive must be larger than 64
/// KiB.
#[track_caller]
fn assert_uploads_arrive(line: &Line, enforced: &Enforced) {
    let hook = format!("hook ingress device {NIC}");
    for (port, family) in (5001..).zip(Family::BOTH) {
        let ether_type = if family == Family::V4 { "ip" } else { "ip6" };
        let expression = format!("meta protocol {ether_type} meta length > 65600");
        let big = Counter::new("netdev", &hook, &expression);
        let at = SocketAddr::new(line.node_address(family), port);
        transfer(&line.remote, &line.node, at, Sender::Client, SIZE);
        assert!(big.read() > 0, "{family:?}: none was larger than 64 KiB");
        let rule = enforced.rule("in 1");
        assert!(rule.bytes > SIZE as u64, "{rule:?}");
    }
    assert_eq!(enforced.reason("in malformed"), 0);
}

/// Proves K3 for datagrams that are sent as one packet and segmented at the end of the path
/// (UDP_SEGMENT), outbound and inbound. The length field of UDP covers all of them.
#[test]
fn datagrams_that_are_yet_to_be_cut_are_judged() {
    const SEGMENT: usize = 1400;
    const SEGMENTS: usize = 40;
    sandbox(|sandbox| {
        let line = Line::new(0);
        let mut options = sandbox.options(NIC);
        options.xdp_mode = XdpMode::Generic;
        let rules = "in udp 6001 from any accept\nout udp 6002 to any accept";
        apply(&rules_from_lines(rules), &options).unwrap_or_else(|e| panic!("apply: {e}"));
        let enforced = line.raise_node(Enforced::new(&options.bpffs));
        // Counts packets of datagrams larger than a frame at both hooks of the node.
        let joined = ["ingress", "egress"].map(|hook| {
            let hook = format!("hook {hook} device {NIC}");
            Counter::new("netdev", &hook, "meta l4proto udp meta length > 9000")
        });
        for family in Family::BOTH {
            let (node, remote) = (line.node_address(family), line.remote_address(family));
            for (from, to, address) in [
                (&line.remote, &line.node, SocketAddr::new(node, 6001)),
                (&line.node, &line.remote, SocketAddr::new(remote, 6002)),
            ] {
                let server = to.inside(|| UdpSocket::bind(address)).expect("a free port");
                server.set_read_timeout(Some(PATIENCE)).expect("an option");
                let client = from.inside(|| UdpSocket::bind(any(address.ip())));
                let client = client.expect("a free port");
                setsockopt(&client, UdpGsoSegment, &(SEGMENT as i32)).expect("an option");
                from.inside(|| client.connect(address)).expect("a route");
                let sent = client
                    .send(&[7; SEGMENT * SEGMENTS])
                    .expect("the datagrams are sent");
                assert_eq!(sent, SEGMENT * SEGMENTS);
                for n in 0..SEGMENTS {
                    let len = again(|| server.recv(&mut [0; 2 * SEGMENT]));
                    let len = len.unwrap_or_else(|e| panic!("datagram {n} to {address}: {e}"));
                    assert_eq!(len, SEGMENT);
                }
            }
        }
        for joined in joined {
            assert_eq!(joined.read(), 2, "none was larger than a frame");
        }
        enforced.assert_adds_up();
        assert_eq!(enforced.rule("out 1").packets, 2 * SEGMENTS as u64);
    });
}

/// Proves K3 for BIG TCP at the receiving interface.
#[test]
fn packets_beyond_64_kib_are_judged_in_the_generic_path() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        for host in [&line.node, &line.remote] {
            set_largest_of(host, &[NIC]);
        }
        let enforced = enforce(sandbox, &line);
        assert_uploads_arrive(&line, &enforced);
        enforced.assert_adds_up();
    });
}

/// Proves K3 for BIG TCP at a bridge with the receiving interface as its port.
#[test]
fn packets_beyond_64_kib_are_judged_on_a_bridge() {
    sandbox(|sandbox| {
        let line = Line::new(0);
        line.node.ip(&format!("link set {NIC} name port"));
        line.node.ip(&format!("link add {NIC} type bridge"));
        line.node.ip(&format!("link set port master {NIC} up"));
        set_largest_of(&line.node, &["port", NIC]);
        set_largest_of(&line.remote, &[NIC]);
        // The sums are not compared here: until the kernel has noticed that a port is up, it drops
        // some of the bridge's packets after the outbound hook.
        let enforced = enforce(sandbox, &line);
        assert_uploads_arrive(&line, &enforced);
    });
}
