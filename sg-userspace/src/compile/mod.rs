//! Rules → tables. Pure functions, no I/O: the same policy and slots give the same tables.
//! The lookup cost of the result does not depend on the number of rules.
//!
//! Each prefix carries the set of all rules whose remote covers it; that set, cut after the first
//! rule that matches everything, decides a row (what happens to every protocol and port). Equal
//! rows share an address class, and a prefix whose class is its parent's disappears.

mod addresses;
mod pool;
mod services;

use std::net::IpAddr;

use sg_common::{
    tables::{Block, Kind, Node, ROOT_ENTRIES, Root, Row, Tables, judge, walk16},
    verdict::{Direction, Verdict},
};

use crate::policy::{Policy, Prefix};
use addresses::{Family, RuleSets, classes_of};
use pool::Pool;
use services::Rows;

/// How much kernel memory the tables of one policy may take, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub table_bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            table_bytes: 256 << 20,
        }
    }
}

/// The policy is valid, but its tables would not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the policy's lookup tables need more than {} MiB of kernel memory ({what})",
    budget_bytes >> 20
)]
pub struct TooLarge {
    pub budget_bytes: usize,
    /// What outgrew the budget.
    pub what: &'static str,
}

/// Everything the kernel needs of a policy, and a second evaluator of it (`decide`).
#[derive(Clone, Debug)]
pub struct Compiled {
    pub root4: Box<Root>,
    pub blocks: Vec<Block>,
    pub nodes: Vec<Node>,
    pub rows: Vec<Row>,
    /// IPv6 prefixes whose class differs from that of the next shorter one.
    pub prefixes6: Vec<(Prefix<u128>, u32)>,
    /// Class of IPv6 addresses that no prefix covers.
    pub default_class6: u32,
}

/// Sizes that `check` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableSizes {
    pub address_classes: usize,
    pub blocks: usize,
    pub nodes: usize,
    pub ipv6_prefixes: usize,
    /// Bytes of the array tables plus an estimate of 96 bytes for each IPv6 prefix in the trie.
    pub bytes: usize,
}

/// Compiles `policy`; `slots[i]` is the counter slot of `policy.rules[i]`.
pub fn compile(policy: &Policy, slots: &[u32], budget: Budget) -> Result<Compiled, TooLarge> {
    assert_eq!(policy.rules.len(), slots.len(), "one slot for each rule");
    let mut pool = Pool::new(budget);
    let mut rows = Rows::new(policy, slots);

    let mut sets = RuleSets::new(policy, Family::V4);
    let v4 = classes_of::<u32>(policy, &mut sets, &mut rows, &mut pool)?;
    let mut root4 = Box::new([0u32; ROOT_ENTRIES]);
    pool.fill_root(&mut root4, &v4.steps())?;

    let mut sets = RuleSets::new(policy, Family::V6);
    let v6 = classes_of::<u128>(policy, &mut sets, &mut rows, &mut pool)?;

    let (blocks, nodes) = pool.into_parts();
    Ok(Compiled {
        root4,
        blocks,
        nodes,
        rows: rows.into_rows(),
        default_class6: v6.default_class,
        prefixes6: v6.into_prefixes(),
    })
}

impl Tables for Compiled {
    fn block(&self, index: u32) -> Option<&Block> {
        self.blocks.get(index as usize)
    }

    fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(index as usize)
    }
}

impl Compiled {
    /// The address class of `remote`.
    pub fn class(&self, remote: IpAddr) -> u32 {
        match remote {
            IpAddr::V4(a) => {
                let a = u32::from(a);
                walk16(self, self.root4[(a >> 16) as usize], a as u16).unwrap_or(u32::MAX)
            }
            IpAddr::V6(a) => {
                let a = u128::from(a);
                self.prefixes6
                    .iter()
                    .filter(|(p, _)| p.len == 0 || (a ^ p.bits) >> (128 - p.len) == 0)
                    .max_by_key(|(p, _)| p.len)
                    .map_or(self.default_class6, |(_, class)| *class)
            }
        }
    }

    /// What the kernel would decide by the rules alone.
    pub fn decide(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        match self.rows.get(self.class(remote) as usize) {
            Some(row) => judge(self, row, direction, kind as u8, number),
            None => Verdict::no_match(direction),
        }
    }

    pub fn sizes(&self) -> TableSizes {
        TableSizes {
            address_classes: self.rows.len(),
            blocks: self.blocks.len(),
            nodes: self.nodes.len(),
            ipv6_prefixes: self.prefixes6.len(),
            bytes: size_of::<Root>()
                + size_of_val(&self.blocks[..])
                + size_of_val(&self.nodes[..])
                + size_of_val(&self.rows[..])
                + self.prefixes6.len() * 96,
        }
    }
}

#[cfg(test)]
mod tests;
