//! What a policy is to be applied to, and how.

use std::collections::HashSet;
use std::path::PathBuf;

use super::bpffs;
use sg_policy::compile::Budget;

/// Established flows unless asked otherwise: about 22 MiB, with the half-open ones.
pub const DEFAULT_MAX_FLOWS: u32 = 131_072;

/// Where in the receive path the inbound program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver has it, else generic.
    #[default]
    Auto,
    Native,
    Generic,
}

/// How the outbound program hangs on the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressHook {
    /// tcx where the kernel has it (Linux 6.6), else a clsact filter.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// In the current network namespace.
    pub interface: String,
    /// As `--netns` named the current namespace, for `status` and `detach`.
    pub netns: Option<String>,
    pub bpffs: PathBuf,
    pub xdp_mode: XdpMode,
    pub egress_hook: EgressHook,
    /// Established flows for which the flow table has room; unless asked, as many as it has, or
    /// at first [`DEFAULT_MAX_FLOWS`].
    pub max_flows: Option<u32>,
    pub budget: Budget,
    /// Does not keep connections that exist at a first attachment, nor those that the policy
    /// which is replaced passed by its rules alone.
    pub cut_existing: bool,
    /// See [`super::generation::Generation::log_level`].
    pub log_level: u8,
    /// Counter slots that stay their owners' although these are in no policy any more: of a
    /// generation that is kept to be put in force again (see `held`).
    pub held_slots: HashSet<u32>,
}

impl ApplyOptions {
    pub fn new(interface: &str) -> Self {
        ApplyOptions {
            interface: interface.to_owned(),
            netns: None,
            bpffs: PathBuf::from(bpffs::DEFAULT_PATH),
            xdp_mode: XdpMode::Auto,
            egress_hook: EgressHook::Auto,
            max_flows: None,
            budget: Budget::default(),
            cut_existing: false,
            log_level: 0,
            held_slots: HashSet::new(),
        }
    }
}
