//! What is attached where: the pins, their records, and what the links really run.

use std::path::Path;

use serde::Serialize;

use crate::kernel::inspect::{Inspection, Place, inspect, is_attached_here};
use crate::kernel::pins::{InterfacePins, PinTree};
use crate::kernel::state::State;
use crate::kernel::{Fault, FaultCode, KernelError, bpffs, interfaces, netns};

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

/// How an attachment is, in a word: the first of its faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Both directions enforce the policy of the record.
    Enforcing,
    /// `apply` was cut short; another `apply` puts it right.
    Interrupted,
    /// A direction has no program any more, or not all of them.
    Incomplete,
    /// Somebody else's program comes first and may take packets away.
    Preceded,
    /// The interface no longer exists; `detach` removes what is left.
    InterfaceGone,
    /// The interface was deleted, and there is another one of its name.
    Unprotected,
    /// It cannot be looked at from here.
    Unverified,
    /// The record cannot be read.
    Damaged,
}

impl Health {
    fn of(faults: &[Fault]) -> Health {
        let Some(first) = faults.first() else {
            return Health::Enforcing;
        };
        match first.code {
            FaultCode::InterfaceGone => Health::InterfaceGone,
            FaultCode::Unprotected => Health::Unprotected,
            FaultCode::Interrupted => Health::Interrupted,
            FaultCode::NotAttached
            | FaultCode::Severed
            | FaultCode::OtherProgram
            | FaultCode::Incomplete => Health::Incomplete,
            FaultCode::Preceded => Health::Preceded,
            FaultCode::Damaged => Health::Damaged,
            FaultCode::Unverified => Health::Unverified,
        }
    }
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
    /// What is wrong, each with its remedy; empty where it is enforcing.
    pub faults: Vec<Fault>,
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
enum Wanted {
    Everything,
    Namespace {
        cookie: u64,
    },
    Interface {
        cookie: u64,
        name: String,
        index: Option<u32>,
    },
}

impl Wanted {
    fn of(scope: &Scope) -> Result<Wanted, KernelError> {
        Ok(match scope {
            Scope::Machine => Wanted::Everything,
            Scope::Namespace => Wanted::Namespace {
                cookie: netns::cookie()?,
            },
            Scope::Interface(name) => Wanted::Interface {
                cookie: netns::cookie()?,
                name: name.clone(),
                index: match interfaces::index_of(name) {
                    Ok(index) => Some(index),
                    // It may have been moved away, or deleted.
                    Err(KernelError::NoInterface { .. }) => None,
                    Err(error) => return Err(error),
                },
            },
        })
    }

    /// By where the pins say that the interface is.
    fn has(&self, pins: &InterfacePins) -> bool {
        match self {
            Wanted::Everything => true,
            Wanted::Namespace { cookie } => pins.netns_cookie == *cookie,
            Wanted::Interface { cookie, index, .. } => {
                pins.netns_cookie == *cookie && *index == Some(pins.ifindex)
            }
        }
    }

    /// By what else is known: an interface that was moved here, or one that has gone from here and whose
    /// name was asked for.
    fn has_strayed(&self, one: &Attached) -> Result<bool, KernelError> {
        match self {
            Wanted::Everything => Ok(true),
            Wanted::Namespace { .. } => is_attached_here(&one.pins, None),
            Wanted::Interface {
                cookie,
                name,
                index,
            } => {
                if let Some(index) = index
                    && is_attached_here(&one.pins, Some(*index))?
                {
                    return Ok(true);
                }
                let is_namesake = one.pins.netns_cookie == *cookie
                    && one.state.as_ref().is_ok_and(|s| s.interface == *name);
                // One that has another name by now is not meant.
                Ok(is_namesake && interfaces::inspect(one.pins.ifindex)?.is_none())
            }
        }
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
        .map(|pins| {
            let state = match State::read(&pins) {
                Ok(Some(state)) => Ok(state),
                Ok(None) => Err("the state record is missing".to_owned()),
                Err(KernelError::DamagedState { reason, .. }) => Err(reason),
                // Not to be taken for damage.
                Err(error @ KernelError::NotPermitted { .. }) => return Err(error),
                Err(error) => Err(error.to_string()),
            };
            let is_wanted = wanted.has(&pins);
            let one = Attached { pins, state };
            let is_wanted = is_wanted || wanted.has_strayed(&one)?;
            Ok(is_wanted.then_some(one))
        })
        .filter_map(Result::transpose)
        .collect::<Result<Vec<Attached>, KernelError>>()?;
    match scope {
        Scope::Interface(name) if found.is_empty() => {
            let other = other_layouts(bpffs, scope)?.into_iter().next();
            // An interface that does not exist is said to.
            interfaces::index_of(name)?;
            Err(other.unwrap_or(KernelError::NotAttached {
                scope: format!("`{name}`"),
            }))
        }
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

    /// Looks at what is really there.
    pub fn inspect(&self) -> Result<Inspection, KernelError> {
        inspect(&self.pins)
    }

    pub fn status(&self) -> Result<Status, KernelError> {
        let state = self.state()?;
        let (place, faults) = match self.inspect() {
            Ok(found) => {
                let faults = found.faults();
                (Some(found.place), faults)
            }
            Err(KernelError::NotPermitted { what, help }) => {
                let message = format!("{what} is not permitted");
                (None, vec![Fault::new(FaultCode::Unverified, message, help)])
            }
            Err(error @ KernelError::ReadOnly { .. }) => {
                let message = format!("the links cannot be looked at: {error}");
                let help = "run it where the BPF file system is mounted for writing";
                (None, vec![Fault::new(FaultCode::Unverified, message, help)])
            }
            Err(error) => return Err(error),
        };
        let mut status = Status {
            interface: state.interface.clone(),
            ifindex: self.pins.ifindex,
            netns: state.netns.clone(),
            netns_cookie: self.pins.netns_cookie,
            health: Health::of(&faults),
            faults,
            xdp_mode: state.xdp_mode.clone(),
            egress_hook: state.egress_hook.clone(),
            attached_at: state.attached_at.clone(),
            policy: PolicyStatus::of(state),
            rules: state.rules.len(),
            max_flows: state.max_flows,
            pins: self.pins.dir.display().to_string(),
        };
        match place {
            Some(Place::There(at)) => status.interface = at.interface.name,
            // Where it is, and not where it was.
            Some(Place::Moved(at)) => {
                status.netns = at.netns().map(str::to_owned);
                status.interface = at.interface.name;
                status.ifindex = at.interface.index;
                status.netns_cookie = at.cookie;
            }
            _ => {}
        }
        Ok(status)
    }
}
