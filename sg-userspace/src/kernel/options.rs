//! The options of applying a policy to an interface.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::how::How;
use super::load::object;
use super::machine::bpffs;
use sg_policy::compile::Budget;
use sg_policy::policy::{AuditScope, Policy};

/// The default number of established flows. With the half-open ones the table takes about 22 MiB.
pub const DEFAULT_MAX_FLOWS: u32 = 131_072;

/// The XDP mode of the inbound program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native if the driver has it, or else generic. In a record: not attached yet.
    #[default]
    #[serde(rename = "")]
    Auto,
    Native,
    Generic,
}

impl XdpMode {
    /// The name used in output; nothing where it is not known yet.
    pub const fn name(self) -> &'static str {
        match self {
            XdpMode::Auto => "",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        }
    }
}

/// The hook of the outbound program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressHook {
    /// tcx if the kernel has it (Linux 6.6), or else a clsact filter. In a record: not attached
    /// yet.
    #[default]
    #[serde(rename = "")]
    Auto,
    Tcx,
    Clsact,
}

impl EgressHook {
    /// The name used in output; nothing where it is not known yet.
    pub const fn name(self) -> &'static str {
        match self {
            EgressHook::Auto => "",
            EgressHook::Tcx => "tcx",
            EgressHook::Clsact => "clsact",
        }
    }
}

/// What is to be evaluated beside the policy (C10).
#[derive(Clone, Debug, Default)]
pub enum CandidateOption {
    /// The candidate that is there, unless it cannot be evaluated beside the policy.
    #[default]
    Keep,
    /// This one.
    Set {
        policy: Arc<Policy>,
        /// Whether each packet with another outcome leaves an event.
        logs: bool,
    },
    /// None.
    Remove,
}

#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// The interfaces in the current network namespace. At least one, none of them twice. They
    /// share a flow table.
    pub interfaces: Vec<String>,
    /// The name of the current namespace in `--netns`, for `status` and `detach`.
    pub netns: Option<String>,
    pub bpffs: PathBuf,
    pub xdp_mode: XdpMode,
    pub egress_hook: EgressHook,
    /// How many established flows the flow table has room for. By default, the number that it has
    /// already, or [`DEFAULT_MAX_FLOWS`] for a new one.
    pub max_flows: Option<u32>,
    pub budget: Budget,
    /// Those of the interfaces that pass no packet before the policy is in force there: see
    /// [`super::hold`].
    pub held: Vec<String>,
    /// Whether existing connections are cut at a first attachment, and connections without an
    /// entry at a replacement.
    pub cut_existing: bool,
    /// Undoes the policy in the kernel after this time unless it is confirmed: see
    /// [`super::confirm`].
    pub confirm_within: Option<Duration>,
    /// Whether the new programs are checked against the rules before anything changes.
    pub self_check: bool,
    /// What passes that the policy would drop, besides what its rules audit.
    pub audit: AuditScope,
    /// See [`super::load::generation::Generation::log_level`].
    pub log_level: u8,
    /// Counter slots that must keep their owners although these are in no policy any more: those
    /// of a generation that is kept to be put in force again (see `held`).
    pub held_slots: HashSet<u32>,
    /// How the policy before it ends, for `history`.
    pub how: How,
    /// What is evaluated beside it.
    pub candidate: CandidateOption,
    /// The generation that must be in force, because the policy was chosen by it. Refused if
    /// another one is.
    pub only_over: Option<u32>,
    /// Whether the policy is applied although the lock-out guard would refuse it. Recorded, since
    /// it is shown that a guard is off.
    pub forced: bool,
    /// Recorded as the build whose programs are loaded, in place of this one. For tests.
    #[doc(hidden)]
    pub as_object: Option<String>,
}

impl ApplyOptions {
    pub fn new(interface: &str) -> Self {
        Self::on(&[interface])
    }

    /// The options for several interfaces.
    pub fn on(interfaces: &[&str]) -> Self {
        ApplyOptions {
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            netns: None,
            bpffs: PathBuf::from(bpffs::DEFAULT_PATH),
            xdp_mode: XdpMode::Auto,
            egress_hook: EgressHook::Auto,
            max_flows: None,
            budget: Budget::default(),
            held: Vec::new(),
            cut_existing: false,
            confirm_within: None,
            self_check: false,
            audit: AuditScope::Rules,
            log_level: 0,
            held_slots: HashSet::new(),
            how: How::Replaced,
            candidate: CandidateOption::Keep,
            only_over: None,
            forced: false,
            as_object: None,
        }
    }

    /// Which build's programs are loaded.
    pub(super) fn object(&self) -> &str {
        self.as_object.as_deref().unwrap_or(object::digest())
    }
}
