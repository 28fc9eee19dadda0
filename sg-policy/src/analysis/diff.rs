//! The difference of two policies: the traffic whose verdict differs, exactly, in rows as a person
//! would write them, each with a packet that shows it.
//!
//! A row has all packets of one direction that one rule decided and another one decides, with
//! different verdicts. Which rule decides makes no row by itself. Where the packets of two rules
//! are no product of numbers and addresses, there is more than one row for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sg_common::flow::Timeout;
use sg_common::verdict::{Action, Direction};

use super::effects::Effects;
use super::products::{Ranges, add, by_class, example, products};
use super::traffic::{Numbers, Traffic, means_the_same, remote_of};
use super::witness::{choose, may_be_essential};
use crate::oracle::Packet;
use crate::partition::{Family, Pairs};
use crate::policy::{Policy, Remote};

/// What a change of policy does to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// What was dropped passes.
    Widened,
    /// What passed is dropped.
    Narrowed,
    /// One of them for some packets, the other for others.
    Both,
}

/// What differs between two policies.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Diff {
    /// The traffic whose verdict differs: inbound first, then in the order of the new rules.
    pub rows: Vec<Row>,
    /// What is said for the whole policy, and differs.
    pub settings: Vec<Setting>,
    /// Pairs of rules that decide packets alike, of which one logs and the other does not.
    pub logging: Vec<Logging>,
    /// How many other pairs of rules there are that decide packets alike, and that are not the
    /// same rule in both policies.
    pub another_rule: usize,
}

/// Packets whose verdict differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which packets.
    pub traffic: Traffic,
    /// What decides them in the old policy, as an index into its rules; `None` if no rule matches.
    pub old: Option<u32>,
    /// What decides them in the new policy, as an index into its rules; `None` if no rule matches.
    pub new: Option<u32>,
    /// What becomes of them: never [`Change::Both`].
    pub change: Change,
    /// One of the packets; if there is one, one that is not essential traffic.
    pub witness: Packet,
}

/// A setting that differs, both values as a policy writes them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// Its key in a policy: `essential`, `timeouts: udp`.
    pub setting: String,
    /// Its value in the old policy.
    pub old: String,
    /// Its value in the new one.
    pub new: String,
}

/// Packets whose verdict is the same, and which are logged by one of two policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Logging {
    /// Where the packets go.
    pub direction: Direction,
    /// See [`Row::old`].
    pub old: Option<u32>,
    /// See [`Row::new`].
    pub new: Option<u32>,
    /// Whether the new policy logs them.
    pub logs: bool,
}

impl Diff {
    /// Whether the policies do the same to every packet, and log the same.
    pub fn is_same(&self) -> bool {
        self.rows.is_empty() && self.settings.is_empty() && self.logging.is_empty()
    }

    /// What the rules do to packets, taken together; `None` if nothing changes for any.
    pub fn change(&self) -> Option<Change> {
        let mut changes = self.rows.iter().map(|row| row.change);
        let first = changes.next()?;
        match changes.all(|change| change == first) {
            true => Some(first),
            false => Some(Change::Both),
        }
    }
}

/// The rules of a pair, in a direction.
type Pair = (Direction, [Option<u32>; 2]);

/// Numbers, and the addresses of each family from or to which packets have them.
type InFamilies = (Vec<Numbers>, [Ranges; 2]);

/// Compares two policies.
///
/// ```
/// use sg_policy::analysis::{Change, diff};
/// use sg_policy::policy::load_text;
///
/// let policy = |rules: &str| {
///     let text = format!("inbound:\n{rules}");
///     load_text("policy.yaml", &text, None, &[]).unwrap().policy
/// };
/// let ssh = "- {protocol: tcp, ports: 22, from: 10.0.0.0/8, action: accept}\n";
/// let few = "- {protocol: tcp, ports: 20-30, from: 10.1.0.0/16, action: drop}\n";
/// let found = diff(&policy(&[ssh, few].concat()), &policy(&[few, ssh].concat()));
/// let row = &found.rows[0];
/// assert_eq!(found.rows.len(), 1);
/// assert_eq!(row.traffic.services_in_words(), "tcp 22");
/// assert_eq!(row.traffic.remotes_in_words(3), "10.1.0.0/16");
/// assert_eq!((row.old, row.new, row.change), (Some(0), Some(0), Change::Narrowed));
/// assert_eq!(row.witness.remote.to_string(), "10.1.0.1");
/// ```
pub fn diff(old: &Policy, new: &Policy) -> Diff {
    let effects = [Effects::of(old), Effects::of(new)];
    let identities = identities(old, new);
    let pairs = Pairs::of_policies(old, new);
    let mut logging: BTreeSet<Logging> = BTreeSet::new();
    let mut alike: BTreeSet<Pair> = BTreeSet::new();
    let mut blocks: BTreeMap<Pair, Vec<InFamilies>> = BTreeMap::new();
    for family in Family::BOTH {
        let ranges = by_class(pairs.ranges(family));
        let mut found: BTreeMap<Pair, Vec<(usize, Vec<Numbers>)>> = BTreeMap::new();
        pairs.each_class(family, |class, steps| {
            if ranges.get(class.index()).is_none_or(Vec::is_empty) {
                return;
            }
            for cell in steps.cells(family) {
                let [old, new] = cell.rules;
                let [was, is] = [
                    effects[0].rule(cell.direction, old),
                    effects[1].rule(cell.direction, new),
                ];
                let pair = (cell.direction, cell.rules);
                if was.action() != is.action() {
                    let classes = found.entry(pair).or_default();
                    match classes.last_mut() {
                        Some((last, numbers)) if *last == class.index() => {
                            add(numbers, (cell.kind, cell.first, cell.last));
                        }
                        _ => {
                            classes.push((class.index(), vec![(cell.kind, cell.first, cell.last)]))
                        }
                    }
                } else if was != is && cell.rules != [None, None] {
                    logging.insert(Logging {
                        direction: cell.direction,
                        old,
                        new,
                        logs: is.is_logged(),
                    });
                } else if identities.are_different(old, new) {
                    alike.insert(pair);
                }
            }
        });
        for (pair, classes) in found {
            let all = blocks.entry(pair).or_default();
            for (numbers, addresses) in products(classes, &ranges) {
                let both = means_the_same(&numbers);
                let known = all.iter_mut().find(|(known, _)| both && *known == numbers);
                match known {
                    Some((_, ranges)) => ranges[family as usize] = addresses,
                    None => {
                        let mut ranges = [Vec::new(), Vec::new()];
                        ranges[family as usize] = addresses;
                        all.push((numbers, ranges));
                    }
                }
            }
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    for ((direction, rules), blocks) in blocks {
        let [was, is] = [0, 1].map(|i| effects[i].rule(direction, rules[i]).action());
        let change = match openness(is) > openness(was) {
            true => Change::Widened,
            false => Change::Narrowed,
        };
        debug_assert_ne!(was, is);
        for (numbers, ranges) in blocks {
            rows.extend(row(direction, rules, change, numbers, &ranges));
        }
    }
    let place = |rule: Option<u32>| rule.unwrap_or(u32::MAX);
    rows.sort_by_key(|row| (row.traffic.direction, place(row.new), place(row.old)));
    Diff {
        rows,
        settings: settings(old, new),
        logging: logging.into_iter().collect(),
        another_rule: alike.len(),
    }
}

/// What is only watched passes, but is to be dropped.
const fn openness(action: Action) -> u8 {
    match action {
        Action::Drop => 0,
        Action::Audit => 1,
        Action::Accept => 2,
    }
}

/// `None` only if there is no packet with these numbers.
fn row(
    direction: Direction,
    rules: [Option<u32>; 2],
    change: Change,
    numbers: Vec<Numbers>,
    ranges: &[Ranges; 2],
) -> Option<Row> {
    let mut remotes = Remote::default();
    let mut witness: Option<Packet> = None;
    for family in Family::BOTH {
        let ranges = &ranges[family as usize];
        if ranges.is_empty() {
            continue;
        }
        let mut part = remote_of(family, ranges);
        remotes.v4.append(&mut part.v4);
        remotes.v6.append(&mut part.v6);
        let remote = example(family, ranges);
        for &(kind, first, last) in &numbers {
            let found = choose(direction, remote, kind, (first, last));
            if witness.is_none_or(|packet| may_be_essential(&packet)) {
                witness = found.or(witness);
            }
        }
    }
    let [old, new] = rules;
    Some(Row {
        traffic: Traffic {
            direction,
            numbers,
            remotes,
        },
        old,
        new,
        change,
        witness: witness?,
    })
}

/// Numbers that are equal for rules of the same identity.
struct Identities([Vec<u32>; 2]);

fn identities(old: &Policy, new: &Policy) -> Identities {
    let mut known: HashMap<&str, u32> = HashMap::new();
    Identities([old, new].map(|policy| {
        let rules = policy.rules.iter();
        rules
            .map(|rule| {
                let next = known.len() as u32;
                *known.entry(&rule.identity).or_insert(next)
            })
            .collect()
    }))
}

impl Identities {
    fn are_different(&self, old: Option<u32>, new: Option<u32>) -> bool {
        let of = |i: usize, rule: Option<u32>| rule.and_then(|rule| self.0[i].get(rule as usize));
        of(0, old) != of(1, new)
    }
}

/// The settings of the whole policy that differ.
fn settings(old: &Policy, new: &Policy) -> Vec<Setting> {
    let mut found = Vec::new();
    let mut compare = |setting: &str, old: String, new: String| {
        if old != new {
            let setting = setting.to_owned();
            found.push(Setting { setting, old, new });
        }
    };
    compare(
        "essential",
        old.essential.to_string(),
        new.essential.to_string(),
    );
    compare("non-ip", old.non_ip.name().into(), new.non_ip.name().into());
    compare(
        "established",
        old.established.name().into(),
        new.established.name().into(),
    );
    let log = |policy: &Policy| {
        match policy.log_no_match {
            [false, false] => "false",
            [true, true] => "true",
            [true, false] => "inbound",
            [false, true] => "outbound",
        }
        .to_owned()
    };
    compare("log-no-match", log(old), log(new));
    let guard = |policy: &Policy| {
        let entries = policy.guard.iter().map(|guard| guard.summary.as_str());
        format!("[{}]", entries.collect::<Vec<_>>().join(", "))
    };
    compare("guard", guard(old), guard(new));
    for (timeout, (old, new)) in Timeout::ALL
        .into_iter()
        .zip(old.timeouts.iter().zip(&new.timeouts))
    {
        let name = format!("timeouts: {}", timeout.name());
        compare(&name, format!("{old}s"), format!("{new}s"));
    }
    found
}
