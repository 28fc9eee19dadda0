//! Whose a socket is: the processes that have it open, found by its inode as `ss -p` does.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::super::machine::places;

/// A process as it is named to people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Process {
    pub pid: u32,
    pub name: String,
}

/// The processes by the inodes of their sockets.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<u32, Vec<Process>>);

impl Owners {
    /// Looks through the open files of all processes that can be seen, if any inode is wanted.
    pub(super) fn find(wanted: &HashSet<u32>) -> Owners {
        let mut owners: HashMap<u32, Vec<Process>> = HashMap::new();
        if wanted.is_empty() {
            return Owners::default();
        }
        for process in places::processes() {
            for inode in sockets_of(&process).unwrap_or_default() {
                let Some(pid) = pid_of(&process).filter(|_| wanted.contains(&inode)) else {
                    continue;
                };
                let all = owners.entry(inode).or_default();
                if all.iter().all(|known| known.pid != pid) {
                    all.push(Process {
                        pid,
                        name: name_of(&process),
                    });
                }
            }
        }
        owners.values_mut().for_each(|all| all.sort());
        Owners(owners)
    }

    pub(super) fn of(&self, inode: u32) -> Vec<Process> {
        self.0.get(&inode).cloned().unwrap_or_default()
    }
}

fn pid_of(process: &Path) -> Option<u32> {
    process.file_name()?.to_str()?.parse().ok()
}

/// The name of the program, as `ps -o comm` shows it; empty if it cannot be read.
pub(super) fn name_of(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// What the open files of a process refer to, such as `socket:[4711]` or `/dev/pts/3`.
pub(super) fn files_of(process: &Path) -> std::io::Result<Vec<(std::ffi::OsString, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(process.join("fd"))? {
        let entry = entry?;
        // The process has closed the file in the meantime.
        let Ok(link) = fs::read_link(entry.path()) else {
            continue;
        };
        files.push((entry.file_name(), link.to_string_lossy().into_owned()));
    }
    Ok(files)
}

fn sockets_of(process: &Path) -> std::io::Result<Vec<u32>> {
    let files = files_of(process)?;
    Ok(files.iter().filter_map(|(_, link)| socket(link)).collect())
}

/// The inode of a socket among the open files of a process.
pub(super) fn socket(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}
