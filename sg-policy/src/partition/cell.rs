//! The pieces of a partition as they are visited: ranges of addresses, and cells.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use sg_common::{
    protocol::{Kind, is_ipv6_extension, kind_of},
    verdict::Direction,
};

use super::class::{Class, Family};
use super::space::{Address, Space};

/// Neighbouring addresses of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressRange {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address, of the same family.
    pub last: IpAddr,
    /// The class of all of them.
    pub class: Class,
}

/// Packets that one rule decides, or that no rule matches: those of one direction and kind of
/// protocol between the node and a class of addresses, with the numbers of a range. The cells of
/// a partition have every packet once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    /// The remote addresses.
    pub class: Class,
    /// The lowest address of the class.
    pub remote: IpAddr,
    /// Where the packets go.
    pub direction: Direction,
    /// What the numbers mean.
    pub kind: Kind,
    /// The numbers: destination ports, types and codes of ICMP, or protocols, as [`Kind`] has
    /// them.
    pub numbers: RangeInclusive<u16>,
    /// The rule, as an index into [`Policy::rules`](crate::policy::Policy::rules); `None` where no
    /// rule matches.
    pub rule: Option<u32>,
}

/// Whether there is any packet of that kind with one of these numbers. Protocols with a kind of
/// their own are never [`Kind::Other`], and of IPv6 extension headers the header behind them is
/// looked at.
pub(super) fn is_possible(family: Family, kind: Kind, numbers: &RangeInclusive<u16>) -> bool {
    let [first, last] = [numbers.start(), numbers.end()].map(|number| number.to_be_bytes()[0]);
    let occurs = |protocol: u8| {
        kind_of(protocol, family == Family::V6) == Kind::Other
            && (family == Family::V4 || !is_ipv6_extension(protocol))
    };
    kind != Kind::Other || (first..=last).any(occurs)
}

/// All addresses of one family with their classes.
pub(super) fn ranges(
    family: Family,
    v4: &Space<u32>,
    v6: &Space<u128>,
) -> impl Iterator<Item = AddressRange> + use<> {
    let v4 = (family == Family::V4).then(|| ranges_of(family, v4));
    let v6 = (family == Family::V6).then(|| ranges_of(family, v6));
    let v6 = v6.into_iter().flatten();
    v4.into_iter().flatten().chain(v6)
}

fn ranges_of<T: Address>(
    family: Family,
    space: &Space<T>,
) -> impl Iterator<Item = AddressRange> + use<T> {
    let mut steps = space.steps().into_iter().peekable();
    std::iter::from_fn(move || {
        let (first, index) = steps.next()?;
        let last = steps.peek().and_then(|(start, _)| start.before());
        Some(AddressRange {
            first: first.address(),
            last: last.unwrap_or(T::MAX).address(),
            class: Class { family, index },
        })
    })
}

/// For each class that has addresses, some of them: the first range with one that hosts have, or
/// else the first of all.
pub(crate) fn places(ranges: impl IntoIterator<Item = AddressRange>) -> Vec<Option<AddressRange>> {
    let mut places: Vec<Option<AddressRange>> = Vec::new();
    for range in ranges {
        let index = range.class.index as usize;
        places.resize(places.len().max(index + 1), None);
        let place = places[index].get_or_insert(range);
        if !is_of_a_host(place.example()) && is_of_a_host(range.example()) {
            *place = range;
        }
    }
    places
}

/// Whether a host of a network can have the address: not unspecified, loopback, multicast or
/// reserved (RFC 6890).
pub(crate) fn is_of_a_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !matches!(a.octets(), [0 | 127 | 224.., ..]),
        IpAddr::V6(a) => !a.is_multicast() && a.segments()[..7] != [0; 7],
    }
}

impl AddressRange {
    /// See [`example_of`].
    pub(crate) fn example(&self) -> IpAddr {
        example_of(self.first, self.last)
    }
}

/// An address to show, of those from `first` to `last`: one that a host can have, if there is one.
pub(crate) fn example_of(first: IpAddr, last: IpAddr) -> IpAddr {
    // For documentation (RFC 5737, RFC 3849). Then the second address, since the first is often a
    // network's own; and those behind addresses that no host has.
    let (known, behind): (IpAddr, [IpAddr; 2]) = match first {
        IpAddr::V4(_) => (
            [203, 0, 113, 1].into(),
            [[1, 0, 0, 1].into(), [128, 0, 0, 1].into()],
        ),
        IpAddr::V6(_) => (
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, 9].into(),
            [
                [0x2000, 0, 0, 0, 0, 0, 0, 1].into(),
                [0x100, 0, 0, 0, 0, 0, 0, 1].into(),
            ],
        ),
    };
    let second = match first {
        IpAddr::V4(first) => first.to_bits().checked_add(1).map(|a| IpAddr::V4(a.into())),
        IpAddr::V6(first) => first.to_bits().checked_add(1).map(|a| IpAddr::V6(a.into())),
    };
    let all = [Some(known), second, Some(behind[0]), Some(behind[1])];
    let inside = |address: &IpAddr| (first..=last).contains(address);
    let mut inside = all.into_iter().flatten().filter(inside);
    let of_a_host = inside.clone().find(|address| is_of_a_host(*address));
    of_a_host.or_else(|| inside.next()).unwrap_or(first)
}
