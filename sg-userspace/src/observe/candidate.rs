//! What would have had another outcome under the candidate beside a policy (C10), by pair of
//! rules: the rule of the policy that decided, and the candidate's that would have.

use serde::Serialize;
use sg_common::counters::SlotCounters;
use sg_common::verdict::{Action, Direction};

use super::attached::Attached;
use super::counters::read_together;
use super::status::{PolicyStatus, Standing};
use crate::kernel::KernelError;
use crate::kernel::state::{SlotOwner, State};
use crate::kernel::sums::Sums;

/// `counters --candidate --json` of one interface.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    #[serde(flatten)]
    pub standing: Standing,
    /// When the counters were read (RFC 3339).
    pub sampled_at: String,
    /// The policy in force.
    pub policy: PolicyStatus,
    pub candidate: CandidateStatus,
    /// All pairs that can have another outcome, also those that no packet has come to; then those
    /// whose rules are in the two policies no more.
    pub pairs: Vec<PairCounters>,
    pub totals: Vec<CandidateTotals>,
}

/// Which candidate it is, and since when.
#[derive(Clone, Debug, Serialize)]
pub struct CandidateStatus {
    pub name: String,
    pub digest: String,
    pub rules: usize,
    /// Since when it is evaluated on this interface (RFC 3339).
    pub since: String,
    /// Whether each packet with another outcome leaves an event.
    pub logs: bool,
    /// Packets with another outcome, both directions.
    pub packets: u64,
    /// Of so many that were evaluated. Null where that is not known, since another policy was in
    /// force without this candidate, or `apply` was killed.
    pub evaluated: Option<u64>,
}

/// What a pair of rules has counted.
#[derive(Clone, Debug, Serialize)]
pub struct PairCounters {
    pub direction: Direction,
    /// What decided.
    pub enforced: Decision,
    /// What would have decided. Null if that is not known any more, of pairs that are gone.
    pub candidate: Option<Decision>,
    /// Whether it is of an earlier policy.
    pub is_former: bool,
    pub packets: u64,
    pub bytes: u64,
    /// Replies of the flows that the pair has admitted.
    pub reply_packets: u64,
    pub reply_bytes: u64,
}

/// What becomes of packets, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    pub verdict: Action,
    /// Null if no rule matches.
    pub rule: Option<DecidingRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DecidingRule {
    pub group: String,
    /// Null if the rule is not in the policy any more.
    pub position: Option<u32>,
    pub name: Option<String>,
    pub summary: String,
}

/// The sums of one direction.
#[derive(Clone, Debug, Serialize)]
pub struct CandidateTotals {
    pub direction: Direction,
    /// Packets that both policies' rules were asked about since the watch began. What is decided
    /// without them, such as replies of flows and malformed packets, is not among them. Null where
    /// it is not known: see [`CandidateStatus::evaluated`].
    pub evaluated: Option<u64>,
    /// Those of them with another outcome.
    pub packets: u64,
    pub bytes: u64,
    /// Replies to them.
    pub reply_packets: u64,
    pub reply_bytes: u64,
}

/// Reads what the candidate of an interface would have decided otherwise. `None` if it has none.
pub fn candidate(attached: &Attached) -> Result<Option<Candidate>, KernelError> {
    if attached.state()?.candidate.is_none() {
        return Ok(None);
    }
    let (state, sampled_at, raw) = read_together(attached)?;
    let sums = Sums::of(&state, &raw);
    let Some((candidate, totals)) = status_of(&state, &sums) else {
        return Ok(None);
    };
    let in_force = sums.pairs.iter().map(|pair| row(pair, false));
    let former = sums.former_pairs.iter();
    let former = former.filter(|(_, counts)| *counts != SlotCounters::default());
    let former = former.map(|pair| row(pair, true));
    let mut pairs: Vec<PairCounters> = in_force.chain(former).collect();
    let gone = state.candidate.as_ref().map_or(&[][..], |it| &it.gone);
    pairs.extend(gone.iter().map(|gone| PairCounters {
        direction: gone.direction,
        enforced: Decision {
            verdict: gone.action,
            rule: None,
        },
        candidate: None,
        is_former: true,
        packets: gone.counts.packets,
        bytes: gone.counts.bytes,
        reply_packets: gone.counts.reply_packets,
        reply_bytes: gone.counts.reply_bytes,
    }));
    Ok(Some(Candidate {
        standing: Standing::of(attached),
        sampled_at,
        policy: PolicyStatus::of(&state),
        candidate,
        pairs,
        totals,
    }))
}

/// Which candidate an interface has and what it would change in sum, for `status`. `None` if it has
/// none.
pub fn status(attached: &Attached) -> Result<Option<CandidateStatus>, KernelError> {
    if attached.state()?.candidate.is_none() {
        return Ok(None);
    }
    let (state, _, raw) = read_together(attached)?;
    let sums = Sums::of(&state, &raw);
    Ok(status_of(&state, &sums).map(|(status, _)| status))
}

/// Which candidate it is, and its sums by direction. `None` if there is none.
pub(super) fn status_of(
    state: &State,
    sums: &Sums<'_>,
) -> Option<(CandidateStatus, Vec<CandidateTotals>)> {
    let record = state.candidate.as_ref()?;
    let decided = sums.decided();
    let differing = sums.differing(state);
    let totals = Direction::BOTH.map(|direction| {
        let at = direction as usize;
        let counts = differing[at];
        CandidateTotals {
            direction,
            evaluated: record.began.map(|it| decided[at].wrapping_sub(it[at])),
            packets: counts.packets,
            bytes: counts.bytes,
            reply_packets: counts.reply_packets,
            reply_bytes: counts.reply_bytes,
        }
    });
    let status = CandidateStatus {
        name: record.name.clone(),
        digest: record.digest.clone(),
        rules: record.rules,
        since: record.since.clone(),
        logs: record.logs,
        packets: totals.iter().map(|total| total.packets).sum(),
        evaluated: totals.iter().map(|total| total.evaluated).sum(),
    };
    Some((status, totals.into()))
}

fn row((owner, counts): &(&SlotOwner, SlotCounters), is_former: bool) -> PairCounters {
    PairCounters {
        direction: owner.direction,
        enforced: Decision {
            verdict: owner.action,
            rule: owner.is_rule().then(|| DecidingRule {
                group: owner.group.clone(),
                position: (!is_former).then_some(owner.position),
                name: owner.name.clone(),
                summary: owner.summary.clone(),
            }),
        },
        candidate: owner.beside.as_ref().map(|beside| Decision {
            verdict: beside.verdict(),
            rule: beside.rule.as_ref().map(|rule| DecidingRule {
                group: rule.group.clone(),
                position: Some(rule.position),
                name: rule.name.clone(),
                summary: rule.summary.clone(),
            }),
        }),
        is_former,
        packets: counts.packets,
        bytes: counts.bytes,
        reply_packets: counts.reply_packets,
        reply_bytes: counts.reply_bytes,
    }
}
