//! Where an attached interface is, whether it enforces its policy, and what `status` shows of it.

use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;
use sg_policy::policy::AuditScope;

use super::attached::Attached;
use crate::kernel::inspect::{Inspection, inspect};
use crate::kernel::location::Place;
use crate::kernel::state::{PolicyRecord, State};
use crate::kernel::trial::left_until;
use crate::kernel::{EgressHook, Fault, FaultCode, KernelError, XdpMode, netns, over, places};

/// How often and how far apart an interface that has faults is looked at again.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

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
        let first = faults.first();
        first.map_or(Health::Enforcing, |fault| Health::from(fault.code))
    }
}

impl From<FaultCode> for Health {
    fn from(code: FaultCode) -> Health {
        match code {
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

/// Which interface it is and whether it enforces its policy, with all faults: the head of what is
/// read of it.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    pub interface: String,
    /// As in [`Condition`].
    pub netns: Option<String>,
    pub health: Health,
    pub faults: Vec<Fault>,
    /// See [`Condition::elsewhere`].
    #[serde(skip)]
    pub elsewhere: Option<String>,
}

impl Standing {
    /// What cannot be found out is a fault, so that the other interfaces are shown all the same.
    pub fn of(one: &Attached) -> Standing {
        Standing::from(one.condition_if_known())
    }
}

impl From<Condition> for Standing {
    fn from(condition: Condition) -> Standing {
        let elsewhere = condition.elsewhere();
        let Condition {
            interface,
            netns,
            health,
            faults,
            ..
        } = condition;
        Standing {
            interface,
            netns,
            health,
            faults,
            elsewhere,
        }
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

impl Attached {
    /// Reads the real state.
    pub fn inspect(&self) -> Result<Inspection, KernelError> {
        inspect(&self.pins)
    }

    /// As [`Attached::inspect`], with the faults. What is read one after the other is of different
    /// moments while a policy is being replaced. So faults count only if the next look finds the
    /// same.
    fn look(&self) -> Result<(Inspection, Vec<Fault>), KernelError> {
        let mut found = self.inspect()?;
        let mut faults = found.faults();
        for _ in 0..LOOKS {
            if faults.is_empty() {
                break;
            }
            sleep(BETWEEN_LOOKS);
            found = self.inspect()?;
            let before = std::mem::replace(&mut faults, found.faults());
            if faults == before {
                break;
            }
        }
        Ok((found, faults))
    }

    /// Finds the interface, and checks whether it enforces what its record says.
    pub fn condition(&self) -> Result<Condition, KernelError> {
        Ok(match self.look() {
            Ok((found, faults)) => self.found_at(Some(found.place), faults),
            Err(KernelError::NotPermitted { what, help }) => {
                let message = format!("{what} is not permitted");
                self.unverified(message, help)
            }
            Err(error @ KernelError::ReadOnly { .. }) => {
                let message = format!("the links cannot be looked at: {error}");
                let help = "run it where the BPF file system is mounted for writing";
                self.unverified(message, help)
            }
            Err(error) => return Err(error),
        })
    }

    /// As [`Attached::condition`], for commands that can report something without it: an error
    /// becomes a fault.
    pub fn condition_if_known(&self) -> Condition {
        self.condition().unwrap_or_else(|error| {
            let help = "`sgctl status` says more";
            self.unverified(format!("it cannot be looked at: {error}"), help)
        })
    }

    fn unverified(&self, message: impl Into<String>, help: impl Into<String>) -> Condition {
        let fault = match &self.state {
            Ok(_) => Fault::new(FaultCode::Unverified, message, help),
            // So much is known.
            Err(why) => why.fault(),
        };
        self.found_at(None, vec![fault])
    }

    fn found_at(&self, place: Option<Place>, faults: Vec<Fault>) -> Condition {
        let state = self.state.as_ref().ok();
        let health = match Health::of(&faults) {
            Health::Enforcing if state.is_some_and(State::audits) => Health::Auditing,
            health => health,
        };
        let cookie = self.pins.netns_cookie;
        match place {
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
                    _ => match state {
                        Some(state) => state.interface.clone(),
                        None => self.name_or_index(),
                    },
                },
                ifindex: self.pins.ifindex,
                netns: state.map_or_else(|| places::name_of(cookie), State::netns_name),
                netns_cookie: cookie,
                health,
                faults,
            },
        }
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
