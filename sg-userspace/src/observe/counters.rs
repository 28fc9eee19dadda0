//! Counters by rule and by reason, read from the pinned maps.

use serde::Serialize;
use sg_common::counters::SlotCounters;
use sg_common::verdict::{Action, Direction, Reason};

use super::attached::Attached;
use super::status::{Condition, PolicyStatus, Standing};
use crate::kernel::state::{SlotOwner, State};
use crate::kernel::sums::Sums;
use crate::kernel::zero::Zero;
use crate::kernel::{KernelError, owned_counters};

/// `counters --json` of one interface (A4).
#[derive(Clone, Debug, Serialize)]
pub struct Counters {
    #[serde(flatten)]
    pub standing: Standing,
    /// When the counters were read (RFC 3339).
    pub sampled_at: String,
    /// Since when they count: the attachment of the interface, or the zero that was asked for.
    pub since: String,
    /// When their zero was set last (A5). Null if it never was.
    pub reset_at: Option<String>,
    pub policy: PolicyStatus,
    /// The rules in force, inbound first, in order; then rules of earlier policies that have
    /// counted packets, without a position.
    pub rules: Vec<RuleCounters>,
    pub reasons: Vec<ReasonCounters>,
    pub totals: Vec<Totals>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RuleCounters {
    pub direction: Direction,
    /// The position within the direction, from 1. Null if the rule is not in the policy any more.
    pub position: Option<u32>,
    pub group: String,
    pub action: Action,
    pub name: Option<String>,
    pub summary: String,
    pub description: Option<String>,
    pub packets: u64,
    pub bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
}

/// A rule is the same as long as group, match, action and direction are (A3): its position and its
/// name may change, and it may have left the policy.
impl RuleCounters {
    /// Whether this is the same rule in another reading.
    pub fn is_same_rule(&self, other: &RuleCounters) -> bool {
        self.direction == other.direction
            && self.action == other.action
            && self.summary == other.summary
            && self.group == other.group
    }

    /// What tells the rule from others of its interface.
    pub fn identity(&self) -> String {
        let (direction, action) = (self.direction, self.action);
        format!("{direction}\0{action}\0{}\0{}", self.group, self.summary)
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct ReasonCounters {
    pub direction: Direction,
    pub reason: Reason,
    pub action: Action,
    pub packets: u64,
    pub bytes: u64,
}

/// The sum over all packets that reached a hook. The kernel counts each packet once, for its rule
/// or its reason, and the total is the sum of those in the same reading (A2).
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    pub direction: Direction,
    pub packets: u64,
    pub bytes: u64,
    /// What passed, also what passed only because it is watched.
    pub accepted: u64,
    pub dropped: u64,
    /// What passed only because it is watched.
    pub audited: u64,
}

impl Totals {
    /// The sum of one direction, of all counts with their directions and actions. Replies cross in
    /// the other direction than the packets that they answer, and pass.
    pub(super) fn sum(
        direction: Direction,
        all: impl Iterator<Item = (Direction, Action, SlotCounters)>,
    ) -> Totals {
        let mut total = Totals {
            direction,
            packets: 0,
            bytes: 0,
            accepted: 0,
            dropped: 0,
            audited: 0,
        };
        for (side, action, counts) in all {
            let (packets, bytes, action) = match (side == direction, action) {
                (true, action) => (counts.packets, counts.bytes, action),
                (false, Action::Audit) => (counts.reply_packets, counts.reply_bytes, Action::Audit),
                (false, Action::Accept | Action::Drop) => {
                    (counts.reply_packets, counts.reply_bytes, Action::Accept)
                }
            };
            total.packets += packets;
            total.bytes += bytes;
            match action.passes() {
                true => total.accepted += packets,
                false => total.dropped += packets,
            }
            if action == Action::Audit {
                total.audited += packets;
            }
        }
        total
    }

    /// The sum of one direction, of the rows of `counters`.
    pub fn of(direction: Direction, rules: &[RuleCounters], reasons: &[ReasonCounters]) -> Totals {
        let rules = rules.iter().map(|rule| {
            let counts = SlotCounters {
                packets: rule.packets,
                bytes: rule.bytes,
                reply_packets: rule.reply_packets,
                reply_bytes: rule.reply_bytes,
            };
            (rule.direction, rule.action, counts)
        });
        // Replies are in the rows of the direction in which they crossed.
        let reasons = reasons.iter().map(|row| {
            let counts = SlotCounters {
                packets: row.packets,
                bytes: row.bytes,
                ..SlotCounters::default()
            };
            (row.direction, row.action, counts)
        });
        Totals::sum(direction, rules.chain(reasons))
    }
}

/// Whether the rules of the policy are of several groups.
pub fn have_several_groups<'a>(rules: impl IntoIterator<Item = &'a RuleCounters>) -> bool {
    let mut rules = rules.into_iter();
    let Some(first) = rules.next() else {
        return false;
    };
    rules.any(|rule| rule.position.is_some() && rule.group != first.group)
}

/// From where counters count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The attachment of the interface.
    Attachment,
    /// The last zero (A5); where none was set, the attachment.
    Zero,
}

/// Reads the counters of an interface, since it was attached.
pub fn counters(attached: &Attached) -> Result<Counters, KernelError> {
    counters_since(attached, Origin::Attachment)
}

/// Reads the counters of an interface, since an origin.
pub fn counters_since(attached: &Attached, origin: Origin) -> Result<Counters, KernelError> {
    // This comes before the reading, see `Zero::read`.
    let zero = match Zero::read(&attached.pins) {
        // Only who asks for it needs it.
        Err(KernelError::DamagedZero { .. }) if origin == Origin::Attachment => None,
        zero => zero?,
    };
    let (state, sampled_at, raw) = read_together(attached)?;
    let condition = attached.condition_if_known();
    Ok(assemble(
        &state,
        sampled_at,
        &raw,
        condition,
        (zero.as_ref(), origin),
    ))
}

/// The counters of an interface, by its record and the counts of all slots in one reading. `zero`
/// is the one that is set.
pub(crate) fn assemble(
    state: &State,
    sampled_at: String,
    raw: &[SlotCounters],
    condition: Condition,
    (zero, origin): (Option<&Zero>, Origin),
) -> Counters {
    let asked = zero.filter(|_| origin == Origin::Zero);
    let before = asked.map(|zero| zero.before(state));
    let sums = Sums::since(state, raw, before.as_ref());
    let in_force = sums.rules.iter();
    let in_force = in_force.map(|(owner, counts)| rule_row(owner, Some(owner.position), *counts));
    let former = sums.former.iter();
    let former = former.map(|(owner, counts)| rule_row(owner, None, *counts));
    let mut rules: Vec<RuleCounters> = in_force.chain(former).collect();
    for gone in &sums.forgotten {
        let counts = gone.counts;
        if counts == SlotCounters::default() {
            continue;
        }
        rules.push(RuleCounters {
            direction: gone.direction,
            position: None,
            group: String::new(),
            action: gone.action,
            name: None,
            summary: "rules of earlier policies".into(),
            description: None,
            packets: counts.packets,
            bytes: counts.bytes,
            reply_packets: counts.reply_packets,
            reply_bytes: counts.reply_bytes,
        });
    }

    let reasons: Vec<ReasonCounters> = Direction::BOTH
        .into_iter()
        .flat_map(|direction| Reason::ALL.map(|reason| (direction, reason)))
        .map(|(direction, reason)| {
            let [packets, bytes] = sums.crossed(direction, reason);
            ReasonCounters {
                direction,
                reason,
                action: reason.action(),
                packets,
                bytes,
            }
        })
        .collect();
    let totals = Direction::BOTH.map(|it| Totals::of(it, &rules, &reasons));
    Counters {
        standing: Standing::from(condition),
        sampled_at,
        since: asked.map_or_else(|| state.attached_at.clone(), |zero| zero.at.clone()),
        reset_at: zero.map(|zero| zero.at.clone()),
        policy: PolicyStatus::of(state),
        rules,
        reasons,
        totals: totals.into(),
    }
}

/// The record, and the counts of its slots with the time of reading. While a policy is being
/// replaced a slot may get another owner, so both are read again if the record has changed.
pub(super) fn read_together(
    attached: &Attached,
) -> Result<(State, String, Vec<SlotCounters>), KernelError> {
    let mut state = attached.state()?.clone();
    loop {
        let sampled_at = jiff::Timestamp::now().to_string();
        let raw = owned_counters(&attached.pins, &state)?;
        match State::read(&attached.pins)? {
            Some(now) if now != state => state = now,
            // The attachment is being removed. What was read before is right.
            _ => return Ok((state, sampled_at, raw)),
        }
    }
}

fn rule_row(owner: &SlotOwner, position: Option<u32>, counts: SlotCounters) -> RuleCounters {
    RuleCounters {
        direction: owner.direction,
        position,
        group: owner.group.clone(),
        action: owner.action,
        name: owner.name.clone(),
        summary: owner.summary.clone(),
        description: owner.description.clone(),
        packets: counts.packets,
        bytes: counts.bytes,
        reply_packets: counts.reply_packets,
        reply_bytes: counts.reply_bytes,
    }
}
