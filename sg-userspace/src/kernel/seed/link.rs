//! Network interfaces and how they are connected, which shows whose packets cross which interface.

use std::io;

use libc::{
    IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_MASTER,
    RTM_GETLINK,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::super::machine::interfaces::IFINFOMSG;
use super::super::machine::netlink::{self, attribute, number, text};

/// A network interface.
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `bridge`, `tun`, `veth`; empty for a physical interface.
    pub(super) kind: String,
    pub(super) master: Option<u32>,
    /// The peer of a veth, or the interface that this one is stacked on.
    pub(super) other: Option<u32>,
    /// The id of the namespace that `other` is in, as this namespace numbers it; `None` if it is
    /// here.
    pub(super) namespace: Option<i32>,
}

impl Link {
    /// Every interface of the current network namespace.
    pub(super) fn list() -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        netlink::dump(NETLINK_ROUTE, RTM_GETLINK, &[0; IFINFOMSG], |payload| {
            links.extend(Link::read(payload));
        })?;
        Ok(links)
    }

    pub(super) fn read(payload: &[u8]) -> Option<Link> {
        let (header, attributes) = payload.split_at_checked(IFINFOMSG)?;
        let kind = attribute(attributes, IFLA_LINKINFO)
            .and_then(|info| text(info, IFLA_INFO_KIND))
            .unwrap_or_default();
        Some(Link {
            index: u32::from_ne_bytes(*header.get(4..)?.first_chunk()?),
            name: text(attributes, IFLA_IFNAME).unwrap_or_default(),
            kind,
            master: number(attributes, IFLA_MASTER),
            other: number(attributes, IFLA_LINK),
            namespace: number(attributes, IFLA_LINK_NETNSID).map(u32::cast_signed),
        })
    }
}
