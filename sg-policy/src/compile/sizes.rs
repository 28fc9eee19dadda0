//! What the tables of a policy take, in memory and in steps of a lookup.

/// Sizes and costs that `check` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TableSizes {
    pub address_classes: usize,
    /// Tables of 256 entries.
    pub blocks: usize,
    /// Smaller tables, and nodes of trees.
    pub nodes: usize,
    pub ipv6_prefixes: usize,
    pub bytes: usize,
    pub placement: Placement,
    /// Memory accesses that depend on each other, at most, from a packet to its verdict by the
    /// rules.
    pub ipv4_steps: usize,
    pub ipv6_steps: usize,
}

/// Where the programs find the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// In .bss, the programs' own memory.
    #[default]
    Bss,
    /// In an array map as long as it has to be; each step compares an index with its length.
    ArrayMap,
}
