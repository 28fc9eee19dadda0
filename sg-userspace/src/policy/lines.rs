//! Rules written as one line of text each: a short spelling for tests and benchmarks.
//! Panics on a line it cannot read.

use super::model::Policy;
use super::{PolicyInput, load_text};

/// Reads one rule per line, blank lines and lines that start with `#` aside:
///
/// `in|out PROTOCOL [PORTS or TYPE[/CODE]] from|to REMOTE accept|drop [log]`
///
/// `PORTS` and `REMOTE` are lists joined by commas without blanks: `in tcp 22,80-90 from
/// 10.0.0.0/8 accept`, `in icmp 8/0 from any accept`, `out all to any drop`, `in 47 from ::/0 drop`.
/// The group and the policy are called `lines`; positions follow the order of the lines within
/// their direction.
///
/// # Panics
/// When a line is not of that form, or is not a valid rule.
#[allow(
    clippy::panic,
    reason = "for tests and benchmarks, which write their own lines"
)]
pub fn rules_from_lines(text: &str) -> Policy {
    let (mut inbound, mut outbound) = (String::new(), String::new());
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let (out, rule) = rule(&words).unwrap_or_else(|| panic!("cannot read the rule `{line}`"));
        if out { &mut outbound } else { &mut inbound }.push_str(&rule);
    }
    let list = |rules: &str| match rules {
        "" => " []\n".to_owned(),
        rules => format!("\n{rules}"),
    };
    let yaml = format!(
        "name: lines\ninbound:{}outbound:{}",
        list(&inbound),
        list(&outbound)
    );
    match load_text(&PolicyInput::Stdin.to_string(), &yaml, None, &[]) {
        Ok(loaded) => loaded.policy,
        Err(errors) => panic!("{errors}\nin rules:\n{text}"),
    }
}

/// True for an outbound rule, and the rule as an element of a YAML list.
fn rule(words: &[&str]) -> Option<(bool, String)> {
    let (log, words) = match words.split_last()? {
        (&"log", words) => (", log: true", words),
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
    let rule =
        format!("- {{protocol: {protocol}{detail}, {key}: \"{remote}\", action: {action}{log}}}\n");
    Some((out, rule))
}
