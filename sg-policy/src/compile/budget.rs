//! How large tables may become, and the error where they would become larger.

/// How much kernel memory the tables of one policy may take; 256 MiB by default.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// In bytes.
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
    /// The budget, in bytes.
    pub budget_bytes: usize,
    /// What outgrew the budget.
    pub what: &'static str,
}
