//! Partition → tables. Pure functions, no I/O: the same partition and verdicts give the same
//! tables. The lookup cost of the result does not depend on the number of rules.
//!
//! What a class of the partition decides becomes a row: a verdict or a port table for each
//! direction and kind. Rules are not told apart any more where their verdicts are the same word,
//! so that more is equal than in the partition. Equal rows share an address class, and a prefix
//! whose class is its parent's disappears.

mod addresses;
mod arena;
mod budget;
mod hosts;
mod nodes;
mod port_tables;
mod root4;
mod row;
mod rows;
mod sizes;
mod tree;

use std::net::IpAddr;

use sg_common::{
    concern::needs_no_entry,
    lookup::{
        BSS_LINES, Line, POINTER, Plain, ROOT_ENTRIES, Root, SHAPE_LINES, Shape, Tables, class4,
        class6, column_index, judge,
    },
    protocol::Kind,
    verdict::{Direction, Verdict},
};

use crate::partition::{Candidate, Decisions, Family, Partition, Space, Verdicts};
use addresses::classes_of;
use arena::Arena;
pub use budget::{Budget, TooLarge, Without};
use nodes::Extent;
use rows::Rows;
pub use sizes::{Placement, TableSizes};

/// Everything the kernel needs of a policy, and a second evaluator of it (`decide`).
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The first level of IPv4: an entry for each /16.
    pub root4: Box<Root>,
    /// All other tables, of which the first lines hold `shape`.
    pub lines: Vec<Line>,
    /// Where things are in the lines.
    pub shape: Shape,
    sizes: TableSizes,
    opens_flows: bool,
}

/// Lays `partition` out in memory, each rule as its verdict.
///
/// # Errors
/// [`TooLarge`] if the tables would take more memory than `budget`.
pub fn compile(
    partition: &Partition,
    verdicts: &Verdicts,
    budget: Budget,
) -> Result<Compiled, TooLarge> {
    let v4 = (partition.v4(), partition.all_decisions(Family::V4));
    let v6 = (partition.v6(), partition.all_decisions(Family::V6));
    lay_out(v4, v6, verdicts, budget)
}

/// Lays out a policy with a candidate beside it, whose pairs have verdicts as well
/// ([`Verdicts::beside`]). Each packet is decided as without the candidate. Where the candidate
/// would decide otherwise, it is counted in the slot of the pair.
///
/// # Errors
/// [`TooLarge`] if the tables would take more memory than `budget`.
pub fn compile_beside(
    candidate: &Candidate,
    verdicts: &Verdicts,
    budget: Budget,
) -> Result<Compiled, TooLarge> {
    let v4 = (candidate.v4(), candidate.all_decisions(Family::V4));
    let v6 = (candidate.v6(), candidate.all_decisions(Family::V6));
    lay_out(v4, v6, verdicts, budget)
}

/// Of each family the addresses, and what their classes decide.
fn lay_out(
    v4: (&Space<u32>, impl Iterator<Item = Decisions>),
    v6: (&Space<u128>, impl Iterator<Item = Decisions>),
    verdicts: &Verdicts,
    budget: Budget,
) -> Result<Compiled, TooLarge> {
    let mut arena = Arena::new(budget);
    let mut rows = Rows::new(verdicts);

    let mut v4 = classes_of(v4.0, v4.1, &mut rows, &mut arena)?;
    let mut listed = v4.take_hosts();
    let hosts = hosts::store(&mut arena, &mut listed)?;
    v4.put_back(listed);
    let mut root4 = Box::new([0u32; ROOT_ENTRIES]);
    let mut addresses = Extent::default();
    let is_narrow = root4::fill(
        &mut arena,
        &mut root4,
        &v4.steps(),
        rows.rows(),
        &mut addresses,
    )?;

    let v6 = classes_of(v6.0, v6.1, &mut rows, &mut arena)?;
    let trees = tree::build(&mut arena, &v6.steps())?;

    let shape = Shape {
        columns: rows.store(&mut arena)?,
        roots6: trees.roots,
        depth6: trees.depth,
        index6: trees.index,
        low_depth6: trees.low_depth,
        address_node_types: addresses.node_types,
        port_node_types: rows.port_tables.extent.node_types,
        narrow: is_narrow.into(),
        hosts_at: hosts.at,
        host_buckets: hosts.buckets,
        classes: rows.rows().len() as u32,
    };
    let [keys2, keys10, ways16, ways256] = arena.counts;
    let mut lines = arena.into_lines();
    lines[..SHAPE_LINES].copy_from_slice(&shape.to_lines());
    // A column and what is below it.
    let ports = 1 + rows.port_tables.extent.steps;
    // The last bit of an address may make a difference.
    let low_steps = match trees.low_depth {
        0 => 0,
        depth => depth as usize + 1,
    };
    let tree_steps = usize::from(trees.index != 0) + trees.depth as usize + low_steps;
    let host_steps = usize::from(hosts.buckets != 0);
    let sizes = TableSizes {
        address_classes: rows.rows().len(),
        blocks: ways256,
        nodes: keys2 + keys10 + ways16 + trees.nodes,
        ipv6_prefixes: v6.prefixes(),
        bytes: size_of::<Root>() + size_of_val(&lines[..]),
        placement: match lines.len() <= BSS_LINES {
            true => Placement::Bss,
            false => Placement::ArrayMap,
        },
        ipv4_steps: 1 + addresses.steps + host_steps + ports,
        ipv6_steps: tree_steps + ports,
    };
    Ok(Compiled {
        root4,
        lines,
        shape,
        sizes,
        // What is audited enters a flow, whatever the rules say of its replies.
        opens_flows: verdicts.audits() || opens_flows(&rows),
    })
}

/// Whether some packet that the rules accept could have an answer that they do not accept. A port
/// table counts as accepting some of its numbers.
fn opens_flows(rows: &Rows<'_>) -> bool {
    let may_accept = |entry: u32| entry & POINTER != 0 || Verdict(entry).is_accept();
    rows.rows().iter().any(|row| {
        Direction::BOTH.into_iter().any(|direction| {
            Kind::ALL.into_iter().any(|kind| {
                let asked = row[column_index(direction, kind as u8)];
                let answer = row[column_index(direction.opposite(), kind as u8)];
                may_accept(asked) && !needs_no_entry(true, || rows.accepts_all(answer))
            })
        })
    })
}

impl Compiled {
    /// Whether flows have to be remembered.
    pub fn opens_flows(&self) -> bool {
        self.opens_flows
    }

    /// The tables, to be looked up in.
    pub fn tables(&self) -> Plain<'_> {
        Plain {
            root4: &self.root4[..],
            lines: &self.lines,
            shape: &self.shape,
        }
    }

    /// The address class of `remote`; `None` only if tables are damaged.
    pub fn class(&self, remote: IpAddr) -> Option<u32> {
        class_of(&self.tables(), remote)
    }

    /// See [`decide`].
    pub fn decide(&self, direction: Direction, remote: IpAddr, kind: Kind, number: u16) -> Verdict {
        decide(&self.tables(), direction, remote, kind, number)
    }

    /// What the tables take, and what a lookup in them costs.
    pub fn sizes(&self) -> TableSizes {
        self.sizes
    }
}

/// The address class of `remote` in any tables; `None` if they lead nowhere, as damaged ones may.
pub fn class_of(tables: &impl Tables, remote: IpAddr) -> Option<u32> {
    match remote {
        IpAddr::V4(address) => class4(tables, address.into()),
        IpAddr::V6(address) => {
            let address = u128::from(address);
            class6(tables, (address >> 64) as u64, address as u64)
        }
    }
}

/// The verdict of the rules in any tables: what the packet path decides by the rules alone.
/// `number` is a port, an ICMP message or a protocol, as `kind` says.
pub fn decide(
    tables: &impl Tables,
    direction: Direction,
    remote: IpAddr,
    kind: Kind,
    number: u16,
) -> Verdict {
    match class_of(tables, remote) {
        Some(class) => judge(tables, class, direction, kind as u8, number),
        None => Verdict::no_match(direction),
    }
}

#[cfg(test)]
mod tests;
