//! What the tables of a policy take, in memory and in steps of a lookup.

/// Sizes and costs that `check` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TableSizes {
    /// Address classes, of both families together.
    pub address_classes: usize,
    /// 256-way nodes, of 1 KiB each.
    pub blocks: usize,
    /// All other nodes: of 64 bytes and less.
    pub nodes: usize,
    /// IPv6 prefixes that decide something else than the prefix around them.
    pub ipv6_prefixes: usize,
    /// What all tables take, in bytes.
    pub bytes: usize,
    /// Where the programs find the tables.
    pub placement: Placement,
    /// Memory accesses from an IPv4 packet to its verdict by the rules, at most, each of which
    /// needs what the one before it has read.
    pub ipv4_steps: usize,
    /// Memory accesses from an IPv6 packet to its verdict by the rules, at most.
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
