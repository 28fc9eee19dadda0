//! Finds out where the interface of an attachment is now: in its place, moved to another network
//! namespace, made anew, or gone. Its links say it, and not the record.

use std::fs::File;

use super::error::KernelError;
use super::link_kind::Link;
use super::links;
use super::machine::capabilities::TO_LIST;
use super::machine::interfaces::Interface;
use super::machine::{interfaces, netns, places};
use super::pins::InterfacePins;
use super::records::Records;
use super::state::State;
use super::sys::{self, Chained};

/// Where the interface of an attachment is.
#[derive(Debug)]
pub enum Place {
    /// In the place that the pins name.
    There(At),
    /// In another network namespace, or with another index.
    Moved(At),
    /// The interface was deleted, and another one of the same name exists in the same namespace.
    Recreated(At),
    Gone,
    /// The interface cannot be found from here, although something is attached to it.
    Unknown {
        reason: String,
    },
}

/// An interface, and the network namespace that it is in.
#[derive(Debug)]
pub struct At {
    pub interface: Interface,
    pub cookie: u64,
    /// The network namespace and its name; `None` for the namespace of the calling thread.
    other: Option<(File, String)>,
}

impl At {
    /// The name of its namespace, unless it is that of the calling thread.
    pub fn netns(&self) -> Option<&str> {
        self.other.as_ref().map(|(_, name)| name.as_str())
    }

    /// Runs `act` in the namespace of the interface.
    pub(super) fn inside<T: Send>(
        &self,
        act: impl FnOnce() -> Result<T, KernelError> + Send,
    ) -> Result<T, KernelError> {
        inside(self.other.as_ref(), act)
    }
}

fn inside<T: Send>(
    other: Option<&(File, String)>,
    act: impl FnOnce() -> Result<T, KernelError> + Send,
) -> Result<T, KernelError> {
    match other {
        None => act(),
        Some((file, name)) => places::inside(file, name, act),
    }
}

/// Whether an attachment belongs to this interface of the current network namespace.
pub(super) fn is_attached_to(
    pins: &InterfacePins,
    interface: &Interface,
) -> Result<bool, KernelError> {
    is_on(interface, links_of(pins)?)
}

/// Whether an attachment belongs to an interface of the current network namespace: to the one with
/// this index, or to any.
pub(crate) fn is_attached_here(
    pins: &InterfacePins,
    index: Option<u32>,
) -> Result<bool, KernelError> {
    let links = match links_of(pins) {
        // Links cannot be opened there, so only the place that the pins name counts.
        Err(KernelError::ReadOnly { .. }) => return Ok(false),
        links => links?,
    };
    for link in links {
        let live = link.map_or(0, |link| link.ifindex);
        if live != 0
            && index.is_none_or(|index| index == live)
            && let Some(interface) = interfaces::inspect(live)?
            && is_attached_to(pins, &interface)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether one of the links is attached to the interface, which is in the current network
/// namespace.
fn is_on(interface: &Interface, links: [Option<Link>; 3]) -> Result<bool, KernelError> {
    let [inbound, outbound @ ..] =
        links.map(|link| link.filter(|link| link.ifindex == interface.index));
    // The index alone proves nothing, since each namespace has its own numbers.
    if inbound.is_some_and(|link| interface.place_of(link.program).is_some()) {
        return Ok(true);
    }
    let outbound: Vec<Link> = outbound.into_iter().flatten().collect();
    if outbound.is_empty() {
        return Ok(false);
    }
    let chain = chain(interface.index)?;
    let mut ids = chain.iter().map(|chained| chained.link);
    Ok(ids.any(|id| outbound.iter().any(|link| link.id == id)))
}

/// Finds out where the interface of these pins is. Its links say it, as long as one of them is
/// live, and otherwise its index in the namespace that the pins name.
pub(super) fn locate(
    pins: &InterfacePins,
    records: Option<&Records>,
    links: [Option<Link>; 3],
) -> Result<Place, KernelError> {
    let record = records.and_then(|r| r.next.as_ref().or(r.current.as_ref()));
    let hint = record.and_then(|state| state.netns.as_deref());
    // The namespace that the pins name is searched first.
    let home = match netns::cookie()? == pins.netns_cookie {
        true => Some(None),
        false => match places::search(hint, |cookie| Ok(cookie == pins.netns_cookie)) {
            Ok(found) => found.map(|found| Some((found.file, found.name))),
            Err(error) => return unknown(error),
        },
    };
    if let Some(home) = home
        && let Some(place) = place_at_home(pins, record, links, home)?
    {
        return Ok(place);
    }
    match live(links).next() {
        Some(_) => place_elsewhere(hint, links),
        // The interface has gone with its namespace.
        None => Ok(Place::Gone),
    }
}

fn unknown(error: KernelError) -> Result<Place, KernelError> {
    match error {
        KernelError::NotPermitted { what, .. } => Ok(Place::Unknown {
            reason: format!("{what} is not permitted"),
        }),
        other => Err(other),
    }
}

/// The indices of the interfaces that have live links.
fn live(links: [Option<Link>; 3]) -> impl Iterator<Item = u32> {
    let links = links.into_iter().flatten();
    links.filter(Link::is_live).map(|link| link.ifindex)
}

/// Looks into the namespace that the pins name, which is `other` or the current one. `None` if the
/// links are on an interface of another namespace.
fn place_at_home(
    pins: &InterfacePins,
    record: Option<&State>,
    links: [Option<Link>; 3],
    other: Option<(File, String)>,
) -> Result<Option<Place>, KernelError> {
    let has_live = live(links).next().is_some();
    let at = |interface, other| At {
        interface,
        cookie: pins.netns_cookie,
        other,
    };
    let present = inside(other.as_ref(), || {
        let interface = interfaces::inspect(pins.ifindex)?;
        match interface {
            Some(interface) if !has_live || is_on(&interface, links)? => Ok(Some(interface)),
            _ => Ok(None),
        }
    })?;
    if let Some(interface) = present {
        return Ok(Some(Place::There(at(interface, other))));
    }
    let Some(state) = record.filter(|_| !has_live) else {
        return Ok((!has_live).then_some(Place::Gone));
    };
    let namesake = inside(other.as_ref(), || {
        match interfaces::index_of(&state.interface) {
            Ok(index) => interfaces::inspect(index),
            Err(KernelError::NoInterface { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    })?;
    Ok(Some(match namesake {
        Some(interface) => Place::Recreated(at(interface, other)),
        None => Place::Gone,
    }))
}

/// Searches all namespaces for the interface that has the live links.
fn place_elsewhere(hint: Option<&str>, links: [Option<Link>; 3]) -> Result<Place, KernelError> {
    let mut found_interface = None;
    let found = places::search(hint, |_| {
        for index in live(links) {
            if let Some(interface) = interfaces::inspect(index)?
                && is_on(&interface, links)?
            {
                found_interface = Some(interface);
                return Ok(true);
            }
        }
        Ok(false)
    });
    match (found, found_interface) {
        (Ok(Some(found)), Some(interface)) => Ok(Place::Moved(At {
            interface,
            cookie: found.cookie,
            other: (found.cookie != netns::cookie()?).then_some((found.file, found.name)),
        })),
        (Err(error), _) => unknown(error),
        _ => Ok(Place::Unknown {
            reason: "its network namespace cannot be found".into(),
        }),
    }
}

/// The links that are pinned: inbound, outbound, and the one that is about to replace that.
pub(super) fn links_of(pins: &InterfacePins) -> Result<[Option<Link>; 3], KernelError> {
    Ok([
        links::info(&pins.xdp_link())?,
        links::info(&pins.tcx_link())?,
        links::info(&pins.tcx_link_next())?,
    ])
}

/// The programs on the outbound hook of an interface, in the order in which they run.
pub(super) fn chain(index: u32) -> Result<Vec<Chained>, KernelError> {
    const WHAT: &str = "listing the tcx programs";
    sys::tcx_egress(index).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => KernelError::not_permitted(WHAT, TO_LIST),
        _ => KernelError::io(WHAT, e),
    })
}
