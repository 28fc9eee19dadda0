//! Enters flows that are there before the enforcer into its flow tables, so that turning it on cuts
//! nobody off (SPEC K12): what the host's sockets and its connection tracking know of. Likewise, when
//! a policy is replaced, flows that needed no entry so far (SPEC K7, K11).

mod carry;
mod conntrack;
mod decide;
mod existing;
mod netlink;
mod sockets;
mod tables;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;

use serde::Serialize;
use sg_common::flow::{FlowKind, FlowValue, TIMEOUTS};
use sg_common::protocol::{IPPROTO_TCP, IPPROTO_UDP};

use super::KernelError;
use super::flow_tables::{Ledger, monotonic_now};
use super::pins::InterfacePins;
use super::tables::LiveTables;
use crate::compile::Compiled;
use carry::carry;
use decide::decide;
use existing::{Existing, Key};
use tables::SeededTable;

/// What became of the flows that were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seeded {
    /// Flows that were entered. Those that the rules pass in both directions need no entry.
    pub entered: usize,
    /// How many of these no rule admits.
    pub without_rule: usize,
    /// Flows for which the tables had no room.
    pub left_out: usize,
}

/// The seeding around a first attachment: [`Seeding::before`] it and [`Seeding::after`] it. Around a
/// replacement it begins with [`Seeding::before_replacing`].
pub struct Seeding<'a> {
    rules: &'a Compiled,
    generation: u32,
    /// The policy that is replaced, and its generation.
    replaced: Option<(LiveTables, u32)>,
    table: SeededTable,
    /// The addresses of this network namespace.
    own: HashSet<IpAddr>,
    /// What has been looked at, and whether it had been answered.
    known: HashMap<Key, bool>,
    seeded: Seeded,
}

/// A flow and the entry it gets.
struct Entry {
    key: Key,
    recency: u32,
    kind: FlowKind,
    value: FlowValue,
}

impl<'a> Seeding<'a> {
    /// The flow table pinned at `pins`, with room for `max_flows`, must be there and empty.
    pub fn new(
        rules: &'a Compiled,
        generation: u32,
        pins: &InterfacePins,
        max_flows: u32,
        timeouts: &[u32; TIMEOUTS],
    ) -> Result<Self, KernelError> {
        let interfaces = nix::ifaddrs::getifaddrs()
            .map_err(|e| KernelError::io("listing this host's addresses", e.into()))?;
        Ledger::create(pins)?;
        Ok(Seeding {
            rules,
            generation,
            replaced: None,
            table: SeededTable::open(pins, max_flows, timeouts)?,
            own: interfaces.filter_map(|i| address(&i.address?)).collect(),
            known: HashMap::new(),
            seeded: Seeded::default(),
        })
    }

    /// Before any program is attached: the table is empty, and nobody else writes to it.
    pub fn before(&mut self) -> Result<(), KernelError> {
        let found = self.found(&[IPPROTO_TCP, IPPROTO_UDP])?;
        let entries = self.entries(found);
        for kind in FlowKind::BOTH {
            self.fill(kind, entries.iter().filter(|e| e.kind == kind).collect());
        }
        Ok(())
    }

    /// The most recent of `flows`, if there are more than the table has room for.
    fn fill(&mut self, kind: FlowKind, mut flows: Vec<&Entry>) {
        // The last ones are evicted last, too.
        flows.sort_unstable_by_key(|e| e.recency);
        let too_many = flows.len().saturating_sub(self.table.room(kind));
        self.seeded.left_out += too_many;
        for entry in &flows[too_many..] {
            let seeding = self.table.enter(kind, &entry.key, &entry.value);
            self.seeded.entered += usize::from(seeding.is_new);
            self.seeded.without_rule += usize::from(seeding.is_new && entry.value.is_seeded());
            self.seeded.left_out += usize::from(seeding.evicted || !seeding.is_new);
        }
    }

    /// While the programs of the policy that is replaced run, whose rules are `tables`: what they pass
    /// without an entry and the new rules will not.
    pub fn before_replacing(
        &mut self,
        tables: LiveTables,
        generation: u32,
    ) -> Result<(), KernelError> {
        self.replaced = Some((tables, generation));
        let found = self.found(&[IPPROTO_TCP, IPPROTO_UDP])?;
        let mut entries = self.entries(found);
        // The last ones are evicted last.
        entries.sort_unstable_by_key(|e| e.recency);
        for kind in FlowKind::BOTH {
            let of_kind: Vec<&Entry> = entries.iter().filter(|e| e.kind == kind).collect();
            let too_many = of_kind.len().saturating_sub(self.table.room(kind));
            self.seeded.left_out += too_many;
            for entry in &of_kind[too_many..] {
                let seeding = self.table.enter(kind, &entry.key, &entry.value);
                self.seeded.entered += usize::from(seeding.is_new);
            }
        }
        Ok(())
    }

    /// How many flows have been entered so far.
    pub fn entered(&self) -> usize {
        self.seeded.entered
    }

    /// After the programs are attached: what was opened in between. They write to the table now,
    /// and what they have entered is left alone.
    ///
    /// Only what has been answered counts: any other flow may have begun after its first packet
    /// was refused. A connected UDP socket does not tell.
    pub fn after(mut self) -> Result<Seeded, KernelError> {
        let mut found = self.found(&[IPPROTO_TCP])?;
        found.retain(|flow| flow.is_answered);
        for Entry {
            key, kind, value, ..
        } in self.entries(found)
        {
            if self.table.enter(kind, &key, &value).is_new {
                self.seeded.entered += 1;
                self.seeded.without_rule += usize::from(value.is_seeded());
            }
        }
        Ok(self.seeded)
    }

    /// What is there and has not been looked at yet, or not since it was answered. Of what both
    /// know, connection tracking has seen the packets and so knows for certain who opened it.
    fn found(&mut self, protocols: &[u8]) -> Result<Vec<Existing>, KernelError> {
        let mut sockets = Vec::new();
        for &protocol in protocols {
            sockets.extend(sockets::list(protocol).map_err(cannot_list_sockets)?);
        }
        let tracked = conntrack::list().map_err(cannot_list_connections)?;
        let sockets = sockets::flows(&sockets, &self.own);
        let mut sockets: HashMap<Key, Existing> = sockets.iter().map(|f| (f.key, *f)).collect();
        let known = &mut self.known;
        known.reserve(tracked.len() + sockets.len());
        let mut is_new = |flow: &Existing| {
            let before = known.insert(flow.key, flow.is_answered);
            before.is_none_or(|was_answered| !was_answered && flow.is_answered)
        };
        let mut found = Vec::with_capacity(tracked.len() + sockets.len());
        for flow in tracked.iter().flat_map(|e| conntrack::flows(e, &self.own)) {
            if is_new(&flow) {
                let socket = sockets.remove(&flow.key);
                let recency = socket.map_or(flow.recency, |s| s.recency);
                found.push(Existing { recency, ..flow });
            }
        }
        found.extend(sockets.into_values().filter(is_new));
        Ok(found)
    }

    fn entries(&self, found: Vec<Existing>) -> Vec<Entry> {
        let now = monotonic_now();
        let rules = &self.rules;
        let judge = |direction, remote, kind, number| rules.decide(direction, remote, kind, number);
        let entry = |flow: Existing| {
            let (kind, value) = match &self.replaced {
                None => decide(&flow, judge, self.generation, now)?,
                Some((tables, generation)) => {
                    let before = |d, remote, kind, number| tables.decide(d, remote, kind, number);
                    carry(&flow, before, judge, *generation, now)?
                }
            };
            Some(Entry {
                key: flow.key,
                recency: flow.recency,
                kind,
                value,
            })
        };
        found.into_iter().filter_map(entry).collect()
    }
}

fn address(storage: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
}

fn cannot_list_sockets(error: io::Error) -> KernelError {
    cannot_list(
        "the host's sockets",
        "kernel modules tcp_diag and udp_diag",
        error,
    )
}

fn cannot_list_connections(error: io::Error) -> KernelError {
    cannot_list(
        "tracked connections",
        "kernel module nf_conntrack_netlink",
        error,
    )
}

/// What is not known cannot be kept, and whoever attaches should know that before.
fn cannot_list(what: &str, needs: &str, error: io::Error) -> KernelError {
    let what = format!("listing {what}, to keep existing connections");
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => KernelError::NotPermitted { what },
        _ => KernelError::Refused {
            what,
            reason: error.to_string(),
            help: format!(
                "it needs the {needs}; or attach with --cut-existing, which cuts those \
                 connections off unless the rules pass them"
            ),
        },
    }
}
