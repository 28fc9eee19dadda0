//! Flows by their addresses and ports: the tuple of one, and an entry of the table as a flow.

use std::net::{IpAddr, Ipv6Addr};

use sg_common::flow::{FlowKind, FlowValue};
use sg_common::flow_entry::{FlowKey, created_of};
use sg_common::flow_table::{Found, Place};

/// A flow of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    pub kind: FlowKind,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// The port, or the identifier of an ICMP query; zero for other protocols.
    pub local_port: u16,
    pub remote_port: u16,
    pub protocol: u8,
    pub value: FlowValue,
    pub place: Place,
    /// The tick in which it was entered: see [`sg_common::flow_entry::tick`].
    pub created: u32,
}

/// The tuple of a flow between two addresses of one family.
pub fn key_of(local: IpAddr, remote: IpAddr, ports: (u16, u16), protocol: u8) -> FlowKey {
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        u64::from_ne_bytes(word)
    };
    let addresses = match (local, remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            [word(&local.octets()), 0, word(&remote.octets()), 0]
        }
        (local, remote) => {
            let (local, remote) = (v6(local).octets(), v6(remote).octets());
            let (a, b) = local.split_at(8);
            let (c, d) = remote.split_at(8);
            [word(a), word(b), word(c), word(d)]
        }
    };
    FlowKey {
        name: FlowKey::name(ports.0, ports.1, protocol, remote.is_ipv6()),
        addresses,
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

/// The flow of an entry, with its times relative to `now`.
pub(super) fn entry_of(key: &FlowKey, found: &Found, now: u64) -> FlowEntry {
    let [a, b, c, d] = key.addresses;
    let (local, remote): (IpAddr, IpAddr) = if key.is_v6() {
        let address = |first: u64, second: u64| {
            let mut octets = [0; 16];
            let words = [first.to_ne_bytes(), second.to_ne_bytes()];
            octets.copy_from_slice(words.as_flattened());
            Ipv6Addr::from(octets).into()
        };
        (address(a, b), address(c, d))
    } else {
        let address = |word: u64| sg_common::flow::ipv4(word as u32).into();
        (address(a), address(c))
    };
    FlowEntry {
        kind: found.kind(),
        local,
        remote,
        local_port: key.local_port(),
        remote_port: key.remote_port(),
        protocol: key.protocol(),
        value: found.contents.value(now),
        place: found.place(),
        created: created_of(found.contents.begun),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_both_ends() {
        for (local, remote) in [
            ("192.0.2.1", "198.51.100.7"),
            ("2001:db8::1", "2001:db8:5::7"),
        ] {
            let (local, remote): (IpAddr, IpAddr) =
                (local.parse().unwrap(), remote.parse().unwrap());
            let key = key_of(local, remote, (22, 5000), 6);
            let found = entry_of(&key, &Found::NOTHING, 0);
            assert_eq!((found.local, found.remote), (local, remote));
            let rest = (found.local_port, found.remote_port, found.protocol);
            assert_eq!(rest, (22, 5000, 6));
            assert_ne!(key, key_of(remote, local, (22, 5000), 6));
        }
        let bytes = key_of(
            "1.2.3.4".parse().unwrap(),
            "5.6.7.8".parse().unwrap(),
            (0, 0),
            1,
        );
        assert_eq!(
            bytes.addresses.map(u64::to_ne_bytes),
            [
                [1, 2, 3, 4, 0, 0, 0, 0],
                [0; 8],
                [5, 6, 7, 8, 0, 0, 0, 0],
                [0; 8]
            ],
            "as on the wire"
        );
    }
}
