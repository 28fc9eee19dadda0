//! When and how a policy came out of force.

use serde::{Deserialize, Serialize};

/// How a policy came out of force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Another one was applied.
    #[default]
    Replaced,
    /// It was not confirmed in time.
    Undone,
    /// An earlier one was put in force again by hand.
    RolledBack,
    /// The `run` that it belonged to ended.
    RunEnded,
}

impl How {
    /// The words of `history`.
    pub const fn name(self) -> &'static str {
        match self {
            How::Replaced => "replaced",
            How::Undone => "undone",
            How::RolledBack => "rolled back",
            How::RunEnded => "run ended",
        }
    }
}

/// When and how a policy came out of force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// RFC 3339. `None` if nobody has written it down: the kernel did it by itself.
    pub at: Option<String>,
    pub how: How,
}
