//! Holds an interface that has just appeared: no packet passes it in either direction until a
//! policy is in force there.
//!
//! A program drops everything behind both hooks of a policy: at tcx, or where the kernel has none
//! by clsact filters. The XDP hook stays free for the policy's program, which could not take the
//! place of another one without a gap, and the policy's outbound program comes before the hold's.
//!
//! A hold ends with its owner, and at the latest with this process. The links of tcx end with their
//! descriptors. A filter would stay: so it only jumps to the program that drops, through an array
//! that the kernel empties when no process has it open. What is left of it lets everything pass,
//! and goes when a policy is in force there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::MapData;
use sg_common::verdict::Direction;

use super::options::EgressHook;
use super::{sys, tc};

/// An interface through which nothing passes.
pub struct Hold {
    _way: Way,
}

enum Way {
    Tcx { _links: [OwnedFd; 2] },
    Clsact { _filters: Filters },
}

struct Filters {
    ifindex: u32,
    /// Has the program that drops.
    _array: MapData,
}

impl Hold {
    /// Holds the interface with this index in the current network namespace, for a policy whose
    /// outbound program is put at this hook. Programs that read packets beside the stack, such as
    /// captures, still see what comes in.
    ///
    /// # Errors
    ///
    /// As for attaching a policy.
    pub fn place(ifindex: u32, hook: EgressHook) -> io::Result<Hold> {
        let by_clsact = || {
            let filters = Filters::place(ifindex)?;
            Ok::<_, io::Error>(Way::Clsact { _filters: filters })
        };
        let way = match hook {
            // A policy refuses to have a program at tcx before its filter.
            EgressHook::Clsact => by_clsact()?,
            EgressHook::Tcx => by_tcx(ifindex)?,
            EgressHook::Auto => match by_tcx(ifindex) {
                Err(error) if sys::has_no_tcx(&error) => by_clsact()?,
                way => way?,
            },
        };
        Ok(Hold { _way: way })
    }
}

fn by_tcx(ifindex: u32) -> io::Result<Way> {
    let program = sys::load_dropper()?;
    let link = |direction| sys::tcx_create(direction, program.as_fd(), ifindex);
    Ok(Way::Tcx {
        _links: [link(Direction::Inbound)?, link(Direction::Outbound)?],
    })
}

impl Filters {
    fn place(ifindex: u32) -> io::Result<Filters> {
        let array = sys::create_program_array("sg_hold")?;
        let map = array.fd().as_fd();
        let switch = sys::load_switch(map)?;
        let dropper = sys::load_dropper()?;
        sys::write_value(map, &0, &dropper.as_raw_fd().to_ne_bytes())?;
        let filters = Filters {
            ifindex,
            _array: array,
        };
        // If only one of them can be added, it is removed again.
        tc::add_hold(ifindex, switch.as_fd())?;
        Ok(filters)
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        // Without the array they let everything pass.
        let _ = tc::remove_hold(self.ifindex);
    }
}
