//! Finds the connection through which the operator works: that of the process among this one's
//! ancestors that has an established TCP connection, such as sshd.
//!
//! - `sudo`, `su`, `nsenter` and shells are ancestors, whatever they do to the environment.
//! - tmux and screen are no child of the shell that shows them. They have no terminal of their own
//!   and keep the terminals of their clients open; whoever works on one of those, and their
//!   ancestors, are looked at instead.
//! - If a process has lost its parent, the one that holds the other end of its terminal is looked
//!   at.
//! - `SSH_CONNECTION` is believed if there is such a connection: it may be stale or made up.
//!
//! On a console, and in a job of cron or systemd, nothing is found.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::processes::{Process, files_of, name_of, socket};

/// An established TCP connection and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) local: (IpAddr, u16),
    pub(super) remote: (IpAddr, u16),
    /// The process that has it open. `None` if only `SSH_CONNECTION` names it.
    pub(super) process: Option<Process>,
    /// The inode of its network namespace. Zero if that is not known.
    pub(super) netns: u64,
    /// Whether there certainly is such a connection. Not if sockets could not be listed.
    pub(super) is_certain: bool,
}

/// What the search has found.
#[derive(Debug, Default)]
pub(super) struct Search {
    pub(super) ways: Vec<Way>,
    /// What could not be looked at, one sentence each.
    pub(super) unseen: Vec<String>,
}

/// The most processes that are looked at.
const MOST: usize = 4096;

/// The major number of pseudo-terminals (Documentation/admin-guide/devices.txt), whose minor number
/// is that in their name.
const PTS: u32 = 136;

/// What /proc/PID/stat says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// The number of its controlling pseudo-terminal.
    terminal: Option<u32>,
}

/// Searches from the process `pid` on. `proc` is where processes are listed, and `ssh_connection`
/// the value of that variable.
pub(super) fn search(proc: &Path, pid: u32, ssh_connection: Option<&str>) -> Search {
    let mut walk = Walk {
        proc,
        seen: HashSet::new(),
        namespaces: HashSet::new(),
        found: Search::default(),
    };
    walk.up_from(VecDeque::from([pid]));
    if walk.found.ways.is_empty() {
        walk.behind_the_terminal(pid);
    }
    if let Some((remote, local)) = ssh_connection.and_then(ends) {
        walk.named(remote, local);
    }
    let mut seen = HashSet::new();
    walk.found
        .ways
        .retain(|way| seen.insert((way.local, way.remote)));
    walk.found
}

struct Walk<'a> {
    proc: &'a Path,
    seen: HashSet<u32>,
    /// Processes of all network namespaces that were passed, one each, by inode.
    namespaces: HashSet<(u64, PathBuf)>,
    found: Search,
}

impl Walk<'_> {
    fn dir(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string())
    }

    /// Looks at each of these processes and at its ancestors, up to the first that has a
    /// connection.
    fn up_from(&mut self, mut next: VecDeque<u32>) {
        while let Some(pid) = next.pop_front() {
            if pid == 0 || self.seen.len() >= MOST || !self.seen.insert(pid) {
                continue;
            }
            let dir = self.dir(pid);
            let stat = match fs::read_to_string(dir.join("stat")) {
                Ok(text) => stat(&text),
                // It has ended meanwhile.
                Err(e) if is_gone(&e) => continue,
                Err(e) => {
                    self.unseen(format!("process {pid} cannot be looked at: {e}"));
                    continue;
                }
            };
            let Some(Stat { parent, terminal }) = stat else {
                self.unseen(format!(
                    "process {pid} cannot be looked at: its state has no known form"
                ));
                continue;
            };
            let files = match files_of(&dir) {
                Ok(files) => files,
                Err(e) if is_gone(&e) => continue,
                Err(e) => {
                    self.unseen(format!(
                        "the open files of process {pid} cannot be listed: {e}"
                    ));
                    Vec::new()
                }
            };
            let sockets: HashSet<u32> = files.iter().filter_map(|(_, link)| socket(link)).collect();
            if self.connections(pid, &dir, &sockets) {
                continue;
            }
            if terminal.is_none() {
                let shown = files.iter().filter_map(|(_, link)| terminal_named(link));
                let shown: HashSet<u32> = shown.collect();
                next.extend(self.working_on(&shown));
            }
            next.push_back(parent);
        }
    }

    /// Adds the connections of a process. True if it has any.
    fn connections(&mut self, pid: u32, dir: &Path, sockets: &HashSet<u32>) -> bool {
        let netns = netns_of(dir);
        if self.namespaces.iter().all(|(known, _)| *known != netns) {
            self.namespaces.insert((netns, dir.to_owned()));
        }
        if sockets.is_empty() {
            return false;
        }
        let established = match established(dir) {
            Ok(established) => established,
            Err(e) if is_gone(&e) => return false,
            Err(e) => {
                self.unseen(format!(
                    "the connections of process {pid} cannot be listed: {e}"
                ));
                return false;
            }
        };
        let own = established
            .into_iter()
            .filter(|(_, _, inode)| sockets.contains(inode));
        let before = self.found.ways.len();
        self.found.ways.extend(own.map(|(local, remote, _)| Way {
            local,
            remote,
            process: Some(Process {
                pid,
                name: name_of(dir),
            }),
            netns,
            is_certain: true,
        }));
        self.found.ways.len() > before
    }

    /// The processes with one of these controlling terminals.
    fn working_on(&self, terminals: &HashSet<u32>) -> Vec<u32> {
        if terminals.is_empty() {
            return Vec::new();
        }
        let is_on = |pid: &u32| {
            let text = fs::read_to_string(self.dir(*pid).join("stat"));
            let stat = text.ok().and_then(|text| stat(&text));
            let terminal = stat.and_then(|stat| stat.terminal);
            terminal.is_some_and(|terminal| terminals.contains(&terminal))
        };
        self.processes().into_iter().filter(is_on).collect()
    }

    fn processes(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.proc).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// Looks at whoever holds the other end of the terminal of `pid`.
    fn behind_the_terminal(&mut self, pid: u32) {
        let text = fs::read_to_string(self.dir(pid).join("stat")).unwrap_or_default();
        let Some(terminal) = stat(&text).and_then(|stat| stat.terminal) else {
            return;
        };
        let holds = |pid: &u32| {
            let dir = self.dir(*pid);
            let files = files_of(&dir).unwrap_or_default();
            let masters = files.iter().filter(|(_, link)| {
                link == "/dev/ptmx" || link == "/dev/pts/ptmx" || link.starts_with("/dev/ptmx ")
            });
            let mut numbers = masters.filter_map(|(name, _)| {
                let info = fs::read_to_string(dir.join("fdinfo").join(name)).ok()?;
                let line = info
                    .lines()
                    .find_map(|line| line.strip_prefix("tty-index:"))?;
                line.trim().parse::<u32>().ok()
            });
            numbers.any(|number| number == terminal)
        };
        let holders = self.processes().into_iter().filter(holds).collect();
        self.up_from(holders);
    }

    /// Adds the connection that `SSH_CONNECTION` names, if there is one in a network namespace that
    /// this process or an ancestor is in.
    fn named(&mut self, remote: (IpAddr, u16), local: (IpAddr, u16)) {
        let mut failed = None;
        for (netns, dir) in &self.namespaces {
            match established(dir) {
                Ok(established) => {
                    let is_it = established
                        .iter()
                        .any(|found| (found.0, found.1) == (local, remote));
                    if is_it {
                        self.found.ways.push(Way {
                            local,
                            remote,
                            process: None,
                            netns: *netns,
                            is_certain: true,
                        });
                        return;
                    }
                }
                Err(e) if is_gone(&e) => {}
                Err(e) => failed = Some(e),
            }
        }
        let Some(error) = failed else {
            return;
        };
        self.unseen(format!(
            "whether the connection that SSH_CONNECTION names still exists: {error}"
        ));
        self.found.ways.push(Way {
            local,
            remote,
            process: None,
            netns: 0,
            is_certain: false,
        });
    }

    fn unseen(&mut self, what: String) {
        if !self.found.unseen.contains(&what) {
            self.found.unseen.push(what);
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn netns_of(dir: &Path) -> u64 {
    fs::metadata(dir.join("ns/net")).map_or(0, |it| it.ino())
}

/// Parses /proc/PID/stat (proc_pid_stat(5)). The name of the program is in brackets, and may have
/// brackets and spaces itself.
fn stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    // State, parent, process group, session, terminal.
    let mut words = rest.split_ascii_whitespace().skip(1);
    let parent = words.next()?.parse().ok()?;
    let device: i32 = words.nth(2)?.parse().ok()?;
    let device = device.cast_unsigned();
    // `new_encode_dev` in include/linux/kdev_t.h.
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    Some(Stat {
        parent,
        terminal: (major == PTS).then_some(minor),
    })
}

/// The number of the pseudo-terminal that an open file refers to.
fn terminal_named(link: &str) -> Option<u32> {
    link.strip_prefix("/dev/pts/")?.parse().ok()
}

/// `CLIENT PORT SERVER PORT`, as ssh(1) has it: remote end and local end.
fn ends(text: &str) -> Option<((IpAddr, u16), (IpAddr, u16))> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [remote, remote_port, local, local_port] = words[..] else {
        return None;
    };
    let end = |address: &str, port: &str| {
        // A link-local address has its interface behind a percent sign.
        let address = address.split('%').next()?;
        let address: IpAddr = address.parse().ok()?;
        Some((address.to_canonical(), port.parse().ok()?))
    };
    Some((end(remote, remote_port)?, end(local, local_port)?))
}

/// Local end, remote end, inode.
type Established = ((IpAddr, u16), (IpAddr, u16), u32);

/// The established TCP connections of a process's network namespace that can be on a wire.
fn established(dir: &Path) -> io::Result<Vec<Established>> {
    let mut all = Vec::new();
    for name in ["net/tcp", "net/tcp6"] {
        match fs::read_to_string(dir.join(name)) {
            Ok(text) => all.extend(text.lines().filter_map(connection)),
            // A kernel without IPv6 has no such file.
            Err(e) if e.kind() == io::ErrorKind::NotFound && name == "net/tcp6" => {}
            Err(e) => return Err(e),
        }
    }
    all.retain(|(local, remote, _)| !local.0.is_loopback() && !remote.0.is_loopback());
    Ok(all)
}

/// A line of /proc/net/tcp or tcp6 (Documentation/networking/proc_net_tcp.rst), if the connection
/// is established.
fn connection(line: &str) -> Option<Established> {
    /// `TCP_ESTABLISHED` in include/net/tcp_states.h.
    const ESTABLISHED: &str = "01";
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, remote, state) = (words.get(1)?, words.get(2)?, words.get(3)?);
    let inode = words.get(9)?.parse().ok()?;
    (*state == ESTABLISHED).then_some((end(local)?, end(remote)?, inode))
}

/// An address in words of the machine's byte order, in hexadecimal, and a port.
fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        let word = u32::from_str_radix(digits, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut octets = [0; 16];
            octets.copy_from_slice(words.as_flattened());
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some((address.to_canonical(), port))
}

#[cfg(test)]
mod tests;
