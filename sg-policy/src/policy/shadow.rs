//! Rules that can never match because one earlier rule of their direction covers them in protocol,
//! ports and addresses. Sound but not complete, and bounded in time: what is too big to compare
//! cheaply is not reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use super::address::{mask4, mask6};
use super::cover::Cover;
use super::model::{Direction, IcmpMatch, Policy, Protocol, Remote, Rule};

/// A remote with more prefixes than this is not compared with others, and covers only itself.
const LARGE: usize = 1 << 14;
/// The most prefixes that are indexed.
const INDEXED: usize = 1 << 20;
/// The most comparisons of remotes and of rules.
const STEPS: usize = 2_000_000;

/// For each shadowed rule, as an index into `policy.rules`, the rule that covers it.
pub(crate) fn find(policy: &Policy) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for direction in Direction::BOTH {
        let mut search = Search::default();
        for (index, rule) in policy.rules.iter().enumerate() {
            if rule.direction != direction {
                continue;
            }
            match search.covering(&policy.rules, rule) {
                Some(by) => found.push((index, by)),
                // A shadowed rule is not indexed: the rule that covers it covers all that it
                // covers.
                None => search.remember(index, rule),
            }
        }
    }
    found
}

#[derive(Default)]
struct Search {
    numbers: HashMap<*const Remote, usize>,
    remotes: Vec<Known>,
    covers: HashMap<*const Remote, Rc<Cover>>,
    /// The remotes that hold a prefix.
    v4: HashMap<(u8, u32), Vec<usize>>,
    v6: HashMap<(u8, u128), Vec<usize>>,
    /// Prefix lengths that occur in them.
    lengths4: BTreeSet<u8>,
    lengths6: BTreeSet<u8>,
    indexed: usize,
    steps: usize,
}

/// A distinct remote and the earlier rules that have it.
struct Known {
    /// `None` for a large one.
    cover: Option<Rc<Cover>>,
    protocols: HashMap<Option<u8>, Earlier>,
}

/// Earlier rules with one remote and one protocol.
#[derive(Default)]
struct Earlier {
    /// A rule with every port and ICMP type.
    whole: Option<usize>,
    /// Port ranges none of which is inside another: first port → last port and rule.
    ranges: BTreeMap<u16, (u16, usize)>,
    icmp: HashMap<(u8, Option<u8>), usize>,
}

impl Search {
    fn covering(&mut self, rules: &[Rule], rule: &Rule) -> Option<usize> {
        if self.steps > STEPS {
            return None;
        }
        let pointer = Arc::as_ptr(&rule.remote);
        if size(&rule.remote) > LARGE {
            // Whether another remote covers a large one is not examined.
            let known = self.numbers.get(&pointer)?;
            return self.remotes.get(*known)?.covering(rules, rule);
        }
        let cover = self.covers.entry(pointer);
        let cover = Rc::clone(cover.or_insert_with(|| Rc::new(Cover::of(&rule.remote))));
        if cover.is_empty() {
            return None;
        }
        for number in self.holders(&rule.remote) {
            self.steps += 1;
            let Some(known) = self.remotes.get(number) else {
                continue;
            };
            let Some(by) = known.covering(rules, rule) else {
                continue;
            };
            if let Some(outer) = &known.cover {
                self.steps += 1 + cover.v4.len() + cover.v6.len();
                if outer.covers(&cover) {
                    return Some(by);
                }
            }
        }
        None
    }

    /// The remotes that hold the first prefix of `remote` or one around it.
    fn holders(&self, remote: &Remote) -> Vec<usize> {
        let mut holders = Vec::new();
        if let Some(first) = remote.v4.first() {
            for len in self.lengths4.range(..=first.len) {
                let key = (*len, first.bits & mask4(*len));
                holders.extend(self.v4.get(&key).into_iter().flatten());
            }
        } else if let Some(first) = remote.v6.first() {
            for len in self.lengths6.range(..=first.len) {
                let key = (*len, first.bits & mask6(*len));
                holders.extend(self.v6.get(&key).into_iter().flatten());
            }
        }
        holders
    }

    fn remember(&mut self, index: usize, rule: &Rule) {
        let pointer = Arc::as_ptr(&rule.remote);
        let number = match self.numbers.get(&pointer) {
            Some(number) => *number,
            None => {
                let number = self.add(&rule.remote);
                self.numbers.insert(pointer, number);
                number
            }
        };
        let Some(known) = self.remotes.get_mut(number) else {
            return;
        };
        let protocol = match rule.protocol {
            Protocol::All => None,
            Protocol::Number(number) => Some(number),
        };
        known
            .protocols
            .entry(protocol)
            .or_default()
            .add(index, rule);
    }

    fn add(&mut self, remote: &Arc<Remote>) -> usize {
        let pointer = Arc::as_ptr(remote);
        let number = self.remotes.len();
        let small = size(remote) <= LARGE && self.indexed + size(remote) <= INDEXED;
        if small {
            self.indexed += size(remote);
            for prefix in &remote.v4 {
                self.lengths4.insert(prefix.len);
                let key = (prefix.len, prefix.bits);
                self.v4.entry(key).or_default().push(number);
            }
            for prefix in &remote.v6 {
                self.lengths6.insert(prefix.len);
                let key = (prefix.len, prefix.bits);
                self.v6.entry(key).or_default().push(number);
            }
        }
        self.remotes.push(Known {
            cover: small.then(|| self.covers.get(&pointer).cloned()).flatten(),
            protocols: HashMap::new(),
        });
        number
    }
}

fn size(remote: &Remote) -> usize {
    remote.v4.len() + remote.v6.len()
}

impl Known {
    /// An earlier rule with this remote that covers `rule` in everything but the addresses.
    fn covering(&self, rules: &[Rule], rule: &Rule) -> Option<usize> {
        let every = self.protocols.get(&None).and_then(|e| e.whole);
        let Protocol::Number(number) = rule.protocol else {
            return every;
        };
        let same = self.protocols.get(&Some(number));
        every.or_else(|| same.and_then(|earlier| earlier.covering(rules, rule)))
    }
}

impl Earlier {
    fn add(&mut self, index: usize, rule: &Rule) {
        if let Some(IcmpMatch { kind, code }) = rule.icmp {
            self.icmp.entry((kind, code)).or_insert(index);
            return;
        }
        let Some(ports) = &rule.ports else {
            self.whole.get_or_insert(index);
            return;
        };
        for (first, last) in ports {
            let before = self.ranges.range(..=*first).next_back();
            if before.is_some_and(|(_, (end, _))| end >= last) {
                continue;
            }
            let inside: Vec<u16> = self
                .ranges
                .range(*first..=*last)
                .filter(|(_, (end, _))| end <= last)
                .map(|(start, _)| *start)
                .collect();
            for start in inside {
                self.ranges.remove(&start);
            }
            self.ranges.insert(*first, (*last, index));
        }
    }

    fn covering(&self, rules: &[Rule], rule: &Rule) -> Option<usize> {
        if self.whole.is_some() {
            return self.whole;
        }
        if let Some(IcmpMatch { kind, code }) = rule.icmp {
            let any_code = self.icmp.get(&(kind, None));
            return any_code.or_else(|| self.icmp.get(&(kind, code))).copied();
        }
        let ports = rule.ports.as_deref()?;
        let (first, last) = ports.first()?;
        let (_, (end, index)) = self.ranges.range(..=*first).next_back()?;
        if end < last {
            return None;
        }
        let theirs = rules.get(*index)?.ports.as_deref()?;
        let inside = |(first, last): &(u16, u16)| {
            let after = theirs.partition_point(|(start, _)| start <= first);
            let holder = after.checked_sub(1).and_then(|i| theirs.get(i));
            holder.is_some_and(|(_, end)| last <= end)
        };
        ports.iter().all(inside).then_some(*index)
    }
}
