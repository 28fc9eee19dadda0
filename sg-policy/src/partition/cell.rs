//! The pieces of a partition as they are visited: ranges of addresses, and cells.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use sg_common::{
    protocol::{Kind, kind_of},
    verdict::Direction,
};

use super::class::{Class, Family};
use super::space::{Address, Space};
use crate::policy::is_ipv6_extension;

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
pub(super) fn ranges<T: Address>(family: Family, space: &Space<T>) -> Vec<AddressRange> {
    let steps = space.steps();
    let ends = steps.iter().skip(1).map(|(start, _)| start.before());
    let lasts = ends.flatten().chain([T::MAX]);
    let range = |(&(first, index), last): (&(T, u32), T)| AddressRange {
        first: first.address(),
        last: last.address(),
        class: Class { family, index },
    };
    steps.iter().zip(lasts).map(range).collect()
}

/// For each class that has addresses, some of them: the range with the lowest.
pub(crate) fn places(ranges: impl IntoIterator<Item = AddressRange>) -> Vec<Option<AddressRange>> {
    let mut places: Vec<Option<AddressRange>> = Vec::new();
    for range in ranges {
        let index = range.class.index as usize;
        places.resize(places.len().max(index + 1), None);
        places[index].get_or_insert(range);
    }
    places
}

impl AddressRange {
    /// An address of the range to show: the second one where there are more, since the first is
    /// often a network's own.
    pub(crate) fn example(&self) -> IpAddr {
        let second = match self.first {
            IpAddr::V4(first) => first.to_bits().checked_add(1).map(|a| IpAddr::V4(a.into())),
            IpAddr::V6(first) => first.to_bits().checked_add(1).map(|a| IpAddr::V6(a.into())),
        };
        second
            .filter(|second| *second <= self.last)
            .unwrap_or(self.first)
    }
}
