//! Applies a policy to an interface, in three steps that each do one thing: `plan` compiles and
//! compares, `prepare` loads and checks, and only `commit` changes what packets meet.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::commit::commit;
use super::inspect::{Place, inspect};
use super::pins::PinTree;
use super::plan::{Planned, plan};
use super::prepare::prepare;
use super::seed::{Cut, Seeded};
use super::state::State;
use super::{KernelError, bpffs, interfaces, netns};
use crate::compile::{Budget, TableSizes};
use crate::policy::Policy;

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
    /// Established flows for which the flow table has room; unless asked, as many as it has, or at first
    /// [`DEFAULT_MAX_FLOWS`].
    pub max_flows: Option<u32>,
    pub budget: Budget,
    /// Does not keep connections that exist at a first attachment, nor those that the policy which is
    /// replaced passed by its rules alone.
    pub cut_existing: bool,
    /// See [`super::programs::Generation::log_level`].
    pub log_level: u8,
    /// Counter slots that stay their owners' although these are in no policy any more: of a generation
    /// that is kept to be put in force again (see `held`).
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

/// What became of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none before.
    Attached,
    /// In place of another one, or of the same one where something was wrong with the attachment.
    Replaced,
    /// The very same is in force, so that nothing was done.
    Unchanged,
}

/// What `apply` did.
#[derive(Clone, Debug)]
pub struct Applied {
    pub outcome: Outcome,
    pub state: State,
    pub sizes: TableSizes,
    /// What became of flows that were there; `None` unless this was a first attachment that asked.
    pub seeded: Option<Seeded>,
    /// How many TCP connections were cut; `None` unless this was a first attachment that asked for it.
    pub cut: Option<Cut>,
    /// The interface had no clsact qdisc, and has got one.
    pub added_clsact: bool,
    pub compile_time: Duration,
    pub load_time: Duration,
    /// Set when the BPF file system had to be mounted.
    pub mounted: Option<PathBuf>,
}

impl Applied {
    /// No policy was in force before.
    pub fn is_first(&self) -> bool {
        self.outcome == Outcome::Attached
    }
}

/// Compiles `policy` and attaches it, or replaces the policy that is attached. On an error what was in
/// force before is in force still, unless the error says otherwise.
pub fn apply(policy: &Policy, options: &ApplyOptions) -> Result<Applied, KernelError> {
    let ifindex = present(&options.bpffs, &options.interface)?;
    KernelError::unless_may_enforce(&options.interface)?;
    let cookie = netns::cookie()?;
    let bpffs = bpffs::find_or_mount(&options.bpffs)?;
    let tree = PinTree::new(&bpffs.path);
    let _lock = tree.lock()?;
    let pins = tree.interface(cookie, ifindex);
    let applied = tree
        .refuse_other_layouts(&pins)
        .and_then(|()| plan(policy, options, &tree, &pins))
        .and_then(|planned| match planned {
            Planned::Unchanged(applied) => Ok(*applied),
            Planned::Change(plan) => {
                let prepared = prepare(&plan)?;
                commit(&plan, prepared)
            }
        });
    if applied.is_err() {
        tree.prune();
    }
    applied.map(|mut applied| {
        applied.mounted = bpffs.just_mounted.then_some(bpffs.path);
        applied
    })
}

/// The index of an interface. The error says where it is by now, if it was moved to another network namespace
/// with what is attached to it.
pub(super) fn present(bpffs: &Path, interface: &str) -> Result<u32, KernelError> {
    interfaces::index_of(interface).map_err(|error| match error {
        KernelError::NoInterface { .. } => moved_away(bpffs, interface).unwrap_or(error),
        error => error,
    })
}

fn moved_away(bpffs: &Path, interface: &str) -> Option<KernelError> {
    let cookie = netns::cookie().ok()?;
    let bpffs = bpffs::find(bpffs).ok()??;
    let all = PinTree::new(&bpffs.path).interfaces().ok()?;
    let mut of_here = all.iter().filter(|pins| pins.netns_cookie == cookie);
    of_here.find_map(|pins| {
        let found = inspect(pins).ok()?;
        let is_it = found.state()?.interface == interface;
        match found.place {
            Place::Moved(at) if is_it => Some(KernelError::MovedAway {
                interface: interface.to_owned(),
                netns: at.netns()?.to_owned(),
                name: at.interface.name,
            }),
            _ => None,
        }
    })
}
