//! What is said of a change: types without behaviour, for people and programs.

use std::net::IpAddr;

use serde::Serialize;
use sg_common::verdict::Direction;

use super::super::seed::Unseen;
use super::super::state::SlotOwner;
use super::processes::Process;

/// What a change does.
#[derive(Clone, Debug, Serialize)]
pub struct Impact {
    /// The interfaces whose programs would be replaced or attached.
    pub interfaces: Vec<String>,
    /// No policy is in force on any of them.
    #[serde(skip)]
    pub is_first: bool,
    /// Connections are cut that a first attachment would otherwise keep.
    #[serde(skip)]
    pub cuts_existing: bool,
    /// The connections that would be cut: established ones first.
    pub cut: Vec<CutConnection>,
    /// How many connections a first attachment keeps although no rule admits them.
    pub kept: usize,
    pub opened: Vec<OpenedListener>,
    /// Whether `opened` is known to be complete. It is not where the rules of the policy in force
    /// cannot be read back any more, and only its tables are there to be asked.
    pub opened_is_complete: bool,
    /// Kinds of connections that may exist and cannot be seen.
    pub unseen: Vec<Unseen>,
    /// Why no connections could be listed at all. Null if they were.
    pub blind: Option<String>,
    /// The connection through which the operator works.
    pub session: Session,
}

/// A connection that would be cut.
#[derive(Clone, Debug, Serialize)]
pub struct CutConnection {
    /// The interface by which its packets leave. Null if that is not known.
    pub interface: Option<String>,
    pub protocol: u8,
    pub local: IpAddr,
    pub local_port: Option<u16>,
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
    pub icmp_id: Option<u16>,
    /// The direction of the packet that opened it, or `unknown`.
    pub opened: &'static str,
    /// Its state, named as in `sgctl flows`.
    pub state: &'static str,
    /// Seconds since the flow table knows it. Null if it has no entry there.
    pub age_seconds: Option<u64>,
    /// Whether it is older than that, because it was there before the first policy.
    pub is_older: bool,
    /// The processes that have its socket open. Empty if it is forwarded, or they cannot be seen.
    pub processes: Vec<Process>,
    pub now: Admitted,
    pub then: Dropped,
}

/// By what a connection passes now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Admitted {
    /// `rule`, `seeded` (it was there before the first policy), `audit` (by no rule, but the
    /// policy audits all that it would drop), or `no-policy`.
    pub reason: &'static str,
    pub rule: Option<RuleOf>,
}

/// By what packets are dropped under the new policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// `rule`, `no-match`, `flush` (the policy says `established: flush`), or `cut-existing`.
    pub reason: &'static str,
    /// The direction whose rules do not accept it.
    pub direction: Direction,
    pub rule: Option<RuleOf>,
}

/// A rule, as `explain` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleOf {
    pub direction: Direction,
    pub group: String,
    /// Null if the rule is not in the policy any more.
    pub position: Option<u32>,
    pub name: Option<String>,
    pub summary: String,
}

/// A listening socket that becomes reachable.
#[derive(Clone, Debug, Serialize)]
pub struct OpenedListener {
    pub protocol: u8,
    pub local: IpAddr,
    pub port: u16,
    pub processes: Vec<Process>,
    /// From where, by the rule that accepts it.
    pub from: Vec<OpenedFrom>,
}

/// Addresses from which a socket becomes reachable.
#[derive(Clone, Debug, Serialize)]
pub struct OpenedFrom {
    /// Prefixes, at most some; `more` says how many are left out.
    pub prefixes: Vec<String>,
    pub more: usize,
    pub rule: RuleOf,
}

impl RuleOf {
    pub(super) fn owner(owner: &SlotOwner, is_in_policy: bool) -> RuleOf {
        RuleOf {
            direction: owner.direction,
            group: owner.group.clone(),
            position: is_in_policy.then_some(owner.position),
            name: owner.name.clone(),
            summary: owner.summary.clone(),
        }
    }

    /// `tke inbound 6, tcp 22 from 0.0.0.0/0`.
    pub fn title(&self) -> String {
        let position = self.position.map_or_else(String::new, |n| format!(" {n}"));
        let summary = sg_policy::policy::titled(self.name.as_deref(), &self.summary);
        format!(
            "{} {}{position}, {summary}",
            self.group,
            self.direction.name()
        )
    }
}

/// The operator's connections, and what of the search failed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Session {
    /// Those that were found, several if several terminals show the same tmux session. Empty on a
    /// console, and in a job of cron or systemd.
    pub connections: Vec<OwnConnection>,
    /// What could not be looked at.
    pub unseen: Vec<String>,
}

/// A connection through which the operator works.
#[derive(Clone, Debug, Serialize)]
pub struct OwnConnection {
    pub local: IpAddr,
    pub local_port: u16,
    pub remote: IpAddr,
    pub remote_port: u16,
    /// The side that opened it.
    pub opened: Direction,
    /// The process that has it open. Null if only `SSH_CONNECTION` names it.
    pub process: Option<Process>,
    /// Whether its packets cross an interface of this change, as far as can be known.
    pub crosses: bool,
    /// What drops it then. Null if it goes on.
    pub cut: Option<Dropped>,
    /// What drops a new one made the same way. Null if it is accepted.
    pub new: Option<Dropped>,
}

impl OwnConnection {
    /// Whether the change would leave the operator without this way.
    pub fn is_lost(&self) -> bool {
        self.crosses && (self.cut.is_some() || self.new.is_some())
    }

    /// The port that the side which opened it connected to.
    pub fn port(&self) -> u16 {
        match self.opened {
            Direction::Inbound => self.local_port,
            Direction::Outbound => self.remote_port,
        }
    }
}
