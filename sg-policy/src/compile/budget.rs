//! How large tables may become, and the error where they would become larger.

/// How much kernel memory the tables of one policy may take; 256 MiB by default.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// In bytes.
    pub table_bytes: usize,
    /// Only for the bench.
    pub without: Without,
}

/// Tricks of the tables that are left out, to measure what each buys. Verdicts are the same.
#[derive(Clone, Copy, Debug)]
pub struct Without {
    /// The 256-way nodes at the head of the first port tables.
    pub way256_heads: bool,
    /// The table of hosts.
    pub hosts: bool,
    /// The index in front of the IPv6 tree.
    pub index6: bool,
    /// A prefix's node and the port table below it in one line.
    pub shared_lines: bool,
}

impl Without {
    /// All tricks are there.
    pub const NOTHING: Without = Without {
        way256_heads: false,
        hosts: false,
        index6: false,
        shared_lines: false,
    };
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            table_bytes: 256 << 20,
            without: Without::NOTHING,
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
    /// The budget, in bytes.
    pub budget_bytes: usize,
    /// What outgrew the budget.
    pub what: &'static str,
}
