//! Finds the network namespaces of the machine, and runs code in one of them. The kernel does not
//! list them, so they are found by their processes (/proc), by their names (/run/netns), and by
//! their mounts.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use super::super::error::KernelError;
use super::netns;

/// Runs `act` on a new thread in the network namespace that `file` refers to.
pub(in crate::kernel) fn inside<T: Send>(
    file: &File,
    name: &str,
    act: impl FnOnce() -> Result<T, KernelError> + Send,
) -> Result<T, KernelError> {
    let what = || format!("entering the network namespace {name}");
    std::thread::scope(|scope| {
        // The thread is new because it cannot return to its namespace.
        let inside = scope.spawn(|| {
            setns(file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| KernelError::io(what(), errno.into()))?;
            act()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A network namespace that was found.
pub(in crate::kernel) struct Found {
    pub(in crate::kernel) file: File,
    /// A name of `ip netns`, or a path.
    pub(in crate::kernel) name: String,
    pub(in crate::kernel) cookie: u64,
}

/// Calls `probe` in all network namespaces that can be found, the likely ones first, until it
/// returns true. `hint` is the name that was used for the namespace before. `Ok(None)` if it is
/// none of those that can be entered.
pub(in crate::kernel) fn search(
    hint: Option<&str>,
    mut probe: impl FnMut(u64) -> Result<bool, KernelError> + Send,
) -> Result<Option<Found>, KernelError> {
    let mut seen = HashSet::new();
    let mut refused = None;
    for (path, name) in candidates(hint) {
        // The process may have ended, or may not be readable. Its namespace is not known then.
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        if !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        let Ok(file) = File::open(&path) else {
            continue;
        };
        let entered = inside(&file, &name, || {
            let cookie = netns::cookie()?;
            Ok((cookie, probe(cookie)?))
        });
        match entered {
            Ok((cookie, true)) => return Ok(Some(Found { file, name, cookie })),
            Ok((_, false)) => {}
            // The file is no namespace, or this process may not enter it.
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error @ KernelError::NotPermitted { .. }) => Err(error),
        _ => Ok(None),
    }
}

/// What `look` returns in each network namespace that has a name of `ip netns`, which is not the
/// current one. One that this process may not enter is left out.
pub(in crate::kernel) fn look_in_named<T: Send>(
    look: impl Fn() -> Result<T, KernelError> + Sync,
) -> Result<Vec<(Found, T)>, KernelError> {
    let mut seen = HashSet::from([netns::cookie()?]);
    let mut all = Vec::new();
    for (path, name) in named() {
        let Ok(file) = File::open(&path) else {
            continue;
        };
        let looked = inside(&file, &name, || Ok((netns::cookie()?, look())));
        if let Ok((cookie, seen_there)) = looked
            && seen.insert(cookie)
        {
            all.push((Found { file, name, cookie }, seen_there?));
        }
    }
    Ok(all)
}

/// The paths of all possible namespaces, each with a name.
fn candidates(hint: Option<&str>) -> impl Iterator<Item = (PathBuf, String)> {
    let hint = hint.map(|name| {
        let path = netns::Netns::from(name).path().to_owned();
        (path, name.to_owned())
    });
    let unnamed = std::iter::once(PathBuf::from("/proc/1/ns/net"))
        .chain(processes().map(|process| process.join("ns/net")))
        // A thread may be in another namespace than its process.
        .chain(processes().flat_map(|process| {
            let threads = entries(&process.join("task"));
            threads.map(|thread| thread.join("ns/net"))
        }))
        .chain(mounts().map(|(_, path)| path))
        .chain(processes().flat_map(|process| {
            let open = entries(&process.join("fd"));
            open.filter(|path| {
                fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("net:["))
            })
        }))
        .map(|path| {
            let name = path.display().to_string();
            (path, name)
        });
    hint.into_iter().chain(named()).chain(unnamed)
}

/// The network namespaces with a name of `ip netns`, each with its path.
fn named() -> impl Iterator<Item = (PathBuf, String)> {
    entries(Path::new("/run/netns")).map(|path| {
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        (path, name)
    })
}

/// The name in `ip netns` of the network namespace with this cookie, if it has one and it can be
/// found.
pub fn name_of(cookie: u64) -> Option<String> {
    // The file of the current namespace is known, so none has to be entered.
    let own = netns::cookie().ok().filter(|own| *own == cookie);
    let own = own.and_then(|_| fs::metadata("/proc/thread-self/ns/net").ok());
    let is_it = |path: &Path, name: &str| match &own {
        Some(own) => {
            let found = fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()) == (own.dev(), own.ino()))
        }
        None => {
            let file = File::open(path).ok()?;
            inside(&file, name, || Ok(netns::cookie()? == cookie)).ok()
        }
    };
    named().find_map(|(path, name)| is_it(&path, &name)?.then_some(name))
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
}

/// The directories of all visible processes.
pub(in crate::kernel) fn processes() -> impl Iterator<Item = PathBuf> {
    let is_number =
        |name: &OsStr| !name.is_empty() && name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    entries(Path::new("/proc")).filter(move |path| path.file_name().is_some_and(is_number))
}

/// Where network namespaces are mounted, each with its inode.
pub(in crate::kernel) fn mounts() -> impl Iterator<Item = (u64, PathBuf)> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mounted: Vec<_> = table.lines().filter_map(mounted).collect();
    mounted.into_iter()
}

/// The network namespace in a line of mountinfo: see proc_pid_mountinfo(5).
fn mounted(line: &str) -> Option<(u64, PathBuf)> {
    let mut words = line.split(' ').skip(3);
    let inode = words.next()?.strip_prefix("net:[")?.strip_suffix(']')?;
    Some((inode.parse().ok()?, unescaped(words.next()?)))
}

/// A path from mountinfo, which has `\040` for a space.
fn unescaped(path: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let number = rest
            .get(1..4)
            .and_then(|digits| str::from_utf8(digits).ok());
        let number = number.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        (rest, _) = match number {
            Some(byte) if first == b'\\' => (&rest[4..], bytes.push(byte)),
            _ => (behind, bytes.push(first)),
        };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_found_where_they_are_mounted() {
        for (line, expected) in [
            (
                "120 25 0:4 net:[4026532301] /run/netns/node\\0401 rw shared:4 - nsfs nsfs rw",
                Some((4026532301, "/run/netns/node 1")),
            ),
            (
                "120 25 0:4 net:[4026532301] /run/a\\134b\\0 rw shared:4 - nsfs nsfs rw",
                Some((4026532301, "/run/a\\b\\0")),
            ),
            ("121 25 0:4 mnt:[4026532302] /run/x rw - nsfs nsfs rw", None),
            (
                "25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
                None,
            ),
            ("", None),
        ] {
            let expected = expected.map(|(inode, path)| (inode, PathBuf::from(path)));
            assert_eq!(mounted(line), expected, "{line}");
        }
    }
}
