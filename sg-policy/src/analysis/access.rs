//! Who may reach what from outside, exactly: what a policy would drop of what its own `guard`
//! names, whether a line admits one address to one port and nothing else (SPEC C6), and from where
//! a port becomes reachable when one policy replaces another (SPEC C5).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use sg_common::protocol::Kind;
use sg_common::verdict::Direction;

use super::diff::{Change, diff};
use super::findings::decider;
use super::traffic::{prefixes_of, remote_of};
use crate::oracle::Packet;
use crate::partition::{Class, Family, Partition};
use crate::policy::{
    Action, Finding, Guard, Location, Policy, Protocol, Rule, Severity, Witness, Written,
    protocol_name,
};

/// Something that a policy's guard names and its rules drop, or would drop if it were not audited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The entry of the guard, as an index into [`Policy::guard`].
    pub guard: usize,
    /// The rule that drops it, as an index into [`Policy::rules`]; `None` if no rule matches it.
    pub rule: Option<usize>,
    /// Whether it passes all the same, because it is audited (SPEC C9).
    pub is_watched: bool,
    /// One of the packets that are dropped.
    pub witness: Packet,
}

/// Everything that the rules of `policy` drop of what its guard names, each time with the rule;
/// what it audits is among it. What two entries name is said of the earlier one. Empty if nothing
/// is dropped.
///
/// ```
/// use sg_policy::{analysis::access::breaches, policy::load_text};
///
/// let text = "
/// guard:
///   - {protocol: tcp, ports: 22, from: 192.0.2.0/24}
/// inbound:
///   - {protocol: all, from: 192.0.2.66, action: drop}
///   - {protocol: tcp, ports: 22, from: 192.0.2.0/24, action: accept}
/// ";
/// let policy = load_text("policy.yaml", text, None, &[]).unwrap().policy;
/// let [breach] = &breaches(&policy)[..] else { panic!() };
/// assert_eq!((breach.guard, breach.rule), (0, Some(0)));
/// assert_eq!(breach.witness.remote.to_string(), "192.0.2.66");
/// ```
pub fn breaches(policy: &Policy) -> Vec<Breach> {
    if policy.guard.is_empty() {
        return Vec::new();
    }
    let named = accepting(policy);
    let mut breaches: Vec<Breach> = Vec::new();
    for row in diff(&named, policy).rows {
        // What the guard names is accepted by one of the rules that stand for its entries.
        let Some(guard) = row.old.filter(|_| row.change == Change::Narrowed) else {
            continue;
        };
        let (guard, rule) = (guard as usize, row.new.map(|rule| rule as usize));
        if breaches
            .iter()
            .all(|it| (it.guard, it.rule) != (guard, rule))
        {
            let action = match rule {
                Some(rule) => policy.rules.get(rule).map(|rule| rule.action),
                None => Some(policy.no_match()),
            };
            breaches.push(Breach {
                guard,
                rule,
                is_watched: action == Some(Action::Audit),
                witness: row.witness,
            });
        }
    }
    breaches.sort_by_key(|breach| (breach.guard, breach.rule));
    breaches
}

/// A policy that accepts what the guard of `policy` names, one rule for each entry, and nothing
/// else.
fn accepting(policy: &Policy) -> Policy {
    let rule = |(position, guard): (u32, &Guard)| Rule {
        direction: Direction::Inbound,
        position,
        group: String::new(),
        name: None,
        description: None,
        protocol: guard.protocol,
        ports: guard.ports.clone(),
        icmp: None,
        remote: Arc::clone(&guard.remote),
        // Only its meaning is asked for.
        written: Written {
            ports: None,
            remote: Arc::from(""),
        },
        action: Action::Accept,
        audit: false,
        log: false,
        summary: guard.summary.clone(),
        identity: String::new(),
        source: guard.source.clone(),
    };
    Policy {
        rules: (1..).zip(&policy.guard).map(rule).collect(),
        guard: Vec::new(),
        ..policy.clone()
    }
}

/// The code of these errors.
pub const CODE: &str = "guard";

/// The breaches of a policy as errors, each with the place of the guard's entry. One whose packets
/// pass because they are audited is a warning.
pub fn findings(policy: &Policy) -> Vec<Finding> {
    let error = |breach: &Breach| {
        let guard = policy.guard.get(breach.guard)?;
        let rule = breach.rule.and_then(|rule| policy.rules.get(rule));
        Some(Finding {
            severity: match breach.is_watched {
                true => Severity::Warning,
                false => Severity::Error,
            },
            location: Some(guard.source.clone()),
            rules: rule.map(decider).into_iter().collect(),
            witness: Some(Witness::from(&breach.witness)),
            ..Finding::error(CODE, breach.message(policy, guard)).help(breach.help(policy, guard))
        })
    };
    breaches(policy).iter().filter_map(error).collect()
}

impl Breach {
    /// What is wrong, in a sentence.
    fn message(&self, policy: &Policy, guard: &Guard) -> String {
        let by = match self.rule.and_then(|rule| policy.rules.get(rule)) {
            Some(rule) => format!(
                "inbound rule {} of {} ({}) {}",
                rule.position,
                rule.group,
                rule.title(),
                match self.is_watched {
                    true => "would drop",
                    false => "drops",
                }
            ),
            None => "no inbound rule accepts".to_owned(),
        };
        format!(
            "the guard names `{}`, of which {by} {}{}",
            guard.summary,
            shown(&self.witness),
            match self.is_watched {
                true => ": it passes, for that is audited, and is dropped once it is enforced",
                false => "",
            }
        )
    }

    fn help(&self, policy: &Policy, guard: &Guard) -> String {
        let place = |location: &Location| format!("{}:{}", location.file, location.line);
        match self.rule.and_then(|rule| policy.rules.get(rule)) {
            Some(rule) => format!(
                "change the rule at {}, or narrow the guard to what is meant to stay reachable",
                place(&rule.source)
            ),
            None => format!(
                "accept `{}` by an inbound rule, or narrow the guard to what is meant to stay reachable",
                guard.summary
            ),
        }
    }
}

/// `tcp 22 from 192.0.2.66`.
fn shown(packet: &Packet) -> String {
    let protocol = protocol_name(Protocol::Number(packet.protocol));
    let number = match packet.icmp {
        _ if packet.port != 0 => format!(" {}", packet.port),
        (0, 0) => String::new(),
        (kind, code) => format!(" {kind}/{code}"),
    };
    format!("{protocol}{number} from {}", packet.remote)
}

/// Whether `after` accepts packets like `packet` more than `before`, from or to that one address
/// and with that one number, and otherwise accepts and drops the same.
pub fn is_wider_only_by(before: &Policy, after: &Policy, packet: &Packet) -> bool {
    let rows = diff(before, after).rows;
    let [row] = &rows[..] else {
        return false;
    };
    let is_one_number = matches!(row.traffic.numbers[..], [(_, first, last)] if first == last);
    let remotes = &row.traffic.remotes;
    let is_one_address = match (&remotes.v4[..], &remotes.v6[..]) {
        ([prefix], []) => prefix.len == 32,
        ([], [prefix]) => prefix.len == 128,
        _ => false,
    };
    row.change == Change::Widened && is_one_number && is_one_address && row.traffic.contains(packet)
}

/// Addresses from which a port becomes reachable, with the rule that accepts them from then on, as
/// an index into [`Policy::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address, of the same family.
    pub last: IpAddr,
    /// The rule of the policy that comes.
    pub rule: u32,
}

/// From where inbound packets of this kind and number are accepted by the policy `after` and not by
/// the policy `before`, each given with its partition; by ascending addresses, those of IPv4 first.
/// It looks at one number only, so that it takes little time for policies of any size.
pub fn opened(
    before: (&Policy, &Partition),
    after: (&Policy, &Partition),
    kind: Kind,
    number: u16,
) -> Vec<Opened> {
    let mut opened: Vec<Opened> = Vec::new();
    let accepted = |(policy, partition): (&Policy, &Partition), class| {
        let rule = partition.rule(class, Direction::Inbound, kind, number)?;
        let passes = policy.rules.get(rule as usize)?.action.passes();
        passes.then_some(rule)
    };
    for family in Family::BOTH {
        let mut known: HashMap<[Class; 2], Option<u32>> = HashMap::new();
        for (first, last, classes) in overlaps(family, before.1, after.1) {
            let rule = *known.entry(classes).or_insert_with(|| {
                let rule = accepted(after, classes[1]);
                rule.filter(|_| accepted(before, classes[0]).is_none())
            });
            let Some(rule) = rule else {
                continue;
            };
            match opened.last_mut() {
                Some(before) if before.rule == rule && is_next(before.last, first) => {
                    before.last = last;
                }
                _ => opened.push(Opened { first, last, rule }),
            }
        }
    }
    opened
}

/// All addresses of a family, cut where either partition cuts them, from the lowest on: first and
/// last address, and the class of them in each.
fn overlaps(family: Family, a: &Partition, b: &Partition) -> Vec<(IpAddr, IpAddr, [Class; 2])> {
    let mut overlaps = Vec::new();
    let (mut a, mut b) = (a.ranges(family).peekable(), b.ranges(family).peekable());
    // Both begin at the lowest address and end at the highest one.
    while let (Some(left), Some(right)) = (a.peek(), b.peek()) {
        let (left, right) = (*left, *right);
        let last = left.last.min(right.last);
        overlaps.push((left.first.max(right.first), last, [left.class, right.class]));
        if left.last == last {
            a.next();
        }
        if right.last == last {
            b.next();
        }
    }
    overlaps
}

/// A range of addresses of one family in the fewest prefixes, as policies spell them.
///
/// ```
/// use sg_policy::analysis::access::prefixes;
///
/// let range = |first: &str, last: &str| prefixes(first.parse().unwrap(), last.parse().unwrap());
/// assert_eq!(range("192.0.2.1", "192.0.2.3"), ["192.0.2.1", "192.0.2.2/31"]);
/// assert_eq!(range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ["::/0"]);
/// ```
pub fn prefixes(first: IpAddr, last: IpAddr) -> Vec<String> {
    let remote = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let range = (u32::from(first).into(), u32::from(last).into());
            remote_of(Family::V4, &[range])
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            remote_of(Family::V6, &[(first.into(), last.into())])
        }
        _ => return Vec::new(),
    };
    prefixes_of(&remote).collect()
}

/// Whether one address follows another.
fn is_next(before: IpAddr, after: IpAddr) -> bool {
    match (before, after) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u32::from(a).checked_add(1) == Some(b.into()),
        (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(a).checked_add(1) == Some(b.into()),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
