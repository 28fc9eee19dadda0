//! The capabilities (capabilities(7)) that the enforcer needs for each kind of step, and which of
//! them this process lacks. An error message names only the missing ones.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A capability, by its number in include/uapi/linux/capability.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capability {
    NetAdmin = 12,
    SysAdmin = 21,
    Perfmon = 38,
    Bpf = 39,
}

use Capability::{Bpf, NetAdmin, Perfmon, SysAdmin};

impl Capability {
    fn name(self) -> &'static str {
        match self {
            NetAdmin => "CAP_NET_ADMIN",
            SysAdmin => "CAP_SYS_ADMIN",
            Perfmon => "CAP_PERFMON",
            Bpf => "CAP_BPF",
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            NetAdmin => "attaches programs to interfaces",
            SysAdmin => "enters network namespaces and mounts file systems",
            Perfmon => "loads programs that compute addresses in packets",
            Bpf => "creates maps and loads programs",
        }
    }
}

/// Needed to load and attach programs.
pub(crate) const TO_ENFORCE: &[Capability] = &[Bpf, Perfmon, NetAdmin];
/// Needed to list the programs of an interface (`bpf_prog_query`, kernel/bpf/syscall.c).
pub(crate) const TO_LIST: &[Capability] = &[NetAdmin];
/// Needed to open a program or map by its id.
pub(crate) const TO_OPEN_BY_ID: &[Capability] = &[SysAdmin];
/// Needed to enter a network namespace and to mount a file system.
pub(crate) const TO_ENTER_AND_MOUNT: &[Capability] = &[SysAdmin];

/// The capabilities among `needed` that this process lacks. Empty if that cannot be known.
pub(in crate::kernel) fn missing(needed: &[Capability]) -> Vec<Capability> {
    let effective = fs::read_to_string("/proc/thread-self/status")
        .ok()
        .and_then(|status| effective(&status));
    effective.map_or_else(Vec::new, |set| missing_of(set, needed))
}

fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

fn missing_of(effective: u64, needed: &[Capability]) -> Vec<Capability> {
    let has = |capability: Capability| effective >> capability as u32 & 1 == 1;
    // CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON (bpf_capable and perfmon_capable in
    // include/linux/capability.h), as before Linux 5.8.
    let may = |c: Capability| has(c) || matches!(c, Bpf | Perfmon) && has(SysAdmin);
    needed.iter().copied().filter(|c| !may(*c)).collect()
}

/// The remedy for a refused step that needs these capabilities.
pub(in crate::kernel) fn remedy(needed: &[Capability]) -> String {
    let missing = missing(needed);
    let is_root = nix::unistd::geteuid().is_root();
    if missing.is_empty() {
        return match (is_root, is_in_user_namespace()) {
            (false, _) => "run it as root, who owns what is pinned".into(),
            (true, true) => {
                "this process is in a user namespace, where capabilities do not reach the \
                             machine's BPF: run it outside"
                    .into()
            }
            (true, false) => {
                "this process has every capability that it takes: something else refuses \
                              it, such as the seccomp filter of a container or a security module \
                              (`dmesg` may tell)"
                    .into()
            }
        };
    }
    let mut text = String::from("run it as root, or with what this process lacks: ");
    for (i, capability) in missing.iter().enumerate() {
        let between = if i > 0 { ", " } else { "" };
        let _ = write!(
            text,
            "{between}{} ({})",
            capability.name(),
            capability.purpose()
        );
    }
    if is_root {
        text.replace_range(.."run it as root, or with".len(), "run it with");
    }
    text
}

/// The inode of the machine's own user namespace (`PROC_USER_INIT_INO`, fixed since Linux 3.8;
/// include/linux/proc_ns.h).
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

fn is_in_user_namespace() -> bool {
    fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() != FIRST_USER_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_nothing_else() {
        let set = |all: &[Capability]| all.iter().fold(0, |set, c| set | 1u64 << *c as u32);
        let all = [Bpf, Perfmon, NetAdmin, SysAdmin];
        assert_eq!(missing_of(set(&all), &all), []);
        assert_eq!(missing_of(0, TO_ENFORCE), TO_ENFORCE);
        assert_eq!(missing_of(set(&[Bpf, NetAdmin]), TO_ENFORCE), [Perfmon]);
        assert_eq!(missing_of(set(&[Bpf, Perfmon]), TO_ENFORCE), [NetAdmin]);
        assert_eq!(missing_of(set(&[SysAdmin, NetAdmin]), TO_ENFORCE), []);
        assert_eq!(missing_of(set(TO_ENFORCE), TO_ENTER_AND_MOUNT), [SysAdmin]);
    }

    #[test]
    fn the_set_is_read_from_the_status() {
        let status = "Name:\tsgctl\nCapPrm:\t0000000000000001\nCapEff:\t000000c000001000\n";
        let set = effective(status).unwrap();
        assert_eq!(missing_of(set, TO_ENFORCE), []);
        assert_eq!(effective("Name:\tsgctl\n"), None);
    }
}
