//! Seeding: enters existing flows into the flow tables, so that a first attachment cuts no
//! connection (K12). It knows the host's sockets and connection tracking, and those of the network
//! namespaces whose packets cross its interfaces. Flows that needed no entry before are entered in
//! the same way when a policy is replaced (K7, K11), and so are those of an interface that joins an
//! attachment. Kinds of flows that cannot be seen are reported.

mod carry;
mod conntrack;
mod decide;
mod existing;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod link;
mod namespaces;
mod route;
mod sctp;
mod sockets;
mod tables;
mod unseen;
mod view;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use serde::Serialize;
use sg_common::flow::{FlowKind, FlowValue, TIMEOUTS};
use sg_common::protocol::Kind;
use sg_common::verdict::Direction;

use super::error::KernelError;
use super::flow_tables::{Ledger, monotonic_now};
use super::load::tables::LiveTables;
use super::pins::InterfacePins;
pub(super) use carry::carry;
pub(super) use decide::decide;
pub(super) use existing::{Existing, Key};
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use fuzzing::fuzz;
#[cfg(test)]
pub(super) use fuzzing::samples;
pub(super) use route::leaves_by;
use sg_policy::compile::Compiled;
pub(super) use sockets::{Listener, listening};
use tables::SeededTable;
pub use unseen::{Unseen, UnseenKind};
pub(super) use view::{Extent, View};

/// What seeding has done with existing flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seeded {
    /// How many flows were entered. Flows that the rules accept in both directions need no entry.
    pub entered: usize,
    /// How many of the entered flows no rule admits.
    pub without_rule: usize,
    /// How many flows did not fit into the tables.
    pub left_out: usize,
    /// Kinds of connections that may exist and could not be seen.
    pub unseen: Vec<Unseen>,
}

/// What was done with existing TCP connections that were to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// How many were cut. `None` if the kernel did not list them.
    pub connections: Option<usize>,
    /// How many did not fit into the tables, so that their ends may continue them.
    pub left_out: usize,
}

/// The steps of seeding. Around a first attachment these are [`Seeding::before`] it,
/// [`Seeding::meanwhile`], while the remembering programs run, and [`Seeding::after`] it. Around a
/// replacement it begins with `before_replacing`.
pub struct Seeding<'a> {
    rules: &'a Compiled,
    epoch: u32,
    /// The tables of the policy that is replaced, and its epoch.
    replaced: Option<(LiveTables, u32)>,
    table: SeededTable,
    /// The interfaces of the attachment.
    interfaces: Vec<u32>,
    /// The interfaces that join an attachment whose other interfaces enforce the policy already:
    /// see [`Seeding::joins`].
    joining: Option<Vec<u32>>,
    /// Whether existing connections are to be cut, see [`Seeding::cuts`].
    cuts: bool,
    /// Whether the kernel has refused to list connections.
    is_blind: bool,
    /// The addresses of this host.
    own: HashSet<IpAddr>,
    /// The flows that were looked at already, and whether they had seen a reply.
    known: HashMap<Key, bool>,
    seeded: Seeded,
}

/// A flow with the entry that it gets.
struct Entry {
    key: Key,
    recency: u32,
    kind: FlowKind,
    value: FlowValue,
}

impl<'a> Seeding<'a> {
    /// The flow table must be pinned at `pins` and have room for `max_flows`.
    pub fn new(
        rules: &'a Compiled,
        epoch: u32,
        pins: &InterfacePins,
        max_flows: u32,
        timeouts: &[u32; TIMEOUTS],
    ) -> Result<Self, KernelError> {
        Ledger::create(pins)?;
        Ok(Seeding {
            rules,
            epoch,
            replaced: None,
            table: SeededTable::open(pins, max_flows, timeouts)?,
            interfaces: vec![pins.ifindex],
            joining: None,
            cuts: false,
            is_blind: false,
            own: HashSet::new(),
            known: HashMap::new(),
            seeded: Seeded::default(),
        })
    }

    /// Cuts existing TCP connections instead of keeping them, unless the rules accept both
    /// directions: neither end can continue them (K11). Other flows get no entry. An error of the
    /// kernel in listing connections is ignored then, since connections that are to be cut need not
    /// be known.
    pub fn cuts(&mut self) {
        self.cuts = true;
    }

    /// Sets all interfaces of the attachment, if there are more than the one of the pins. What is
    /// at their other ends is not behind the host.
    pub(super) fn of_interfaces(&mut self, interfaces: Vec<u32>) {
        self.interfaces = interfaces;
    }

    /// Says that these interfaces join an attachment whose others enforce the policy already. A
    /// flow that no rule admits is then only kept if it leaves by one of these. At the others such
    /// a flow is dropped, and has to be dropped from now on as well.
    pub(super) fn joins(&mut self, joining: Vec<u32>) {
        self.joining = Some(joining);
    }

    /// The first step, before the programs of the policy are attached.
    pub fn before(&mut self) -> Result<(), KernelError> {
        let found = self.found(Extent::All)?;
        let entries = self.entries(found);
        for kind in FlowKind::BOTH {
            self.fill(kind, entries.iter().filter(|e| e.kind == kind).collect());
        }
        Ok(())
    }

    /// Enters the most recent of `flows`, if there are more than fit.
    fn fill(&mut self, kind: FlowKind, mut flows: Vec<&Entry>) {
        // They are entered in the order of their age, so that the most recent are evicted last.
        flows.sort_unstable_by_key(|e| e.recency);
        let too_many = flows.len().saturating_sub(self.table.room(kind));
        self.seeded.left_out += too_many;
        for entry in &flows[too_many..] {
            let seeding = self.table.enter(kind, &entry.key, &entry.value);
            self.seeded.entered += usize::from(seeding.is_new);
            self.seeded.without_rule += usize::from(seeding.is_new && entry.value.is_seeded());
            self.seeded.left_out += usize::from(seeding.lacks_room);
        }
    }

    /// The first step of a replacement, while the programs of the earlier policy run. Enters flows
    /// that its rules (`tables`) accept without an entry and the new rules do not.
    pub(crate) fn before_replacing(
        &mut self,
        tables: LiveTables,
        epoch: u32,
    ) -> Result<(), KernelError> {
        self.replaced = Some((tables, epoch));
        self.before()
    }

    /// How many flows have been entered so far.
    pub fn entered(&self) -> usize {
        self.seeded.entered
    }

    /// While the remembering programs run: enters what was opened since the first step. None of its
    /// packets has been dropped.
    pub fn meanwhile(&mut self) -> Result<(), KernelError> {
        let found = self.found(Extent::All)?;
        self.add(found);
        Ok(())
    }

    /// After the enforcing programs are attached: enters what was opened since the last step. The
    /// programs write to the table by now, and their entries are not overwritten.
    ///
    /// Only flows that certainly began before the attachment are entered. For a connected UDP
    /// socket that is not known.
    pub fn after(mut self) -> Result<Seeded, KernelError> {
        self.look_again()?;
        Ok(self.seeded)
    }

    /// As [`Seeding::after`], for connections that are to be cut.
    pub(super) fn after_cutting(mut self) -> Result<Cut, KernelError> {
        self.look_again()?;
        Ok(Cut {
            connections: (!self.is_blind).then_some(self.seeded.entered),
            left_out: self.seeded.left_out,
        })
    }

    fn look_again(&mut self) -> Result<(), KernelError> {
        let mut found = self.found(Extent::Tcp)?;
        found.retain(is_surely_from_before);
        self.add(found);
        Ok(())
    }

    /// Enters flows that have no entry yet, while packets pass.
    fn add(&mut self, found: Vec<Existing>) {
        for entry in self.entries(found) {
            let Entry {
                key, kind, value, ..
            } = entry;
            if self.table.enter(kind, &key, &value).is_new {
                self.seeded.entered += 1;
                self.seeded.without_rule += usize::from(value.is_seeded());
            }
        }
    }

    /// Lists the existing flows, without those that an earlier look has found with a reply. If both
    /// a socket and connection tracking show a flow, connection tracking is right about the
    /// originator, because it has seen the packets.
    fn found(&mut self, extent: Extent) -> Result<Vec<Existing>, KernelError> {
        let view = match View::take(&self.interfaces, extent) {
            Err(_) if self.cuts => {
                self.is_blind = true;
                return Ok(Vec::new());
            }
            view => view?,
        };
        let View {
            tracked,
            sockets,
            unseen,
            own,
            ..
        } = view;
        self.own = own;
        if extent == Extent::All {
            self.seeded.unseen = unseen;
        }
        let mut sockets: HashMap<Key, Existing> = sockets.iter().map(|f| (f.key, *f)).collect();
        let known = &mut self.known;
        known.reserve(tracked.len() + sockets.len());
        let mut is_new = |flow: &Existing| {
            let before = known.insert(flow.key, flow.has_seen_reply);
            before.is_none_or(|had_seen_reply| !had_seen_reply && flow.has_seen_reply)
        };
        let mut found = Vec::with_capacity(tracked.len() + sockets.len());
        for flow in tracked.into_iter().filter(|flow| is_new(flow)) {
            found.push(match sockets.remove(&flow.key) {
                Some(socket) => flow.with_socket(&socket),
                None => flow,
            });
        }
        found.extend(sockets.into_values().filter(is_new));
        Ok(found)
    }

    fn entries(&self, found: Vec<Existing>) -> Vec<Entry> {
        let now = monotonic_now();
        let rules = &self.rules;
        let judge = |direction, remote, kind, number| rules.decide(direction, remote, kind, number);
        // Many connections go to a few hosts, so the result for each host is kept.
        let mut routes: HashMap<(IpAddr, IpAddr), bool> = HashMap::new();
        let entry = |flow: Existing| {
            let (kind, value) = match &self.replaced {
                None => decide(&flow, judge, self.epoch, now)?,
                Some((tables, epoch)) => {
                    let before = |d, remote, kind, number| tables.decide(d, remote, kind, number);
                    carry(&flow, before, judge, *epoch, now)?
                }
            };
            let (kind, value) = match (self.cuts, flow.key.kind()) {
                (false, _) => (kind, value),
                (true, Kind::Tcp) => (FlowKind::Established, FlowValue::cut(now, flow.opened_by())),
                (true, _) => return None,
            };
            if value.is_seeded()
                && let Some(joining) = &self.joining
            {
                let (local, remote) = (flow.key.local, flow.key.remote);
                let leaves = || self.leaves_by(joining, local, remote);
                if !*routes.entry((local, remote)).or_insert_with(leaves) {
                    return None;
                }
            }
            Some(Entry {
                key: flow.key,
                recency: flow.recency,
                kind,
                value,
            })
        };
        found.into_iter().filter_map(entry).collect()
    }

    /// Whether packets of the host, and those that it forwards, leave by one of these interfaces.
    /// False if that cannot be found out.
    fn leaves_by(&self, interfaces: &[u32], local: IpAddr, remote: IpAddr) -> bool {
        // The kernel only looks up routes from its own source addresses.
        let source = self.own.contains(&local).then_some(local);
        let index = route::leaves_by(remote, source).ok().flatten();
        index.is_some_and(|index| interfaces.contains(&index))
    }
}

/// Whether a flow that is found after the attachment began before it, or with a packet that the
/// programs have accepted. An inbound flow in connection tracking has passed the inbound program,
/// which runs before connection tracking. The outbound program runs after it and may have dropped
/// the packet.
fn is_surely_from_before(flow: &Existing) -> bool {
    flow.has_seen_reply || (flow.originator == Direction::Inbound && !flow.is_ours)
}
