//! Sets of packets as a person would write them: protocols with their ports or messages, and the
//! prefixes of the other end.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sg_common::protocol::{Kind, icmp_number, kind_of, other_number};
use sg_common::verdict::Direction;

use crate::oracle::Packet;
use crate::partition::Family;
use crate::policy::{Cover, Prefix, Protocol, Remote, protocol_name, split_range};

/// Numbers of one kind, which means ports, ICMP messages or protocols: the kind, and the first and
/// the last number.
pub(super) type Numbers = (Kind, u16, u16);

/// All packets of one direction with one of some numbers, from or to some addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Where the packets go.
    pub direction: Direction,
    /// Sorted by kind and number, without overlaps; neighbours do not touch.
    pub(super) numbers: Vec<Numbers>,
    /// The addresses at the other end, in the fewest prefixes. Where both families have some, the
    /// numbers mean the same in both.
    pub remotes: Remote,
}

/// Packets of one protocol, as policies spell it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Service {
    /// `all`, a protocol's name or number, a range of numbers such as `0-5`, or `other`: all
    /// protocols but TCP, UDP, SCTP and ICMP.
    pub protocol: String,
    /// Ports and ranges of them, such as `22` and `80-90`; of ICMP types, ranges of types and
    /// types with codes, such as `8`, `0-7` and `3/1-4`. `None` is all.
    pub numbers: Option<Vec<String>>,
}

/// Whether these are all numbers of all kinds.
pub(super) fn is_everything(numbers: &[Numbers]) -> bool {
    let whole = |((kind, first, last), expected): (&Numbers, Kind)| {
        (*kind, *first, *last) == (expected, 0, u16::MAX)
    };
    numbers.len() == Kind::ALL.len() && numbers.iter().zip(Kind::ALL).all(whole)
}

/// Whether these mean the same in both families.
pub(super) fn means_the_same(numbers: &[Numbers]) -> bool {
    is_everything(numbers) || numbers.iter().all(|(kind, ..)| kind.has_ports())
}

/// The kind and number of a packet.
fn looked_up(packet: &Packet) -> (Kind, u16) {
    let kind = kind_of(packet.protocol, packet.remote.is_ipv6());
    let number = match kind {
        Kind::Icmp => icmp_number(packet.icmp.0, packet.icmp.1),
        Kind::Other => other_number(packet.protocol),
        Kind::Tcp | Kind::Udp | Kind::Sctp => packet.port,
    };
    (kind, number)
}

impl Traffic {
    /// Whether `packet` is one of these.
    pub fn contains(&self, packet: &Packet) -> bool {
        let (kind, number) = looked_up(packet);
        let has = |(of, first, last): &Numbers| *of == kind && (*first..=*last).contains(&number);
        packet.direction == self.direction
            && self.numbers.iter().any(has)
            && self.remotes.contains(packet.remote)
    }

    /// The protocols with their numbers.
    pub fn services(&self) -> Vec<Service> {
        services(&self.numbers, self.family())
    }

    /// The protocols with their numbers in one line: `tcp 22,80-90, udp`, or `all but tcp 22` where
    /// that is shorter.
    pub fn services_in_words(&self) -> String {
        let plain = self.services();
        let others: Vec<Numbers> = Kind::ALL
            .into_iter()
            .flat_map(|kind| gaps(kind, &self.numbers))
            .collect();
        let others = services(&others, self.family());
        let length = |services: &[Service]| {
            let of = |s: &Service| s.numbers.as_ref().map_or(1, Vec::len);
            services.iter().map(of).sum::<usize>()
        };
        match !others.is_empty() && length(&others) < length(&plain) {
            true => format!("all but {}", joined(&others)),
            false => joined(&plain),
        }
    }

    /// The prefixes in one line, at most `shown` of them: `192.0.2.0/24, 198.51.100.7 and 3 more`.
    /// Where that is shorter, `10.0.0.0/8 but 10.1.0.0/16`.
    pub fn remotes_in_words(&self, shown: usize) -> String {
        let Remote { v4, v6 } = &self.remotes;
        let is_whole4 = v4.first().is_some_and(|prefix| prefix.len == 0);
        let is_whole6 = v6.first().is_some_and(|prefix| prefix.len == 0);
        if is_whole4 && is_whole6 {
            return "any".to_owned();
        }
        let cover = Cover::of(&self.remotes);
        let mut parts = Vec::new();
        for (family, ranges) in [(Family::V4, &cover.v4), (Family::V6, &cover.v6)] {
            let (Some((first, _)), Some((_, last))) = (ranges.first(), ranges.last()) else {
                continue;
            };
            let around = around(*first, *last);
            let rest = prefixes(family, &between(ranges, around));
            let ranges = prefixes(family, ranges);
            parts.push(match rest.len() {
                n @ 1.. if n <= shown && n + 1 < ranges.len() => {
                    let around = prefixes(family, &[around]).concat();
                    format!("{around} but {}", few(&rest, shown))
                }
                _ => few(&ranges, shown),
            });
        }
        parts.join(", ")
    }

    /// The family of the addresses, if there is only one.
    fn family(&self) -> Option<Family> {
        match (self.remotes.v4.is_empty(), self.remotes.v6.is_empty()) {
            (false, true) => Some(Family::V4),
            (true, false) => Some(Family::V6),
            _ => None,
        }
    }
}

fn services(numbers: &[Numbers], family: Option<Family>) -> Vec<Service> {
    let all = |protocol: &str| Service {
        protocol: protocol.to_owned(),
        numbers: None,
    };
    if is_everything(numbers) {
        return vec![all("all")];
    }
    let mut out: Vec<Service> = Vec::new();
    for same in numbers.chunk_by(|a, b| a.0 == b.0) {
        let kind = same[0].0;
        let name = match kind {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
            Kind::Sctp => "sctp",
            Kind::Icmp if family == Some(Family::V6) => "icmpv6",
            Kind::Icmp => "icmp",
            Kind::Other => "other",
        };
        if let [(_, 0, u16::MAX)] = same {
            out.push(all(name));
            continue;
        }
        if kind == Kind::Other {
            out.extend(same.iter().map(|(_, first, last)| {
                let [first, last] = [first, last].map(|number| number.to_be_bytes()[0]);
                match first == last {
                    true => all(&protocol_name(Protocol::Number(first))),
                    false => all(&format!("{first}-{last}")),
                }
            }));
            continue;
        }
        let mut spelled = Vec::new();
        for &(_, first, last) in same {
            match kind {
                Kind::Icmp => messages(first, last, &mut spelled),
                _ => spelled.push(range(first, last)),
            }
        }
        out.push(Service {
            protocol: name.to_owned(),
            numbers: Some(spelled),
        });
    }
    out
}

/// ICMP messages from one number to another: types, and parts of types.
fn messages(first: u16, last: u16, out: &mut Vec<String>) {
    let mut first = first;
    while first <= last {
        let [kind, code] = first.to_be_bytes();
        // Whole types are one range.
        let whole = u32::from(last) + 1 - u32::from(first) >= 256;
        let end = match code {
            0 if whole => {
                let [end, low] = last.to_be_bytes();
                let end = if low == u8::MAX { end } else { end - 1 };
                out.push(range(kind.into(), end.into()));
                icmp_number(end, u8::MAX)
            }
            _ => {
                let end = last.min(icmp_number(kind, u8::MAX));
                out.push(format!("{kind}/{}", range(code.into(), end & 0xff)));
                end
            }
        };
        match end.checked_add(1) {
            Some(next) => first = next,
            None => return,
        }
    }
}

fn range(first: u16, last: u16) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    }
}

/// The numbers of `kind` that are not among `numbers`.
fn gaps(kind: Kind, numbers: &[Numbers]) -> Vec<Numbers> {
    let mut out = Vec::new();
    let mut next = Some(0u16);
    for (_, first, last) in numbers.iter().filter(|(of, ..)| *of == kind) {
        if let Some(next) = next
            && next < *first
        {
            out.push((kind, next, first - 1));
        }
        next = last.checked_add(1);
    }
    out.extend(next.map(|next| (kind, next, u16::MAX)));
    out
}

fn joined(services: &[Service]) -> String {
    let one = |service: &Service| match &service.numbers {
        None => service.protocol.clone(),
        Some(numbers) => format!("{} {}", service.protocol, few_joined(numbers, 6, ",")),
    };
    few_joined(&services.iter().map(one).collect::<Vec<_>>(), 6, ", ")
}

fn few(texts: &[String], shown: usize) -> String {
    few_joined(texts, shown, ", ")
}

/// At most `shown` texts, and the number of the others.
fn few_joined(texts: &[String], shown: usize, by: &str) -> String {
    let mut out = texts[..texts.len().min(shown)].join(by);
    if let Some(more @ 1..) = texts.len().checked_sub(shown) {
        let _ = write!(out, " and {more} more");
    }
    out
}

/// Ranges of addresses in the fewest prefixes, as text.
fn prefixes(family: Family, ranges: &[(u128, u128)]) -> Vec<String> {
    let remote = remote_of(family, ranges);
    let v4 = remote.v4.iter().map(spelled4);
    v4.chain(remote.v6.iter().map(spelled6)).collect()
}

/// The smallest prefix with both addresses, as a range.
fn around(first: u128, last: u128) -> (u128, u128) {
    let host = match (first ^ last).leading_zeros() {
        0 => u128::MAX,
        common => (1 << (128 - common)) - 1,
    };
    (first & !host, last | host)
}

/// What is between and beside `ranges`, within `around`.
fn between(ranges: &[(u128, u128)], around: (u128, u128)) -> Vec<(u128, u128)> {
    let mut out = Vec::new();
    let mut next = Some(around.0);
    for (first, last) in ranges {
        if let Some(next) = next
            && next < *first
        {
            out.push((next, first - 1));
        }
        next = last.checked_add(1);
    }
    let rest = next.filter(|next| *next <= around.1);
    out.extend(rest.map(|next| (next, around.1)));
    out
}

fn spelled4(prefix: &Prefix<u32>) -> String {
    spelled(Ipv4Addr::from(prefix.bits).into(), prefix.len, 32)
}

fn spelled6(prefix: &Prefix<u128>) -> String {
    spelled(Ipv6Addr::from(prefix.bits).into(), prefix.len, 128)
}

fn spelled(address: IpAddr, len: u8, width: u8) -> String {
    match len == width {
        true => address.to_string(),
        false => format!("{address}/{len}"),
    }
}

/// The prefixes as policies spell them.
pub fn prefixes_of(remote: &Remote) -> impl Iterator<Item = String> {
    let v4 = remote.v4.iter().map(spelled4);
    v4.chain(remote.v6.iter().map(spelled6))
}

/// Ranges of one family, sorted and not touching, in the fewest prefixes.
pub(super) fn remote_of(family: Family, ranges: &[(u128, u128)]) -> Remote {
    let mut remote = Remote::default();
    for &(first, last) in ranges {
        match family {
            Family::V4 => split_range(first, last, 32, |bits, len| {
                let bits = bits as u32;
                remote.v4.push(Prefix { bits, len });
            }),
            Family::V6 => split_range(first, last, 128, |bits, len| {
                remote.v6.push(Prefix { bits, len });
            }),
        }
    }
    remote
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(numbers: &[Numbers], remotes: Remote) -> Traffic {
        Traffic {
            direction: Direction::Inbound,
            numbers: numbers.to_vec(),
            remotes,
        }
    }

    fn v4(ranges: &[(u32, u32)]) -> Remote {
        let ranges: Vec<_> = ranges
            .iter()
            .map(|&(first, last)| (first.into(), last.into()))
            .collect();
        remote_of(Family::V4, &ranges)
    }

    #[test]
    fn numbers_are_spelled_as_in_policies() {
        let all = v4(&[(0, u32::MAX)]);
        let of = |numbers: &[Numbers]| traffic(numbers, all.clone()).services_in_words();
        assert_eq!(
            of(&[(Kind::Tcp, 22, 22), (Kind::Tcp, 80, 90)]),
            "tcp 22,80-90"
        );
        assert_eq!(of(&[(Kind::Udp, 0, u16::MAX)]), "udp");
        assert_eq!(of(&Kind::ALL.map(|kind| (kind, 0, u16::MAX))), "all");
        assert_eq!(of(&[(Kind::Icmp, 0x0800, 0x08ff)]), "icmp 8");
        assert_eq!(of(&[(Kind::Icmp, 0x0301, 0x0304)]), "icmp 3/1-4");
        assert_eq!(
            of(&[(Kind::Icmp, 0x0280, 0x0501)]),
            "icmp 2/128-255,3-4,5/0-1"
        );
        assert_eq!(of(&[(Kind::Other, 0x2f00, 0x2fff)]), "gre");
        assert_eq!(of(&[(Kind::Other, 0x5900, 0x70ff)]), "89-112");
        let mut but_ssh = vec![(Kind::Tcp, 0, 21), (Kind::Tcp, 23, u16::MAX)];
        but_ssh.extend(Kind::ALL[1..].iter().map(|kind| (*kind, 0, u16::MAX)));
        assert_eq!(of(&but_ssh), "all but tcp 22");
    }

    #[test]
    fn prefixes_beyond_a_few_are_counted() {
        let of = |ranges: &[(u32, u32)]| traffic(&[], v4(ranges)).remotes_in_words(2);
        assert_eq!(of(&[(0, u32::MAX)]), "0.0.0.0/0");
        assert_eq!(of(&[(10 << 24, (11 << 24) - 1)]), "10.0.0.0/8");
        let all_but = [(0, (10 << 24) - 1), (11 << 24, u32::MAX)];
        assert_eq!(of(&all_but), "0.0.0.0/0 but 10.0.0.0/8");
        let all_but_one = [(10 << 24, (10 << 24) + 6), ((10 << 24) + 8, (11 << 24) - 1)];
        assert_eq!(of(&all_but_one), "10.0.0.0/8 but 10.0.0.7");
        assert_eq!(
            of(&[(1, 1), (3, 3), (5, 5), (8, 9)]),
            "0.0.0.1, 0.0.0.3 and 2 more"
        );
        let both = Remote {
            v4: v4(&[(0, u32::MAX)]).v4,
            v6: remote_of(Family::V6, &[(0, u128::MAX)]).v6,
        };
        assert_eq!(traffic(&[], both).remotes_in_words(2), "any");
    }

    #[test]
    fn icmp_is_called_by_its_family() {
        let v6 = remote_of(Family::V6, &[(0, u128::MAX)]);
        let services = traffic(&[(Kind::Icmp, 0x8000, 0x80ff)], v6).services_in_words();
        assert_eq!(services, "icmpv6 128");
    }
}
