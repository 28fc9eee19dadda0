//! The addresses of the current network namespace, by interface.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use super::super::error::KernelError;

/// The addresses of the current network namespace.
pub(in crate::kernel) struct OwnAddresses {
    pub(in crate::kernel) all: HashSet<IpAddr>,
    /// Those at which all of a network are reached.
    pub(in crate::kernel) broadcast: HashSet<IpAddr>,
    /// Those of one interface, in the order in which the kernel has them, with their masks.
    of_interface: Vec<(IpAddr, Option<IpAddr>)>,
    pub(in crate::kernel) flags: InterfaceFlags,
}

impl OwnAddresses {
    pub(in crate::kernel) fn of(interface: &str) -> Result<OwnAddresses, KernelError> {
        let found =
            getifaddrs().map_err(|e| KernelError::io("listing this host's addresses", e.into()))?;
        let mut own = OwnAddresses {
            all: HashSet::new(),
            broadcast: HashSet::from([Ipv4Addr::BROADCAST.into()]),
            of_interface: Vec::new(),
            flags: InterfaceFlags::empty(),
        };
        for one in found {
            let is_it = one.interface_name == interface;
            if is_it {
                own.flags |= one.flags;
            }
            let address = one.address.as_ref().and_then(ip_of);
            if let Some(address) = address {
                own.all.insert(address);
                let mask = one.netmask.as_ref().and_then(ip_of);
                if one.flags.contains(InterfaceFlags::IFF_BROADCAST) {
                    own.broadcast.extend(broadcast_of(address, mask));
                }
                if is_it {
                    own.of_interface.push((address, mask));
                }
            }
        }
        Ok(own)
    }
}

/// The address of an interface that a remote end of its family is likely to know: one of the same
/// network, or else the first that reaches beyond the link. `None` if there is none.
pub fn own_address(interface: &str, remote: IpAddr) -> Result<Option<IpAddr>, KernelError> {
    let own = OwnAddresses::of(interface)?.of_interface;
    let own = own
        .iter()
        .filter(|(address, _)| address.is_ipv4() == remote.is_ipv4());
    let is_near = |(address, mask): &&(IpAddr, Option<IpAddr>)| {
        mask.is_some_and(|mask| masked(*address, mask) == masked(remote, mask))
    };
    let reaches = |(address, _): &&(IpAddr, Option<IpAddr>)| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    let found = own.clone().find(is_near);
    let found = found.or_else(|| own.clone().find(reaches));
    Ok(found.map(|(address, _)| *address))
}

/// The last address of a network. Those with one or two addresses have none for all of them.
fn broadcast_of(address: IpAddr, mask: Option<IpAddr>) -> Option<IpAddr> {
    let (IpAddr::V4(address), IpAddr::V4(mask)) = (address, mask?) else {
        return None;
    };
    let hosts = !mask.to_bits();
    (hosts > 1).then(|| Ipv4Addr::from_bits(address.to_bits() | hosts).into())
}

/// The bits of an address that its network has.
fn masked(address: IpAddr, mask: IpAddr) -> u128 {
    let bits = |address| match address {
        IpAddr::V4(address) => u128::from(std::net::Ipv4Addr::to_bits(address)),
        IpAddr::V6(address) => address.to_bits(),
    };
    bits(address) & bits(mask)
}

/// The IP address in a socket address. `None` if that is of another family.
pub(in crate::kernel) fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::from(it.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_of_a_network_is_for_all() {
        let of = |a: &str, mask: &str| {
            let all = broadcast_of(a.parse().unwrap(), Some(mask.parse().unwrap()));
            all.map(|it| it.to_string())
        };
        assert_eq!(
            of("192.0.2.9", "255.255.255.0").as_deref(),
            Some("192.0.2.255")
        );
        assert_eq!(of("192.0.2.9", "255.255.255.254"), None);
        assert_eq!(of("192.0.2.9", "255.255.255.255"), None);
        assert_eq!(of("2001:db8::1", "ffff:ffff::"), None);
    }

    #[test]
    fn networks_are_compared_by_their_masks() {
        let of = |a: &str, mask: &str| masked(a.parse().unwrap(), mask.parse().unwrap());
        assert_eq!(
            of("192.0.2.1", "255.255.255.0"),
            of("192.0.2.9", "255.255.255.0")
        );
        assert_ne!(
            of("192.0.2.1", "255.255.255.0"),
            of("192.0.3.1", "255.255.255.0")
        );
        assert_eq!(
            of("2001:db8::1", "ffff:ffff::"),
            of("2001:db8:9::", "ffff:ffff::")
        );
    }
}
