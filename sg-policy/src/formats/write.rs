//! Writes a loaded policy. Every field of it is named here, so that a key that is added to policies
//! or rules cannot be forgotten.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sg_common::flow::{TIMEOUTS, Timeout};
use sg_common::verdict::{Action, Direction};

use super::names::Names;
use super::scalar;
use crate::policy::{
    Established, Group, Guard, IcmpMatch, NonIp, Policy, PolicyText, Rule, SetText, Sets,
    TrailingDeny, Written, is_set_name, protocol_name,
};

/// How long sets are written.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// A set with more entries than this becomes a file beside the policy file.
    pub entries_inline: usize,
}

impl Default for Style {
    /// Everything in one file.
    fn default() -> Self {
        Style {
            entries_inline: usize::MAX,
        }
    }
}

/// A list that is not wider than this stands in one line.
const WIDTH: usize = 80;

/// The policy as the text of one policy file, which [`load_written`](crate::policy::load_written)
/// reads.
pub fn write(policy: &Policy, style: Style) -> PolicyText {
    let Policy {
        name,
        digest: _,
        description,
        groups,
        trailing_deny,
        rules,
        essential,
        non_ip,
        established,
        log_no_match,
        timeouts,
        guard,
        // How the policy is applied is not part of it.
        audit: _,
        // The files that it was read from are written out.
        sources: _,
    } = policy;
    let names = Names::of(policy);
    let mut out = Text {
        style,
        names: &names,
        yaml: String::new(),
        files: Vec::new(),
    };
    // The rules of a file that has one group of its own name stand at the top level.
    let alone = match groups.as_slice() {
        [group] if group.name == *name => Some(group),
        _ => None,
    };
    let key = name_key(alone.is_none_or(|group| group.is_named));
    out.line(0, key, &scalar::text(name));
    out.description(0, description.as_deref());
    match trailing_deny {
        TrailingDeny::Defer => {}
        TrailingDeny::Honour => out.line(0, "trailing-deny", "honour"),
    }
    if !essential {
        out.line(0, "essential", "false");
    }
    match non_ip {
        NonIp::Accept => {}
        NonIp::ArpOnly => out.line(0, "non-ip", non_ip.name()),
    }
    match established {
        Established::Revalidate => {}
        Established::Keep => out.line(0, "established", "keep"),
        Established::Flush => out.line(0, "established", "flush"),
    }
    match log_no_match {
        [false, false] => {}
        [true, true] => out.line(0, "log-no-match", "true"),
        [true, false] => out.line(0, "log-no-match", "inbound"),
        [false, true] => out.line(0, "log-no-match", "outbound"),
    }
    out.timeouts(timeouts);
    out.sets();
    out.guard(guard);
    let mut by_group: HashMap<&str, [Vec<&Rule>; 2]> = HashMap::new();
    for rule in rules {
        let of_group = by_group.entry(&rule.group).or_default();
        of_group[rule.direction as usize].push(rule);
    }
    let mut rules_of = |group: &Group| by_group.remove(group.name.as_str()).unwrap_or_default();
    match alone {
        Some(group) => out.rules(0, &group.sets, rules_of(group), true),
        None => {
            let empty = if groups.is_empty() { " []" } else { "" };
            let _ = writeln!(out.yaml, "\ngroups:{empty}");
            for group in groups {
                out.group(group, rules_of(group));
            }
        }
    }
    PolicyText {
        yaml: out.yaml,
        files: out.files,
    }
}

fn name_key(is_named: bool) -> &'static str {
    match is_named {
        true => "name",
        false => "file-name",
    }
}

/// The text as far as it is written.
struct Text<'a> {
    style: Style,
    names: &'a Names<'a>,
    yaml: String,
    files: Vec<SetText>,
}

impl Text<'_> {
    fn line(&mut self, indent: usize, key: &str, value: &str) {
        let _ = writeln!(self.yaml, "{:indent$}{key}: {value}", "");
    }

    fn description(&mut self, indent: usize, description: Option<&str>) {
        if let Some(description) = description {
            self.line(indent, "description", &scalar::text(description));
        }
    }

    /// Those that are not the default.
    fn timeouts(&mut self, timeouts: &[u32; TIMEOUTS]) {
        let given = Timeout::ALL.into_iter().zip(timeouts);
        let given = given.zip(Timeout::defaults());
        let changed = given.filter(|((_, seconds), default)| *seconds != default);
        for (index, ((timeout, seconds), _)) in changed.enumerate() {
            if index == 0 {
                self.yaml.push_str("timeouts:\n");
            }
            self.line(2, timeout.name(), &duration(*seconds));
        }
    }

    fn sets(&mut self) {
        let names = self.names;
        for (index, written) in names.addresses.iter().enumerate() {
            if index == 0 {
                self.yaml.push_str("\naddress-sets:\n");
            }
            self.set(&written.name, written.sets, &written.set.entries);
        }
        for (index, written) in names.ports.iter().enumerate() {
            if index == 0 {
                self.yaml.push_str("\nport-sets:\n");
            }
            self.set(&written.name, written.sets, &written.set.entries);
        }
    }

    /// Written as what it resolves to, which is what its digest is made of.
    fn guard(&mut self, guard: &[Guard]) {
        for (index, entry) in guard.iter().enumerate() {
            if index == 0 {
                self.yaml.push_str("\nguard:\n");
            }
            let Guard {
                protocol,
                ports,
                remote,
                description,
                summary: _,
                source: _,
            } = entry;
            let _ = writeln!(self.yaml, "  - protocol: {}", protocol_name(*protocol));
            if let Some(ports) = ports {
                let range = |(first, last): &(u16, u16)| match first == last {
                    true => first.to_string(),
                    false => format!("{first}-{last}"),
                };
                let ports: Vec<String> = ports.iter().map(range).collect();
                self.resolved("ports", &ports);
            }
            let v4 = remote.v4.iter().map(|prefix| {
                let address = Ipv4Addr::from(prefix.bits);
                format!("{address}/{}", prefix.len)
            });
            let v6 = remote.v6.iter().map(|prefix| {
                let address = Ipv6Addr::from(prefix.bits);
                format!("{address}/{}", prefix.len)
            });
            self.resolved("from", &v4.chain(v6).collect::<Vec<_>>());
            self.description(4, description.as_deref());
        }
    }

    fn resolved(&mut self, key: &str, entries: &[String]) {
        let joined = entries.join(",");
        self.list(4, key, &joined, entries.iter().map(String::as_str));
    }

    fn set(&mut self, name: &str, sets: &Arc<Sets>, entries: &str) {
        let names = self.names;
        let all = || entries_of(entries).map(|entry| names.name(sets, entry));
        // A set file holds literals only.
        if all().nth(self.style.entries_inline).is_some() && !all().any(is_set_name) {
            let mut text = String::with_capacity(entries.len() + 1);
            for entry in all() {
                let _ = writeln!(text, "{entry}");
            }
            let path = format!("{name}.txt");
            self.line(2, name, &format!("{{file: {path}}}"));
            self.files.push(SetText { name: path, text });
            return;
        }
        self.list(2, name, entries, all());
    }

    /// A list in one line if it fits, else one entry a line.
    fn list<'e>(
        &mut self,
        indent: usize,
        key: &str,
        entries: &str,
        all: impl Iterator<Item = &'e str> + Clone,
    ) {
        if entries.len() <= WIDTH {
            let inline = all
                .clone()
                .map(scalar::entry)
                .collect::<Vec<_>>()
                .join(", ");
            if indent + key.len() + inline.len() + 4 <= WIDTH {
                self.line(indent, key, &format!("[{inline}]"));
                return;
            }
        }
        let _ = writeln!(self.yaml, "{:indent$}{key}:", "");
        for entry in all {
            let _ = writeln!(self.yaml, "{:indent$}  - {}", "", scalar::entry(entry));
        }
    }

    fn group(&mut self, group: &Group, rules: [Vec<&Rule>; 2]) {
        let Group {
            name,
            is_named,
            description,
            sets,
        } = group;
        let _ = writeln!(
            self.yaml,
            "  - {}: {}",
            name_key(*is_named),
            scalar::text(name)
        );
        self.description(4, description.as_deref());
        self.rules(4, sets, rules, false);
    }

    fn rules(
        &mut self,
        indent: usize,
        sets: &Arc<Sets>,
        [inbound, outbound]: [Vec<&Rule>; 2],
        is_spaced: bool,
    ) {
        let has_none = inbound.is_empty() && outbound.is_empty();
        for (direction, rules) in Direction::BOTH.into_iter().zip([inbound, outbound]) {
            let is_written = !rules.is_empty() || (has_none && direction == Direction::Inbound);
            if !is_written {
                continue;
            }
            if is_spaced {
                self.yaml.push('\n');
            }
            let empty = if rules.is_empty() { " []" } else { "" };
            let _ = writeln!(self.yaml, "{:indent$}{}:{empty}", "", direction.name());
            for rule in rules {
                self.rule(indent, sets, rule);
            }
        }
    }

    fn rule(&mut self, indent: usize, sets: &Arc<Sets>, rule: &Rule) {
        let Rule {
            direction,
            position: _,
            group: _,
            name,
            description,
            protocol,
            // What the lists resolve to.
            ports: _,
            remote: _,
            written: Written { ports, remote },
            icmp,
            action,
            audit,
            log,
            summary: _,
            identity: _,
            source: _,
        } = rule;
        let _ = writeln!(
            self.yaml,
            "{:indent$}  - protocol: {}",
            "",
            protocol_name(*protocol)
        );
        let indent = indent + 4;
        if let Some(ports) = ports {
            self.match_list(indent, "ports", sets, ports);
        }
        if let Some(IcmpMatch { kind, code }) = icmp {
            let code = code.map(|code| format!(", code: {code}"));
            let code = code.unwrap_or_default();
            self.line(indent, "icmp", &format!("{{type: {kind}{code}}}"));
        }
        let side = match direction {
            Direction::Inbound => "from",
            Direction::Outbound => "to",
        };
        self.match_list(indent, side, sets, remote);
        self.line(
            indent,
            "action",
            match action {
                Action::Accept => "accept",
                Action::Drop | Action::Audit => "drop",
            },
        );
        if *audit {
            self.line(indent, "audit", "true");
        }
        if *log {
            self.line(indent, "log", "true");
        }
        if let Some(name) = name {
            self.line(indent, "name", &scalar::text(name));
        }
        self.description(indent, description.as_deref());
    }

    /// The ports or the remote addresses of a rule; one entry stands without brackets.
    fn match_list(&mut self, indent: usize, key: &str, sets: &Arc<Sets>, entries: &str) {
        let names = self.names;
        let all = entries_of(entries).map(|entry| names.name(sets, entry));
        let mut rest = all.clone();
        match (rest.next(), rest.next()) {
            (Some(one), None) => self.line(indent, key, &scalar::entry(one)),
            _ => self.list(indent, key, entries, all),
        }
    }
}

/// The entries of a list that is joined by commas.
fn entries_of(entries: &str) -> impl Iterator<Item = &str> + Clone {
    entries.split(',').filter(|entry| !entry.is_empty())
}

/// A number of seconds with the largest unit that leaves it whole.
fn duration(seconds: u32) -> String {
    let units = [(24 * 3600, 'd'), (3600, 'h'), (60, 'm')];
    let whole = units
        .into_iter()
        .find(|(unit, _)| seconds.is_multiple_of(*unit));
    match whole {
        Some((unit, letter)) => format!("{}{letter}", seconds / unit),
        None => format!("{seconds}s"),
    }
}
