//! What this machine does with a packet that a policy lets in, as far as that can be seen for sure:
//! whether the interface is up, whether the address is one of this network namespace, and which
//! sockets listen at the port. Netfilter, routes and other namespaces are not looked at.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::net::if_::InterfaceFlags;
use serde::Serialize;
use sg_common::protocol::IPPROTO_UDP;

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
    /// Whether the address is one of this network namespace, or one at which it is reached with
    /// others: broadcast, or a group that it has joined on the interface. Packets to any other are
    /// forwarded, or dropped.
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
    // No connection has several ends.
    let is_shared =
        protocol == IPPROTO_UDP && (own.broadcast.contains(&local) || has_joined(interface, local));
    let forwarding = match local {
        IpAddr::V4(_) => "/proc/sys/net/ipv4/ip_forward",
        IpAddr::V6(_) => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    let forwarding = fs::read_to_string(forwarding).ok();
    Ok(Local {
        is_up: own.flags.contains(InterfaceFlags::IFF_UP),
        has_carrier: own.flags.contains(InterfaceFlags::IFF_RUNNING),
        is_own: is_shared || own.all.contains(&local),
        forwards: forwarding.map(|text| text.trim() != "0"),
        sockets,
    })
}

/// Whether somebody has joined this group on the interface, by what /proc says of both families.
fn has_joined(interface: &str, group: IpAddr) -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    match group {
        IpAddr::V4(group) => {
            joined4(&read("/proc/thread-self/net/igmp"), interface).any(|it| it == group)
        }
        IpAddr::V6(group) => {
            joined6(&read("/proc/thread-self/net/igmp6"), interface).any(|it| it == group)
        }
    }
}

/// The groups of an interface in /proc/net/igmp: a line with its index and name, and below it one
/// for each group, which begins with the address as a number of the machine.
fn joined4(text: &str, interface: &str) -> impl Iterator<Item = Ipv4Addr> {
    let name = |line: &str| {
        let (index, rest) = line.split_once('\t')?;
        let (name, _) = rest.split_once(':')?;
        (!index.is_empty()).then(|| name.trim().to_owned())
    };
    let lines = text.lines();
    let lines = lines.skip_while(move |line| name(line).is_none_or(|name| name != interface));
    let groups = lines.skip(1).take_while(move |line| name(line).is_none());
    groups.filter_map(|line| {
        let group = u32::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some(Ipv4Addr::from(group.to_ne_bytes()))
    })
}

/// The groups of an interface in /proc/net/igmp6: index, name and group of each in a line.
fn joined6(text: &str, interface: &str) -> impl Iterator<Item = Ipv6Addr> {
    text.lines().filter_map(move |line| {
        let mut words = line.split_whitespace().skip(1);
        if words.next()? != interface {
            return None;
        }
        let group = u128::from_str_radix(words.next()?, 16).ok()?;
        Some(Ipv6Addr::from_bits(group))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux prints them on a little-endian machine; a name of 15 characters leaves no space.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_groups_of_an_interface_are_read() {
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0
2\ta-name-of-15-ch:     2      V3\n\t\t\t\tFB0000E0     1 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let groups = |name| {
            joined4(igmp, name)
                .map(|it| it.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(groups("lo"), ["224.0.0.1"]);
        assert_eq!(groups("a-name-of-15-ch"), ["224.0.0.251", "224.0.0.1"]);
        assert!(groups("a-name").is_empty());
        let igmp6 = "1    lo              ff020000000000000000000000000001     1 0000000C 0
2    eth0            ff0200000000000000000001ff000010     1 00000004 0\n";
        let groups = |name| {
            joined6(igmp6, name)
                .map(|it| it.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(groups("eth0"), ["ff02::1:ff00:10"]);
    }

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
