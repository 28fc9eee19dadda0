//! Rules → tables. Pure functions, no I/O: the same policy and slots give the same tables.
//! The lookup cost of the result does not depend on the number of rules.
//!
//! Each prefix carries the set of all rules whose remote covers it; that set, cut after the first
//! rule that matches everything, decides a row (what happens to every protocol and port). Equal
//! rows share an address class, and a prefix whose class is its parent's disappears.

mod addresses;
mod lookup;
mod pool;
mod services;

use std::net::IpAddr;

use sg_common::{
    tables::{Block, Kind, Node, POINTER, ROOT_ENTRIES, Root, Row, Tables, row_index},
    verdict::{Direction, Verdict},
};

use crate::policy::{Policy, Prefix};
use addresses::{Family, RuleSets, classes_of};
pub use lookup::Lookup;
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
    /// IPv6 prefixes whose class differs from that of the next shorter one, in address order,
    /// parents before children.
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
    /// Whether some packet that the rules accept could have an answer that they do not accept, so
    /// that flows have to be remembered. A port table counts as accepting some of its numbers.
    pub fn opens_flows(&self) -> bool {
        let accepts_all = |entry: u32| entry & POINTER == 0 && Verdict(entry).is_accept();
        let may_accept = |entry: u32| entry & POINTER != 0 || Verdict(entry).is_accept();
        self.rows.iter().any(|row| {
            Direction::BOTH.into_iter().any(|direction| {
                Kind::ALL.into_iter().any(|kind| {
                    let asked = row[row_index(direction, kind as u8)];
                    let answer = row[row_index(direction.opposite(), kind as u8)];
                    may_accept(asked) && !accepts_all(answer)
                })
            })
        })
    }

    /// For many questions.
    pub fn lookup(&self) -> Lookup<'_> {
        Lookup::new(self)
    }

    /// What the kernel would decide by the rules alone, for one question.
    pub fn decide(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        self.lookup().decide(direction, remote, kind, number)
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
