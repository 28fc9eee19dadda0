//! Notifies about added, removed and changed interfaces of the current network namespace, by the
//! kernel's messages (rtnetlink(7), the group of links). The messages are only a reason to look:
//! their content is not used.

use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::unix::AsyncFd;

/// How many errors in a row are retried. The socket reports each loss once, but a filter of system
/// calls might return the same error for ever.
const PATIENCE: u32 = 16;

pub struct LinkWatch {
    socket: AsyncFd<Socket>,
}

impl LinkWatch {
    /// Must be called inside a runtime.
    pub fn new() -> io::Result<LinkWatch> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, libc::RTMGRP_LINK as u32))?;
        socket.set_non_blocking(true)?;
        // SAFETY: the socket owns its descriptor and gives always the same one, until it is
        // dropped with the watch.
        let socket = unsafe { AsyncFd::register(socket) };
        Ok(LinkWatch {
            socket: socket.map_err(|e| io::Error::other(e.to_string()))?,
        })
    }

    /// Returns when something may have changed: a message has come, or some were lost because the
    /// socket's buffer was full (ENOBUFS). Can be dropped at any await and called again.
    pub async fn changed(&mut self) {
        let Ok(mut ready) = self.socket.readable().await else {
            // No message will ever come.
            return std::future::pending().await;
        };
        let mut buffer = [0u8; 8192];
        let mut failures = 0;
        loop {
            match recv(
                self.socket.get_ref().as_raw_fd(),
                &mut buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(_) => {}
                // Reading on empties the socket. Until then it reports no further loss.
                Err(Errno::ENOBUFS | Errno::EINTR) if failures < PATIENCE => failures += 1,
                Err(_) => {
                    ready.clear_ready();
                    return;
                }
            }
        }
    }
}
