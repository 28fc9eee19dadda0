//! What is in force on an interface and what was, as typed rows, and the policy of one generation.

use serde::Serialize;

use super::attached::Attached;
use crate::kernel::KernelError;
use crate::kernel::history::{self, Ended, Entry};
use crate::kernel::who::Who;
use sg_policy::policy::{AuditScope, Policy};

/// The policies of one interface.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    pub interface: String,
    /// As in [`Condition`](super::status::Condition).
    pub netns: Option<String>,
    /// The other interfaces of the attachment, whose history is the same. Left out if there are
    /// none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shared_with: Vec<String>,
    /// The one in force, and those before it, the newest first.
    pub policies: Vec<Past>,
}

/// A policy that is or was in force.
#[derive(Clone, Debug, Serialize)]
pub struct Past {
    pub name: String,
    pub digest: String,
    pub generation: u32,
    pub applied_at: String,
    /// Who applied it. Null if that was not written down.
    pub by: Option<Who>,
    /// When and how it came out of force. Null for the one that is in force.
    pub ended: Option<Ended>,
    /// Whether its text is kept, so that it can be shown and put in force again.
    pub is_kept: bool,
    /// What it audits, besides what its text says. Null if nothing.
    pub audit: Option<AuditScope>,
}

impl From<Entry> for Past {
    fn from(entry: Entry) -> Past {
        Past {
            name: entry.name,
            digest: entry.digest,
            generation: entry.generation,
            applied_at: entry.applied_at,
            by: entry.by,
            ended: entry.ended,
            is_kept: entry.text_bytes.is_some(),
            audit: entry.audit,
        }
    }
}

impl Attached {
    /// What is in force and what was.
    pub fn history(&self) -> Result<History, KernelError> {
        // A record that is damaged has an error of its own.
        self.state()?;
        let policies = history::history(&self.pins)?;
        let place = self.condition_if_known();
        Ok(History {
            interface: place.interface,
            netns: place.netns,
            shared_with: self.shared_with(),
            policies: policies.into_iter().map(Past::from).collect(),
        })
    }

    /// The policy of a generation, or else of the one in force.
    pub fn policy(&self, generation: Option<u32>) -> Result<(Past, Policy), KernelError> {
        let in_force = self.state()?.policy.generation;
        let generation = generation.unwrap_or(in_force);
        let (entry, policy) = history::kept(&self.pins, generation)?;
        Ok((entry.into(), policy))
    }
}
