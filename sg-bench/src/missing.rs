//! What some machines lack. A row that needs it is left out of the results; any error of another
//! type ends the run.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The folder of real rule sets and block lists.
    Data,
    XdpFilter,
    /// The binary, for the rows that run it as a process.
    Sgctl,
}

impl Missing {
    /// What is missing, if that is why a row could not be measured.
    pub(crate) fn of(error: &anyhow::Error) -> Option<Missing> {
        error.downcast_ref().copied()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Missing::Data => "SG_DATA is not set",
            Missing::XdpFilter => "xdp-filter is not installed",
            Missing::Sgctl => "no --sgctl; `cargo xtask bench` gives it",
        })
    }
}

impl std::error::Error for Missing {}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn it_is_known_by_its_type_whatever_was_being_done() {
        let missing: Result<(), Missing> = Err(Missing::Data);
        let error = missing.context("building a policy").unwrap_err();
        assert_eq!(Missing::of(&error), Some(Missing::Data));
        let words = anyhow!("{}", Missing::Data);
        assert_eq!(Missing::of(&words), None);
    }
}
