//! Interfaces of the current network namespace, by name and by index, and what the kernel reports
//! about one.

use std::io;

use aya_obj::generated::{
    IFLA_XDP_ATTACHED, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_HW_PROG_ID, IFLA_XDP_PROG_ID,
    IFLA_XDP_SKB_PROG_ID,
};
use libc::{ARPHRD_ETHER, ARPHRD_LOOPBACK, IFLA_IFNAME, IFLA_XDP, RTM_GETLINK};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::super::error::KernelError;
use super::netlink::{self, attribute, number, text};

/// The index of `name`.
pub fn index_of(name: &str) -> Result<u32, KernelError> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(index) => Ok(index),
        Err(nix::errno::Errno::ENODEV) => Err(KernelError::NoInterface {
            name: name.to_owned(),
            known: names().join(", "),
        }),
        Err(errno) => Err(KernelError::io(
            format!("looking for the interface {name}"),
            errno.into(),
        )),
    }
}

/// All names, in the kernel's order. Empty if they cannot be listed.
pub fn names() -> Vec<String> {
    nix::net::if_::if_nameindex()
        .map(|list| {
            list.iter()
                .map(|i| i.name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default()
}

/// Whether the name is a pattern: `*` for any characters, `?` for one.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Whether the pattern matches the name.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else {
        return name.is_empty();
    };
    let rest = &pattern[first.len_utf8()..];
    let mut chars = name.chars();
    match first {
        '*' => {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            let mut tails = ends.map(|at| &name[at..]);
            tails.any(|tail| matches(rest, tail))
        }
        '?' => chars.next().is_some() && matches(rest, chars.as_str()),
        first => chars.next() == Some(first) && matches(rest, chars.as_str()),
    }
}

/// The interfaces of the current network namespace that the names and patterns stand for, once
/// each, in the order of the arguments. A pattern never matches the loopback interface.
///
/// # Errors
///
/// [`KernelError::NoInterface`] if nothing matches a pattern. Names are not looked up.
pub fn expand(named: &[String]) -> Result<Vec<String>, KernelError> {
    let there = names();
    let mut all: Vec<String> = Vec::new();
    for name in named {
        let mut meant = match is_pattern(name) && !there.contains(name) {
            true => there.iter().filter(|it| matches(name, it)).collect(),
            false => vec![name],
        };
        if is_pattern(name) {
            meant.retain(|it| *it == name || !is_loopback(it));
        }
        if meant.is_empty() {
            return Err(KernelError::NoInterface {
                name: name.clone(),
                known: there.join(", "),
            });
        }
        for name in meant {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
    }
    Ok(all)
}

fn is_loopback(name: &str) -> bool {
    let found = index_of(name).and_then(inspect);
    found.is_ok_and(|found| found.is_some_and(|it| it.is_loopback))
}

/// The name of the interface with this index, if it exists here.
pub fn name_of(index: u32) -> Option<String> {
    inspect(index).ok().flatten().map(|link| link.name)
}

/// Where in the receive path an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpPlace {
    Native,
    Generic,
    /// On the network card.
    Offloaded,
}

/// What the kernel reports about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    /// Whether its frames begin with an Ethernet header.
    pub is_ethernet: bool,
    pub is_loopback: bool,
    /// The ids of all its XDP programs, whichever tool attached them.
    pub xdp: Vec<(XdpPlace, u32)>,
}

impl Interface {
    /// In which mode the interface runs this program.
    pub fn place_of(&self, program: u32) -> Option<XdpPlace> {
        let mut places = self.xdp.iter();
        places.find_map(|(place, id)| (*id == program).then_some(*place))
    }
}

/// `struct ifinfomsg` (include/uapi/linux/rtnetlink.h), in which the interface's index is at the
/// offset 4.
pub(in crate::kernel) const IFINFOMSG: usize = 16;
// include/uapi/linux/if_link.h.
const XDP_ATTACHED_SKB: u8 = 2;
const XDP_ATTACHED_HW: u8 = 3;
/// The attribute for programs of each mode, since Linux 5.0.
const EACH_KIND: [(u32, XdpPlace); 3] = [
    (IFLA_XDP_DRV_PROG_ID, XdpPlace::Native),
    (IFLA_XDP_SKB_PROG_ID, XdpPlace::Generic),
    (IFLA_XDP_HW_PROG_ID, XdpPlace::Offloaded),
];

/// Asks the kernel about the interface with this index. `None` if it does not exist.
pub fn inspect(index: u32) -> Result<Option<Interface>, KernelError> {
    let mut request = [0u8; IFINFOMSG];
    request[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut found = None;
    let asked = netlink::request(NETLINK_ROUTE, RTM_GETLINK, 0, &request, |payload| {
        found = parse(payload);
    });
    match asked {
        Ok(()) if found.is_none() => Err(io::Error::other("the kernel's answer is cut off")),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        other => other.map(|()| found),
    }
    .map_err(|e| KernelError::io(format!("asking about interface {index}"), e))
}

fn parse(payload: &[u8]) -> Option<Interface> {
    let (head, attributes) = payload.split_at_checked(IFINFOMSG)?;
    let layer = u16::from_ne_bytes(*head[2..].first_chunk()?);
    let xdp = attribute(attributes, IFLA_XDP).unwrap_or_default();
    let mut programs: Vec<(XdpPlace, u32)> = EACH_KIND
        .into_iter()
        .filter_map(|(kind, place)| Some((place, number(xdp, kind as u16)?)))
        .filter(|(_, id)| *id != 0)
        .collect();
    if programs.is_empty()
        && let Some(id) = number(xdp, IFLA_XDP_PROG_ID as u16).filter(|id| *id != 0)
    {
        let place = match *attribute(xdp, IFLA_XDP_ATTACHED as u16)?.first()? {
            XDP_ATTACHED_SKB => XdpPlace::Generic,
            XDP_ATTACHED_HW => XdpPlace::Offloaded,
            _ => XdpPlace::Native,
        };
        programs.push((place, id));
    }
    Some(Interface {
        name: text(attributes, IFLA_IFNAME)?,
        index: u32::from_ne_bytes(*head[4..].first_chunk()?),
        is_loopback: layer == ARPHRD_LOOPBACK,
        is_ethernet: matches!(layer, ARPHRD_ETHER | ARPHRD_LOOPBACK),
        xdp: programs,
    })
}

/// The id of the XDP program that an interface runs, if any, whichever tool attached it.
pub fn xdp_program(index: u32) -> Result<Option<u32>, KernelError> {
    let interface = inspect(index)?;
    Ok(interface.and_then(|i| i.xdp.first().map(|(_, id)| *id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        for (pattern, name, expected) in [
            ("eth*", "eth0", true),
            ("eth*", "eth", true),
            ("eth*", "veth0", false),
            ("*", "anything", true),
            ("*0", "eth0", true),
            ("*0", "eth01", false),
            ("e?h1", "eth1", true),
            ("eth?", "eth", false),
            ("eth?", "eth10", false),
            ("b*d*1", "bond1", true),
            ("b*d*1", "bond0.11", true),
            ("é*", "été", true),
            ("", "eth0", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_loopback_interface_is_meant_only_by_its_name() {
        let named = |names: &[&str]| expand(&names.iter().map(|n| (*n).into()).collect::<Vec<_>>());
        assert_eq!(named(&["lo", "lo"]).unwrap(), ["lo"]);
        assert!(
            matches!(named(&["l?"]), Err(KernelError::NoInterface { name, .. }) if name == "l?")
        );
        assert!(!named(&["*"]).is_ok_and(|all| all.contains(&"lo".to_owned())));
    }
}
