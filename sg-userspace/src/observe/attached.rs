//! What is attached where: the pins, their records, and what the links really run.

use std::path::Path;

use serde::Serialize;

use crate::kernel::pins::{InterfacePins, PinTree};
use crate::kernel::state::State;
use crate::kernel::{KernelError, bpffs, interfaces, link_ifindex, netns, running_program, stages};

/// Which of the attached interfaces a command is about.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every interface in every network namespace.
    Machine,
    /// Every interface of the current network namespace.
    Namespace,
    /// One interface of the current network namespace.
    Interface(String),
}

/// An interface that has pins.
#[derive(Clone, Debug)]
pub struct Attached {
    pub pins: InterfacePins,
    /// `Err` when the record cannot be read; detaching works all the same.
    pub state: Result<State, String>,
}

/// Whether the programs of a record are the ones that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Both directions are enforced by the recorded policy.
    Enforcing,
    /// `apply` was interrupted between the record and the swap of the programs; another `apply`
    /// puts it right.
    Interrupted,
    /// A direction has no program any more, or not all of them.
    Incomplete,
    /// The interface no longer exists; `detach` removes what is left.
    InterfaceGone,
}

/// A row of `status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub interface: String,
    pub ifindex: u32,
    /// The name or path by which `--netns` named it; null for the namespace `apply` ran in.
    pub netns: Option<String>,
    pub netns_cookie: u64,
    pub health: Health,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// `tcx` or `clsact`.
    pub egress_hook: String,
    pub attached_at: String,
    pub policy: PolicyStatus,
    pub rules: usize,
    pub max_flows: u32,
    /// Directory of the pins.
    pub pins: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct PolicyStatus {
    pub name: String,
    pub digest: String,
    pub generation: u32,
    pub applied_at: String,
}

impl PolicyStatus {
    pub fn of(state: &State) -> Self {
        PolicyStatus {
            name: state.policy.name.clone(),
            digest: state.policy.digest.clone(),
            generation: state.policy.generation,
            applied_at: state.policy.applied_at.clone(),
        }
    }
}

/// Which pins a scope asks for.
struct Wanted(Option<(u64, Option<u32>)>);

impl Wanted {
    fn of(scope: &Scope) -> Result<Wanted, KernelError> {
        Ok(Wanted(match scope {
            Scope::Machine => None,
            Scope::Namespace => Some((netns::cookie()?, None)),
            Scope::Interface(name) => Some((netns::cookie()?, Some(interfaces::index_of(name)?))),
        }))
    }

    fn has(&self, pins: &InterfacePins) -> bool {
        self.0.is_none_or(|(cookie, index)| {
            pins.netns_cookie == cookie && index.is_none_or(|index| pins.ifindex == index)
        })
    }
}

/// The attached interfaces in `scope`, in the order of namespace and index. Naming one that is not
/// attached is an error; finding none otherwise is an empty list.
pub fn attached(bpffs: &Path, scope: &Scope) -> Result<Vec<Attached>, KernelError> {
    let wanted = Wanted::of(scope)?;
    let found = match bpffs::find(bpffs)? {
        None => Vec::new(),
        Some(found) => PinTree::new(&found.path).interfaces()?,
    };
    let found = found
        .into_iter()
        .filter(|pins| wanted.has(pins))
        .map(|pins| {
            let state = match State::read(&pins) {
                Ok(Some(state)) => Ok(state),
                Ok(None) => Err("the state record is missing".to_owned()),
                Err(KernelError::DamagedState { reason, .. }) => Err(reason),
                // Not to be taken for damage.
                Err(error @ KernelError::NotPermitted { .. }) => return Err(error),
                Err(error) => Err(error.to_string()),
            };
            Ok(Attached { pins, state })
        })
        .collect::<Result<Vec<Attached>, KernelError>>()?;
    match scope {
        Scope::Interface(name) if found.is_empty() => Err(other_layouts(bpffs, scope)?
            .into_iter()
            .next()
            .unwrap_or(KernelError::NotAttached {
                scope: format!("`{name}`"),
            })),
        _ => Ok(found),
    }
}

/// What another layout version has attached in `scope`, each as the error that says what to do
/// about it: this program can neither read nor remove it, but must not call it nothing.
pub fn other_layouts(bpffs: &Path, scope: &Scope) -> Result<Vec<KernelError>, KernelError> {
    let wanted = Wanted::of(scope)?;
    let Some(bpffs) = bpffs::find(bpffs)? else {
        return Ok(Vec::new());
    };
    let found = PinTree::new(&bpffs.path).other_layouts()?;
    Ok(found
        .into_iter()
        .filter(|(_, pins)| wanted.has(pins))
        .map(|(version, pins)| KernelError::OtherLayout {
            path: pins.dir,
            found: version,
            ours: sg_common::LAYOUT_VERSION,
        })
        .collect())
}

impl Attached {
    /// The record, or the error that says what to do about it.
    pub fn state(&self) -> Result<&State, KernelError> {
        self.state
            .as_ref()
            .map_err(|reason| KernelError::DamagedState {
                path: self.pins.state(),
                reason: reason.clone(),
            })
    }

    pub fn status(&self) -> Result<Status, KernelError> {
        let state = self.state()?;
        Ok(Status {
            interface: state.interface.clone(),
            ifindex: state.ifindex,
            netns: state.netns.clone(),
            netns_cookie: state.netns_cookie,
            health: self.health(state),
            xdp_mode: state.xdp_mode.clone(),
            egress_hook: state.egress_hook.clone(),
            attached_at: state.attached_at.clone(),
            policy: PolicyStatus::of(state),
            rules: state.rules.len(),
            max_flows: state.max_flows,
            pins: self.pins.dir.display().to_string(),
        })
    }

    fn health(&self, state: &State) -> Health {
        let inbound = self.pins.xdp_link();
        match link_ifindex(&inbound) {
            Some(0) => return Health::InterfaceGone,
            Some(_) => {}
            None => return Health::Incomplete,
        }
        let outbound = match state.egress_hook.as_str() {
            // A clsact filter has no link to ask; its program goes only with the filter.
            "clsact" => Some(state.outbound_program),
            "tcx" => running_program(&self.pins.tcx_link()),
            _ => None,
        };
        match (running_program(&inbound), outbound) {
            (Some(i), Some(o)) if i == state.inbound_program && o == state.outbound_program => {
                if stages::are_pinned(&self.pins, state.policy.generation) {
                    Health::Enforcing
                } else {
                    Health::Incomplete
                }
            }
            (Some(_), Some(_)) => Health::Interrupted,
            _ => Health::Incomplete,
        }
    }
}
