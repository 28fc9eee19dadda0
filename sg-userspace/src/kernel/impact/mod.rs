//! What an apply does to this machine, found out before it does it (SPEC C5 and C6): the
//! connections that it would cut, the listening sockets that it would make reachable, and what
//! becomes of the connection through which the operator works. It reads, and changes nothing.
//!
//! What becomes of a connection is decided by the steps of the packet path (`sg_common::ruling` and
//! `sg_common::concern`) on the entry that the flow table has, or that seeding would make.

mod connections;
mod crossing;
mod fate;
mod listeners;
mod operator;
mod processes;
mod session;
mod terms;

use std::collections::HashSet;
use std::net::IpAddr;

use serde::Serialize;
use sg_common::verdict::Direction;

use super::error::KernelError;
use super::plan::Plan;
use super::seed::{Existing, Extent, Unseen, View};
use super::state::SlotOwner;
use crossing::Crossing;
pub use operator::{OwnConnection, Session};
use processes::Owners;
pub use processes::Process;
use terms::Terms;

/// A change that is planned, and about which a caller of `apply` may have a say.
pub struct Change<'a> {
    plan: &'a Plan,
}

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
    /// `rule`, `seeded` (it was there before the first policy), or `no-policy`.
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
    fn owner(owner: &SlotOwner, is_in_policy: bool) -> RuleOf {
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

impl<'a> Change<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        Change { plan }
    }

    /// The generation that is to be in force.
    pub fn generation(&self) -> u32 {
        self.plan.generation()
    }

    /// Whether no policy is in force on any of the interfaces.
    pub fn is_first(&self) -> bool {
        self.plan.is_first()
    }

    /// Finds out what the change does.
    ///
    /// # Errors
    ///
    /// If the connections of this machine cannot be listed, as `apply` itself fails then. With
    /// `--cut-existing` it goes on without, and [`Impact::blind`] says why nothing is listed.
    pub fn impact(&self) -> Result<Impact, KernelError> {
        let plan = self.plan;
        let indices: Vec<u32> = plan.interfaces.iter().map(|one| one.pins.ifindex).collect();
        let (view, blind) = match View::take(&plan.indices(), Extent::All) {
            Ok(view) => (view, None),
            Err(error) if plan.options.cut_existing => (View::default(), Some(error.to_string())),
            Err(error) => return Err(error),
        };
        let terms = Terms::of(plan)?;
        let mut crossing = Crossing::new(&view.own);
        let existing = connections::existing(&view);
        let found = connections::find(&terms, &existing, &view, &mut crossing);
        let about = operator::About {
            terms: &terms,
            existing: &existing,
            view: &view,
            blind: blind.as_deref(),
            indices: &indices,
        };
        let session = operator::look(&about, &mut crossing);
        let mut opened = listeners::opened(plan, &view, &terms);
        let mut cut = found.cut;
        let inodes = connections::inodes(&cut, &view);
        let mut wanted: HashSet<u32> = inodes.values().copied().collect();
        wanted.extend(opened.rows.iter().flat_map(|row| &row.inodes));
        let owners = Owners::find(&wanted);
        for one in &mut cut {
            if let Some(inode) = inodes.get(&connections::key_of(one)) {
                one.processes = owners.of(*inode);
            }
        }
        for row in &mut opened.rows {
            let all = row.inodes.iter().flat_map(|inode| owners.of(*inode));
            row.listener.processes = all.collect();
            row.listener.processes.sort();
            row.listener.processes.dedup();
        }
        Ok(Impact {
            interfaces: plan.interfaces.iter().map(|one| one.name.clone()).collect(),
            is_first: plan.is_first(),
            cuts_existing: plan.options.cut_existing,
            cut,
            kept: found.kept,
            opened: opened.rows.into_iter().map(|row| row.listener).collect(),
            opened_is_complete: opened.is_complete,
            unseen: view.unseen,
            blind,
            session,
        })
    }
}

/// Whether there is anything left of a connection that could be cut: one that both ends have closed
/// is over.
fn is_over(state: u8) -> bool {
    use sg_common::flow::Timeout;
    [Timeout::TcpLastAck, Timeout::TcpTimeWait, Timeout::TcpClose]
        .iter()
        .any(|over| *over as u8 == state)
}

/// Whether a connection is known to be one: its other end has sent something, or this host has
/// opened it. A sender of a single request may be forged.
fn is_vouched_for(flow: &Existing) -> bool {
    flow.has_seen_reply || flow.is_ours
}
