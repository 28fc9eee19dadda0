//! The layout of pins: `<bpffs>/sgctl/v<layout>/<netns cookie>/<attachment>/` has what the
//! interfaces of an attachment share (flows, fragments, events). In it, each interface has a
//! directory, named by its index, with its own links, programs, counters and record. The directory
//! of an attachment is removed with its last interface, so that nothing is left.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::error::KernelError;
use super::faults::step;
use super::trust::{self, create_dir};
use super::{bpffs, lifetime, links};
use sg_common::LAYOUT_VERSION;
use sg_common::verdict::Direction;

/// The prefix of an interface's name, see `run_lock`.
const RUN: &str = "run_";

/// Between a direction and a generation.
const TARGETS: &str = "_targets_";
const PROGRAM: &str = "_program_";
const GATE: &str = "_gate_";
const BEHIND: &str = "_behind_";
/// Before a generation.
const TRIAL: &str = "trial_";
const POLICY: &str = "policy_";
const CANDIDATE: &str = "candidate_";
/// Between a placement and a generation.
const TABLES: &str = "_tables_";

const LOCK_SECONDS: u64 = 10;

/// The tree of pins on one BPF file system.
#[derive(Clone, Debug)]
pub struct PinTree {
    bpffs: PathBuf,
    root: PathBuf,
}

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

/// Held while pins are changed. Dropping it releases the lock.
pub struct WriteLock {
    _file: Flock<fs::File>,
}

impl PinTree {
    pub fn new(bpffs: &Path) -> Self {
        PinTree {
            bpffs: bpffs.to_owned(),
            root: bpffs.join(trust::ROOT),
        }
    }

    /// Whether the enforcer has any pin at all.
    pub(super) fn exists(&self) -> bool {
        self.root.exists()
    }

    fn version_dir(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    fn netns_dir(&self, netns_cookie: u64) -> PathBuf {
        self.version_dir().join(netns_cookie.to_string())
    }

    /// The existing pins of an interface. If there are none, those that it would have in a new
    /// attachment.
    pub fn interface(&self, netns_cookie: u64, ifindex: u32) -> InterfacePins {
        let numbers = attachments_in(&self.netns_dir(netns_cookie)).unwrap_or_default();
        let of = |attachment| self.interface_of(netns_cookie, attachment, ifindex);
        let there = numbers.iter().map(|number| of(*number));
        let mut there = there.filter(InterfacePins::exists);
        there
            .next()
            .unwrap_or_else(|| of(self.free_attachment(netns_cookie)))
    }

    /// The pins of an interface in an attachment, whether or not they exist.
    pub(super) fn interface_of(
        &self,
        netns_cookie: u64,
        attachment: u32,
        ifindex: u32,
    ) -> InterfacePins {
        InterfacePins {
            dir: self
                .netns_dir(netns_cookie)
                .join(attachment.to_string())
                .join(ifindex.to_string()),
            netns_cookie,
            attachment,
            ifindex,
        }
    }

    /// The lowest number that no attachment of a network namespace uses.
    pub(super) fn free_attachment(&self, netns_cookie: u64) -> u32 {
        let taken = attachments_in(&self.netns_dir(netns_cookie)).unwrap_or_default();
        (1..).find(|number| !taken.contains(number)).unwrap_or(1)
    }

    /// The directory whose lock the `run` of an interface holds. Creates it if necessary.
    pub(super) fn run_dir(
        &self,
        netns_cookie: u64,
        interface: &str,
    ) -> Result<PathBuf, KernelError> {
        let netns = self.netns_dir(netns_cookie);
        let dir = self.path_of_run(netns_cookie, interface);
        for dir in [&self.root, &self.version_dir(), &netns, &dir] {
            create_dir(dir)?;
        }
        Ok(dir)
    }

    /// The interfaces of a network namespace that have such a directory.
    pub(super) fn names_of_runs(&self, netns_cookie: u64) -> Result<Vec<String>, KernelError> {
        let names = names_in(&self.netns_dir(netns_cookie))?;
        let names = names.iter().filter_map(|name| name.strip_prefix(RUN));
        let mut names: Vec<String> = names.map(decoded).collect();
        names.sort();
        Ok(names)
    }

    /// The same, whether or not it is there.
    pub(super) fn path_of_run(&self, netns_cookie: u64, interface: &str) -> PathBuf {
        // Names in a BPF file system cannot contain a dot.
        let name: String = interface
            .bytes()
            .map(|byte| match byte.is_ascii_alphanumeric() {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02x}"),
            })
            .collect();
        let netns = self.netns_dir(netns_cookie);
        netns.join(format!("{RUN}{name}"))
    }

    /// Whether a `run` looks after an interface.
    pub(super) fn has_run(&self, netns_cookie: u64, interface: &str) -> bool {
        let file = fs::File::open(self.path_of_run(netns_cookie, interface));
        file.is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
    }

    /// The pins of all interfaces that have some in this layout version.
    pub fn interfaces(&self) -> Result<Vec<InterfacePins>, KernelError> {
        let mut found = Vec::new();
        for netns in numbers_in(&self.version_dir())? {
            for attachment in attachments_in(&self.netns_dir(netns))? {
                found.extend(self.interfaces_of(netns, attachment)?);
            }
        }
        found.retain(InterfacePins::exists);
        found.sort();
        Ok(found)
    }

    fn interfaces_of(
        &self,
        netns_cookie: u64,
        attachment: u32,
    ) -> Result<Vec<InterfacePins>, KernelError> {
        let dir = self.netns_dir(netns_cookie).join(attachment.to_string());
        let of = |index| self.interface_of(netns_cookie, attachment, index);
        Ok(small_numbers_in(&dir)?.into_iter().map(of).collect())
    }

    /// The pins of all interfaces that have some in another layout version, with that version.
    pub fn other_layouts(&self) -> Result<Vec<(String, InterfacePins)>, KernelError> {
        let mut found = Vec::new();
        for version in names_in(&self.root)? {
            let dir = self.root.join(&version);
            if dir == self.version_dir() {
                continue;
            }
            let number = version.trim_start_matches('v').to_owned();
            for netns_cookie in numbers_in(&dir)? {
                let netns = dir.join(netns_cookie.to_string());
                let mut parents = vec![(0, netns.clone())];
                if has_attachments(&number) {
                    let attachments = attachments_in(&netns)?.into_iter();
                    parents = attachments
                        .map(|attachment| (attachment, netns.join(attachment.to_string())))
                        .collect();
                }
                for (attachment, parent) in parents {
                    for ifindex in small_numbers_in(&parent)? {
                        let pins = InterfacePins {
                            dir: parent.join(ifindex.to_string()),
                            netns_cookie,
                            attachment,
                            ifindex,
                        };
                        found.push((number.clone(), pins));
                    }
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Fails if this interface has pins of another layout version.
    pub fn refuse_other_layouts(&self, pins: &InterfacePins) -> Result<(), KernelError> {
        let is_of_it = |other: &InterfacePins| {
            (other.netns_cookie, other.ifindex) == (pins.netns_cookie, pins.ifindex)
        };
        let mut others = self.other_layouts()?.into_iter();
        match others.find(|(_, other)| is_of_it(other)) {
            None => Ok(()),
            Some((found, theirs)) => Err(KernelError::OtherLayout {
                path: theirs.dir,
                found,
                ours: LAYOUT_VERSION,
            }),
        }
    }

    /// Takes the lock. Waits for other writers, up to a limit.
    pub fn lock(&self) -> Result<WriteLock, KernelError> {
        let what = || format!("locking {}", self.root.display());
        let deadline = Instant::now() + Duration::from_secs(LOCK_SECONDS);
        bpffs::check_writable(&self.bpffs)?;
        trust::check(&self.bpffs)?;
        loop {
            lifetime::keeping_time(&self.bpffs, || create_dir(&self.root))?;
            let Some(file) = trust::open_for_us_alone(&self.root)? else {
                // The process that held the lock before may just have removed the directory.
                continue;
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    // The process that held the lock before may have removed the directory.
                    let ours = file.metadata().map(|m| m.ino());
                    let current = fs::metadata(&self.root).map(|m| m.ino());
                    if matches!((ours, current), (Ok(a), Ok(b)) if a == b) {
                        return Ok(WriteLock { _file: file });
                    }
                }
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                    if Instant::now() > deadline {
                        return Err(KernelError::Locked {
                            path: self.root.clone(),
                            seconds: LOCK_SECONDS,
                        });
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err((_, errno)) => return Err(KernelError::io(what(), errno.into())),
            }
        }
    }

    /// Removes empty directories, and pins of attachments without interfaces.
    pub fn prune(&self) {
        for cookie in numbers_in(&self.version_dir()).unwrap_or_default() {
            let netns = self.netns_dir(cookie);
            // Killed processes may have left empty directories.
            for attachment in attachments_in(&netns).unwrap_or_default() {
                for pins in self.interfaces_of(cookie, attachment).unwrap_or_default() {
                    let _ = fs::remove_dir(&pins.dir);
                }
                let _ = remove_if_unused(&netns.join(attachment.to_string()));
            }
            for name in names_in(&netns).unwrap_or_default() {
                if name.starts_with(RUN) {
                    remove_unless_locked(&netns.join(name));
                }
            }
            let _ = fs::remove_dir(netns);
        }
        // These calls fail if something is left in the directories, as they should.
        let _ = fs::remove_dir(self.version_dir());
        lifetime::keeping_time(&self.bpffs, || {
            let _ = fs::remove_dir(&self.root);
        });
    }
}

impl InterfacePins {
    /// Whether something is pinned there. A killed process may have left an empty directory.
    pub fn exists(&self) -> bool {
        fs::read_dir(&self.dir).is_ok_and(|mut names| names.next().is_some())
    }

    /// Creates the directory of the attachment, and those above it.
    pub(super) fn create_parent(&self) -> Result<(), KernelError> {
        create_dirs(self.shared_dir())
    }

    /// Creates the directory of the network namespace, and those above it.
    pub(super) fn create_netns(&self) -> Result<(), KernelError> {
        self.shared_dir().parent().map_or(Ok(()), create_dirs)
    }

    pub fn create(&self) -> Result<(), KernelError> {
        create_dirs(&self.dir)
    }

    /// The directory with what the interfaces of the attachment share.
    pub(super) fn shared_dir(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    fn shared(&self, name: &str) -> PathBuf {
        self.shared_dir().join(name)
    }

    /// The pins of all interfaces of the attachment that have some, including this one, in the
    /// order of their indices.
    pub fn of_attachment(&self) -> Result<Vec<InterfacePins>, KernelError> {
        let indices = small_numbers_in(self.shared_dir())?.into_iter();
        let all = indices.map(|index| self.sibling(index));
        let mut all: Vec<_> = all.filter(InterfacePins::exists).collect();
        all.sort();
        Ok(all)
    }

    /// The pins of another interface of the attachment, whether or not they exist.
    pub(super) fn sibling(&self, ifindex: u32) -> InterfacePins {
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
    pub fn state_next(&self) -> PathBuf {
        self.dir.join("state_next")
    }

    /// The pin of a link that is about to replace another one.
    pub fn tcx_link_next(&self) -> PathBuf {
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
    pub fn flow_keys(&self) -> PathBuf {
        self.shared("flow_keys")
    }

    pub fn flow_stats(&self) -> PathBuf {
        self.shared("flow_stats")
    }

    /// The ledger: what userspace has entered into the flow table and removed from it.
    pub fn flow_ledger(&self) -> PathBuf {
        self.shared("flow_ledger")
    }

    pub fn fragments4(&self) -> PathBuf {
        self.shared("fragments4")
    }

    pub fn fragments6(&self) -> PathBuf {
        self.shared("fragments6")
    }

    /// The state of each CPU's ring of events.
    pub fn event_rings(&self) -> PathBuf {
        self.shared("event_rings")
    }

    /// The events themselves.
    pub fn event_slots(&self) -> PathBuf {
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
    pub fn policy_text(&self, generation: u32) -> PathBuf {
        self.shared(&format!("{POLICY}{generation}"))
    }

    /// The generations whose policies have a text.
    pub(super) fn policy_texts(&self) -> Result<Vec<u32>, KernelError> {
        let names = names_in(self.shared_dir())?.into_iter();
        let numbers = names.filter_map(|name| name.strip_prefix(POLICY)?.parse().ok());
        Ok(numbers.collect())
    }

    /// The text of the candidate whose watch has this number: see `history`.
    pub fn candidate_text(&self, watch: u32) -> PathBuf {
        self.shared(&format!("{CANDIDATE}{watch}"))
    }

    /// The numbers of the watches whose candidates have a text.
    pub(super) fn candidate_texts(&self) -> Result<Vec<u32>, KernelError> {
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
    pub(super) fn gates(&self, generation: u32) -> [PathBuf; 4] {
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
    pub(super) fn trials(&self) -> Result<Vec<(u32, PathBuf)>, KernelError> {
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
    pub(super) fn all_targets(&self) -> Result<Vec<PathBuf>, KernelError> {
        self.all_with(&[TARGETS, BEHIND])
    }

    /// The pins of all generations.
    pub(super) fn all_of_generations(&self) -> Result<Vec<PathBuf>, KernelError> {
        self.all_with(&[TARGETS, PROGRAM, TABLES, GATE, BEHIND])
    }

    /// The pinned programs of a hook that can be attached, gates among them, with their
    /// generations.
    pub(super) fn programs(
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
    pub fn event_counts(&self, index: usize) -> PathBuf {
        self.dir.join(format!("event_counts_{index}"))
    }

    /// Removes all pins of an interface to which nothing is attached any more. With the last
    /// interface of the attachment, the shared pins are removed as well.
    pub fn remove(&self) -> Result<(), KernelError> {
        self.remove_maps()?;
        let is_last = self.of_attachment()?.iter().all(|other| other == self);
        // The record is removed last, because it is needed to find the rest.
        if is_last {
            remove_files(self.shared_dir())?;
        }
        self.remove_records()?;
        match is_last {
            true => remove_directory(self.shared_dir()),
            false => Ok(()),
        }
    }

    /// Removes all pins but the records. The links must be removed before.
    fn remove_maps(&self) -> Result<(), KernelError> {
        let records = [self.state(), self.state_next()];
        // The program arrays are removed first.
        let (targets, rest): (Vec<_>, Vec<_>) = names_in(&self.dir)?
            .into_iter()
            .partition(|name| name.contains(TARGETS) || name.contains(BEHIND));
        targets
            .iter()
            .chain(&rest)
            .map(|name| self.dir.join(name))
            .filter(|path| !records.contains(path))
            .try_for_each(|path| unpin(&path))
    }

    /// Removes the records and the directory.
    fn remove_records(&self) -> Result<(), KernelError> {
        unpin(&self.state_next())?;
        unpin(&self.state())?;
        remove_directory(&self.dir)
    }
}

/// Removes an empty directory. It is a success if there is none.
fn remove_directory(dir: &Path) -> Result<(), KernelError> {
    let remove = || match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    step(|| "removing the directory".into(), remove).map_err(|e| not_removed(dir, e))
}

/// Removes the pins in a directory, but not the directories in it.
fn remove_files(dir: &Path) -> Result<(), KernelError> {
    for name in names_in(dir)? {
        let path = dir.join(name);
        if !path.is_dir() {
            unpin(&path)?;
        }
    }
    Ok(())
}

/// Removes the directory of an attachment without interfaces.
fn remove_if_unused(attachment: &Path) -> Result<(), KernelError> {
    match numbers_in(attachment)?.is_empty() {
        true => remove_files(attachment).and_then(|()| remove_directory(attachment)),
        false => Ok(()),
    }
}

/// Removes one pin. It is a success if there is none.
pub(super) fn unpin(path: &Path) -> Result<(), KernelError> {
    links::unpin(path).map_err(|e| not_removed(path, e))
}

fn not_removed(path: &Path, error: io::Error) -> KernelError {
    KernelError::io(format!("removing {}", path.display()), error)
}

fn create_dirs(path: &Path) -> Result<(), KernelError> {
    let mut missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    while let Some(dir) = missing.pop() {
        create_dir(dir)?;
    }
    Ok(())
}

/// The names in a directory. Empty if it does not exist.
/// What [`PinTree::path_of_run`] has written: `%2e` is a dot.
fn decoded(name: &str) -> String {
    let mut parts = name.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.extend(byte);
        bytes.extend_from_slice(part.get(2..).unwrap_or_default().as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn names_in(dir: &Path) -> Result<Vec<String>, KernelError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(KernelError::at_pin("reading", dir, e)),
    };
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect())
}

fn numbers_in(dir: &Path) -> Result<Vec<u64>, KernelError> {
    Ok(names_in(dir)?
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect())
}

/// The numbers of [`numbers_in`] that are indices of interfaces or numbers of attachments, in
/// order.
fn small_numbers_in(dir: &Path) -> Result<Vec<u32>, KernelError> {
    let numbers = numbers_in(dir)?.into_iter();
    let mut numbers: Vec<u32> = numbers.filter_map(|n| u32::try_from(n).ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The numbers of the attachments in the directory of a network namespace.
fn attachments_in(netns: &Path) -> Result<Vec<u32>, KernelError> {
    small_numbers_in(netns)
}

/// Whether this layout version has directories for attachments. Before version 8 each interface was
/// an attachment.
fn has_attachments(version: &str) -> bool {
    version.parse::<u32>().is_ok_and(|number| number >= 8)
}

/// Removes the directory of a lock, unless a process holds it. Must be called under the lock of the
/// tree.
fn remove_unless_locked(dir: &Path) {
    let Ok(file) = fs::File::open(dir) else {
        return;
    };
    if let Ok(_held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        let _ = fs::remove_dir(dir);
    }
}
