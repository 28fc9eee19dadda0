//! A network namespace, a mount namespace and a BPF file system for one test, all of which vanish
//! with the test's thread, whether it passes or fails.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use sg_testbed::{Host, Mount, Namespace, interfaces, mounts, set_sysctl};
pub(crate) use sg_testbed::{require_root, run};
use sg_userspace::kernel::ApplyOptions;

pub(crate) struct Sandbox {
    /// Taken away before its folder.
    _mount: Mount,
    bpffs: tempfile::TempDir,
}

/// Runs `test` on a thread of its own, inside fresh namespaces.
pub(crate) fn sandbox(test: impl FnOnce(&Sandbox) + Send) {
    require_root();
    let outcome = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                Namespace::enter_new().expect("root may have a network of its own");
                mounts::make_private().expect("root may have mounts of its own");
                let bpffs = tempfile::tempdir().expect("a directory for the BPF file system");
                let mount = Mount::bpffs(bpffs.path()).expect("a BPF file system of our own");
                let sandbox = Sandbox {
                    _mount: mount,
                    bpffs,
                };
                test(&sandbox);
            })
            .join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Sandbox {
    pub(crate) fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.bpffs.path().join("sgctl")
    }

    /// Options for `interface` in this sandbox.
    pub(crate) fn options(&self, interface: &str) -> ApplyOptions {
        ApplyOptions {
            bpffs: self.bpffs.path().to_owned(),
            max_flows: Some(4096),
            ..ApplyOptions::new(interface)
        }
    }

    /// A veth pair, both ends here and up. Without IPv6, so that nobody but the test sends.
    pub(crate) fn veth(&self, a: &str, b: &str) {
        let here = Host::here();
        here.join(a, &here, b);
        for end in [a, b] {
            silent_and_up(end);
        }
    }
}

/// Sets an interface up, without IPv6.
pub(crate) fn silent_and_up(interface: &str) {
    let name = format!("net/ipv6/conf/{interface}/disable_ipv6");
    set_sysctl(&name, "1").unwrap_or_else(|e| panic!("{e}"));
    interfaces::set_up(interface).unwrap_or_else(|e| panic!("{interface}: {e}"));
}

/// Packets that a test may send out of a veth interface before it waits until they were counted.
/// The other end's queue holds 256 (drivers/net/veth.c), and on a busy machine nobody empties it
/// meanwhile.
pub(crate) const FIT: u64 = 100;

/// How many packets that were sent out of a veth interface did not fit into the other end's queue.
/// No program has seen them.
pub(crate) fn lost_on_the_way(interface: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").expect("proc is mounted");
    let line = table.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == interface).then_some(counters)
    });
    let line = line.unwrap_or_else(|| panic!("no {interface} in:\n{table}"));
    // Eight columns are about what was received; bytes, packets, errors and losses follow.
    let lost = line.split_whitespace().nth(8 + 3).map(str::parse);
    lost.expect("sixteen columns").expect("a number")
}

/// Runs `ip` in the calling thread's network namespace.
pub(crate) fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

/// A raw socket that sends whole frames out of one interface.
pub(crate) struct RawSender {
    socket: OwnedFd,
    address: libc::sockaddr_ll,
}

impl RawSender {
    pub(crate) fn new(interface: &str) -> Self {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "raw socket: {}", io::Error::last_os_error());
        // SAFETY: the kernel just returned this descriptor to us alone.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = CString::new(interface).expect("a name without NUL");
        // SAFETY: a NUL-terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert!(index != 0, "no interface {interface}");
        // SAFETY: plain integers, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        RawSender { socket, address }
    }

    /// Sends one frame. False if the outbound hook dropped it, which the kernel reports as a lack
    /// of buffers, or if it did not fit into the other end's queue, which some kernels report
    /// likewise.
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: buffer and address are valid for the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const self.address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent == frame.len() as isize {
            return true;
        }
        let error = io::Error::last_os_error();
        assert!(
            error.raw_os_error() == Some(libc::ENOBUFS),
            "sending {} bytes: {error}",
            frame.len()
        );
        false
    }
}
