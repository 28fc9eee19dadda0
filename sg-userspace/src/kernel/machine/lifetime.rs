//! How long a mount lasts: as long as the machine runs, or only as long as a container or a
//! process. When the last mount of a BPF file system ends, so do its pins, and with them
//! enforcement.
//!
//! If the machine's first process is visible, its mount table has the answer. It is not visible in
//! a container with its own process ids. There a BPF file system counts as the machine's if it is a
//! copy of a mount outside, or is older than the container.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::stat::{major, minor};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

/// What ends a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) enum Lifetime {
    /// The end of the machine, or an unmount there.
    Machine,
    /// The end of the last process in the same mount namespace as this process.
    Mounts,
    /// The end of the container, as far as can be seen from inside.
    Container,
}

/// The inode of the machine's own PID namespace (`PROC_PID_INIT_INO`, fixed since Linux 3.8;
/// include/linux/proc_ns.h).
pub(in crate::kernel) const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The lifetime of a mount that this process would make.
pub(in crate::kernel) fn of_new_mounts() -> Lifetime {
    if !sees_first_process() {
        return Lifetime::Container;
    }
    match has_private_mounts() {
        true => Lifetime::Mounts,
        false => Lifetime::Machine,
    }
}

/// The lifetime of the file system mounted at `path`.
pub(in crate::kernel) fn of_mounted(path: &Path) -> Lifetime {
    let Ok(found) = fs::metadata(path) else {
        return of_new_mounts();
    };
    let device = format!("{}:{}", major(found.dev()), minor(found.dev()));
    if sees_first_process() {
        return match fs::read_to_string("/proc/1/mountinfo") {
            Ok(text) if mounts(&text).any(|mount| mount.device == device) => Lifetime::Machine,
            Ok(_) => Lifetime::Mounts,
            Err(_) => of_new_mounts(),
        };
    }
    let own = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let started = first_process_here_started();
    let is_older = match (started, oldest_time(path)) {
        (Some(started), Some(oldest)) => oldest + SLACK < started,
        _ => false,
    };
    match is_older || comes_from_outside(&own, &device) {
        true => Lifetime::Machine,
        false => Lifetime::Container,
    }
}

/// File times are those of the last clock tick, and the start of a process is known to a hundredth
/// of a second.
const SLACK: Duration = Duration::from_secs(1);

/// A line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    device: &'a str,
    /// The part of the file system that is mounted.
    root: &'a str,
    /// The peer group to which it propagates mounts.
    shared: Option<&'a str>,
    /// The peer group from which it receives mounts.
    master: Option<&'a str>,
}

fn mounts(text: &str) -> impl Iterator<Item = Mount<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (device, root) = (fields.next()?, fields.next()?);
        let optional: Vec<&str> = fields.skip(2).take_while(|field| *field != "-").collect();
        let tagged = |tag| optional.iter().find_map(|field| field.strip_prefix(tag));
        Some(Mount {
            device,
            root,
            shared: tagged("shared:"),
            master: tagged("master:"),
        })
    })
}

/// Whether the mounts of `device` in `mountinfo` can only be copies of a mount outside: they
/// receive from a group without a member here, or show a part of a file system that is not mounted
/// as a whole.
fn comes_from_outside(mountinfo: &str, device: &str) -> bool {
    let of_device = || mounts(mountinfo).filter(|mount| mount.device == device);
    let is_here = |group| mounts(mountinfo).any(|mount| mount.shared == Some(group));
    let receives = of_device().any(|mount| mount.master.is_some_and(|group| !is_here(group)));
    let is_whole = of_device().any(|mount| mount.root == "/");
    receives || !is_whole
}

/// The oldest time of the file system's directory and its entries, at which it must have existed.
/// Times are never older than their file, unless its owner sets them.
fn oldest_time(path: &Path) -> Option<SystemTime> {
    let times = |path: &Path| {
        let found = fs::symlink_metadata(path).ok()?;
        let changed = u64::try_from(found.ctime()).ok()?;
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed);
        Some(found.modified().ok()?.min(changed))
    };
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let entries = entries.filter_map(|entry| times(&entry.path()));
    times(path).into_iter().chain(entries).min()
}

/// When the first process of this PID namespace began, if `/proc` shows it.
fn first_process_here_started() -> Option<SystemTime> {
    if proc_levels()? != 1 {
        return None;
    }
    let stat = fs::read_to_string("/proc/1/stat").ok()?;
    // The second field is a name in parentheses. The 22nd is the start in clock ticks since boot.
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: u64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    let started = Duration::from_millis(ticks * 1000 / u64::try_from(per_second).ok()?);
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    SystemTime::now().checked_sub(now.checked_sub(started)?)
}

/// Whether `/proc/1` is the machine's first process, not that of a container.
fn sees_first_process() -> bool {
    let namespace = |who: &str| fs::metadata(format!("/proc/{who}/ns/pid")).map(|m| m.ino());
    if namespace("self").is_ok_and(|own| own == FIRST_PID_NAMESPACE) {
        return true;
    }
    // A container may have the machine's /proc mounted.
    proc_levels().is_some_and(|levels| levels > 1)
        && namespace("1").is_ok_and(|first| first == FIRST_PID_NAMESPACE)
}

/// In how many nested PID namespaces this process has an id, from the one of `/proc` inwards.
fn proc_levels() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    Some(line.split_whitespace().count())
}

/// Whether this process is in a separate mount namespace, as each command of `ip netns exec` is.
fn has_private_mounts() -> bool {
    let namespace = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|m| m.ino());
    let Ok(own) = namespace(std::process::id()) else {
        return false;
    };
    if let Ok(first) = namespace(1) {
        return own != first;
    }
    // On some machines not even root may read the namespaces of process 1. Then the ancestors of
    // this process show whether one of them has changed its mount namespace.
    let mut pid = std::process::id();
    while let Some(parent) = parent_of(pid).filter(|parent| *parent > 1) {
        if namespace(parent).is_ok_and(|theirs| theirs != own) {
            return true;
        }
        pid = parent;
    }
    false
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// Changes entries of `directory`, and sets its modification time back to what it was, because that
/// time shows the age of the file system.
pub(in crate::kernel) fn keeping_time<T>(directory: &Path, change: impl FnOnce() -> T) -> T {
    let before = fs::metadata(directory).and_then(|found| found.modified());
    let result = change();
    // If that fails, a container needs a mount of the file system that propagates.
    if let Ok(before) = before {
        let times = fs::FileTimes::new().set_modified(before);
        let _ = fs::File::open(directory).and_then(|open| open.set_times(times));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "\
66 47 0:40 / /sys/fs/bpf rw,relatime - bpf bpf rw
44 27 254:0 /run/netns /run/netns rw,relatime shared:1 - ext4 /dev/vda rw";

    #[test]
    fn a_line_is_read_with_its_optional_fields() {
        let found: Vec<_> = mounts(PLAIN).collect();
        assert_eq!(found[0].device, "0:40");
        assert_eq!((found[0].root, found[0].shared), ("/", None));
        assert_eq!((found[1].root, found[1].shared), ("/run/netns", Some("1")));
        let both = "1 2 0:9 /a /b rw shared:3 master:7 propagate_from:2 - bpf master:9 rw";
        let found: Vec<_> = mounts(both).collect();
        assert_eq!((found[0].shared, found[0].master), (Some("3"), Some("7")));
        assert_eq!(mounts("cut short").count(), 0);
    }

    #[test]
    fn only_what_cannot_have_been_mounted_here_comes_from_outside() {
        assert!(!comes_from_outside(PLAIN, "0:40"));
        let slave = "66 47 0:40 / /sys/fs/bpf rw master:5 - bpf bpf rw";
        assert!(comes_from_outside(slave, "0:40"));
        let here_too = format!("{slave}\n67 47 0:40 / /other rw shared:5 - bpf bpf rw");
        assert!(!comes_from_outside(&here_too, "0:40"));
        let part = "66 47 0:40 /mine /sys/fs/bpf rw - bpf bpf rw";
        assert!(comes_from_outside(part, "0:40"));
        assert!(!comes_from_outside(&format!("{part}\n{PLAIN}"), "0:40"));
    }
}
