//! Who owns a counter slot: a rule, or a pair of rules by which packets have another outcome (SPEC
//! C10). As the record has them.

use serde::{Deserialize, Serialize};
use sg_common::counters::SlotCounters;
use sg_common::verdict::{Action, Direction};

use sg_policy::policy::{Location, Rule};

/// A rule, and the counter slot that it owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOwner {
    pub slot: u32,
    pub direction: Direction,
    pub position: u32,
    pub group: String,
    pub action: Action,
    pub name: Option<String>,
    pub summary: String,
    pub description: Option<String>,
    pub identity: String,
    /// Where the rule was when the policy was applied; a file has its whole path. `None` of a rule
    /// that is not of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// The counts of the slot before it got this owner.
    #[serde(with = "counts", default)]
    pub base: SlotCounters,
    /// What slots of its pairs had counted that it has no more.
    #[serde(with = "counts", default, skip_serializing_if = "is_none")]
    pub more: SlotCounters,
    /// Of the slot of a pair: the other rule of the pair. Then the rest describes the rule of the
    /// policy; what no rule matches has no identity and the position 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
}

/// What makes a counter slot that of a pair of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// The number of the watch: see [`CandidateRecord`](super::state::CandidateRecord).
    pub watch: u32,
    /// The candidate's rule. `None` if none matches, which drops.
    pub rule: Option<CandidateRule>,
}

/// A rule of a candidate. It has the direction of the pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateRule {
    pub position: u32,
    pub group: String,
    pub action: Action,
    pub name: Option<String>,
    pub summary: String,
    pub identity: String,
}

impl Beside {
    /// What the candidate does: as its rule says, and it drops what none matches.
    pub(crate) fn verdict(&self) -> Action {
        self.rule.as_ref().map_or(Action::Drop, |rule| rule.action)
    }
}

impl SlotOwner {
    /// A rule that has no slot yet.
    pub(super) fn of(rule: &Rule) -> SlotOwner {
        SlotOwner {
            slot: 0,
            direction: rule.direction,
            position: rule.position,
            group: rule.group.clone(),
            action: rule.action,
            name: rule.name.clone(),
            summary: rule.summary.clone(),
            description: rule.description.clone(),
            identity: rule.identity.clone(),
            location: None,
            base: SlotCounters::default(),
            more: SlotCounters::default(),
            beside: None,
        }
    }

    /// What it has counted, by the counts of its slot.
    pub(super) fn counts(&self, of_slot: SlotCounters) -> SlotCounters {
        add(since(of_slot, self.base), self.more)
    }

    /// Whether it is a rule, and not what no rule matches.
    pub fn is_rule(&self) -> bool {
        !self.identity.is_empty()
    }

    /// What identifies an owner: two records with the same key are the same rule, or the same pair,
    /// whatever slot each has.
    pub(super) fn key(&self) -> Key<'_> {
        let beside = self.beside.as_ref().map(|it| {
            let other = it.rule.as_ref().map(|rule| rule.identity.as_str());
            (it.watch, other.unwrap_or_default())
        });
        Key {
            direction: self.direction,
            action: self.action,
            identity: &self.identity,
            beside,
        }
    }

    /// What identifies the rule of the policy in force, if this is a pair.
    pub(super) fn key_of_rule(&self) -> Key<'_> {
        Key {
            beside: None,
            ..self.key()
        }
    }
}

/// See [`SlotOwner::key`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key<'a> {
    direction: Direction,
    action: Action,
    identity: &'a str,
    beside: Option<(u32, &'a str)>,
}

/// The summed counts of rules that have lost their slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    pub direction: Direction,
    pub action: Action,
    /// Whether it is what no rule matched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_no_match: bool,
    #[serde(with = "counts")]
    pub counts: SlotCounters,
}

impl Forgotten {
    /// Whether they are sums of the same.
    pub(super) fn is_as(&self, other: &Forgotten) -> bool {
        let of = |it: &Forgotten| (it.direction, it.action, it.is_no_match);
        of(self) == of(other)
    }
}

fn is_none(counts: &SlotCounters) -> bool {
    *counts == SlotCounters::default()
}

/// The difference of `raw` to `base`.
pub(crate) fn since(raw: SlotCounters, base: SlotCounters) -> SlotCounters {
    SlotCounters {
        packets: raw.packets.wrapping_sub(base.packets),
        bytes: raw.bytes.wrapping_sub(base.bytes),
        reply_packets: raw.reply_packets.wrapping_sub(base.reply_packets),
        reply_bytes: raw.reply_bytes.wrapping_sub(base.reply_bytes),
    }
}

pub(crate) fn add(a: SlotCounters, b: SlotCounters) -> SlotCounters {
    SlotCounters {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
        reply_packets: a.reply_packets.wrapping_add(b.reply_packets),
        reply_bytes: a.reply_bytes.wrapping_add(b.reply_bytes),
    }
}

/// Counts in JSON: a list of four numbers, in the order of the fields.
pub(super) mod counts {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(in crate::kernel) fn words(c: SlotCounters) -> [u64; 4] {
        [c.packets, c.bytes, c.reply_packets, c.reply_bytes]
    }

    pub(in crate::kernel) fn of_words(words: [u64; 4]) -> SlotCounters {
        let [packets, bytes, reply_packets, reply_bytes] = words;
        SlotCounters {
            packets,
            bytes,
            reply_packets,
            reply_bytes,
        }
    }

    pub(in crate::kernel) fn serialize<S: Serializer>(
        c: &SlotCounters,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        words(*c).serialize(s)
    }

    pub(in crate::kernel) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<SlotCounters, D::Error> {
        Deserialize::deserialize(d).map(of_words)
    }
}
