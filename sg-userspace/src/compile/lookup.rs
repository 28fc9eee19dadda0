//! Asking compiled tables on the host, as the kernel asks them.

use std::net::IpAddr;

use sg_common::tables::{Kind, judge, walk16};
use sg_common::verdict::{Direction, Verdict};

use super::Compiled;

/// Compiled tables ready for many questions: each costs a few searches, however long the IPv6 list.
pub struct Lookup<'a> {
    tables: &'a Compiled,
    /// Lengths of the IPv6 prefixes, longest first.
    lengths6: Vec<u8>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(tables: &'a Compiled) -> Self {
        let mut has_length = [false; 129];
        for (prefix, _) in &tables.prefixes6 {
            has_length[usize::from(prefix.len)] = true;
        }
        let lengths = (0..=128).rev();
        Lookup {
            tables,
            lengths6: lengths
                .filter(|len| has_length[usize::from(*len)])
                .collect(),
        }
    }

    /// The address class of `remote`.
    pub fn class(&self, remote: IpAddr) -> u32 {
        let tables = self.tables;
        match remote {
            IpAddr::V4(a) => {
                let a = u32::from(a);
                walk16(tables, tables.root4[(a >> 16) as usize], a as u16).unwrap_or(u32::MAX)
            }
            IpAddr::V6(a) => {
                let a = u128::from(a);
                let longest = self.lengths6.iter().find_map(|&len| {
                    let bits = a & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                    let key = |(p, _): &(crate::policy::Prefix<u128>, u32)| (p.bits, p.len);
                    let found = tables.prefixes6.binary_search_by_key(&(bits, len), key);
                    found.ok().map(|i| tables.prefixes6[i].1)
                });
                longest.unwrap_or(tables.default_class6)
            }
        }
    }

    /// What the kernel would decide by the rules alone.
    pub fn decide(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        match self.tables.rows.get(self.class(remote) as usize) {
            Some(row) => judge(self.tables, row, direction, kind as u8, number),
            None => Verdict::no_match(direction),
        }
    }
}
