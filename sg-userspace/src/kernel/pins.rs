//! Where everything is pinned: `<bpffs>/sgctl/v<layout>/<netns cookie>/<interface index>/`.
//! One directory holds all of one interface, so that removing it removes every trace.

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
/// Between a placement and a generation.
const TABLES: &str = "_tables_";

const LOCK_SECONDS: u64 = 10;

/// The tree of pins on one BPF file system.
#[derive(Clone, Debug)]
pub struct PinTree {
    bpffs: PathBuf,
    root: PathBuf,
}

/// One interface's pins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfacePins {
    pub dir: PathBuf,
    pub netns_cookie: u64,
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

    /// The pins of an interface, whether or not they exist.
    pub fn interface(&self, netns_cookie: u64, ifindex: u32) -> InterfacePins {
        InterfacePins {
            dir: self
                .version_dir()
                .join(netns_cookie.to_string())
                .join(ifindex.to_string()),
            netns_cookie,
            ifindex,
        }
    }

    /// The directory whose lock is held by who looks after an interface, made where there is none.
    pub(super) fn run_dir(
        &self,
        netns_cookie: u64,
        interface: &str,
    ) -> Result<PathBuf, KernelError> {
        let netns = self.version_dir().join(netns_cookie.to_string());
        // Names in a BPF file system cannot contain a dot.
        let name: String = interface
            .bytes()
            .map(|byte| match byte.is_ascii_alphanumeric() {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02x}"),
            })
            .collect();
        let dir = netns.join(format!("{RUN}{name}"));
        for dir in [&self.root, &self.version_dir(), &netns, &dir] {
            create_dir(dir)?;
        }
        Ok(dir)
    }

    /// The pins of all interfaces that have some in this layout version.
    pub fn interfaces(&self) -> Result<Vec<InterfacePins>, KernelError> {
        let mut found = Vec::new();
        for netns in numbers_in(&self.version_dir())? {
            for ifindex in numbers_in(&self.version_dir().join(netns.to_string()))? {
                if let Ok(ifindex) = u32::try_from(ifindex) {
                    found.push(self.interface(netns, ifindex));
                }
            }
        }
        found.retain(InterfacePins::exists);
        found.sort();
        Ok(found)
    }

    /// Every interface that has pins of another layout version, with that version.
    pub fn other_layouts(&self) -> Result<Vec<(String, InterfacePins)>, KernelError> {
        let mut found = Vec::new();
        for version in names_in(&self.root)? {
            let dir = self.root.join(&version);
            if dir == self.version_dir() {
                continue;
            }
            for netns_cookie in numbers_in(&dir)? {
                let dir = dir.join(netns_cookie.to_string());
                for index in numbers_in(&dir)? {
                    if let Ok(ifindex) = u32::try_from(index) {
                        let pins = InterfacePins {
                            dir: dir.join(index.to_string()),
                            netns_cookie,
                            ifindex,
                        };
                        found.push((version.trim_start_matches('v').to_owned(), pins));
                    }
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Fails if this interface has pins of another layout version.
    pub fn refuse_other_layouts(&self, pins: &InterfacePins) -> Result<(), KernelError> {
        for version in names_in(&self.root)? {
            if self.root.join(&version) == self.version_dir() {
                continue;
            }
            let theirs = self
                .root
                .join(&version)
                .join(pins.netns_cookie.to_string())
                .join(pins.ifindex.to_string());
            if theirs.exists() {
                return Err(KernelError::OtherLayout {
                    path: theirs,
                    found: version.trim_start_matches('v').to_owned(),
                    ours: LAYOUT_VERSION,
                });
            }
        }
        Ok(())
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

    /// Removes the directories above `pins` that have become empty.
    pub fn prune(&self) {
        for netns in numbers_in(&self.version_dir()).unwrap_or_default() {
            let netns = self.version_dir().join(netns.to_string());
            // Of somebody who was killed.
            for ifindex in numbers_in(&netns).unwrap_or_default() {
                let _ = fs::remove_dir(netns.join(ifindex.to_string()));
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

    /// Makes the directories above.
    pub(super) fn create_parent(&self) -> Result<(), KernelError> {
        self.dir.parent().map_or(Ok(()), create_dirs)
    }

    pub fn create(&self) -> Result<(), KernelError> {
        create_dirs(&self.dir)
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
        self.dir.join("flow_tags")
    }

    /// Its entries.
    pub fn flow_pages(&self) -> PathBuf {
        self.dir.join("flow_pages")
    }

    /// How many flows there are at which local ports.
    pub fn flow_ports(&self) -> PathBuf {
        self.dir.join("flow_ports")
    }

    /// The secret by which flows are spread over it.
    pub fn flow_keys(&self) -> PathBuf {
        self.dir.join("flow_keys")
    }

    pub fn flow_stats(&self) -> PathBuf {
        self.dir.join("flow_stats")
    }

    /// What userspace has entered into the flow table and taken out of it.
    pub fn flow_ledger(&self) -> PathBuf {
        self.dir.join("flow_ledger")
    }

    pub fn fragments4(&self) -> PathBuf {
        self.dir.join("fragments4")
    }

    pub fn fragments6(&self) -> PathBuf {
        self.dir.join("fragments6")
    }

    /// What each CPU has done with its events.
    pub fn event_rings(&self) -> PathBuf {
        self.dir.join("event_rings")
    }

    /// The events themselves.
    pub fn event_slots(&self) -> PathBuf {
        self.dir.join("event_slots")
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

    /// The tables of a generation: see `tables`.
    pub fn tables(&self, place: &str, generation: u32) -> PathBuf {
        self.dir.join(format!("{place}{TABLES}{generation}"))
    }

    /// The pinned program arrays of all generations.
    pub(super) fn all_targets(&self) -> Result<Vec<PathBuf>, KernelError> {
        self.all_with(&[TARGETS])
    }

    /// The pins of all generations.
    pub(super) fn all_of_generations(&self) -> Result<Vec<PathBuf>, KernelError> {
        self.all_with(&[TARGETS, PROGRAM, TABLES])
    }

    /// The pinned programs of a hook, with their generations.
    pub(super) fn programs(
        &self,
        direction: Direction,
    ) -> Result<Vec<(u32, PathBuf)>, KernelError> {
        let names = names_in(&self.dir)?.into_iter();
        let of_hook = names.filter_map(|name| {
            let rest = name.strip_prefix(direction.name())?;
            let generation = rest.strip_prefix(PROGRAM)?.parse().ok()?;
            Some((generation, self.dir.join(name)))
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

    /// Every pin of an interface that nothing is attached to any more.
    pub fn remove(&self) -> Result<(), KernelError> {
        self.remove_maps()?;
        self.remove_records()
    }

    /// Removes all pins but the records. The links must be removed before.
    fn remove_maps(&self) -> Result<(), KernelError> {
        let records = [self.state(), self.state_next()];
        // The tail-call targets are removed first.
        let (targets, rest): (Vec<_>, Vec<_>) = names_in(&self.dir)?
            .into_iter()
            .partition(|name| name.contains(TARGETS));
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
        let remove = || match fs::remove_dir(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
        step(|| "removing the directory".into(), remove).map_err(|e| not_removed(&self.dir, e))
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
fn names_in(dir: &Path) -> Result<Vec<String>, KernelError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(KernelError::io(format!("reading {}", dir.display()), e)),
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

/// Removes a lock's directory unless somebody holds it. To be called under the lock of the tree.
fn remove_unless_locked(dir: &Path) {
    let Ok(file) = fs::File::open(dir) else {
        return;
    };
    if let Ok(_held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        let _ = fs::remove_dir(dir);
    }
}
