//! Protocols and ICMP types by name or number, and which address families each can be seen with.

use sg_common::protocol::{
    IPPROTO_AH, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP,
    is_ipv6_extension, kind_of,
};

use super::address::decimal;
use super::clip::clip;
use super::dialect;
use super::errors::Problem;
use super::fields::{suggest, words};
use super::model::Protocol;

/// The protocols that have a name in policies.
pub(crate) const NAMES: [(&str, u8); 8] = [
    ("tcp", IPPROTO_TCP),
    ("udp", IPPROTO_UDP),
    ("sctp", IPPROTO_SCTP),
    ("icmp", IPPROTO_ICMP),
    ("icmpv6", IPPROTO_ICMPV6),
    ("gre", 47),
    ("esp", 50),
    ("ah", IPPROTO_AH),
];

/// The remedy where one rule names several protocols.
pub(crate) const ONE_EACH: &str = "write one rule for each protocol; they may name the same sets";

/// Parses a `protocol:` value.
pub(crate) fn parse(text: &str) -> Result<Protocol, Problem> {
    if text == "all" {
        return Ok(Protocol::All);
    }
    if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == text) {
        return Ok(Protocol::Number(*number));
    }
    if let Some(number) = decimal(text).and_then(|n| u8::try_from(n).ok()) {
        return Ok(Protocol::Number(number));
    }
    if dialect::negates(text) {
        return Err(dialect::negated_protocol(&clip(text)));
    }
    let all = || NAMES.iter().map(|(name, _)| *name).chain(["all"]);
    let lower = text.to_lowercase();
    let expected = format!("{}, or a protocol number from 0 to 255", words(all()));
    let problem = Problem::new("bad-protocol", format!("unknown protocol `{}`", clip(text)))
        .expected(expected);
    let is_known = |word: &str| NAMES.iter().any(|(name, _)| *name == word);
    let mut parts = lower
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|p| !p.is_empty());
    match (parts.next(), parts.next()) {
        (Some(first), Some(second)) if is_known(first) && is_known(second) => {
            return Err(problem.help(ONE_EACH));
        }
        (Some(name), Some(port)) | (Some(port), Some(name))
            if is_known(name) && port.starts_with(|c: char| c.is_ascii_digit()) =>
        {
            let help = format!("write `protocol: {name}` and `ports: {port}`");
            return Err(problem.help(help));
        }
        _ => {}
    }
    let meant = match lower.as_str() {
        "tcpudp" | "tcpandudp" => return Err(problem.help(ONE_EACH)),
        "any" | "*" | "-1" | "ip" => Some("all"),
        "icmp6" | "ipv6-icmp" | "icmp-v6" => Some("icmpv6"),
        "ipsec" => Some("esp"),
        _ => suggest(&lower, all()),
    };
    Err(match meant {
        Some(meant) => problem.help(format!("did you mean `{meant}`?")),
        None => problem.help("look the number up in IANA's list of protocol numbers"),
    })
}

/// The name in policies and summaries: a known name, else the number.
pub fn name(protocol: Protocol) -> String {
    match protocol {
        Protocol::All => "all".to_owned(),
        Protocol::Number(number) => match name_of(number) {
            Some(name) => name.to_owned(),
            None => number.to_string(),
        },
    }
}

/// A protocol as a word of a sentence: `tcp`, or `protocol 112` of one without a name.
pub fn worded(number: u8) -> String {
    match name_of(number) {
        Some(name) => name.to_owned(),
        None => format!("protocol {number}"),
    }
}

fn name_of(number: u8) -> Option<&'static str> {
    let named = NAMES.iter().find(|(_, n)| *n == number)?;
    Some(named.0)
}

/// True for protocols with ports.
pub(crate) fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Number(number) if number_has_ports(number))
}

/// True for the numbers of protocols with ports.
pub(crate) fn number_has_ports(number: u8) -> bool {
    kind_of(number, false).has_ports()
}

/// The families whose packets can carry the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Families {
    pub(crate) const BOTH: Families = Families { v4: true, v6: true };
}

pub(crate) fn families(protocol: Protocol) -> Families {
    let Protocol::Number(number) = protocol else {
        return Families::BOTH;
    };
    Families {
        v4: number != IPPROTO_ICMPV6,
        v6: number != IPPROTO_ICMP && !is_ipv6_extension(number),
    }
}

const ICMP_TYPES: [(&str, u8); 11] = [
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
];

const ICMPV6_TYPES: [(&str, u8); 16] = [
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("mld-query", 130),
    ("mld-report", 131),
    ("mld-done", 132),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbour-solicitation", 135),
    ("neighbor-solicitation", 135),
    ("neighbour-advertisement", 136),
    ("neighbor-advertisement", 136),
    ("redirect", 137),
];

/// The names of ICMP (`v6` false) or ICMPv6 types.
pub(crate) fn icmp_type_names(v6: bool) -> impl Iterator<Item = &'static str> {
    let known: &[(&str, u8)] = if v6 { &ICMPV6_TYPES } else { &ICMP_TYPES };
    known.iter().map(|(name, _)| *name)
}

/// Parses an ICMP (`v6` false) or ICMPv6 type.
pub(crate) fn icmp_type(text: &str, v6: bool) -> Result<u8, Problem> {
    let known: &[(&str, u8)] = if v6 { &ICMPV6_TYPES } else { &ICMP_TYPES };
    if let Some((_, number)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*number);
    }
    if let Some(number) = decimal(text).and_then(|n| u8::try_from(n).ok()) {
        return Ok(number);
    }
    let all = || known.iter().map(|(name, _)| *name);
    let problem = Problem::new("bad-icmp", format!("unknown ICMP type `{}`", clip(text)))
        .expected(format!("a number from 0 to 255 or one of {}", words(all())));
    let meant = match text {
        "ping" | "echo" => Some("echo-request"),
        "pong" => Some("echo-reply"),
        _ => suggest(text, all()),
    };
    Err(match meant {
        Some(meant) => problem.help(format!("did you mean `{meant}`?")),
        None => problem.help("write the number"),
    })
}

/// The ICMP type that a policy calls so, for callers that have words of their own for what is
/// none.
pub fn icmp_type_of(text: &str, v6: bool) -> Option<u8> {
    icmp_type(text, v6).ok()
}

/// What policies call an ICMP (`v6` false) or ICMPv6 type. `None` of one that has no name.
pub fn icmp_type_name(number: u8, v6: bool) -> Option<&'static str> {
    let known: &[(&str, u8)] = if v6 { &ICMPV6_TYPES } else { &ICMP_TYPES };
    let found = known.iter().find(|(_, known)| *known == number);
    found.map(|(name, _)| *name)
}

/// Parses an ICMP code.
pub(crate) fn icmp_code(text: &str) -> Result<u8, Problem> {
    decimal(text)
        .and_then(|n| u8::try_from(n).ok())
        .ok_or_else(|| {
            Problem::new("bad-icmp", format!("`{}` is not an ICMP code", clip(text)))
                .expected("a number from 0 to 255")
                .help("write its number, as RFC 792 (ICMP) or RFC 4443 (ICMPv6) has it")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves P4.
    #[test]
    fn a_number_and_its_name_are_the_same_protocol() {
        for (name, number) in NAMES {
            assert_eq!(parse(name).unwrap(), parse(&number.to_string()).unwrap());
            assert_eq!(super::name(Protocol::Number(number)), name);
            assert_eq!(worded(number), name);
        }
        assert_eq!(parse("255").unwrap(), Protocol::Number(255));
        assert!(parse("256").is_err() && parse("06").is_err());
        assert!(parse("TCP").unwrap_err().help.unwrap().contains("`tcp`"));
        assert!(parse("any").unwrap_err().help.unwrap().contains("`all`"));
    }

    /// Proves P5.
    #[test]
    fn each_icmp_has_its_own_family_and_extension_headers_are_ipv4_only() {
        let of = |n| families(Protocol::Number(n));
        assert_eq!(
            of(1),
            Families {
                v4: true,
                v6: false
            }
        );
        assert_eq!(
            of(58),
            Families {
                v4: false,
                v6: true
            }
        );
        for number in [0, 43, 44, 51, 60] {
            assert_eq!(
                of(number),
                Families {
                    v4: true,
                    v6: false
                }
            );
        }
        assert_eq!(of(6), Families { v4: true, v6: true });
    }
}
