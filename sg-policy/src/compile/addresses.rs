//! The prefixes of a partition → those that the tables need: the rest decide what the prefix
//! around them decides.

use super::{arena::Arena, budget::TooLarge, rows::Rows};
use crate::partition::{Address, Decisions, Prefix, Space, steps_of};

/// An address whose family has tables of its own.
pub(super) trait TableAddress: Address {
    /// Whether `prefix` has a node of its own, given the first addresses of the prefixes before
    /// and after it.
    fn is_alone(prefix: Prefix<Self>, neighbours: [Option<Self>; 2]) -> bool;
}

impl TableAddress for u32 {
    /// Each /16 has an entry of the first level.
    fn is_alone(prefix: Prefix<u32>, neighbours: [Option<u32>; 2]) -> bool {
        let mut neighbours = neighbours.into_iter().flatten();
        prefix.len > 16 && neighbours.all(|bits| bits >> 16 != prefix.bits >> 16)
    }
}

impl TableAddress for u128 {
    /// A node of a tree has several prefixes.
    fn is_alone(_: Prefix<u128>, _: [Option<u128>; 2]) -> bool {
        false
    }
}

/// The classes of one family's address space, as the tables have them.
pub(super) struct Classes<T> {
    /// That of the addresses outside all prefixes.
    outside: u32,
    /// Prefixes in address order, parents before children, whose class is not their parent's.
    prefixes: Vec<(Prefix<T>, u32)>,
}

/// Lays out what each class of `space` decides, and finds the prefixes whose tables differ from
/// those of the prefix around them. `decisions` are those of the classes in order.
pub(super) fn classes_of<T: TableAddress>(
    space: &Space<T>,
    mut decisions: impl Iterator<Item = Decisions>,
    rows: &mut Rows,
    arena: &mut Arena,
) -> Result<Classes<T>, TooLarge> {
    // By class of the partition: the class of the tables. Its first prefix says where its port
    // tables lie.
    let mut laid_out: Vec<u32> = Vec::new();
    let mut lay_out = |laid_out: &mut Vec<u32>, is_alone| {
        if let Some(decisions) = decisions.next() {
            laid_out.push(rows.class_of(&decisions, is_alone, arena)?);
        }
        Ok(())
    };
    lay_out(&mut laid_out, false)?;
    let mut prefixes = Vec::new();
    let mut before: Option<T> = None;
    let mut rest = space.prefixes();
    while let [named, after @ ..] = rest {
        rest = after;
        let around = space.class_around(named);
        if named.class == around {
            continue;
        }
        if named.class as usize == laid_out.len() {
            let after = after.first().map(|named| named.prefix.bits);
            lay_out(&mut laid_out, T::is_alone(named.prefix, [before, after]))?;
        }
        before = Some(named.prefix.bits);
        let class = laid_out[named.class as usize];
        if class != laid_out[around as usize] {
            prefixes.push((named.prefix, class));
        }
    }
    Ok(Classes {
        outside: laid_out[0],
        prefixes,
    })
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

impl<T: TableAddress> Classes<T> {
    pub(super) fn prefixes(&self) -> usize {
        self.prefixes.len()
    }

    /// The class of every address, as steps.
    pub(super) fn steps(&self) -> Vec<(T, u32)> {
        steps_of(self.outside, self.prefixes.iter().copied())
    }
}
