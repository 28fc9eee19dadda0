//! What decided a packet: a rule of the policy, or one of the reasons of A1.

use std::fmt;

use serde::{Serialize, Serializer};
use sg_common::verdict::Reason;

/// Written as `rule`, or as the reason for which the packet is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    Rule,
    Reason(Reason),
}

impl DecidedBy {
    pub fn name(self) -> &'static str {
        match self {
            DecidedBy::Rule => "rule",
            DecidedBy::Reason(reason) => reason.name(),
        }
    }
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for DecidedBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
