//! The names of the pins of an interface, and of what it shares with the others of its attachment.

use std::fs;
use std::path::{Path, PathBuf};

use sg_common::verdict::Direction;

use super::names::{names_in, small_numbers_in};
use crate::kernel::error::KernelError;
use crate::kernel::machine::trust::create_dir;

/// In the names of pins between a direction and a generation: `inbound_targets_7`.
pub(super) const TARGETS: &str = "_targets_";
const PROGRAM: &str = "_program_";
const GATE: &str = "_gate_";
pub(super) const BEHIND: &str = "_behind_";
/// Before a generation: `trial_8`.
const TRIAL: &str = "trial_";
const POLICY: &str = "policy_";
const CANDIDATE: &str = "candidate_";
/// Between where tables lie and a generation: `bss_tables_7`.
const TABLES: &str = "_tables_";

/// The pins of one interface, and those of its attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfacePins {
    /// The directory of the interface, in that of its attachment.
    pub dir: PathBuf,
    pub netns_cookie: u64,
    /// The number of its attachment, within the network namespace.
    pub attachment: u32,
    pub ifindex: u32,
}

impl InterfacePins {
    /// Whether something is pinned there. A killed process may have left an empty directory.
    pub fn exists(&self) -> bool {
        fs::read_dir(&self.dir).is_ok_and(|mut names| names.next().is_some())
    }

    /// Creates the directory of the attachment, and those above it.
    pub(in crate::kernel) fn create_parent(&self) -> Result<(), KernelError> {
        create_dirs(self.shared_dir())
    }

    /// Creates the directory of the network namespace, and those above it.
    pub(in crate::kernel) fn create_netns(&self) -> Result<(), KernelError> {
        self.shared_dir().parent().map_or(Ok(()), create_dirs)
    }

    pub fn create(&self) -> Result<(), KernelError> {
        create_dirs(&self.dir)
    }

    /// The directory with what the interfaces of the attachment share.
    pub(in crate::kernel) fn shared_dir(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    fn shared(&self, name: &str) -> PathBuf {
        self.shared_dir().join(name)
    }

    /// The pins of all interfaces of the attachment that have some, including this one, in the
    /// order of their indices.
    pub(crate) fn of_attachment(&self) -> Result<Vec<InterfacePins>, KernelError> {
        let indices = small_numbers_in(self.shared_dir())?.into_iter();
        let all = indices.map(|index| self.sibling(index));
        let mut all: Vec<_> = all.filter(InterfacePins::exists).collect();
        all.sort();
        Ok(all)
    }

    /// The pins of another interface of the attachment, whether or not they exist.
    pub(in crate::kernel) fn sibling(&self, ifindex: u32) -> InterfacePins {
        InterfacePins {
            dir: self.shared(&ifindex.to_string()),
            ifindex,
            ..self.clone()
        }
    }

    /// Whether two interfaces belong to one attachment.
    pub fn shares_with(&self, other: &InterfacePins) -> bool {
        self.shared_dir() == other.shared_dir()
    }

    pub fn xdp_link(&self) -> PathBuf {
        self.dir.join("inbound_link")
    }

    pub fn tcx_link(&self) -> PathBuf {
        self.dir.join("outbound_link")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The record of a policy that is being put in force.
    pub(crate) fn state_next(&self) -> PathBuf {
        self.dir.join("state_next")
    }

    /// The pin of a link that is about to replace another one.
    pub(crate) fn tcx_link_next(&self) -> PathBuf {
        self.dir.join("outbound_link_next")
    }

    /// The tags of the flow table.
    pub fn flow_tags(&self) -> PathBuf {
        self.shared("flow_tags")
    }

    /// The entries of the flow table.
    pub fn flow_pages(&self) -> PathBuf {
        self.shared("flow_pages")
    }

    /// The counts of flows by local port.
    pub fn flow_ports(&self) -> PathBuf {
        self.shared("flow_ports")
    }

    /// The secret multipliers of the flow table's hash.
    pub(crate) fn flow_keys(&self) -> PathBuf {
        self.shared("flow_keys")
    }

    pub fn flow_stats(&self) -> PathBuf {
        self.shared("flow_stats")
    }

    /// The ledger: what userspace has entered into the flow table and removed from it.
    pub(crate) fn flow_ledger(&self) -> PathBuf {
        self.shared("flow_ledger")
    }

    pub fn fragments4(&self) -> PathBuf {
        self.shared("fragments4")
    }

    pub fn fragments6(&self) -> PathBuf {
        self.shared("fragments6")
    }

    /// The state of each CPU's ring of events.
    pub(crate) fn event_rings(&self) -> PathBuf {
        self.shared("event_rings")
    }

    /// The events themselves.
    pub(crate) fn event_slots(&self) -> PathBuf {
        self.shared("event_slots")
    }

    /// Whether somebody watches: see `event_watch`.
    pub fn event_watch(&self) -> PathBuf {
        self.shared("event_watch")
    }

    /// What was in force in the attachment: see `history`.
    pub fn history(&self) -> PathBuf {
        self.shared("history")
    }

    /// The text of a generation's policy: see `history`.
    pub(crate) fn policy_text(&self, generation: u32) -> PathBuf {
        self.shared(&format!("{POLICY}{generation}"))
    }

    /// The generations whose policies have a text.
    pub(in crate::kernel) fn policy_texts(&self) -> Result<Vec<u32>, KernelError> {
        let names = names_in(self.shared_dir())?.into_iter();
        let numbers = names.filter_map(|name| name.strip_prefix(POLICY)?.parse().ok());
        Ok(numbers.collect())
    }

    /// The text of the candidate whose watch has this number: see `history`.
    pub(crate) fn candidate_text(&self, watch: u32) -> PathBuf {
        self.shared(&format!("{CANDIDATE}{watch}"))
    }

    /// The numbers of the watches whose candidates have a text.
    pub(in crate::kernel) fn candidate_texts(&self) -> Result<Vec<u32>, KernelError> {
        let names = names_in(self.shared_dir())?.into_iter();
        let numbers = names.filter_map(|name| name.strip_prefix(CANDIDATE)?.parse().ok());
        Ok(numbers.collect())
    }

    /// The tail-call targets of a hook in a generation: see `targets`.
    pub fn targets(&self, direction: Direction, generation: u32) -> PathBuf {
        self.dir
            .join(format!("{}{TARGETS}{generation}", direction.name()))
    }

    /// The program that a hook runs in a generation.
    pub fn program(&self, direction: Direction, generation: u32) -> PathBuf {
        self.dir
            .join(format!("{}{PROGRAM}{generation}", direction.name()))
    }

    /// The gate in front of a generation that is not confirmed: see `gate`.
    pub fn gate(&self, direction: Direction, generation: u32) -> PathBuf {
        self.dir
            .join(format!("{}{GATE}{generation}", direction.name()))
    }

    /// The programs behind a gate.
    pub fn behind(&self, direction: Direction, generation: u32) -> PathBuf {
        self.dir
            .join(format!("{}{BEHIND}{generation}", direction.name()))
    }

    /// What is pinned for the gates of a generation: what is behind them, and they themselves.
    pub(in crate::kernel) fn gates(&self, generation: u32) -> [PathBuf; 4] {
        let [inbound, outbound] = Direction::BOTH;
        [
            self.behind(inbound, generation),
            self.behind(outbound, generation),
            self.gate(inbound, generation),
            self.gate(outbound, generation),
        ]
    }

    /// The word of a trial, which all interfaces of the attachment share: see `trial`.
    pub fn trial(&self, generation: u32) -> PathBuf {
        self.shared(&format!("{TRIAL}{generation}"))
    }

    /// The words of all trials, with their generations.
    pub(in crate::kernel) fn trials(&self) -> Result<Vec<(u32, PathBuf)>, KernelError> {
        let names = names_in(self.shared_dir())?.into_iter();
        let of_trial = |name: String| {
            let generation = name.strip_prefix(TRIAL)?.parse().ok()?;
            Some((generation, self.shared(&name)))
        };
        Ok(names.filter_map(of_trial).collect())
    }

    /// The tables of a generation: see `tables`.
    pub fn tables(&self, place: &str, generation: u32) -> PathBuf {
        self.dir.join(format!("{place}{TABLES}{generation}"))
    }

    /// The pinned program arrays of all generations.
    pub(in crate::kernel) fn all_targets(&self) -> Result<Vec<PathBuf>, KernelError> {
        self.all_with(&[TARGETS, BEHIND])
    }

    /// The pins of all generations.
    pub(in crate::kernel) fn all_of_generations(&self) -> Result<Vec<PathBuf>, KernelError> {
        self.all_with(&[TARGETS, PROGRAM, TABLES, GATE, BEHIND])
    }

    /// The pinned programs of a hook that can be attached, gates among them, with their
    /// generations.
    pub(in crate::kernel) fn programs(
        &self,
        direction: Direction,
    ) -> Result<Vec<(u32, PathBuf)>, KernelError> {
        let names = names_in(&self.dir)?.into_iter();
        let of_hook = names.filter_map(|name| {
            let rest = name.strip_prefix(direction.name())?;
            let number = rest
                .strip_prefix(PROGRAM)
                .or_else(|| rest.strip_prefix(GATE));
            Some((number?.parse().ok()?, self.dir.join(name)))
        });
        Ok(of_hook.collect())
    }

    fn all_with(&self, parts: &[&str]) -> Result<Vec<PathBuf>, KernelError> {
        let mut names = names_in(&self.dir)?;
        names.retain(|name| parts.iter().any(|part| name.contains(part)));
        Ok(names.iter().map(|name| self.dir.join(name)).collect())
    }

    /// If more slots are needed, a counter map is added and none is replaced. The counts of a slot
    /// are the sum over all of them.
    pub fn counters(&self, index: usize) -> PathBuf {
        self.dir.join(format!("counters_{index}"))
    }

    /// What the counters had counted when somebody set their zero: see `zero`.
    pub fn zero(&self) -> PathBuf {
        self.dir.join("zero")
    }

    /// What was done with the events of each slot of that counter map.
    pub(crate) fn event_counts(&self, index: usize) -> PathBuf {
        self.dir.join(format!("event_counts_{index}"))
    }
}

fn create_dirs(path: &Path) -> Result<(), KernelError> {
    let mut missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    while let Some(dir) = missing.pop() {
        create_dir(dir)?;
    }
    Ok(())
}
