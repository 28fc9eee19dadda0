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
mod report;
mod session;
mod terms;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use super::error::KernelError;
use super::plan::Plan;
use super::seed::{Extent, View};
use crossing::Crossing;
use processes::Owners;
pub use processes::Process;
pub use report::{
    Admitted, CutConnection, Dropped, Impact, OpenedFrom, OpenedListener, OwnConnection, RuleOf,
    Session,
};
use terms::Terms;

/// The processes that have sockets open, by their inodes.
pub(super) fn owners_of(inodes: &HashSet<u32>) -> HashMap<u32, Vec<Process>> {
    let owners = Owners::find(inodes);
    inodes
        .iter()
        .map(|inode| (*inode, owners.of(*inode)))
        .collect()
}

/// The TCP connections through which the operator works, as far as they can be found: local and
/// remote end, as the sockets have them.
pub fn own_connections() -> Vec<[(IpAddr, u16); 2]> {
    let named = std::env::var("SSH_CONNECTION").ok();
    let proc = Path::new("/proc");
    let found = session::search(proc, std::process::id(), named.as_deref());
    let ways = found.ways.into_iter();
    ways.map(|way| [way.local, way.remote]).collect()
}

/// A change that is planned, and about which a caller of `apply` may have a say.
pub struct Change<'a> {
    plan: &'a Plan,
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
