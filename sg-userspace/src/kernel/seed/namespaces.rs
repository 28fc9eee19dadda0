//! Finds the network namespaces whose packets may cross an interface of this one. Connections of
//! pods and containers are only known in their own namespaces. Their packets come through a veth, a
//! bridge, or an interface stacked on the node's (macvlan, ipvlan).
//!
//! A namespace belongs to this one if one of its interfaces is connected to an interface here, or
//! to one in another namespace that belongs here. The namespace at the other end of the attached
//! interface itself does not: that is where the packets go. All other namespaces are ignored,
//! because their addresses mean other hosts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libc::RTM_GETNSID;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, setns};

use super::super::machine::lifetime::FIRST_PID_NAMESPACE;
use super::super::machine::netlink::{self, number, put};
use super::super::machine::places;
use super::link::Link;

// include/uapi/linux/rtnetlink.h and net_namespace.h.
/// `struct rtgenmsg`, padded.
const NSID_HEADER: usize = 4;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// The result of the search.
#[derive(Debug)]
pub(super) struct Search<T> {
    /// The result for each namespace that belongs to this one.
    pub(super) found: Vec<T>,
    /// How many namespaces could not be read, whether they belong here or not.
    pub(super) closed: usize,
    /// How many processes do not show their namespace.
    pub(super) hidden: usize,
    /// Whether there may be more namespaces, of processes that are not visible.
    pub(super) may_be_more: bool,
}

impl<T> Default for Search<T> {
    fn default() -> Self {
        Search {
            found: Vec::new(),
            closed: 0,
            hidden: 0,
            may_be_more: false,
        }
    }
}

/// A namespace, with those of its interfaces that are connected to another namespace.
struct Place {
    path: PathBuf,
    joints: Vec<Link>,
}

impl Place {
    /// Whether packets of this namespace pass through the one with the id `number`. Veths whose
    /// peer is one of `wires` do not count: those are the attached interfaces in that namespace.
    fn is_behind(&self, number: i32, wires: &[u32]) -> bool {
        self.joints.iter().any(|joint| {
            let other = joint.other.as_ref();
            let is_the_wire = joint.kind == "veth" && other.is_some_and(|it| wires.contains(it));
            joint.namespace == Some(number) && !is_the_wire
        })
    }
}

/// Runs `look` in each network namespace that belongs to the calling thread's, as seen from the
/// interfaces `wires`. A new thread does this, because it has to change its namespace.
pub(super) fn look_into<T: Send>(
    wires: &[u32],
    look: impl Fn() -> io::Result<T> + Send,
) -> io::Result<Search<T>> {
    let here = File::open("/proc/thread-self/ns/net")?;
    std::thread::scope(|scope| {
        let walk = scope.spawn(|| walk(here, wires, look));
        walk.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

fn walk<T>(
    here: File,
    mut wires: &[u32],
    look: impl Fn() -> io::Result<T>,
) -> io::Result<Search<T>> {
    let (candidates, hidden) = others(here.metadata()?.ino());
    let mut search = Search {
        hidden,
        may_be_more: fs::metadata("/proc/self/ns/pid")?.ino() != FIRST_PID_NAMESPACE,
        ..Search::default()
    };
    // The namespaces found by the last step, to which those of the next step are connected.
    let mut last = vec![here];
    let mut places = Vec::new();
    for path in candidates {
        match enter(&path).and_then(|_| joints()) {
            Ok(joints) if joints.is_empty() => {}
            Ok(joints) => places.push(Place { path, joints }),
            Err(e) if is_gone(&e) => {}
            Err(_) => search.closed += 1,
        }
    }
    while !last.is_empty() {
        let mut next = Vec::new();
        let mut others = Vec::new();
        for place in places {
            // The namespace may have ended meanwhile.
            let Ok(namespace) = enter(&place.path) else {
                continue;
            };
            let is_behind = |to: &File| {
                number_of(to.as_fd()).is_ok_and(|number| place.is_behind(number, wires))
            };
            if last.iter().any(is_behind) {
                match look() {
                    Ok(seen) => search.found.push(seen),
                    Err(_) => search.closed += 1,
                }
                next.push(namespace);
            } else {
                others.push(place);
            }
        }
        (last, places, wires) = (next, others, &[]);
    }
    Ok(search)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn enter(path: &Path) -> io::Result<File> {
    let namespace = File::open(path)?;
    setns(&namespace, CloneFlags::CLONE_NEWNET)?;
    Ok(namespace)
}

/// The path of each other network namespace of this machine, once each, and how many processes do
/// not show theirs. Some namespaces have processes, and some are only mounted under a name.
fn others(here: u64) -> (Vec<PathBuf>, usize) {
    let mut found = BTreeMap::new();
    let mut hidden = 0;
    for process in places::processes() {
        let path = process.join("ns/net");
        match fs::metadata(&path) {
            Ok(of) => drop(found.entry(of.ino()).or_insert(path)),
            Err(e) if is_gone(&e) => {}
            Err(_) => hidden += 1,
        }
    }
    for (inode, path) in places::mounts() {
        found.entry(inode).or_insert(path);
    }
    found.remove(&here);
    (found.into_values().collect(), hidden)
}

/// The interfaces of the current namespace that are connected to another namespace.
fn joints() -> io::Result<Vec<Link>> {
    let mut links = Link::list()?;
    links.retain(|link| link.namespace.is_some());
    Ok(links)
}

/// The id of `namespace` in the current one, or a negative number if it has none.
fn number_of(namespace: BorrowedFd<'_>) -> io::Result<i32> {
    let mut request = vec![0; NSID_HEADER];
    put(
        &mut request,
        NETNSA_FD,
        &namespace.as_raw_fd().to_ne_bytes(),
    );
    let answer = netlink::ask(NETLINK_ROUTE, RTM_GETNSID, &request)?;
    let attributes = answer.get(NSID_HEADER..).unwrap_or(&[]);
    Ok(number(attributes, NETNSA_NSID).map_or(-1, u32::cast_signed))
}
