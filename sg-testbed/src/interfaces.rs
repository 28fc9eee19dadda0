//! Interfaces of the calling thread's network namespace, and veth pairs between namespaces, by
//! rtnetlink(7). No program is called, so that this works where there is no iproute2.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread::sleep;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;

use crate::namespace::Namespace;
use crate::netlink::request;

const POLL: Duration = Duration::from_millis(5);

/// Joins two namespaces by a veth pair: an interface in each, by the names given. Both are down.
pub fn add_veth(one: (&Namespace, &str), other: (&Namespace, &str)) -> io::Result<()> {
    let end = |(namespace, name): (&Namespace, &str)| {
        let mut end = LinkMessage::default();
        end.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()),
        ];
        end
    };
    let mut pair = end(one);
    pair.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(other)))),
    ]));
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    request(RouteNetlinkMessage::NewLink(pair), flags).map(drop)
}

/// Moves an interface of the calling thread's namespace into another one, where it is down.
pub fn move_to(name: &str, namespace: &Namespace) -> io::Result<()> {
    let fd = namespace.as_fd().as_raw_fd();
    change(name, |link| {
        link.attributes.push(LinkAttribute::NetNsFd(fd));
    })
}

/// Sets an interface up.
pub fn set_up(name: &str) -> io::Result<()> {
    change(name, |link| {
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
    })
}

fn change(name: &str, change: impl FnOnce(&mut LinkMessage)) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = if_nametoindex(name)?;
    change(&mut link);
    request(RouteNetlinkMessage::SetLink(link), 0).map(drop)
}

/// Gives an interface an address. An IPv6 address can be used at once: nobody else has it, and
/// looking for duplicates would take a second.
pub fn add_address(name: &str, address: IpAddr, prefix_length: u8) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.index = if_nametoindex(name)?;
    message.header.prefix_len = prefix_length;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Address(address));
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.attributes.push(AddressAttribute::Local(address));
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.flags = AddressHeaderFlags::Nodad;
        }
    }
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    request(RouteNetlinkMessage::NewAddress(message), flags).map(drop)
}

/// Routes all IPv4 packets that have no better route to `gateway`.
pub fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let gateway = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
    add_route(AddressFamily::Inet, gateway)
}

/// Looks for all IPv6 addresses that have no better route on the link of an interface.
pub fn add_link_route6(name: &str) -> io::Result<()> {
    let link = RouteAttribute::Oif(if_nametoindex(name)?);
    add_route(AddressFamily::Inet6, link)
}

/// Adds the default route of a family.
fn add_route(family: AddressFamily, to: RouteAttribute) -> io::Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(to);
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    request(RouteNetlinkMessage::NewRoute(message), flags).map(drop)
}

/// Waits until every interface that is set up is in operation: until then the kernel throws away
/// what is sent, and whoever has sent it tries again only after a second. False if one is not
/// after `patience`.
pub fn wait_for_carriers(patience: Duration) -> io::Result<bool> {
    wait_for(patience, |link| is_up(link) && !is_in_operation(link))
}

/// Waits until one interface is in operation, which may not be set up yet.
pub fn wait_for_carrier(name: &str, patience: Duration) -> io::Result<bool> {
    if_nametoindex(name)?;
    let name = LinkAttribute::IfName(name.to_owned());
    wait_for(patience, |link| {
        link.attributes.contains(&name) && !is_in_operation(link)
    })
}

/// Waits until no interface `is_waiting`.
fn wait_for(patience: Duration, is_waiting: impl Fn(&LinkMessage) -> bool) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let links = request(
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            NLM_F_DUMP,
        )?;
        let is_waiting = |answer: &RouteNetlinkMessage| match answer {
            RouteNetlinkMessage::NewLink(link) => is_waiting(link),
            _ => false,
        };
        if !links.iter().any(is_waiting) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(POLL);
    }
}

fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up) && !link.header.flags.contains(LinkFlags::Loopback)
}

fn is_in_operation(link: &LinkMessage) -> bool {
    link.attributes
        .contains(&LinkAttribute::OperState(State::Up))
}
