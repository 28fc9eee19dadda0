//! Which packets or flows are meant: the one filter of `flows` and `log`. All that is given has to
//! fit; of several values of one kind, one of them.

use std::fmt;
use std::net::IpAddr;

use sg_common::verdict::Direction;
use sg_policy::policy::{Protocol, Remote, suggest};

/// What has to fit. The default takes all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// One of these protocols. Empty: any.
    pub protocols: Vec<Protocol>,
    /// Either port is in one of these ranges, both ends included. Empty: any, or none.
    pub ports: Vec<(u16, u16)>,
    /// Where a packet comes from, or the packet that opened a flow.
    pub from: Option<Remote>,
    /// Where it goes.
    pub to: Option<Remote>,
    /// One of these rules. Empty: any, or none.
    pub rules: Vec<RuleChoice>,
}

/// The ends of a packet, or of a flow by the packet that opened it.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// `None` of a flow whose beginning nobody has seen: either end may have opened it.
    pub direction: Option<Direction>,
    pub protocol: u8,
    pub local: IpAddr,
    pub local_port: Option<u16>,
    pub remote: IpAddr,
    pub remote_port: Option<u16>,
}

/// A rule that decided a packet or admitted a flow.
#[derive(Clone, Copy, Debug)]
pub struct RuleSeen<'a> {
    pub direction: Direction,
    /// `None` if it is not in the policy any more.
    pub position: Option<u32>,
    pub name: Option<&'a str>,
}

/// A rule as a person names it: by its name, or by its position, of one direction or of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleChoice {
    direction: Option<Direction>,
    word: String,
    position: Option<u32>,
}

/// A direction as a person names it: `inbound` or `in`, `outbound` or `out`. `None` if it is
/// neither.
pub fn direction_in(word: &str) -> Option<Direction> {
    match word {
        "inbound" | "in" => Some(Direction::Inbound),
        "outbound" | "out" => Some(Direction::Outbound),
        _ => None,
    }
}

impl RuleChoice {
    /// Parses `NAME`, `POSITION`, `inbound:POSITION` or `outbound:NAME`. Any text may be a name.
    pub fn of(text: &str) -> RuleChoice {
        let parts = text.split_once(':');
        let parts = parts.and_then(|(side, word)| Some((direction_in(side)?, word)));
        let (direction, word) = match parts {
            Some((direction, word)) => (Some(direction), word),
            None => (None, text),
        };
        RuleChoice {
            direction,
            word: word.to_owned(),
            position: word.parse().ok(),
        }
    }

    /// The name of one of these rules that is probably meant, if no rule has this one.
    pub fn near<'a>(&self, known: impl Iterator<Item = RuleSeen<'a>>) -> Option<&'a str> {
        let is_possible = |rule: &RuleSeen<'_>| {
            self.position.is_none() && self.direction.is_none_or(|it| it == rule.direction)
        };
        suggest(
            &self.word,
            known.filter(is_possible).filter_map(|it| it.name),
        )
    }

    /// Whether this rule is meant.
    pub fn means(&self, rule: &RuleSeen<'_>) -> bool {
        let is_it = |wanted| rule.position == Some(wanted);
        self.direction.is_none_or(|wanted| wanted == rule.direction)
            && (self.position.is_some_and(is_it) || rule.name == Some(self.word.as_str()))
    }
}

impl fmt::Display for RuleChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(direction) = self.direction {
            write!(f, "{direction}:")?;
        }
        f.write_str(&self.word)
    }
}

impl Filter {
    /// Whether it takes everything.
    pub fn is_empty(&self) -> bool {
        !self.asks_for_ends() && self.rules.is_empty()
    }

    /// Whether it asks for a protocol, ports or addresses.
    pub fn asks_for_ends(&self) -> bool {
        let is_empty = self.protocols.is_empty()
            && self.ports.is_empty()
            && self.from.is_none()
            && self.to.is_none();
        !is_empty
    }

    /// Whether protocol, ports and addresses fit.
    pub fn takes(&self, ends: &Ends) -> bool {
        let is_protocol = |wanted: &Protocol| match wanted {
            Protocol::All => true,
            Protocol::Number(number) => *number == ends.protocol,
        };
        let has_port = |port: Option<u16>| {
            let port = port.filter(|_| !self.ports.is_empty());
            port.is_some_and(|port| self.ports.iter().any(|(a, b)| (*a..=*b).contains(&port)))
        };
        (self.protocols.is_empty() || self.protocols.iter().any(is_protocol))
            && (self.ports.is_empty() || has_port(ends.local_port) || has_port(ends.remote_port))
            && self.takes_addresses(ends)
    }

    fn takes_addresses(&self, ends: &Ends) -> bool {
        let fits = |wanted: &Option<Remote>, address| {
            let wanted = wanted.as_ref();
            wanted.is_none_or(|wanted| wanted.contains(address))
        };
        let goes = |direction| match direction {
            Direction::Inbound => fits(&self.from, ends.remote) && fits(&self.to, ends.local),
            Direction::Outbound => fits(&self.from, ends.local) && fits(&self.to, ends.remote),
        };
        match ends.direction {
            Some(direction) => goes(direction),
            None => Direction::BOTH.into_iter().any(goes),
        }
    }

    /// Whether the rule fits: `None` if no rule has decided.
    pub fn takes_rule(&self, rule: Option<RuleSeen<'_>>) -> bool {
        let means = |rule: RuleSeen<'_>| self.rules.iter().any(|choice| choice.means(&rule));
        self.rules.is_empty() || rule.is_some_and(means)
    }

    /// The first rule that is asked for and is none of these.
    pub fn unknown_rule<'a>(
        &self,
        known: impl Iterator<Item = RuleSeen<'a>> + Clone,
    ) -> Option<&RuleChoice> {
        let is_known = |choice: &&RuleChoice| known.clone().any(|rule| choice.means(&rule));
        self.rules.iter().find(|choice| !is_known(choice))
    }
}

#[cfg(test)]
mod tests {
    use sg_policy::policy::{addresses_in, ports_in, protocol_in};

    use super::*;

    const SSH: Ends = Ends {
        direction: Some(Direction::Inbound),
        protocol: 6,
        local: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        local_port: Some(22),
        remote: IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)),
        remote_port: Some(40_000),
    };

    #[test]
    fn everything_that_is_given_has_to_fit() {
        let ping = Ends {
            protocol: 1,
            local_port: None,
            remote_port: None,
            ..SSH
        };
        let replies = Ends {
            direction: Some(Direction::Outbound),
            ..SSH
        };
        let unknown = Ends {
            direction: None,
            ..SSH
        };
        let from = |text| Filter {
            from: Some(addresses_in(text).unwrap()),
            ..Filter::default()
        };
        let port = |text| Filter {
            ports: ports_in(text).unwrap(),
            ..Filter::default()
        };
        let proto = |text| Filter {
            protocols: vec![protocol_in(text).unwrap()],
            ..Filter::default()
        };
        // Which of the four it takes: in, ping, out, unknown.
        for (filter, expected) in [
            (Filter::default(), "ipou"),
            (from("198.51.100.0/24"), "ip-u"),
            (from("192.0.2.1"), "--ou"),
            (port("22"), "i-ou"),
            (port("39999-40001"), "i-ou"),
            (port("23,80"), "----"),
            (proto("icmp"), "-p--"),
            (proto("all"), "ipou"),
            (
                Filter {
                    ports: vec![(22, 22)],
                    ..from("198.51.100.0/24")
                },
                "i--u",
            ),
        ] {
            let subjects = [('i', SSH), ('p', ping), ('o', replies), ('u', unknown)];
            let found: String = subjects
                .iter()
                .map(|(letter, ends)| if filter.takes(ends) { *letter } else { '-' })
                .collect();
            assert_eq!(found, expected, "{filter:?}");
        }
    }

    #[test]
    fn a_rule_is_named_by_name_or_position() {
        let rule = RuleSeen {
            direction: Direction::Outbound,
            position: Some(3),
            name: Some("dns"),
        };
        for (text, expected) in [
            ("3", true),
            ("dns", true),
            ("out:3", true),
            ("outbound:dns", true),
            ("in:3", false),
            ("inbound:dns", false),
            ("4", false),
            ("DNS", false),
        ] {
            let filter = Filter {
                rules: vec![RuleChoice::of(text)],
                ..Filter::default()
            };
            assert_eq!(filter.takes_rule(Some(rule)), expected, "{text}");
            assert!(!filter.takes_rule(None), "{text}");
            let unknown = filter.unknown_rule(std::iter::once(rule));
            assert_eq!(unknown.is_none(), expected, "{text}");
            let near = unknown.and_then(|it| it.near(std::iter::once(rule)));
            let is_near = text == "DNS";
            assert_eq!(near, is_near.then_some("dns"), "{text}");
        }
        assert!(Filter::default().takes_rule(None));
    }
}
