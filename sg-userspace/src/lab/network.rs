//! The lab's network: node, outside and inside each have one `eth0`, which a veth pair joins to the
//! neighbour. The neighbour routes IPv4 between them and is the node's next hop for both families.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sg_testbed::{Mount, interfaces, mounts, set_sysctl, sysctl};

use super::error::LabError;
use super::host::Host;
use super::plan::{
    INSIDE, INSIDE_GATEWAY, NEIGHBOUR6, NODE, NODE_GATEWAY, NODE6, OUTSIDE, OUTSIDE_GATEWAY, Place,
};

/// The name of every host's interface, including the node's.
pub(super) const INTERFACE: &str = "eth0";

const PREFIX4: u8 = 24;
const PREFIX6: u8 = 64;

/// How long the lab waits for its interfaces to be in operation. If one takes longer, attempts are
/// repeated, which only costs time.
const CARRIER: Duration = Duration::from_millis(1500);

pub(super) struct Network {
    pub(super) node: Host,
    pub(super) has_ipv6: bool,
    neighbour: Host,
    outside: Host,
    inside: Host,
}

impl Network {
    /// Creates the hosts and connects them.
    pub(super) fn build() -> Result<Network, LabError> {
        let network = Network {
            node: Host::new("node")?,
            has_ipv6: Path::new("/proc/sys/net/ipv6").is_dir(),
            neighbour: Host::new("neighbour")?,
            outside: Host::new("outside")?,
            inside: Host::new("inside")?,
        };
        let has_ipv6 = network.has_ipv6;
        let v6 = |addresses: &'static [Ipv6Addr]| if has_ipv6 { addresses } else { &[] };
        let Network {
            node,
            neighbour,
            outside,
            inside,
            ..
        } = &network;

        // Interfaces copy the settings of a namespace when they are added to it, so the settings
        // come first.
        for host in network.all() {
            host.inside(|| prepare(has_ipv6))?
                .map_err(|e| LabError::setup("setting up a network namespace", e))?;
        }
        let joins = [
            (node, "to-node", NODE_GATEWAY, v6(&NEIGHBOUR6)),
            (outside, "to-outside", OUTSIDE_GATEWAY, &[]),
            (inside, "to-inside", INSIDE_GATEWAY, &[]),
        ];
        let join = || {
            set_sysctl("net/ipv4/ip_forward", "1")?;
            for (host, name, address, more) in joins {
                let near = (neighbour.namespace(), name);
                interfaces::add_veth(near, (host.namespace(), INTERFACE))?;
                configure(name, address, more)?;
            }
            Ok(())
        };
        neighbour
            .inside(join)?
            .map_err(|e: io::Error| LabError::setup("joining the lab's network", e))?;

        let hosts = [
            (node, NODE, NODE_GATEWAY, v6(&NODE6)),
            (outside, OUTSIDE, OUTSIDE_GATEWAY, &[]),
            (inside, INSIDE, INSIDE_GATEWAY, &[]),
        ];
        for (host, address, gateway, more) in hosts {
            let settle = || {
                configure(INTERFACE, address, more)?;
                interfaces::add_default_route(gateway)
            };
            host.inside(settle)?
                .map_err(|e| LabError::setup("configuring a host of the lab", e))?;
        }
        for host in network.all() {
            host.inside(|| interfaces::wait_for_carriers(CARRIER))?
                .map_err(|e| LabError::setup("waiting for the lab's interfaces", e))?;
        }
        Ok(network)
    }

    /// Gives the neighbour more addresses. The node reaches them by its default route, or finds
    /// them on its link.
    pub(super) fn add(&self, addresses: &[IpAddr]) -> Result<(), LabError> {
        let give = || {
            addresses.iter().try_for_each(|address| {
                let length = if address.is_ipv4() { 32 } else { 128 };
                interfaces::add_address("to-node", *address, length)
            })
        };
        self.neighbour
            .inside(give)?
            .map_err(|e| LabError::setup("adding the addresses of the policy's sets", e))?;
        let route = || match addresses.iter().any(IpAddr::is_ipv6) {
            true => interfaces::add_link_route6(INTERFACE),
            false => Ok(()),
        };
        self.node
            .inside(route)?
            .map_err(|e| LabError::setup("routing to the addresses of the policy's sets", e))
    }

    fn all(&self) -> [&Host; 4] {
        [&self.node, &self.neighbour, &self.outside, &self.inside]
    }

    pub(super) fn host(&self, place: Place) -> &Host {
        match place {
            Place::Node => &self.node,
            Place::Outside => &self.outside,
            Place::Inside => &self.inside,
            Place::Neighbour => &self.neighbour,
        }
    }
}

/// Settings that make IPv6 addresses usable at once and prevent packets that the lab does not send.
fn prepare(has_ipv6: bool) -> io::Result<()> {
    if !has_ipv6 {
        return Ok(());
    }
    set_sysctl("net/ipv6/conf/default/disable_ipv6", "0")?;
    sysctl::make_quiet()?;
    set_sysctl("net/ipv6/conf/all/disable_ipv6", "0")
}

/// Sets an interface up, with its addresses.
fn configure(name: &str, address: Ipv4Addr, more: &[Ipv6Addr]) -> io::Result<()> {
    interfaces::set_up(name)?;
    interfaces::add_address(name, address.into(), PREFIX4)?;
    for address in more {
        interfaces::add_address(name, (*address).into(), PREFIX6)?;
    }
    Ok(())
}

/// Gives the calling thread, and those that it starts from now on, private mounts. One of them is
/// an empty BPF file system, whose pins are not visible outside.
pub(super) fn private_bpffs() -> Result<Mount, LabError> {
    mounts::make_private()
        .map_err(|e| LabError::setup("making mounts that only the lab sees", e))?;
    // Any directory will do, because the mount hides its content from the lab's threads only. It is
    // not /sys/fs/bpf, because a file system there that ends with its mount namespace is refused.
    let candidates = ["/sys/fs", "/tmp"].map(PathBuf::from);
    let found = candidates.into_iter().find(|path| path.is_dir());
    Mount::bpffs(found.unwrap_or_else(|| PathBuf::from("/")))
        .map_err(|e| LabError::setup("mounting the lab's own BPF file system", e))
}
