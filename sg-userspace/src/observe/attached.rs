//! Which interfaces have an attachment, and its state: the pins, their records, and what the links
//! really run.

use std::path::Path;

use serde::Serialize;
use sg_policy::policy::AuditScope;

use crate::kernel::inspect::{Inspection, inspect};
use crate::kernel::location::{Place, is_attached_here};
use crate::kernel::pins::{InterfacePins, PinTree};
use crate::kernel::state::{PolicyRecord, State};
use crate::kernel::trial::left_until;
use crate::kernel::{
    EgressHook, Fault, FaultCode, KernelError, XdpMode, Zero, bpffs, interfaces, netns, over,
    places,
};

/// The attached interfaces that a command is about.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every interface in every network namespace.
    Machine,
    /// Every interface of the current network namespace.
    Namespace,
    /// One interface of the current network namespace.
    Interface(String),
    /// Some interfaces of the current network namespace. A pattern stands for all attached ones
    /// that match it.
    Interfaces(Vec<String>),
}

/// An interface that has pins.
#[derive(Clone, Debug)]
pub struct Attached {
    pub pins: InterfacePins,
    /// The record. `Err` if it cannot be read; detaching works without it.
    pub state: Result<State, String>,
}

/// The health of an attachment in one word, which is that of its first fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Both directions enforce the policy of the record.
    Enforcing,
    /// There is no fault, but some or all that the policy would drop passes (C9).
    Auditing,
    /// An `apply` was interrupted. Another `apply` repairs it.
    Interrupted,
    /// A direction lacks its program or some tail-call targets.
    Incomplete,
    /// A program of another tool comes first and may take packets away.
    Preceded,
    /// The interface does not exist any more. `detach` removes what is left.
    InterfaceGone,
    /// The interface was deleted, and another one of the same name exists.
    Unprotected,
    /// The attachment cannot be checked from here.
    Unverified,
    /// The policy was not confirmed, and none was in force before it.
    Undone,
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
            FaultCode::Undone => Health::Undone,
            FaultCode::Damaged => Health::Damaged,
            FaultCode::Unverified => Health::Unverified,
        }
    }
}

/// Where an attached interface is now, and whether it enforces its policy.
#[derive(Clone, Debug)]
pub struct Condition {
    pub interface: String,
    pub ifindex: u32,
    /// The name of its network namespace: that of `--netns`, or else its name under /run/netns, or
    /// null if it has none.
    pub netns: Option<String>,
    pub netns_cookie: u64,
    pub health: Health,
    /// All faults, each with its remedy. Empty if it is enforcing.
    pub faults: Vec<Fault>,
}

impl Condition {
    /// The name of its network namespace, unless it is that of the calling thread.
    pub fn elsewhere(&self) -> Option<String> {
        let is_here = netns::cookie().is_ok_and(|cookie| cookie == self.netns_cookie);
        let name = || self.netns.clone();
        (!is_here).then(|| name().unwrap_or_else(|| format!("cookie {}", self.netns_cookie)))
    }
}

/// A row of `status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub interface: String,
    pub ifindex: u32,
    /// As in [`Condition`].
    pub netns: Option<String>,
    pub netns_cookie: u64,
    pub health: Health,
    /// All faults, each with its remedy. Empty if it is enforcing.
    pub faults: Vec<Fault>,
    /// `native` or `generic`.
    pub xdp_mode: XdpMode,
    /// `tcx` or `clsact`.
    pub egress_hook: EgressHook,
    pub attached_at: String,
    pub policy: PolicyStatus,
    /// Where the policy is in force and not confirmed. Left out if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Unconfirmed>,
    /// A policy whose trial is over, as long as no command has tidied up after it. Left out if
    /// there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<DecidedStatus>,
    pub rules: usize,
    /// Whether it was applied with `--force`, so that the lock-out guard was off.
    pub forced: bool,
    /// How many of them are only watched.
    pub audited_rules: usize,
    pub max_flows: u32,
    /// The directory of the pins.
    pub pins: String,
    /// The other interfaces of the attachment. Left out if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shared_with: Vec<String>,
}

/// A policy that is undone unless it is confirmed.
#[derive(Clone, Debug, Serialize)]
pub struct Unconfirmed {
    /// RFC 3339, by the clock of the machine when the policy was applied.
    pub until: String,
    /// What is left of the time, by a clock that cannot be set.
    pub seconds_left: f64,
    /// The policy that returns then. Null if none was in force.
    pub returns_to: Option<PolicyStatus>,
}

impl Unconfirmed {
    /// `None` if the policy of the record does not wait to be confirmed.
    pub fn of(state: &State) -> Option<Unconfirmed> {
        let trial = state.open_trial()?;
        Some(Unconfirmed {
            until: trial.until.clone(),
            seconds_left: left_until(trial.deadline).as_secs_f64(),
            returns_to: trial.returns_to.as_deref().map(PolicyStatus::of),
        })
    }
}

/// What has become of a policy that was on trial.
#[derive(Clone, Debug, Serialize)]
pub struct DecidedStatus {
    /// The policy that was on trial.
    pub policy: PolicyRecord,
    /// Whether it was confirmed; if not, it was undone.
    pub confirmed: bool,
    /// RFC 3339.
    pub until: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct PolicyStatus {
    pub name: String,
    pub digest: String,
    pub generation: u32,
    pub applied_at: String,
    /// What passes that the policy would drop. Null if nothing does.
    pub audit: Option<AuditScope>,
}

impl PolicyStatus {
    pub fn of(state: &State) -> Self {
        PolicyStatus {
            name: state.policy.name.clone(),
            digest: state.policy.digest.clone(),
            generation: state.policy.generation,
            applied_at: state.policy.applied_at.clone(),
            audit: state.policy.audit,
        }
    }
}

/// The pins that a scope selects.
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
            Scope::Namespace | Scope::Interfaces(_) => Wanted::Namespace {
                cookie: netns::cookie()?,
            },
            Scope::Interface(name) => Wanted::Interface {
                cookie: netns::cookie()?,
                name: name.clone(),
                index: match interfaces::index_of(name) {
                    Ok(index) => Some(index),
                    // The interface may have been moved away or deleted.
                    Err(KernelError::NoInterface { .. }) => None,
                    Err(error) => return Err(error),
                },
            },
        })
    }

    /// Whether the pins are selected by the place that they name.
    fn has(&self, pins: &InterfacePins) -> bool {
        match self {
            Wanted::Everything => true,
            Wanted::Namespace { cookie } => pins.netns_cookie == *cookie,
            Wanted::Interface { cookie, index, .. } => {
                pins.netns_cookie == *cookie && *index == Some(pins.ifindex)
            }
        }
    }

    /// Whether the pins are selected for another reason: the interface was moved here, or it is
    /// gone from here and its name was given.
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
                // An interface that was renamed is not selected by its old name.
                Ok(is_namesake && interfaces::inspect(one.pins.ifindex)?.is_none())
            }
        }
    }
}

/// The attached interfaces in `scope`, ordered by namespace and index. It is an error if a named
/// interface is not attached. Otherwise the list may be empty.
pub fn attached(bpffs: &Path, scope: &Scope) -> Result<Vec<Attached>, KernelError> {
    if let Scope::Interfaces(names) = scope {
        let mut all = Vec::new();
        for name in chosen(bpffs, names)? {
            all.extend(attached(bpffs, &Scope::Interface(name))?);
        }
        all.sort_by(|a: &Attached, b| a.pins.cmp(&b.pins));
        all.dedup_by(|a, b| a.pins == b.pins);
        return Ok(all);
    }
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
                // This error does not mean that the record is damaged.
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
            // Another error says that the interface does not exist.
            interfaces::index_of(name)?;
            Err(other.unwrap_or(KernelError::NotAttached {
                scope: format!("`{name}`"),
            }))
        }
        _ => Ok(found),
    }
}

/// The same, and an error if all that is attached in `scope` has another layout: it would be wrong
/// to say that nothing is attached.
pub fn found(bpffs: &Path, scope: &Scope) -> Result<Vec<Attached>, KernelError> {
    let found = attached(bpffs, scope)?;
    match found.is_empty() {
        true => match other_layouts(bpffs, scope)?.into_iter().next() {
            Some(other) => Err(other),
            None => Ok(found),
        },
        false => Ok(found),
    }
}

/// The interfaces that a name or pattern stands for: all attached ones that match it.
fn chosen(bpffs: &Path, names: &[String]) -> Result<Vec<String>, KernelError> {
    let mut all = Vec::new();
    for pattern in names {
        let is_name = !interfaces::is_pattern(pattern) || interfaces::names().contains(pattern);
        if is_name {
            all.push(pattern.clone());
            continue;
        }
        let found = attached(bpffs, &Scope::Namespace)?;
        let names = found.iter().filter_map(Attached::name);
        let before = all.len();
        all.extend(names.filter(|name| interfaces::matches(pattern, name)));
        if all.len() == before {
            return Err(KernelError::NotAttached {
                scope: format!("an interface that matches `{pattern}`"),
            });
        }
    }
    Ok(all)
}

/// What is attached to an interface of the current network namespace.
pub fn attached_to(bpffs: &Path, interface: &str) -> Result<Attached, KernelError> {
    let found = attached(bpffs, &Scope::Interface(interface.to_owned()))?;
    let one = found.into_iter().next();
    one.ok_or_else(|| KernelError::NotAttached {
        scope: format!("`{interface}`"),
    })
}

/// The attachments of other layout versions in `scope`, each as an error with its remedy. This
/// program can neither read nor remove them, but must not report that nothing is attached.
pub fn other_layouts(bpffs: &Path, scope: &Scope) -> Result<Vec<KernelError>, KernelError> {
    if let Scope::Interfaces(names) = scope {
        let mut all = Vec::new();
        for name in names {
            all.extend(other_layouts(bpffs, &Scope::Interface(name.clone()))?);
        }
        return Ok(all);
    }
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
    /// The interface's name, from the kernel if it still exists, or else from its record.
    pub fn name(&self) -> Option<String> {
        let is_here = netns::cookie().is_ok_and(|cookie| cookie == self.pins.netns_cookie);
        let there = is_here
            .then(|| interfaces::name_of(self.pins.ifindex))
            .flatten();
        there.or_else(|| {
            self.state
                .as_ref()
                .ok()
                .map(|state| state.interface.clone())
        })
    }

    /// The names of the other interfaces of its attachment, which share its flows.
    pub fn shared_with(&self) -> Vec<String> {
        let others = self.pins.of_attachment().unwrap_or_default().into_iter();
        let others = others.filter(|other| *other != self.pins);
        others
            .map(|pins| {
                let state = State::read(&pins).ok().flatten();
                state.map_or_else(|| format!("#{}", pins.ifindex), |state| state.interface)
            })
            .collect()
    }

    /// The record, or an error with its remedy.
    pub fn state(&self) -> Result<&State, KernelError> {
        self.state
            .as_ref()
            .map_err(|reason| KernelError::DamagedState {
                path: self.pins.state(),
                reason: reason.clone(),
            })
    }

    /// Since when its counters count: the last zero (A5), or else its attachment.
    pub fn counted_since(&self) -> Result<String, KernelError> {
        match Zero::read(&self.pins) {
            // A new one takes its place.
            Ok(None) | Err(KernelError::DamagedZero { .. }) => {
                Ok(self.state()?.attached_at.clone())
            }
            Ok(Some(zero)) => Ok(zero.at),
            Err(error) => Err(error),
        }
    }

    /// Reads the real state.
    pub fn inspect(&self) -> Result<Inspection, KernelError> {
        inspect(&self.pins)
    }

    /// Finds the interface, and checks whether it enforces what its record says.
    pub fn condition(&self) -> Result<Condition, KernelError> {
        match self.inspect() {
            Ok(found) => {
                let faults = found.faults();
                self.found_at(Some(found.place), faults)
            }
            Err(KernelError::NotPermitted { what, help }) => {
                let message = format!("{what} is not permitted");
                self.unverified(message, help)
            }
            Err(error @ KernelError::ReadOnly { .. }) => {
                let message = format!("the links cannot be looked at: {error}");
                let help = "run it where the BPF file system is mounted for writing";
                self.unverified(message, help)
            }
            Err(error) => Err(error),
        }
    }

    /// The same for commands that can report something anyway: an error becomes a fault.
    pub fn condition_if_known(&self) -> Result<Condition, KernelError> {
        self.condition().or_else(|error| {
            let help = "`sgctl status` says more";
            self.unverified(format!("it cannot be looked at: {error}"), help)
        })
    }

    fn unverified(
        &self,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Result<Condition, KernelError> {
        self.found_at(None, vec![Fault::new(FaultCode::Unverified, message, help)])
    }

    fn found_at(&self, place: Option<Place>, faults: Vec<Fault>) -> Result<Condition, KernelError> {
        let state = self.state()?;
        let health = match Health::of(&faults) {
            Health::Enforcing if state.audits() => Health::Auditing,
            health => health,
        };
        let cookie = self.pins.netns_cookie;
        let named = || state.netns.clone().or_else(|| places::name_of(cookie));
        Ok(match place {
            // The namespace that it is in now, not the one that the pins name.
            Some(Place::Moved(at)) => Condition {
                netns: match at.netns() {
                    Some(name) => Some(name.to_owned()),
                    None => places::name_of(at.cookie),
                },
                ifindex: at.interface.index,
                netns_cookie: at.cookie,
                interface: at.interface.name,
                health,
                faults,
            },
            place => Condition {
                interface: match place {
                    Some(Place::There(at)) => at.interface.name,
                    _ => state.interface.clone(),
                },
                ifindex: self.pins.ifindex,
                netns: named(),
                netns_cookie: cookie,
                health,
                faults,
            },
        })
    }

    /// Whether its policy waits to be confirmed, or has waited and no command has tidied up after
    /// it.
    pub fn has_trial(&self) -> bool {
        let waits = self
            .state
            .as_ref()
            .is_ok_and(|state| state.open_trial().is_some());
        waits || self.decided().is_some()
    }

    /// The trial that is over, unless a command has tidied up after it.
    fn decided(&self) -> Option<DecidedStatus> {
        let decided = over(&self.inspect().ok()?)?;
        Some(DecidedStatus {
            policy: decided.policy,
            confirmed: decided.is_confirmed,
            until: decided.until,
        })
    }

    pub fn status(&self) -> Result<Status, KernelError> {
        let state = self.state()?;
        let Condition {
            interface,
            ifindex,
            netns,
            netns_cookie,
            health,
            faults,
        } = self.condition()?;
        Ok(Status {
            interface,
            ifindex,
            netns,
            netns_cookie,
            health,
            faults,
            xdp_mode: state.xdp_mode,
            egress_hook: state.egress_hook,
            attached_at: state.attached_at.clone(),
            policy: PolicyStatus::of(state),
            unconfirmed: Unconfirmed::of(state),
            decided: self.decided(),
            rules: state.rules.len(),
            forced: state.forced,
            audited_rules: state.audited_rules(),
            max_flows: state.max_flows,
            pins: self.pins.dir.display().to_string(),
            shared_with: self.shared_with(),
        })
    }
}
