//! Finds the interface by which the host would send a packet.

use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::super::machine::netlink::{self, number, put};

// include/uapi/linux/rtnetlink.h.
const RTM_GETROUTE: u16 = 26;
/// `struct rtmsg`: family, prefix lengths of destination and source, and fields that may be zero.
const RTMSG: usize = 12;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;

/// The index of the interface by which a packet to `remote` leaves the host, from its own address
/// `source` if that is given. If there are several equal routes, the kernel chooses one by these
/// addresses.
pub(in crate::kernel) fn leaves_by(
    remote: IpAddr,
    source: Option<IpAddr>,
) -> io::Result<Option<u32>> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let (family, bits) = match remote {
        IpAddr::V4(_) => (libc::AF_INET, 32),
        IpAddr::V6(_) => (libc::AF_INET6, 128),
    };
    let mut request = vec![0u8; RTMSG];
    request[0] = family as u8;
    request[1] = bits;
    put(&mut request, RTA_DST, &bytes(remote));
    if let Some(source) = source {
        request[2] = bits;
        put(&mut request, RTA_SRC, &bytes(source));
    }
    let answer = netlink::ask(NETLINK_ROUTE, RTM_GETROUTE, &request)?;
    let attributes = answer.get(RTMSG..).unwrap_or_default();
    Ok(number(attributes, RTA_OIF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_reaches_itself_by_the_loopback_interface() {
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        for source in [None, Some(own)] {
            assert_eq!(leaves_by(own, source).unwrap(), Some(loopback));
        }
    }
}
