//! The lab's wiring: node, outside and inside each have one `eth0` that ends at the neighbour.
//! The neighbour routes IPv4 between them and is the node's next hop for both families.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::time::sleep;

use super::error::LabError;
use super::namespace::Namespace;
use super::plan::{
    INSIDE, INSIDE_GATEWAY, NEIGHBOUR6, NODE, NODE_GATEWAY, NODE6, OUTSIDE, OUTSIDE_GATEWAY, Place,
};

/// The name of a host's interface, the node's among them.
pub(super) const INTERFACE: &str = "eth0";

const PREFIX4: u8 = 24;
const PREFIX6: u8 = 64;

const CARRIER_POLL: Duration = Duration::from_millis(5);
const CARRIER_POLLS: usize = 300;

pub(super) struct Network {
    pub(super) node: Namespace,
    pub(super) has_ipv6: bool,
    neighbour: Namespace,
    outside: Namespace,
    inside: Namespace,
}

/// What one host needs to know of itself.
struct Host {
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    more: &'static [Ipv6Addr],
}

impl Network {
    /// Makes the namespaces and joins them.
    pub(super) fn build() -> Result<Network, LabError> {
        let network = Network {
            node: Namespace::new("node")?,
            has_ipv6: Path::new("/proc/sys/net/ipv6").is_dir(),
            neighbour: Namespace::new("neighbour")?,
            outside: Namespace::new("outside")?,
            inside: Namespace::new("inside")?,
        };
        let has_ipv6 = network.has_ipv6;
        let v6 = |addresses: &'static [Ipv6Addr]| if has_ipv6 { addresses } else { &[] };

        // The settings of a namespace are copied by interfaces that come into it afterwards.
        for namespace in network.all() {
            let prepared = namespace.start(async move { prepare(has_ipv6) }).wait()?;
            prepared.map_err(|e| LabError::setup("setting up a network namespace", e))?;
        }
        let joins = [
            (&network.node, "to-node", NODE_GATEWAY, v6(&NEIGHBOUR6)),
            (&network.outside, "to-outside", OUTSIDE_GATEWAY, &[]),
            (&network.inside, "to-inside", INSIDE_GATEWAY, &[]),
        ]
        .map(|(namespace, name, address, more)| {
            (namespace.netns().as_raw_fd(), name, address, more)
        });
        let joined = network.neighbour.start(async move {
            write_setting("net/ipv4/ip_forward", "1")?;
            let handle = netlink()?;
            for (netns, name, address, more) in joins {
                join(&handle, name, netns).await?;
                configure(&handle, name, address, more).await?;
            }
            Ok(())
        });
        joined
            .wait()?
            .map_err(|e| LabError::setup("joining the lab's network", e))?;

        let hosts = [
            (&network.node, NODE, NODE_GATEWAY, v6(&NODE6)),
            (&network.outside, OUTSIDE, OUTSIDE_GATEWAY, &[]),
            (&network.inside, INSIDE, INSIDE_GATEWAY, &[]),
        ];
        for (namespace, address, gateway, more) in hosts {
            let host = Host {
                address,
                gateway,
                more,
            };
            let settled = namespace.start(settle(host)).wait()?;
            settled.map_err(|e| LabError::setup("configuring a host of the lab", e))?;
        }
        for namespace in network.all() {
            let carried = namespace.start(wait_for_carrier()).wait()?;
            carried.map_err(|e| LabError::setup("waiting for the lab's cables", e))?;
        }
        Ok(network)
    }

    fn all(&self) -> [&Namespace; 4] {
        [&self.node, &self.neighbour, &self.outside, &self.inside]
    }

    pub(super) fn host(&self, place: Place) -> &Namespace {
        match place {
            Place::Outside => &self.outside,
            Place::Inside => &self.inside,
            Place::Neighbour => &self.neighbour,
        }
    }
}

/// Settings that make IPv6 addresses usable at once and keep a quiet link quiet. Called on the
/// namespace's own thread, whose /proc/sys/net is that of its namespace.
fn prepare(has_ipv6: bool) -> io::Result<()> {
    if !has_ipv6 {
        return Ok(());
    }
    for (name, value) in [
        ("disable_ipv6", "0"),
        ("accept_ra", "0"),
        ("router_solicitations", "0"),
        ("dad_transmits", "0"),
        ("mldv2_unsolicited_report_interval", "10"),
    ] {
        write_setting(&format!("net/ipv6/conf/default/{name}"), value)?;
    }
    write_setting("net/ipv6/conf/all/disable_ipv6", "0")
}

fn write_setting(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    std::fs::write(&path, value)
        .map_err(|e| io::Error::new(e.kind(), format!("writing {}: {e}", path.display())))
}

/// A netlink conversation in the calling thread's namespace.
fn netlink() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// A virtual cable between here, where its end is called `name`, and the namespace `netns`.
async fn join(handle: &Handle, name: &str, netns: i32) -> io::Result<()> {
    let cable = LinkVeth::new(name, INTERFACE).build();
    handle.link().add(cable).execute().await.map_err(to_io)?;
    let index = index_of(handle, INTERFACE).await?;
    let moved = LinkUnspec::new_with_index(index).setns_by_fd(netns).build();
    handle.link().set(moved).execute().await.map_err(to_io)
}

async fn index_of(handle: &Handle, name: &str) -> io::Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await.map_err(to_io)?;
    link.map(|link| link.header.index)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// Addresses, then up.
async fn configure(
    handle: &Handle,
    name: &str,
    address: Ipv4Addr,
    more: &[Ipv6Addr],
) -> io::Result<()> {
    let index = index_of(handle, name).await?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(to_io)?;
    let first = (IpAddr::V4(address), PREFIX4);
    let more = more.iter().map(|a| (IpAddr::V6(*a), PREFIX6));
    for (address, prefix) in std::iter::once(first).chain(more) {
        let mut request = handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            // No duplicate address detection: it would take a second.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(to_io)?;
    }
    Ok(())
}

async fn settle(host: Host) -> io::Result<()> {
    let handle = netlink()?;
    configure(&handle, INTERFACE, host.address, host.more).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(host.gateway);
    handle
        .route()
        .add(route.build())
        .execute()
        .await
        .map_err(to_io)
}

/// Waits until every interface here is said to be up, though not for long: until then the kernel
/// throws away what is sent, and whoever sent it tries again only after a second.
async fn wait_for_carrier() -> io::Result<()> {
    let handle = netlink()?;
    for _ in 0..CARRIER_POLLS {
        let links = handle.link().get().execute();
        let links: Vec<LinkMessage> = links.try_collect().await.map_err(to_io)?;
        let is_waiting = |link: &LinkMessage| {
            link.header.flags.contains(LinkFlags::Up)
                && !link
                    .attributes
                    .contains(&LinkAttribute::OperState(State::Up))
        };
        if !links.iter().any(is_waiting) {
            break;
        }
        sleep(CARRIER_POLL).await;
    }
    Ok(())
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
