//! Prefixes → classes: one walk down the nested prefixes of a family.

use std::collections::HashMap;
use std::net::IpAddr;

use super::coverage::{Coverage, SetId};
use super::steps::set;
use crate::policy::{Prefix, Remote};

/// An address as an integer of one family, in host order.
pub(crate) trait Address: Copy + Ord {
    const ZERO: Self;
    const MAX: Self;
    fn prefixes(remote: &Remote) -> &[Prefix<Self>];
    /// The last address of `prefix`.
    fn last(prefix: Prefix<Self>) -> Self;
    fn next(self) -> Option<Self>;
    fn before(self) -> Option<Self>;
    fn address(self) -> IpAddr;
}

impl Address for u32 {
    const ZERO: u32 = 0;
    const MAX: u32 = u32::MAX;
    fn prefixes(remote: &Remote) -> &[Prefix<u32>] {
        &remote.v4
    }
    fn last(p: Prefix<u32>) -> u32 {
        p.bits | u32::MAX.checked_shr(p.len.into()).unwrap_or(0)
    }
    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
    fn before(self) -> Option<u32> {
        self.checked_sub(1)
    }
    fn address(self) -> IpAddr {
        IpAddr::V4(self.into())
    }
}

impl Address for u128 {
    const ZERO: u128 = 0;
    const MAX: u128 = u128::MAX;
    fn prefixes(remote: &Remote) -> &[Prefix<u128>] {
        &remote.v6
    }
    fn last(p: Prefix<u128>) -> u128 {
        p.bits | u128::MAX.checked_shr(p.len.into()).unwrap_or(0)
    }
    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
    fn before(self) -> Option<u128> {
        self.checked_sub(1)
    }
    fn address(self) -> IpAddr {
        IpAddr::V6(self.into())
    }
}

/// A prefix that a rule names, and the class of the addresses in it that no longer prefix contains.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<T> {
    pub(crate) prefix: Prefix<T>,
    pub(crate) class: u32,
    /// One more than the index of the longest prefix around it, 0 if there is none.
    parent: u32,
}

/// The address space of one family.
pub(crate) struct Space<T> {
    /// All prefixes that rules name, but those of length zero: in address order, parents before
    /// children.
    prefixes: Vec<Named<T>>,
    /// The address lists that cover each class. Class 0 is that of the addresses outside all
    /// prefixes; the others are numbered as the prefixes come.
    sets: Vec<SetId>,
}

impl<T: Address> Space<T> {
    /// Walks the family's prefixes from the outside in: what covers a prefix covers those in it.
    pub(super) fn new(coverage: &mut Coverage) -> Self {
        let mut named: Vec<(Prefix<T>, u32)> = Vec::new();
        for (index, list) in coverage.lists.iter().enumerate() {
            named.extend(T::prefixes(&list.remote).iter().map(|p| (*p, index as u32)));
        }
        // Parents before children: by first address, then shorter prefix first.
        named.sort_unstable_by_key(|(p, list)| (p.bits, p.len, *list));
        let whole = named.iter().take_while(|(p, _)| p.len == 0).count();
        let (whole, named) = named.split_at(whole);
        let covering = |coverage: &mut Coverage, set, lists: &[(Prefix<T>, u32)]| {
            lists
                .iter()
                .fold(set, |set, (_, list)| coverage.with_list(set, *list))
        };

        let outside = covering(coverage, Coverage::EMPTY, whole);
        let mut space = Space {
            prefixes: Vec::with_capacity(named.len()),
            sets: vec![outside],
        };
        let mut classes = HashMap::from([(outside, 0)]);
        // Index and last address of the prefixes around the current one.
        let mut around: Vec<(u32, T)> = Vec::new();
        for same in named.chunk_by(|(a, _), (b, _)| a == b) {
            let prefix = same[0].0;
            while around.last().is_some_and(|(_, last)| *last < prefix.bits) {
                around.pop();
            }
            let parent = around.last().map_or(0, |(index, _)| index + 1);
            let set = covering(coverage, space.sets[space.class(parent) as usize], same);
            let next = space.sets.len() as u32;
            let class = *classes.entry(set).or_insert(next);
            if class == next {
                space.sets.push(set);
            }
            around.push((space.prefixes.len() as u32, T::last(prefix)));
            space.prefixes.push(Named {
                prefix,
                class,
                parent,
            });
        }
        space
    }

    /// The class of a prefix by one more than its index, or for 0 that outside all prefixes.
    fn class(&self, number: u32) -> u32 {
        match number {
            0 => 0,
            _ => self.prefixes[number as usize - 1].class,
        }
    }

    pub(crate) fn prefixes(&self) -> &[Named<T>] {
        &self.prefixes
    }

    /// The class of the addresses around a prefix.
    pub(crate) fn class_around(&self, named: &Named<T>) -> u32 {
        self.class(named.parent)
    }

    /// How many classes there are.
    pub(crate) fn classes(&self) -> u32 {
        self.sets.len() as u32
    }

    pub(super) fn set(&self, class: u32) -> SetId {
        self.sets[class as usize]
    }

    /// The class of an address: that of the longest prefix around it.
    pub(super) fn class_of(&self, address: T) -> u32 {
        let mut number = self.prefixes.partition_point(|n| n.prefix.bits <= address) as u32;
        while number > 0 {
            let named = &self.prefixes[number as usize - 1];
            if T::last(named.prefix) >= address {
                break;
            }
            number = named.parent;
        }
        self.class(number)
    }

    /// The class of every address, as steps.
    pub(super) fn steps(&self) -> Vec<(T, u32)> {
        steps_of(0, self.prefixes.iter().map(|n| (n.prefix, n.class)))
    }
}

/// The value of every address, as steps: that of the longest of the `prefixes` around it, which
/// come in address order, parents before children, or `outside`.
pub(crate) fn steps_of<T: Address>(
    outside: u32,
    prefixes: impl Iterator<Item = (Prefix<T>, u32)>,
) -> Vec<(T, u32)> {
    let mut steps: Vec<(T, u32)> = vec![(T::ZERO, outside)];
    // Last address and value.
    let mut around: Vec<(T, u32)> = Vec::new();
    let leave = |around: &mut Vec<(T, u32)>, steps: &mut Vec<(T, u32)>| {
        if let Some((last, _)) = around.pop()
            && let Some(next) = last.next()
        {
            let value = around.last().map_or(outside, |(_, value)| *value);
            set(steps, next, value);
        }
    };
    for (prefix, value) in prefixes {
        while around.last().is_some_and(|(last, _)| *last < prefix.bits) {
            leave(&mut around, &mut steps);
        }
        set(&mut steps, prefix.bits, value);
        around.push((T::last(prefix), value));
    }
    while !around.is_empty() {
        leave(&mut around, &mut steps);
    }
    steps
}
