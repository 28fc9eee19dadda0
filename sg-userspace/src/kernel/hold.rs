//! Holds an interface that has just appeared: no packet passes it in either direction until a
//! policy is in force there.
//!
//! A hold is a tc program that drops everything, once at the ingress and once at the egress. Both
//! come behind the programs of a policy: inbound the policy is in XDP, and outbound its tc program
//! is the first. So a policy is attached as on any interface while the hold is there, and the hold
//! goes when the policy already judges. It is not in XDP itself, where an interface runs one
//! program: that would have to go before the policy's can come.
//!
//! The programs hang on tcx links, or on filters of a clsact qdisc where the kernel has no tcx. A
//! hold must not outlive its process, or nobody would end it. The kernel ends links when the
//! process ends in any way, but filters stay. So a filter does not drop packets itself: it jumps to
//! the program that does, through a program array that the kernel empties when no process has it
//! open any more. From then on the filter lets everything pass. `held_interfaces` finds such
//! filters, and `remove_left` or the next policy there removes them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::MapData;
use sg_common::verdict::Direction;

use super::error::KernelError;
use super::machine::capabilities::TO_OPEN_BY_ID;
use super::machine::{interfaces, netns, places};
use super::options::EgressHook;
use super::{sys, tc};

/// An interface through which nothing passes.
pub struct Hold(Way);

enum Way {
    /// Ingress and egress.
    Tcx([OwnedFd; 2]),
    Clsact(Filters),
}

struct Filters {
    ifindex: u32,
    /// Has the program that drops, for as long as it is open.
    _array: MapData,
}

impl Hold {
    /// Holds the interface with this index in the current network namespace. `hook` is the outbound
    /// hook of the policy that is to follow. Captures still see what comes in: they read packets
    /// before tc does.
    ///
    /// # Errors
    ///
    /// As for attaching a policy.
    pub fn place(ifindex: u32, hook: EgressHook) -> io::Result<Hold> {
        let by_clsact = || Filters::place(ifindex).map(Way::Clsact);
        let way = match hook {
            // Programs at tcx run before filters, and the policy's has to be the first.
            EgressHook::Clsact => by_clsact()?,
            EgressHook::Tcx => by_tcx(ifindex)?,
            EgressHook::Auto => match by_tcx(ifindex) {
                Err(error) if sys::has_no_tcx(&error) => by_clsact()?,
                way => way?,
            },
        };
        Ok(Hold(way))
    }

    /// Lets everything pass from now on, as far as the kernel allows it. Dropping the hold ends it
    /// in any case, but where links are detached that takes tens of milliseconds: the kernel waits
    /// until no packet is in their programs.
    pub fn let_pass(&self) {
        match &self.0 {
            Way::Tcx(links) => {
                if let Ok(program) = sys::load_passer() {
                    for link in links {
                        let _ = sys::link_update(link.as_fd(), program.as_fd());
                    }
                }
            }
            Way::Clsact(filters) => filters.remove(),
        }
    }
}

fn by_tcx(ifindex: u32) -> io::Result<Way> {
    let program = sys::load_dropper()?;
    let link = |direction| sys::tcx_create(direction, program.as_fd(), ifindex);
    let links = [link(Direction::Inbound)?, link(Direction::Outbound)?];
    Ok(Way::Tcx(links))
}

impl Filters {
    fn place(ifindex: u32) -> io::Result<Filters> {
        let array = sys::create_program_array("sg_hold")?;
        let map = array.fd().as_fd();
        let switch = sys::load_switch(map)?;
        let dropper = sys::load_dropper()?;
        sys::write_value(map, &0, &dropper.as_raw_fd().to_ne_bytes())?;
        // Where adding them fails, dropping this removes what was added.
        let filters = Filters {
            ifindex,
            _array: array,
        };
        tc::add_hold(ifindex, switch.as_fd())?;
        Ok(filters)
    }

    fn remove(&self) {
        // If they stay, they let everything pass when the array is closed.
        let _ = tc::remove_hold(self.ifindex);
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        self.remove();
    }
}

/// An interface that has the filters of a hold.
pub struct HeldInterface {
    pub interface: String,
    pub ifindex: u32,
    /// The name of its network namespace, if it has one.
    pub netns: Option<String>,
    pub netns_cookie: u64,
    /// The namespace, if it is not that of the calling thread.
    other: Option<File>,
}

impl HeldInterface {
    /// Whether its process is gone, so that everything passes.
    pub fn is_left(&self) -> Result<bool, KernelError> {
        self.inside(|| is_left(self.ifindex))
    }

    /// What is said of it where it is left, with the remedy.
    pub fn error(&self) -> KernelError {
        let netns = self.netns.as_ref().map(|name| format!("--netns {name} "));
        let netns = netns.unwrap_or_default();
        KernelError::HoldLeft {
            interface: self.interface.clone(),
            command: format!("sgctl {netns}detach --iface {}", self.interface),
        }
    }

    /// Removes it where it is left. It is a success if it is gone.
    pub fn remove(&self) -> Result<(), KernelError> {
        self.inside(|| remove_left(self.ifindex))
    }

    fn inside<T: Send>(
        &self,
        act: impl FnOnce() -> Result<T, KernelError> + Send,
    ) -> Result<T, KernelError> {
        match (&self.other, &self.netns) {
            (Some(file), Some(name)) => places::inside(file, name, act),
            _ => act(),
        }
    }
}

/// The interfaces with the filters of a hold in the current network namespace and, if `everywhere`,
/// in those that have a name and can be entered.
pub fn held_interfaces(everywhere: bool) -> Result<Vec<HeldInterface>, KernelError> {
    let netns_cookie = netns::cookie()?;
    let here = held_here()?
        .into_iter()
        .map(|(ifindex, interface)| HeldInterface {
            interface,
            ifindex,
            netns: places::name_of(netns_cookie),
            netns_cookie,
            other: None,
        });
    let mut all: Vec<HeldInterface> = here.collect();
    if everywhere {
        for (place, found) in places::look_in_named(held_here)? {
            for (ifindex, interface) in found {
                let file = place.file.try_clone();
                let file = file.map_err(|e| KernelError::io(format!("opening {}", place.name), e));
                all.push(HeldInterface {
                    interface,
                    ifindex,
                    netns: Some(place.name.clone()),
                    netns_cookie: place.cookie,
                    other: Some(file?),
                });
            }
        }
    }
    Ok(all)
}

/// The indices and names of those in the current network namespace.
fn held_here() -> Result<Vec<(u32, String)>, KernelError> {
    let mut found = Vec::new();
    for index in tc::with_clsact()? {
        if !tc::programs_of_hold(index)?.is_empty() {
            found.extend(interfaces::name_of(index).map(|name| (index, name)));
        }
    }
    Ok(found)
}

/// Removes what is left of a hold on this interface of the current network namespace. A hold whose
/// process is alive stays. It is a success if there is none.
pub(super) fn remove_left(ifindex: u32) -> Result<(), KernelError> {
    match is_left(ifindex)? {
        true => tc::remove_hold(ifindex),
        false => Ok(()),
    }
}

/// Whether the interface has the filters of a hold whose process is gone.
fn is_left(ifindex: u32) -> Result<bool, KernelError> {
    let programs = tc::programs_of_hold(ifindex)?;
    let mut is_left = !programs.is_empty();
    for program in programs {
        is_left &= !drops(program).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) => KernelError::not_permitted("looking at a hold", TO_OPEN_BY_ID),
            _ => KernelError::io("looking at a hold", e),
        })?;
    }
    Ok(is_left)
}

/// Whether the program of a filter still has one to jump to, as it has for as long as its process
/// is alive.
fn drops(id: u32) -> io::Result<bool> {
    let Some(switch) = sys::program_by_id(id)? else {
        return Ok(false);
    };
    let Some(array) = sys::first_map(switch.as_fd())? else {
        return Ok(false);
    };
    let dropper = MapData::from_id(array)
        .map_err(sys::map_error)
        .and_then(|array| sys::lookup(array.fd().as_fd(), &0, &mut [0; size_of::<u32>()]));
    match dropper {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}
