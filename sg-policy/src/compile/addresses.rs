//! Prefixes → address classes: one walk down the nested prefixes of a family.

use super::{
    arena::Arena,
    budget::TooLarge,
    rule_sets::{RuleSets, SetId},
    services::Rows,
    steps::set,
};
use crate::policy::{Prefix, Remote};

/// An address as an integer of one family.
pub(super) trait Address: Copy + Ord {
    fn prefixes(remote: &Remote) -> &[Prefix<Self>];
    /// The last address of `prefix`.
    fn last(prefix: Prefix<Self>) -> Self;
    const ZERO: Self;
    fn next(self) -> Option<Self>;
    /// Whether `prefix` has a node of its own, given the first addresses of the prefixes before
    /// and after it.
    fn is_alone(prefix: Prefix<Self>, neighbours: [Option<Self>; 2]) -> bool;
}

impl Address for u32 {
    const ZERO: u32 = 0;
    fn prefixes(remote: &Remote) -> &[Prefix<u32>] {
        &remote.v4
    }
    fn last(p: Prefix<u32>) -> u32 {
        p.bits | u32::MAX.checked_shr(p.len.into()).unwrap_or(0)
    }
    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
    /// Each /16 has an entry of the first level.
    fn is_alone(prefix: Prefix<u32>, neighbours: [Option<u32>; 2]) -> bool {
        let mut neighbours = neighbours.into_iter().flatten();
        prefix.len > 16 && neighbours.all(|bits| bits >> 16 != prefix.bits >> 16)
    }
}

impl Address for u128 {
    const ZERO: u128 = 0;
    fn prefixes(remote: &Remote) -> &[Prefix<u128>] {
        &remote.v6
    }
    fn last(p: Prefix<u128>) -> u128 {
        p.bits | u128::MAX.checked_shr(p.len.into()).unwrap_or(0)
    }
    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
    /// A node of a tree has several prefixes.
    fn is_alone(_: Prefix<u128>, _: [Option<u128>; 2]) -> bool {
        false
    }
}

/// The classes of one family's address space.
pub(super) struct Classes<T> {
    default_class: u32,
    /// Prefixes in address order, parents before children, whose class is not their parent's.
    prefixes: Vec<(Prefix<T>, u32)>,
}

/// Walks the family's prefixes from the outside in, giving each the class of all rules that cover
/// it.
pub(super) fn classes_of<T: Address>(
    sets: &mut RuleSets,
    rows: &mut Rows,
    arena: &mut Arena,
) -> Result<Classes<T>, TooLarge> {
    let mut named: Vec<(Prefix<T>, u32)> = Vec::new();
    for (index, (remote, _)) in sets.remotes.iter().enumerate() {
        named.extend(T::prefixes(remote).iter().map(|p| (*p, index as u32)));
    }
    // Parents before children: by first address, then shorter prefix first.
    named.sort_unstable_by_key(|(p, remote)| (p.bits, p.len, *remote));

    let default_set = named
        .iter()
        .take_while(|(p, _)| p.len == 0)
        .fold(0, |set, (_, remote)| sets.with_remote(set, *remote));
    let default_class = rows.class_of(sets, default_set, false, arena)?;
    let mut classes = Classes {
        default_class,
        prefixes: Vec::new(),
    };
    // The prefixes around the current one: last address, set, class.
    let mut around: Vec<(T, SetId, u32)> = Vec::new();
    let mut before: Option<T> = None;
    let mut rest = named.as_slice();
    while let Some(&(prefix, _)) = rest.first() {
        let same = rest.iter().take_while(|(p, _)| *p == prefix).count();
        let (here, after) = rest.split_at(same);
        rest = after;
        if prefix.len == 0 {
            continue;
        }
        while around
            .last()
            .is_some_and(|(last, _, _)| *last < prefix.bits)
        {
            around.pop();
        }
        let (parent_set, parent_class) = around
            .last()
            .map_or((default_set, default_class), |(_, set, class)| {
                (*set, *class)
            });
        let set = here.iter().fold(parent_set, |set, (_, remote)| {
            sets.with_remote(set, *remote)
        });
        if set == parent_set {
            continue;
        }
        let is_alone = T::is_alone(prefix, [before, after.first().map(|(p, _)| p.bits)]);
        before = Some(prefix.bits);
        let class = rows.class_of(sets, set, is_alone, arena)?;
        if class != parent_class {
            classes.prefixes.push((prefix, class));
        }
        around.push((T::last(prefix), set, class));
    }
    Ok(classes)
}

impl Classes<u32> {
    /// Takes single addresses out, in the order of addresses.
    pub(super) fn take_hosts(&mut self) -> Vec<(u32, u32)> {
        let hosts = self.prefixes.extract_if(.., |(prefix, _)| prefix.len == 32);
        hosts.map(|(prefix, class)| (prefix.bits, class)).collect()
    }

    /// Puts some of them back.
    pub(super) fn put_back(&mut self, hosts: Vec<(u32, u32)>) {
        if hosts.is_empty() {
            return;
        }
        let hosts = hosts.into_iter();
        self.prefixes
            .extend(hosts.map(|(bits, class)| (Prefix { bits, len: 32 }, class)));
        self.prefixes
            .sort_by_key(|(prefix, _)| (prefix.bits, prefix.len));
    }
}

impl<T: Address> Classes<T> {
    pub(super) fn prefixes(&self) -> usize {
        self.prefixes.len()
    }

    /// The class of every address, as steps.
    pub(super) fn steps(&self) -> Vec<(T, u32)> {
        let mut steps: Vec<(T, u32)> = vec![(T::ZERO, self.default_class)];
        let mut around: Vec<(T, u32)> = Vec::new();
        let leave = |around: &mut Vec<(T, u32)>, steps: &mut Vec<(T, u32)>| {
            if let Some((last, _)) = around.pop()
                && let Some(next) = last.next()
            {
                let class = around.last().map_or(self.default_class, |(_, c)| *c);
                set(steps, next, class);
            }
        };
        for (prefix, class) in &self.prefixes {
            while around.last().is_some_and(|(last, _)| *last < prefix.bits) {
                leave(&mut around, &mut steps);
            }
            set(&mut steps, prefix.bits, *class);
            around.push((T::last(*prefix), *class));
        }
        while !around.is_empty() {
            leave(&mut around, &mut steps);
        }
        steps
    }
}
