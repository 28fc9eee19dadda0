//! What the values of arguments are chosen from. Each function gets what is written of the value,
//! and returns what it may become.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter as _};
use sg_common::verdict::Reason;
use sg_policy::policy::{Builtin, Protocol, builtins, load, protocol_name};
use sg_userspace::kernel::history::history;
use sg_userspace::kernel::interfaces as of_kernel;
use sg_userspace::observe::flows::{Sort, StateChoice};

use super::line::Line;

/// Protocols that have a name, by number: ICMP, TCP, UDP, GRE, ESP, AH, ICMPv6, SCTP.
const PROTOCOLS: [u8; 8] = [1, 6, 17, 47, 50, 51, 58, 132];

/// The most characters of a set's contents that are shown beside its name.
const CONTENTS: usize = 40;

type Candidates = Vec<CompletionCandidate>;

/// A value, and what it is in a few words.
fn candidate(value: impl Into<String>, help: impl Into<String>) -> CompletionCandidate {
    let help = help.into();
    CompletionCandidate::new(value.into()).help((!help.is_empty()).then(|| help.into()))
}

/// Those that begin with what is written.
fn beginning(current: &OsStr, all: impl IntoIterator<Item = CompletionCandidate>) -> Candidates {
    let current = current.to_string_lossy();
    let begins = |one: &CompletionCandidate| {
        let value = one.get_value().to_string_lossy();
        value.starts_with(current.as_ref())
    };
    all.into_iter().filter(begins).collect()
}

/// Interfaces of the namespace that the command works in, those that are enforced first.
pub(super) fn interfaces(current: &OsStr) -> Candidates {
    let line = Line::read();
    if !line.enter() {
        return Vec::new();
    }
    let attached = line.attached();
    let enforced: Vec<_> = attached
        .iter()
        .filter_map(|one| {
            let name = of_kernel::name_of(one.pins.ifindex)?;
            let policy = one.state.as_ref().ok()?.policy.name.clone();
            Some((name, policy))
        })
        .collect();
    let others = of_kernel::names();
    let others = others
        .into_iter()
        .filter(|name| !enforced.iter().any(|(known, _)| known == name));
    let named: BTreeSet<String> = others.collect();
    let enforced = enforced
        .iter()
        .map(|(name, policy)| candidate(name, format!("enforces {policy}")));
    let all: Vec<_> = enforced
        .chain(named.iter().map(|name| candidate(name, "")))
        .collect();
    beginning(current, all)
}

/// Names of `ip netns`, and paths.
pub(super) fn namespaces(current: &OsStr) -> Candidates {
    if current.to_string_lossy().contains('/') {
        return PathCompleter::any().complete(current);
    }
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names: BTreeSet<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    beginning(current, names.iter().map(|name| candidate(name, "")))
}

/// Builtins and files.
pub(super) fn policies(current: &OsStr) -> Candidates {
    let named = |one: &Builtin| candidate(format!("builtin:{}", one.name), one.summary);
    let mut all = beginning(current, builtins().iter().map(named));
    all.extend(PathCompleter::any().complete(current));
    all
}

/// Builtins without what stands before their names elsewhere.
pub(super) fn templates(current: &OsStr) -> Candidates {
    let named = |one: &Builtin| candidate(one.name, one.summary);
    beginning(current, builtins().iter().map(named))
}

/// The words of `explain`: policies, a direction, a protocol.
pub(super) fn question(current: &OsStr) -> Candidates {
    let directions = [("inbound", "to this node"), ("outbound", "from this node")];
    let directions = directions.map(|(word, help)| candidate(word, help));
    let mut all = beginning(current, directions);
    all.extend(protocols(current));
    all.extend(policies(current));
    all
}

/// The sets of the policies on the line, with the `=` behind which their contents stand.
pub(super) fn sets(current: &OsStr) -> Candidates {
    let mut all = Vec::new();
    for input in Line::read().policies() {
        let Ok(loaded) = load(&[input], &[]) else {
            continue;
        };
        for group in &loaded.policy.groups {
            let addresses = group.sets.addresses.iter();
            let addresses = addresses.map(|set| (&set.name, "addresses", &set.entries));
            let ports = group.sets.ports.iter();
            let ports = ports.map(|set| (&set.name, "ports", &set.entries));
            for (name, kind, entries) in addresses.chain(ports) {
                all.push(candidate(format!("{name}="), contents(kind, entries)));
            }
        }
    }
    beginning(current, all)
}

fn contents(kind: &str, entries: &str) -> String {
    if entries.is_empty() {
        return format!("{kind}, none");
    }
    let shown: String = entries.chars().take(CONTENTS).collect();
    let rest = if shown.len() < entries.len() {
        "..."
    } else {
        ""
    };
    format!("{kind}, now {shown}{rest}")
}

/// The rules in force, by name, else by direction and position.
pub(super) fn rules(current: &OsStr) -> Candidates {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for one in Line::read().attached() {
        let Ok(state) = one.state else { continue };
        for rule in state.rules {
            let place = format!("{}:{}", rule.direction.name(), rule.position);
            let value = rule.name.unwrap_or(place);
            if seen.insert(value.clone()) {
                let help = format!("{} {}", rule.action.name(), rule.summary);
                all.push(candidate(value, help));
            }
        }
    }
    beginning(current, all)
}

pub(super) fn reasons(current: &OsStr) -> Candidates {
    let names = Reason::ALL.map(|reason| reason.name());
    let names: BTreeSet<&str> = names.into_iter().chain(["rule"]).collect();
    beginning(current, names.iter().map(|name| candidate(*name, "")))
}

/// The states and kinds of flows.
pub(super) fn states(current: &OsStr) -> Candidates {
    beginning(
        current,
        StateChoice::names().map(|name| candidate(name, "")),
    )
}

/// What flows are sorted by.
pub(super) fn columns(current: &OsStr) -> Candidates {
    let names = Sort::ALL.map(|(name, _)| candidate(name, ""));
    beginning(current, names)
}

pub(super) fn protocols(current: &OsStr) -> Candidates {
    let names = PROTOCOLS.map(|number| protocol_name(Protocol::Number(number)));
    beginning(current, names.map(|name| candidate(name, "")))
}

/// Generations in force and kept, the newest first.
pub(super) fn generations(current: &OsStr) -> Candidates {
    let mut all = Vec::new();
    for one in Line::read().attached() {
        for entry in history(&one.pins).unwrap_or_default() {
            let value = entry.generation.to_string();
            if !all
                .iter()
                .any(|known: &CompletionCandidate| known.get_value() == value.as_str())
            {
                all.push(candidate(
                    value,
                    format!("{} {}", entry.name, entry.applied_at),
                ));
            }
        }
    }
    beginning(current, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(candidates: &[CompletionCandidate]) -> Vec<String> {
        let values = candidates.iter();
        values
            .map(|one| one.get_value().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn values_begin_with_what_is_typed() {
        let found = policies(OsStr::new("builtin:tke"));
        assert_eq!(values(&found), ["builtin:tke", "builtin:tke-minimal"]);
        assert_eq!(values(&templates(OsStr::new("ba"))), ["bastion"]);
        assert_eq!(values(&protocols(OsStr::new("icmp"))), ["icmp", "icmpv6"]);
        assert_eq!(values(&reasons(OsStr::new("no"))), ["no-match", "non-ip"]);
        let states = values(&states(OsStr::new("tcp-cl")));
        assert_eq!(states, ["tcp-close-wait", "tcp-close"]);
        assert_eq!(values(&columns(OsStr::new("p"))), ["proto", "port"]);
        let words = values(&question(OsStr::new("inb")));
        assert_eq!(words, ["inbound"]);
    }

    #[test]
    fn long_contents_are_cut() {
        assert_eq!(contents("ports", ""), "ports, none");
        assert_eq!(contents("ports", "22"), "ports, now 22");
        let long = contents("addresses", &"192.0.2.1,".repeat(100));
        assert!(long.ends_with("...") && long.chars().count() < 60, "{long}");
    }
}
