//! The two kinds of sets, addresses and ports: how a literal is added and what a set becomes.
//! Everything about names, nesting and files is common to both and lives in `sets`.

use std::collections::HashMap;
use std::path::PathBuf;

use super::address::{self, Address};
use super::errors::{At, Problem};
use super::finding::{Finding, Lint};
use super::loading::{Ctx, Loading, PORT_RANGES, PREFIXES, PortRanges, SetFile};
use super::model::{Prefix, Remote};
use super::ports::{self, Ports};

pub(crate) trait Kind: Sized {
    /// As in "unknown address set".
    const NOUN: &'static str;
    /// The key of the sets in the file.
    const KEY: &'static str;
    /// What may stand in a list, and where no names may.
    const ELEMENT: &'static str;
    const LITERAL: &'static str;
    type Literal: Copy + std::fmt::Display + std::fmt::Debug;
    type Value: Clone + Default + std::fmt::Debug;

    fn parse(text: &str) -> Result<Self::Literal, Problem>;
    fn add(value: &mut Self::Value, literal: Self::Literal);
    fn merge(value: &mut Self::Value, other: &Self::Value);
    /// The remedy for an unknown set whose name means something in another tool.
    fn hint(name: &str) -> Option<String>;
    /// A finding about a literal that is valid, but probably not what was meant.
    fn odd(literal: Self::Literal, text: &str) -> Option<Finding>;
    /// Sorts and removes duplicates.
    fn finish(value: &mut Self::Value);
    fn size(value: &Self::Value) -> usize;
    fn limit() -> usize;
    /// The count of what all sets and rules hold so far.
    fn used(loading: &mut Loading) -> &mut usize;
    /// Values of set files that were read already.
    fn files(loading: &mut Loading) -> &mut HashMap<PathBuf, Option<SetFile<Self::Value>>>;
}

/// Parses a literal where the name of a set may not stand.
pub(crate) fn literal<K: Kind>(text: &str) -> Result<K::Literal, Problem> {
    K::parse(text).map_err(|problem| match problem.expected.as_deref() {
        Some(expected) if expected == K::ELEMENT => problem.expected(K::LITERAL),
        _ => problem,
    })
}

/// Counts `value` against the limit of one load.
pub(crate) fn charge<K: Kind>(loading: &mut Loading, value: &K::Value) -> Result<(), Problem> {
    let used = K::used(loading);
    *used = used.saturating_add(K::size(value));
    if *used <= K::limit() {
        return Ok(());
    }
    Err(too_many::<K>())
}

/// The error of a policy that grows beyond the limit.
pub(crate) fn too_many<K: Kind>() -> Problem {
    Problem::new("too-large", format!(
        "the policy's {} sets and lists add up to too much",
        K::NOUN
    ))
    .expected(format!("at most {} entries in all", K::limit()))
    .help("name one set in many rules instead of repeating long lists; a range counts as the prefixes it splits into")
}

#[derive(Debug)]
pub(crate) struct Addresses;

impl Kind for Addresses {
    const NOUN: &'static str = "address";
    const KEY: &'static str = "address-sets";
    const ELEMENT: &'static str = address::ELEMENT;
    const LITERAL: &'static str = "an IPv4 or IPv6 address, a CIDR, a range `a-b`, or `any`";
    type Literal = Address;
    type Value = Remote;

    fn parse(text: &str) -> Result<Address, Problem> {
        address::parse(text)
    }

    fn add(value: &mut Remote, literal: Address) {
        match literal {
            Address::Any => {
                value.v4.push(Prefix { bits: 0, len: 0 });
                value.v6.push(Prefix { bits: 0, len: 0 });
            }
            Address::Prefix4(prefix) => value.v4.push(prefix),
            Address::Prefix6(prefix) => value.v6.push(prefix),
            Address::Range4(a, b) => {
                address::split(u128::from(a), u128::from(b), 32, |bits, len| {
                    let bits = bits as u32;
                    value.v4.push(Prefix { bits, len });
                });
            }
            Address::Range6(a, b) => {
                address::split(a, b, 128, |bits, len| value.v6.push(Prefix { bits, len }));
            }
        }
    }

    fn hint(name: &str) -> Option<String> {
        let is_id = ["sg-", "pl-", "ipm-", "ipmg-", "eks-"];
        if is_id.iter().any(|id| name.starts_with(id)) {
            return Some(format!(
                "a cloud's own groups and lists are not looked up: define `{name}` under \
                 `address-sets`"
            ));
        }
        if matches!(name, "localhost" | "loopback") {
            return Some(
                "host names are not looked up, and what the node sends to itself does not pass its \
                 interface: write the address that is meant"
                    .to_owned(),
            );
        }
        matches!(
            name,
            "anywhere" | "everyone" | "everybody" | "internet" | "world" | "public" | "default"
        )
        .then(|| "every address is `any`; every IPv4 address is `0.0.0.0/0`".to_owned())
    }

    fn odd(literal: Address, text: &str) -> Option<Finding> {
        let (family, whole) = match literal {
            Address::Prefix4(Prefix { bits: 0, len: 32 }) => ("IPv4", "0.0.0.0/0"),
            Address::Prefix6(Prefix { bits: 0, len: 128 }) => ("IPv6", "::/0"),
            _ => return None,
        };
        if text.contains('/') {
            return None;
        }
        let width = if family == "IPv4" { 32 } else { 128 };
        let message = format!("`{text}` is a single address, which hardly any packet carries");
        let help = format!(
            "every {family} address is `{whole}`; if the single address is meant, write \
             `{text}/{width}`"
        );
        Some(Finding::warning(Lint::UnspecifiedAddress, message).help(help))
    }

    fn merge(value: &mut Remote, other: &Remote) {
        value.v4.extend_from_slice(&other.v4);
        value.v6.extend_from_slice(&other.v6);
    }

    fn finish(value: &mut Remote) {
        value.v4.sort_unstable();
        value.v4.dedup();
        value.v6.sort_unstable();
        value.v6.dedup();
    }

    fn size(value: &Remote) -> usize {
        value.v4.len() + value.v6.len()
    }

    fn limit() -> usize {
        PREFIXES
    }

    fn used(loading: &mut Loading) -> &mut usize {
        &mut loading.prefixes
    }

    fn files(loading: &mut Loading) -> &mut HashMap<PathBuf, Option<SetFile<Remote>>> {
        &mut loading.address_files
    }
}

#[derive(Debug)]
pub(crate) struct PortKind;

impl Kind for PortKind {
    const NOUN: &'static str = "port";
    const KEY: &'static str = "port-sets";
    const ELEMENT: &'static str = ports::ELEMENT;
    const LITERAL: &'static str = "a port from 0 to 65535, or a range `a-b`";
    type Literal = Ports;
    type Value = PortRanges;

    fn parse(text: &str) -> Result<Ports, Problem> {
        ports::parse(text)
    }

    fn add(value: &mut Self::Value, literal: Ports) {
        value.push((literal.0, literal.1));
    }

    fn hint(name: &str) -> Option<String> {
        const SERVICES: [(&str, u16); 14] = [
            ("ftp", 21),
            ("ssh", 22),
            ("smtp", 25),
            ("dns", 53),
            ("domain", 53),
            ("http", 80),
            ("ntp", 123),
            ("ldap", 389),
            ("https", 443),
            ("mysql", 3306),
            ("rdp", 3389),
            ("postgres", 5432),
            ("postgresql", 5432),
            ("redis", 6379),
        ];
        let (_, port) = SERVICES.iter().find(|(service, _)| *service == name)?;
        Some(format!(
            "service names are not looked up: write the number, which is usually {port}"
        ))
    }

    fn odd(_: Ports, _: &str) -> Option<Finding> {
        None
    }

    fn merge(value: &mut Self::Value, other: &Self::Value) {
        value.extend_from_slice(other);
    }

    fn finish(value: &mut Self::Value) {
        ports::normalise(value);
    }

    fn size(value: &Self::Value) -> usize {
        value.len()
    }

    fn limit() -> usize {
        PORT_RANGES
    }

    fn used(loading: &mut Loading) -> &mut usize {
        &mut loading.port_ranges
    }

    fn files(loading: &mut Loading) -> &mut HashMap<PathBuf, Option<SetFile<Self::Value>>> {
        &mut loading.port_files
    }
}

impl Ctx<'_> {
    /// Reports what is odd about a literal, for the first few of a load.
    pub(crate) fn odd<K: Kind>(
        &mut self,
        literal: K::Literal,
        text: &str,
        at: impl FnOnce() -> At,
    ) {
        const TOLD: usize = 20;
        if self.loading.findings.len() < TOLD
            && let Some(finding) = K::odd(literal, text)
        {
            let finding = finding.at(&self.location(at()));
            if !self.loading.findings.contains(&finding) {
                self.loading.findings.push(finding);
            }
        }
    }
}
