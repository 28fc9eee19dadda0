//! Rules written as one line of text each: a short spelling for tests and benchmarks.
//! Panics on a line it cannot read.
#![allow(
    clippy::panic,
    reason = "for tests and benchmarks, which write their own lines"
)]

use super::input::PolicyInput;
use super::load::load_text;
use super::model::Policy;

/// Reads one rule per line, blank lines and lines that start with `#` aside:
///
/// `in|out PROTOCOL [PORTS or TYPE[/CODE]] from|to REMOTE accept|drop [audit] [log]`
///
/// `PORTS` and `REMOTE` are lists joined by commas without blanks: `in tcp 22,80-90 from
/// 10.0.0.0/8 accept`, `in icmp 8/0 from any accept`, `out all to any drop`, `in 47 from ::/0
/// drop`. The group and the policy are called `lines`; positions follow the order of the lines
/// within their direction.
///
/// # Panics
/// When a line is not of that form, or is not a valid rule.
pub fn rules_from_lines(text: &str) -> Policy {
    let mut group = Group::default();
    for line in lines(text) {
        group.push(line);
    }
    policy(&format!("name: lines\n{}", group.yaml("")), text)
}

/// Reads several groups: `group NAME` begins one, `option KEY: VALUE` sets an option of the
/// policy, every other line is a rule as in [`rules_from_lines`].
///
/// # Panics
/// When a line is none of these, or the policy is not valid.
pub fn groups_from_lines(text: &str) -> Policy {
    let mut yaml = String::from("name: lines\n");
    let mut groups: Vec<(&str, Group)> = Vec::new();
    for line in lines(text) {
        if let Some(name) = line.strip_prefix("group ") {
            groups.push((name, Group::default()));
        } else if let Some(option) = line.strip_prefix("option ") {
            yaml.push_str(&format!("{option}\n"));
        } else {
            let (_, group) = groups
                .last_mut()
                .unwrap_or_else(|| panic!("the rule `{line}` stands before the first group"));
            group.push(line);
        }
    }
    yaml.push_str("groups:\n");
    for (name, group) in groups {
        yaml.push_str(&format!("- name: {name}\n{}", group.yaml("  ")));
    }
    policy(&yaml, text)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn policy(yaml: &str, text: &str) -> Policy {
    match load_text(&PolicyInput::Stdin.to_string(), yaml, None, &[]) {
        Ok(loaded) => loaded.policy,
        Err(errors) => panic!("{errors}\nin rules:\n{text}"),
    }
}

/// The rules of one group, as elements of YAML lists.
#[derive(Default)]
struct Group {
    inbound: Vec<String>,
    outbound: Vec<String>,
}

impl Group {
    fn push(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (out, rule) = rule(&words).unwrap_or_else(|| panic!("cannot read the rule `{line}`"));
        match out {
            true => self.outbound.push(rule),
            false => self.inbound.push(rule),
        }
    }

    fn yaml(&self, indent: &str) -> String {
        let list = |key: &str, rules: &[String]| match rules {
            [] => format!("{indent}{key}: []\n"),
            rules => format!("{indent}{key}:\n{indent}{}", rules.join(indent)),
        };
        list("inbound", &self.inbound) + &list("outbound", &self.outbound)
    }
}

/// True for an outbound rule, and the rule as an element of a YAML list.
fn rule(words: &[&str]) -> Option<(bool, String)> {
    let (log, words) = match words.split_last()? {
        (&"log", words) => (", log: true", words),
        _ => ("", words),
    };
    let (audit, words) = match words.split_last()? {
        (&"audit", words) => (", audit: true", words),
        _ => ("", words),
    };
    let (detail, words) = match words {
        [direction, protocol, key, remote, action] => {
            (None, [direction, protocol, key, remote, action])
        }
        [direction, protocol, detail, key, remote, action] => {
            (Some(detail), [direction, protocol, key, remote, action])
        }
        _ => return None,
    };
    let [direction, protocol, key, remote, action] = words.map(|word| *word);
    let out = match direction {
        "in" => false,
        "out" => true,
        _ => return None,
    };
    let is_icmp = matches!(protocol, "icmp" | "icmpv6" | "1" | "58");
    let detail = match detail {
        Some(detail) if is_icmp => match detail.split_once('/') {
            Some((kind, code)) => format!(", icmp: {{type: {kind}, code: {code}}}"),
            None => format!(", icmp: {{type: {detail}}}"),
        },
        Some(ports) => format!(", ports: \"{ports}\""),
        None => String::new(),
    };
    let rule = format!(
        "- {{protocol: {protocol}{detail}, {key}: \"{remote}\", action: {action}{audit}{log}}}\n"
    );
    Some((out, rule))
}
