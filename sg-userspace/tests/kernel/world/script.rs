//! The steps of a script, and the format of the case files in `tests/cases`.
//!
//! ```text
//! # Why this case is here.
//! policy max-flows 4096
//!   option essential: false
//!   group web
//!     in tcp 22 from 10.0.0.0/8 accept
//! end
//! seed tcp 192.0.2.1:50000 198.51.100.7:443 outbound
//! in accept in 1 = 020000000001…
//! out x3 accept in 1 reply = 020000000002…
//! wait 31
//! ```
//!
//! `policy` puts a policy in force, and replaces the one before; groups behind a line `candidate`
//! are those of a candidate beside it. `seed` enters a flow as if it had existed before the first
//! policy. `policy max-flows 4096 audit policy` is `apply --audit`. `in` and `out` send a frame,
//! and give its verdict and counter; with `x3` it is three packets on the wire. `wait` lets seconds
//! pass.

use std::fmt::Write as _;
use std::net::SocketAddr;

use sg_common::verdict::Direction;
use sg_policy::policy::AuditScope;

use crate::support::is_guest;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Policy(PolicyText),
    Seed(Seed),
    Frame(Sent),
    /// Waits this number of seconds.
    Wait(u32),
}

/// A policy as lines of text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PolicyText {
    /// The size of the flow tables. Only that of the first policy counts.
    pub(crate) max_flows: u32,
    /// Lines of the form `KEY: VALUE`.
    pub(crate) options: Vec<String>,
    pub(crate) groups: Vec<Group>,
    /// A candidate beside it, with the same options. Without groups there is none.
    pub(crate) candidate: Vec<Group>,
    /// What passes besides that would be dropped, as `apply --audit` has it.
    pub(crate) audit: AuditScope,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) rules: Vec<String>,
}

/// A TCP connection that existed before the first policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seed {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) originator: Direction,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) direction: Direction,
    /// The number of packets on the wire. Only outbound frames have more than one.
    pub(crate) segments: u32,
    pub(crate) bytes: Vec<u8>,
    /// The expected decision in a case file.
    pub(crate) expected: Option<String>,
}

/// The size of a flow table from which no script evicts a flow. Where a rule accepts all UDP,
/// hundreds of flows are half-open at once, and one word of a small table may be full by chance. A
/// guest keeps the small table: it runs few scripts, and its emulator needs long to walk a large
/// one.
pub(crate) fn max_flows() -> u32 {
    if is_guest() { 16_384 } else { 65_536 }
}

impl PolicyText {
    /// The policy in the format that the reader of policies takes.
    pub(crate) fn lines(&self) -> String {
        self.lines_of(&self.groups)
    }

    /// The candidate in that format, if there is one.
    pub(crate) fn candidate_lines(&self) -> Option<String> {
        (!self.candidate.is_empty()).then(|| self.lines_of(&self.candidate))
    }

    fn lines_of(&self, groups: &[Group]) -> String {
        let mut text = String::new();
        for option in &self.options {
            let _ = writeln!(text, "option {option}");
        }
        for group in groups {
            let _ = writeln!(text, "group {}\n{}", group.name, group.rules.join("\n"));
        }
        text
    }

    /// The same rules as one group. P3 is applied to the text: of each group but the last, the
    /// trailing denies are left out if they have no effect.
    pub(crate) fn flattened(&self) -> String {
        let is_literal = self.options.iter().any(|o| o == "trailing-deny: honour");
        let mut text = String::new();
        for option in &self.options {
            let _ = writeln!(text, "option {option}");
        }
        let _ = writeln!(text, "group all");
        let last = self.groups.len().saturating_sub(1);
        // For each direction, rules with `log` or `audit` that have no effect where they stand.
        let mut deferred = [Vec::new(), Vec::new()];
        for (number, group) in self.groups.iter().enumerate() {
            for (side, deferred) in ["in ", "out "].into_iter().zip(&mut deferred) {
                let mut rules: Vec<String> = group
                    .rules
                    .iter()
                    .filter(|rule| rule.starts_with(side))
                    .cloned()
                    .collect();
                let others = rules.iter().rposition(|rule| !drops_everything(rule));
                let end = others.map_or(0, |others| others + 1);
                if number != last && !is_literal {
                    let left_out = rules.split_off(end).into_iter();
                    deferred
                        .extend(left_out.filter(|rule| is_logged(rule) || rule.contains(" audit")));
                } else if number == last {
                    let mut denies = rules.split_off(end);
                    for rule in deferred.drain(..) {
                        let same = |other: &&mut String| families(other) == families(&rule);
                        let mut others = rules[end..].iter_mut().chain(&mut denies);
                        match others.find(same) {
                            Some(other) if is_logged(&rule) && !is_logged(other) => {
                                other.push_str(" log");
                            }
                            Some(_) => {}
                            None => rules.push(rule),
                        }
                    }
                    rules.append(&mut denies);
                }
                for rule in rules {
                    let _ = writeln!(text, "{rule}");
                }
            }
        }
        text
    }
}

fn is_logged(rule: &str) -> bool {
    rule.ends_with(" log")
}

/// Whether the rule drops all protocols from all addresses, of at least one family.
fn drops_everything(rule: &str) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let [_, "all", _, remotes, "drop", ..] = words[..] else {
        return false;
    };
    remotes
        .split(',')
        .any(|remote| ["any", "0.0.0.0/0", "::/0"].contains(&remote))
}

/// The remotes of a rule, with `any` replaced by the prefixes of both families.
fn families(rule: &str) -> std::collections::BTreeSet<&str> {
    let remotes = rule.split_whitespace().nth(3).unwrap_or_default();
    let both = remotes.split(',').flat_map(|remote| match remote {
        "any" => vec!["0.0.0.0/0", "::/0"],
        other => vec![other],
    });
    both.collect()
}

pub(crate) fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text
        .chars()
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    Some(pairs.iter().map(|[a, b]| (a * 16 + b) as u8).collect())
}

/// Writes a script as a case file. `comment` says why the case is there.
pub(crate) fn write(comment: &str, steps: &[Step]) -> String {
    let mut text = String::new();
    for line in comment.lines() {
        let _ = writeln!(text, "# {line}");
    }
    for step in steps {
        match step {
            Step::Policy(policy) => {
                let audit = match policy.audit {
                    AuditScope::Rules => String::new(),
                    scope => format!(" audit {}", scope.name()),
                };
                let _ = writeln!(text, "policy max-flows {}{audit}", policy.max_flows);
                for option in &policy.options {
                    let _ = writeln!(text, "  option {option}");
                }
                for (candidate, groups) in [(false, &policy.groups), (true, &policy.candidate)] {
                    if candidate && !groups.is_empty() {
                        text.push_str("  candidate\n");
                    }
                    for group in groups {
                        let _ = writeln!(text, "  group {}", group.name);
                        for rule in &group.rules {
                            let _ = writeln!(text, "    {rule}");
                        }
                    }
                }
                text.push_str("end\n");
            }
            Step::Seed(seed) => {
                let _ = writeln!(
                    text,
                    "seed tcp {} {} {}",
                    seed.local,
                    seed.remote,
                    seed.originator.name()
                );
            }
            Step::Frame(sent) => {
                let times = match sent.segments {
                    1 => String::new(),
                    n => format!("x{n} "),
                };
                let _ = writeln!(
                    text,
                    "{} {times}{} = {}",
                    direction_name(sent.direction),
                    sent.expected.as_deref().unwrap_or("?"),
                    hex(&sent.bytes)
                );
            }
            Step::Wait(seconds) => {
                let _ = writeln!(text, "wait {seconds}");
            }
        }
    }
    text
}

/// Reads a case file.
pub(crate) fn read(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut policy: Option<PolicyText> = None;
    let mut is_candidate = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let unreadable = || format!("line {number}: cannot read `{line}`");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(open) = &mut policy {
            let groups = match is_candidate {
                false => &mut open.groups,
                true => &mut open.candidate,
            };
            if line == "end" {
                steps.extend(policy.take().map(Step::Policy));
                is_candidate = false;
            } else if line == "candidate" {
                is_candidate = true;
            } else if let Some(option) = line.strip_prefix("option ") {
                open.options.push(option.to_owned());
            } else if let Some(name) = line.strip_prefix("group ") {
                let name = name.to_owned();
                let rules = Vec::new();
                groups.push(Group { name, rules });
            } else {
                let group = groups.last_mut().ok_or_else(unreadable)?;
                group.rules.push(line.to_owned());
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["policy", "max-flows", max_flows, ref audit @ ..] => {
                let scopes = [AuditScope::Rules, AuditScope::Policy, AuditScope::All];
                let audit = match audit {
                    [] => Some(AuditScope::Rules),
                    ["audit", name] => scopes.into_iter().find(|scope| scope.name() == *name),
                    _ => None,
                };
                policy = Some(PolicyText {
                    max_flows: max_flows.parse().map_err(|_| unreadable())?,
                    audit: audit.ok_or_else(unreadable)?,
                    ..PolicyText::default()
                });
            }
            ["wait", seconds] => {
                steps.push(Step::Wait(seconds.parse().map_err(|_| unreadable())?));
            }
            ["seed", "tcp", local, remote, originator] => steps.push(Step::Seed(Seed {
                local: local.parse().map_err(|_| unreadable())?,
                remote: remote.parse().map_err(|_| unreadable())?,
                originator: Direction::BOTH
                    .into_iter()
                    .find(|d| d.name() == originator)
                    .ok_or_else(unreadable)?,
            })),
            ["in" | "out", ..] => steps.push(Step::Frame(sent(line).ok_or_else(unreadable)?)),
            _ => return Err(unreadable()),
        }
    }
    match policy {
        Some(_) => Err("a policy without `end`".to_owned()),
        None => Ok(steps),
    }
}

fn sent(line: &str) -> Option<Sent> {
    let (what, bytes) = line.split_once(" = ")?;
    let (direction, expected) = what.split_once(' ')?;
    let (segments, expected) = match expected.strip_prefix('x') {
        Some(rest) => {
            let (n, rest) = rest.split_once(' ')?;
            (n.parse().ok()?, rest)
        }
        None => (1, expected),
    };
    Some(Sent {
        direction: match direction {
            "in" => Direction::Inbound,
            _ => Direction::Outbound,
        },
        segments,
        bytes: from_hex(bytes.trim())?,
        expected: Some(expected.trim().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_as_it_was_written() {
        let steps = vec![
            Step::Policy(PolicyText {
                max_flows: 8,
                audit: AuditScope::All,
                options: vec!["essential: false".into()],
                groups: vec![Group {
                    name: "web".into(),
                    rules: vec!["in tcp 22 from any accept".into()],
                }],
                candidate: vec![Group {
                    name: "other".into(),
                    rules: vec!["in tcp 22 from any drop".into()],
                }],
            }),
            Step::Seed(Seed {
                local: "192.0.2.1:5".parse().unwrap(),
                remote: "198.51.100.1:6".parse().unwrap(),
                originator: Direction::Outbound,
            }),
            Step::Frame(Sent {
                direction: Direction::Outbound,
                segments: 3,
                bytes: vec![0, 0xff, 0x10],
                expected: Some("accept in 1 reply".into()),
            }),
            Step::Wait(31),
        ];
        let text = write("why", &steps);
        assert_eq!(read(&text).unwrap(), steps, "{text}");
        assert!(read("in accept = 0g").is_err());
        assert!(read("policy max-flows 1").is_err());
    }

    #[test]
    fn trailing_denies_of_other_groups_are_left_out_unless_they_are_literal() {
        let group = |name: &str, rules: &[&str]| Group {
            name: name.into(),
            rules: rules.iter().map(|r| (*r).to_owned()).collect(),
        };
        let mut policy = PolicyText {
            candidate: Vec::new(),
            groups: vec![
                group("a", &["in tcp 22 from any accept", "in all from any drop"]),
                group("b", &["in all from any drop"]),
            ],
            ..PolicyText::default()
        };
        assert_eq!(policy.flattened().lines().count(), 3);
        // What is only watched is watched at the end, but where the last group drops it.
        policy.groups[0].rules[1].push_str(" audit");
        assert_eq!(policy.flattened().lines().count(), 3);
        policy.groups[1].rules.clear();
        assert!(policy.flattened().ends_with("in all from any drop audit\n"));
        policy.options.push("trailing-deny: honour".into());
        assert_eq!(policy.flattened().lines().count(), 4);
    }
}
