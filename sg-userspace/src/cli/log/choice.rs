//! Which events `log` shows: the options that only it has, and how an event is asked the filter
//! that it shares with `flows`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use sg_common::event;
use sg_common::verdict::{Action, Reason};
use sg_policy::policy::suggest;
use sg_userspace::observe::decided::DecidedBy;
use sg_userspace::observe::events::{LoggedPacket, Tally};
use sg_userspace::observe::filter::{Ends, Filter, RuleSeen};

#[derive(Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct Choice {
    /// Only packets with this verdict; may be repeated
    #[arg(long, value_enum, value_delimiter = ',', value_name = "VERDICT")]
    verdict: Vec<Verdict>,
    /// Only packets that this reason decided, such as no-match, or `rule`; may be repeated
    #[arg(long, value_delimiter = ',', value_name = "REASON", value_parser = reason)]
    reason: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verdict {
    Accept,
    Drop,
    Audit,
}

impl Verdict {
    fn action(self) -> Action {
        match self {
            Verdict::Accept => Action::Accept,
            Verdict::Drop => Action::Drop,
            Verdict::Audit => Action::Audit,
        }
    }
}

impl Choice {
    pub(super) fn takes(&self, packet: &LoggedPacket) -> bool {
        let is_verdict = |wanted: &Verdict| wanted.action() == packet.verdict;
        let is_reason = |wanted: &String| wanted == packet.reason.name();
        (self.verdict.is_empty() || self.verdict.iter().any(is_verdict))
            && (self.reason.is_empty() || self.reason.iter().any(is_reason))
    }

    /// Whether it takes everything.
    pub(super) fn is_empty(&self) -> bool {
        self.verdict.is_empty() && self.reason.is_empty()
    }

    /// Whether packets without an event are counted apart by all that this and the filter ask for:
    /// by interface, and by the rule or reason that decided, and by nothing else.
    pub(super) fn is_counted_apart(&self, filter: &Filter) -> bool {
        self.verdict.is_empty() && !filter.asks_for_ends()
    }

    /// Whether packets that are counted so may be among those that are meant.
    pub(super) fn takes_row(&self, filter: &Filter, row: &Tally) -> bool {
        let is_reason = |wanted: &String| wanted == row.reason.name();
        let rule = row.rule.as_ref().map(|rule| RuleSeen {
            direction: row.direction,
            position: rule.position,
            name: rule.name.as_deref(),
        });
        (self.reason.is_empty() || self.reason.iter().any(is_reason)) && filter.takes_rule(rule)
    }
}

/// Whether the filter takes a packet. One that is not IP has no ends, so that it fits only where
/// nothing is said of them.
pub(super) fn fits(filter: &Filter, packet: &LoggedPacket) -> bool {
    let fits_ends = match (packet.protocol, packet.local, packet.remote) {
        (Some(protocol), Some(local), Some(remote)) => filter.takes(&Ends {
            direction: Some(packet.direction),
            protocol,
            local,
            local_port: packet.local_port,
            remote,
            remote_port: packet.remote_port,
        }),
        _ => !filter.asks_for_ends(),
    };
    let rule = packet.rule.as_ref().map(|rule| RuleSeen {
        // That of the rule: its replies go the other way.
        direction: match packet.reply {
            true => packet.direction.opposite(),
            false => packet.direction,
        },
        position: rule.position,
        name: rule.name.as_deref(),
    });
    fits_ends && filter.takes_rule(rule)
}

/// Parses what decided a packet, by its name.
fn reason(text: &str) -> Result<String, String> {
    let mut names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    names.push(DecidedBy::Rule.name());
    names.sort_unstable();
    names.dedup();
    match names.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(match suggest(text, names.iter().copied()) {
            Some(near) => format!(
                "did you mean `{near}`? Expected one of {}",
                names.join(", ")
            ),
            None => format!("expected one of {}", names.join(", ")),
        }),
    }
}

/// Parses how many bytes of each packet are captured: as many as an event has, at most.
pub(super) fn snap(text: &str) -> Result<u32, String> {
    let most = event::SNAP as u32;
    let number = text.parse().ok().filter(|n| (1..=most).contains(n));
    number.ok_or_else(|| format!("expected a number of bytes from 1 to {most}"))
}

/// Parses how many of the newest events are printed.
pub(super) fn last(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| *n > 0);
    number.ok_or_else(|| {
        "expected a number of events, at least 1; --follow alone shows those from now on".to_owned()
    })
}

/// Parses how many files are kept.
pub(super) fn files(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| *n > 0);
    number.ok_or_else(|| "expected a number of files, at least 1".to_owned())
}

/// Parses the size of a file in bytes, which has room for its head and a packet.
pub(super) fn file_size(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 1 << 10;
    match bytes(text)? {
        size if size < LEAST => Err("expected at least 1K: a file has a head and a packet".into()),
        size => Ok(size),
    }
}

/// Parses a size such as `100M`, with binary units, as bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let wanted = "expected a size such as 500K, 100M or 2G";
    let units: [(&[char], u32); 3] = [(&['K', 'k'], 10), (&['M'], 20), (&['G'], 30)];
    let with_unit = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)));
    let (number, shift) = with_unit.unwrap_or((text, 0));
    let number: u64 = number.parse().map_err(|_| wanted.to_owned())?;
    let size = number.checked_mul(1 << shift).filter(|size| *size > 0);
    size.ok_or_else(|| wanted.to_owned())
}

/// Parses a time such as `10m`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let seconds = sg_policy::policy::seconds_in(text).filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or_else(|| "expected a time such as 90s, 10m or 1h".to_owned())?;
    Ok(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use sg_common::verdict::Direction;
    use sg_userspace::observe::events::LoggingRule;
    use sg_userspace::observe::filter::RuleChoice;

    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, expected) in [
            ("1", Some(1)),
            ("4k", Some(4096)),
            ("100M", Some(100 << 20)),
            ("2G", Some(2 << 30)),
            ("0", None),
            ("M", None),
            ("1T", None),
            ("99999999999G", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
        assert_eq!(file_size("1K"), Ok(1024));
        assert!(file_size("1").unwrap_err().contains("at least 1K"));
    }

    /// What is said to be missing is of the rules and reasons that were asked for.
    #[test]
    fn what_is_missing_is_of_what_was_asked_for() {
        let row = |reason, rule: Option<&str>| Tally {
            interface: "eth0".into(),
            direction: Direction::Inbound,
            reason,
            rule: rule.map(|name| LoggingRule {
                group: "web".into(),
                position: Some(2),
                name: Some(name.into()),
                summary: "tcp 22 from any".into(),
                location: None,
            }),
            produced: 9,
            delivered: 2,
            lost: 3,
            suppressed: 4,
        };
        let by_rule = row(DecidedBy::Rule, Some("ssh"));
        let no_match = row(DecidedBy::Reason(Reason::NoMatch), None);
        let choice = |reason: &[&str]| Choice {
            verdict: Vec::new(),
            reason: reason.iter().map(|name| (*name).to_owned()).collect(),
        };
        let of_rule = |name: &str| Filter {
            rules: vec![RuleChoice::of(name)],
            ..Filter::default()
        };
        for (reasons, filter, expected) in [
            (&[][..], Filter::default(), [true, true]),
            (&["no-match"], Filter::default(), [false, true]),
            (&["rule"], Filter::default(), [true, false]),
            (&[], of_rule("ssh"), [true, false]),
            (&[], of_rule("inbound:2"), [true, false]),
            (&[], of_rule("outbound:2"), [false, false]),
            (&[], of_rule("web"), [false, false]),
        ] {
            let choice = choice(reasons);
            let found = [&by_rule, &no_match].map(|row| choice.takes_row(&filter, row));
            assert_eq!(found, expected, "{reasons:?} {filter:?}");
            assert!(choice.is_counted_apart(&filter));
        }
        let ports = Filter {
            ports: vec![(22, 22)],
            ..Filter::default()
        };
        assert!(!choice(&[]).is_counted_apart(&ports));
    }

    #[test]
    fn a_reason_has_to_be_one() {
        assert!(reason("no-match").is_ok() && reason("rule").is_ok());
        assert!(
            reason("nomatch")
                .unwrap_err()
                .contains("did you mean `no-match`")
        );
        assert!(!reason("zzz").unwrap_err().contains("did you mean"));
        assert!(snap("257").is_err() && snap("0").is_err() && snap("64").is_ok());
    }
}
