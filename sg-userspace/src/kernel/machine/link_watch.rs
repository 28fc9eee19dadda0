//! Notifies about added, removed and changed interfaces of the current network namespace, by the
//! kernel's messages (rtnetlink(7), the group of links). The messages are only a reason to look:
//! their content is not used.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

/// How many errors in a row are retried. The socket reports each loss once, but a filter of system
/// calls might return the same error for ever.
const PATIENCE: u32 = 16;

/// A descriptor that is readable when something may have changed. The caller waits for it, in
/// whatever way it waits for other things.
pub struct LinkWatch {
    socket: Socket,
}

impl LinkWatch {
    pub fn new() -> io::Result<LinkWatch> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, libc::RTMGRP_LINK as u32))?;
        socket.set_non_blocking(true)?;
        Ok(LinkWatch { socket })
    }

    /// Takes all messages out of the socket, so that it is readable again only after another
    /// change. Does not block.
    pub fn drain(&self) {
        let mut buffer = [0u8; 8192];
        let mut failures = 0;
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {}
                // Some messages were lost because the socket's buffer was full. Reading on empties
                // it. Until then it reports no further loss.
                Err(Errno::ENOBUFS | Errno::EINTR) if failures < PATIENCE => failures += 1,
                Err(_) => return,
            }
        }
    }
}

/// The descriptor stays the same for as long as the watch lives.
impl AsRawFd for LinkWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
