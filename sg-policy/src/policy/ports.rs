//! One port literal, and sets of ports as sorted disjoint ranges.

use std::fmt;

use super::address::decimal;
use super::clip::clip;
use super::dialect;
use super::errors::Problem;

/// Ports from `.0` to `.1`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ports(pub(crate) u16, pub(crate) u16);

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 == self.1 {
            true => write!(f, "{}", self.0),
            false => write!(f, "{}-{}", self.0, self.1),
        }
    }
}

/// What may stand in a list.
pub(crate) const ELEMENT: &str = "a port from 0 to 65535, a range `a-b`, or a port set's name";

/// Parses a port or a range `a-b`.
pub(crate) fn parse(text: &str) -> Result<Ports, Problem> {
    let Some((first, last)) = text.split_once('-') else {
        let port = port(text)?;
        return Ok(Ports(port, port));
    };
    if first.trim().is_empty() || last.trim().is_empty() {
        return Err(
            Problem::new("bad-port", format!("`{}` is not a port", clip(text)))
                .expected(ELEMENT)
                .help("a range has both ends: `1024-65535`; no port is negative"),
        );
    }
    let (first, last) = (port(first.trim())?, port(last.trim())?);
    if first > last {
        return Err(Problem::new(
            "bad-port",
            format!("the port range `{}` runs backwards", clip(text)),
        )
        .expected("the lower port first")
        .help(format!("did you mean `{last}-{first}`?")));
    }
    Ok(Ports(first, last))
}

fn port(text: &str) -> Result<u16, Problem> {
    if let Some(port) = decimal(text).and_then(|n| u16::try_from(n).ok()) {
        return Ok(port);
    }
    let problem =
        Problem::new("bad-port", format!("`{}` is not a port", clip(text))).expected(ELEMENT);
    let lower = text.to_lowercase();
    if matches!(lower.as_str(), "any" | "*" | "-1") {
        return Err(problem.help("every port is `all`"));
    }
    if dialect::negates(text) {
        return Err(dialect::negation(&clip(text)));
    }
    if let Some(name) = dialect::sigil(text) {
        let help = format!("a set is named by its name alone: write `{name}`");
        return Err(problem.help(help));
    }
    if ["tcp", "udp", "sctp"]
        .iter()
        .any(|name| lower.contains(name))
    {
        return Err(problem.help("the protocol stands under `protocol`: write the port alone"));
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    Err(if digits && text.len() > 1 && text.starts_with('0') {
        problem.help("write it without leading zeros (they look octal)")
    } else if digits {
        problem.help("ports end at 65535")
    } else if text.contains(':') {
        problem.help(format!(
            "a range is written with a dash: `{}`",
            clip(&text.replace(':', "-"))
        ))
    } else if text.starts_with("0x") || text.starts_with("0o") {
        problem.help("write it as a decimal number")
    } else {
        problem.help("service names are not looked up: write the number")
    })
}

/// Sorts ranges and joins those that touch or overlap.
pub(crate) fn normalise(ranges: &mut Vec<(u16, u16)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let touches = u32::from(next.0) <= u32::from(kept.1) + 1;
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Proves P4.
    #[test]
    fn bad_ports_say_what_they_should_be() {
        for (text, needle) in [
            ("70000", "65535"),
            ("9-3", "`3-9`"),
            ("022", "leading zeros"),
            ("0x16", "decimal"),
            ("22:80", "dash"),
            ("ssh.", "service names"),
            ("22-", "both ends"),
            ("-1", "both ends"),
        ] {
            let problem = parse(text).unwrap_err();
            let help = problem.help.unwrap();
            assert!(help.contains(needle), "{text}: {help}");
            assert!(!problem.message.contains("``"), "{}", problem.message);
        }
        assert_eq!(parse("0-65535").unwrap(), Ports(0, 65535));
    }

    proptest! {
        #[test]
        fn normalised_ranges_hold_the_same_ports_and_do_not_touch(
            given in prop::collection::vec((any::<u16>(), 0u16..300), 0..40)
        ) {
            let mut ranges: Vec<_> = given.iter().map(|(a, n)| (*a, a.saturating_add(*n))).collect();
            let before = ranges.clone();
            normalise(&mut ranges);
            prop_assert!(ranges.windows(2).all(|w| u32::from(w[0].1) + 1 < u32::from(w[1].0)));
            let holds = |all: &[(u16, u16)], p: u16| all.iter().any(|(a, b)| (*a..=*b).contains(&p));
            for (a, b) in &before {
                for p in [*a, *b, a.wrapping_sub(1), b.wrapping_add(1)] {
                    prop_assert_eq!(holds(&before, p), holds(&ranges, p));
                }
            }
        }
    }
}
