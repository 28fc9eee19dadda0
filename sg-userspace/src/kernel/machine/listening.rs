//! What this machine does with a packet that a policy lets in, as far as that can be seen for sure:
//! whether the interface is up, whether the address is one of this network namespace, and which
//! sockets listen at the port. Netfilter, routes and other namespaces are not looked at.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;

use nix::net::if_::InterfaceFlags;
use serde::Serialize;

use super::super::error::KernelError;
use super::super::impact::{Process, owners_of};
use super::super::seed::{Listener, listening};
use super::own_addresses::OwnAddresses;

/// What is known of the local end of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Local {
    /// Whether the interface is up, and whether it has a carrier.
    #[serde(rename = "up")]
    pub is_up: bool,
    #[serde(rename = "carrier")]
    pub has_carrier: bool,
    /// Whether the address is one of this network namespace. Packets to any other are forwarded,
    /// or dropped.
    #[serde(rename = "own_address")]
    pub is_own: bool,
    /// Whether the namespace forwards packets of this family (`net.ipv4.ip_forward`, and
    /// `net.ipv6.conf.all.forwarding`). Null if that cannot be read.
    pub forwards: Option<bool>,
    /// The sockets that listen at this port, those that take the packet first.
    pub sockets: Vec<Listening>,
}

/// A socket that listens, or a UDP socket without a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listening {
    pub local: IpAddr,
    pub port: u16,
    /// The processes that have it open. Empty if they cannot be seen.
    pub processes: Vec<Process>,
    pub takes: Takes,
}

/// Whether a socket takes packets to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Takes {
    Yes,
    /// It is bound to all IPv6 addresses, and takes IPv4 too unless it was told not to
    /// (`IPV6_V6ONLY`), which cannot be seen.
    UnlessV6Only,
    /// It is bound to another address.
    OtherAddress,
    /// It is bound to another interface.
    OtherInterface,
}

impl Takes {
    fn of(listener: &Listener, local: IpAddr, ifindex: u32) -> Takes {
        let is_any = listener.local.is_unspecified();
        if listener.device != 0 && listener.device != ifindex {
            return Takes::OtherInterface;
        }
        match (is_any, listener.local.is_ipv4() == local.is_ipv4()) {
            (true, true) => Takes::Yes,
            (true, false) if local.is_ipv4() => Takes::UnlessV6Only,
            _ if listener.local == local => Takes::Yes,
            _ => Takes::OtherAddress,
        }
    }
}

/// Looks at the local end of packets of `protocol` to a port, which come in by an interface of the
/// current network namespace.
pub fn look(
    interface: &str,
    ifindex: u32,
    protocol: u8,
    local: IpAddr,
    port: u16,
) -> Result<Local, KernelError> {
    let own = OwnAddresses::of(interface)?;
    let listed = listening(protocol)
        .map_err(|e| KernelError::io("listing the sockets of this machine", e))?;
    let at_port: Vec<&Listener> = listed.iter().filter(|it| it.port == port).collect();
    let inodes: HashSet<u32> = at_port.iter().map(|it| it.inode).collect();
    let mut owners = owners_of(&inodes);
    let mut sockets: Vec<Listening> = at_port
        .into_iter()
        .map(|listener| Listening {
            local: listener.local,
            port,
            processes: owners.remove(&listener.inode).unwrap_or_default(),
            takes: Takes::of(listener, local, ifindex),
        })
        .collect();
    sockets.sort_by(|a, b| (a.takes, a.local, &a.processes).cmp(&(b.takes, b.local, &b.processes)));
    sockets.dedup();
    let forwarding = match local {
        IpAddr::V4(_) => "/proc/sys/net/ipv4/ip_forward",
        IpAddr::V6(_) => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    let forwarding = fs::read_to_string(forwarding).ok();
    Ok(Local {
        is_up: own.flags.contains(InterfaceFlags::IFF_UP),
        has_carrier: own.flags.contains(InterfaceFlags::IFF_RUNNING),
        is_own: own.all.contains(&local),
        forwards: forwarding.map(|text| text.trim() != "0"),
        sockets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_takes_what_is_sent_to_its_address() {
        let takes = |bound: &str, device, to: &str| {
            let listener = Listener {
                protocol: 6,
                local: bound.parse().unwrap(),
                port: 3306,
                inode: 1,
                device,
            };
            Takes::of(&listener, to.parse().unwrap(), 2)
        };
        for (bound, device, to, expected) in [
            ("0.0.0.0", 0, "192.0.2.1", Takes::Yes),
            ("0.0.0.0", 2, "192.0.2.1", Takes::Yes),
            ("0.0.0.0", 3, "192.0.2.1", Takes::OtherInterface),
            ("192.0.2.1", 0, "192.0.2.1", Takes::Yes),
            ("127.0.0.1", 0, "192.0.2.1", Takes::OtherAddress),
            ("::", 0, "192.0.2.1", Takes::UnlessV6Only),
            ("::", 0, "2001:db8::1", Takes::Yes),
            ("0.0.0.0", 0, "2001:db8::1", Takes::OtherAddress),
        ] {
            assert_eq!(takes(bound, device, to), expected, "{bound} {device} {to}");
        }
    }
}
