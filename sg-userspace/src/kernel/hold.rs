//! Holds an interface that has just appeared: no packet passes it in either direction until a
//! policy is in force there.
//!
//! A program of two instructions drops everything at both tcx hooks. The XDP hook stays free for
//! the policy's program, which could not take the place of another one without a gap, and the
//! outbound program of a policy is put before the hold. The links are not pinned: a hold ends with
//! its owner, and at the latest with this process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use sg_common::verdict::Direction;

use super::sys;

/// An interface through which nothing passes.
#[derive(Debug)]
pub struct Hold {
    _links: [OwnedFd; 2],
}

impl Hold {
    /// Holds the interface with this index in the current network namespace. Programs that read
    /// packets beside the stack, such as captures, still see what comes in.
    ///
    /// # Errors
    ///
    /// Where the kernel has no tcx (before Linux 6.6), and as for attaching a policy.
    pub fn place(ifindex: u32) -> io::Result<Hold> {
        let program = sys::load_dropper()?;
        let link = |direction| sys::tcx_create(direction, program.as_fd(), ifindex);
        Ok(Hold {
            _links: [link(Direction::Inbound)?, link(Direction::Outbound)?],
        })
    }
}
