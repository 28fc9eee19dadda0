//! Derives from an inspection what is wrong with an attachment, each fault with its remedy, and
//! what is in force. An attachment without a fault enforces its policy in both directions (C12).

use serde::Serialize;
use sg_common::verdict::Direction;

use super::error::KernelError;
use super::inspect::{Inspection, inspect, program};
use super::location::Place;
use super::options::EgressHook;
use super::pins::InterfacePins;
use super::state::State;

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultCode {
    /// The interface does not exist any more.
    InterfaceGone,
    /// The interface was deleted, and a new one of the same name has nothing attached.
    Unprotected,
    /// An `apply` was interrupted: a direction runs another generation than the record says, or two
    /// programs.
    Interrupted,
    /// A direction has no program.
    NotAttached,
    /// Another process has detached a link from the interface.
    Severed,
    /// A direction runs a program that is in no record.
    OtherProgram,
    /// A program or filter of another tool comes first and may take packets away.
    Preceded,
    /// Tail-call targets are missing, so that packets are dropped.
    Incomplete,
    /// The policy was not confirmed, and none was in force before it, so that everything passes.
    Undone,
    /// The record cannot be read.
    Damaged,
    /// The attachment cannot be checked from here.
    Unverified,
}

/// Something that keeps an attachment from enforcing its policy, or that keeps this from being
/// checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub code: FaultCode,
    /// The direction, if only one is affected.
    pub direction: Option<Direction>,
    pub message: String,
    pub help: String,
}

const APPLY: &str = "apply again";

impl Fault {
    pub fn new(code: FaultCode, message: impl Into<String>, help: impl Into<String>) -> Fault {
        Fault {
            code,
            direction: None,
            message: message.into(),
            help: help.into(),
        }
    }

    fn of(
        direction: Direction,
        code: FaultCode,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Fault {
        Fault {
            direction: Some(direction),
            ..Fault::new(code, message, help)
        }
    }
}

/// Why an attachment has no record, so that nothing says what it is to enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRecord {
    /// A first `apply` was interrupted before it had attached anything. There are only some of its
    /// maps.
    CutShort,
    /// Programs are attached, and their record is gone.
    Missing,
    /// The record is there and cannot be read, for this reason.
    Unreadable(String),
}

impl NoRecord {
    pub(crate) fn unreadable(error: &KernelError) -> NoRecord {
        NoRecord::Unreadable(match error {
            KernelError::DamagedState { reason, .. } => reason.clone(),
            other => other.to_string(),
        })
    }

    /// What is said of the record.
    pub fn reason(&self) -> &str {
        match self {
            NoRecord::CutShort | NoRecord::Missing => "it is missing",
            NoRecord::Unreadable(reason) => reason,
        }
    }

    /// What is wrong with the attachment.
    pub fn fault(&self) -> Fault {
        match self {
            NoRecord::CutShort => Fault::new(
                FaultCode::Interrupted,
                "nothing is attached, but there are maps: an apply or a detach is under way, or was \
                 cut short",
                "apply again, or detach",
            ),
            NoRecord::Missing => Fault::new(
                FaultCode::Damaged,
                "the state record is missing",
                "detach, which ends enforcement there, then apply",
            ),
            NoRecord::Unreadable(reason) => Fault::new(
                FaultCode::Damaged,
                format!("the state record cannot be read: {reason}"),
                "detach, which ends enforcement there, then apply",
            ),
        }
    }
}

/// Adds to `error` what is in force after it, unless the error says so already.
pub(super) fn standing_after(error: KernelError, pins: &InterfacePins) -> KernelError {
    standing_on(error, &[("", pins)])
}

/// Adds to `error` what is in force on each of the interfaces after it. A name that is not empty is
/// put before what is said of its interface.
pub fn standing_on(error: KernelError, interfaces: &[(&str, &InterfacePins)]) -> KernelError {
    if matches!(error, KernelError::Halfway { .. }) {
        return error;
    }
    let of = |(name, pins): &(&str, &InterfacePins)| {
        let standing = match inspect(pins) {
            Ok(found) => found.standing(),
            Err(_) => "what is in force could not be found out: see `sgctl status`".into(),
        };
        match name.is_empty() {
            true => standing,
            false => format!("on {name} {standing}"),
        }
    };
    let standing: Vec<String> = interfaces.iter().map(of).collect();
    error.with_standing(standing.join("; "))
}

/// The policy was undone, and none was in force before it.
fn fault_of_end(state: &State) -> Fault {
    Fault::new(
        FaultCode::Undone,
        format!(
            "{}, generation {}, was not confirmed and is undone: everything passes, as before it",
            state.policy.name, state.policy.generation
        ),
        format!(
            "apply a policy, or `sgctl detach --iface {}` removes what is left",
            state.interface
        ),
    )
}

impl Inspection {
    /// All faults. There are none if both directions enforce the policy of the record.
    pub fn faults(&self) -> Vec<Fault> {
        let unverified = match self.fault_of_place() {
            Some(fault) if fault.code != FaultCode::Unverified => return vec![fault],
            unverified => unverified,
        };
        let found = match self.record() {
            Ok(state) if state.has_ended() => vec![fault_of_end(&state)],
            Ok(state) => self.faults_under(&state),
            // This holds wherever the interface is.
            Err(why) => return vec![why.fault()],
        };
        unverified.into_iter().chain(found).collect()
    }

    /// The record of the policy in force, or why there is none.
    pub fn record(&self) -> Result<State, NoRecord> {
        if let Err(error) = &self.records {
            return Err(NoRecord::unreadable(error));
        }
        self.state().ok_or_else(|| match self.is_attached() {
            true => NoRecord::Missing,
            false => NoRecord::CutShort,
        })
    }

    /// The interface is gone, or it cannot be looked at.
    fn fault_of_place(&self) -> Option<Fault> {
        match &self.place {
            Place::Gone => {
                // Without a name `detach` would end enforcement everywhere.
                let name = self.state().map_or("IF".into(), |state| state.interface);
                Some(Fault::new(
                    FaultCode::InterfaceGone,
                    "the interface was deleted",
                    format!("`sgctl detach --iface {name}` removes what is left of it"),
                ))
            }
            Place::Recreated(at) => Some(Fault::new(
                FaultCode::Unprotected,
                format!(
                    "the interface was deleted, and the present {} (index {}) is unprotected",
                    at.interface.name, at.interface.index
                ),
                "apply again: counters and flows are carried over",
            )),
            Place::Unknown { reason } => Some(Fault::new(
                FaultCode::Unverified,
                format!("the interface cannot be looked at from here: {reason}"),
                "run it with --netns, or with CAP_SYS_ADMIN and CAP_NET_ADMIN",
            )),
            Place::There(_) | Place::Moved(_) => None,
        }
    }

    /// How what is attached differs from the record.
    fn faults_under(&self, state: &State) -> Vec<Fault> {
        let mut faults = Vec::new();
        for direction in Direction::BOTH {
            faults.extend(self.fault_of(direction, state));
        }
        if let Some((other, generation)) = &self.ahead {
            faults.push(Fault::new(
                FaultCode::Interrupted,
                format!(
                    "an apply was cut short: {other}, under the same policy, runs generation {generation}, \
                     and this interface generation {}",
                    state.policy.generation
                ),
                "apply again, to all of them",
            ));
        }
        for (direction, before) in [
            (Direction::Inbound, self.before_inbound()),
            (Direction::Outbound, self.outbound.before_ours()),
        ] {
            if self.running(direction).is_some() && !before.is_empty() {
                faults.push(Fault::of(
                    direction,
                    FaultCode::Preceded,
                    format!(
                        "{} comes before the {} program and may take packets away unjudged",
                        before.join(", "),
                        direction.name()
                    ),
                    "apply again, which goes in front of it or says what stands in the way",
                ));
            }
        }
        if !self.missing.is_empty() {
            faults.push(Fault::new(
                FaultCode::Incomplete,
                format!("pins have been removed: {}", self.missing.join(", ")),
                "apply again; where that does not put them back, detach, which ends enforcement \
                 there, and apply",
            ));
        }
        let hooks = usize::from(self.outbound.live_link().is_some())
            + usize::from(self.outbound.next_link.is_some_and(|l| l.is_live()))
            + self.outbound.filters().count();
        if hooks > 1 {
            faults.push(Fault::of(
                Direction::Outbound,
                FaultCode::Interrupted,
                "outbound packets are judged twice: an apply was cut short",
                APPLY,
            ));
        }
        faults
    }

    fn fault_of(&self, direction: Direction, state: &State) -> Option<Fault> {
        let name = direction.name();
        let Some(running) = self.running(direction) else {
            return self.missing(direction, state);
        };
        let known = self.records.as_ref().ok();
        let generation = known.and_then(|records| records.generation_of(direction, running));
        if state.only_remembers(direction, running) {
            return Some(Fault::of(
                direction,
                FaultCode::Interrupted,
                format!(
                    "a first apply is under way, or was cut short: {name} packets pass unjudged"
                ),
                APPLY,
            ));
        }
        if running != state.program(direction) {
            return Some(match generation {
                Some(generation) if generation == state.policy.generation => Fault::of(
                    direction,
                    FaultCode::Interrupted,
                    format!(
                        "an apply was cut short and undone: {name} runs generation {generation} as it was \
                         loaded first"
                    ),
                    APPLY,
                ),
                Some(generation) => Fault::of(
                    direction,
                    FaultCode::Interrupted,
                    format!(
                        "an apply was cut short: {name} runs generation {generation}, not {}",
                        state.policy.generation
                    ),
                    APPLY,
                ),
                None => Fault::of(
                    direction,
                    FaultCode::OtherProgram,
                    format!(
                        "{name} runs the program {}, which no policy belongs to",
                        program(running)
                    ),
                    APPLY,
                ),
            });
        }
        let index = Direction::BOTH.iter().position(|d| *d == direction)?;
        (self.targets[index] != Some(true)).then(|| {
            Fault::of(
                direction,
                FaultCode::Incomplete,
                format!("{name} has lost tail-call targets: packets that need them are dropped"),
                APPLY,
            )
        })
    }

    /// Why a direction runs none of the enforcer's programs.
    fn missing(&self, direction: Direction, state: &State) -> Option<Fault> {
        let name = direction.name();
        let unjudged = format!("{name} packets pass unjudged");
        let link = match direction {
            Direction::Inbound => self.inbound.link,
            Direction::Outbound => self.outbound.link,
        };
        if link.is_some() {
            return Some(Fault::of(
                direction,
                FaultCode::Severed,
                format!("the {name} link was taken off the interface: {unjudged}"),
                APPLY,
            ));
        }
        let has_filter =
            direction == Direction::Outbound && state.egress_hook == EgressHook::Clsact;
        if has_filter && self.at().is_none() {
            // Another fault reports already that this cannot be checked.
            return None;
        }
        let other = self.inbound.others.first();
        let what = match other.filter(|_| direction == Direction::Inbound) {
            Some((_, id)) => format!("the interface runs the XDP program {}", program(*id)),
            None if has_filter && self.outbound.clsact.qdisc.is_none() => {
                "the clsact qdisc is gone, and the filter with it".into()
            }
            None if has_filter => "the clsact filter is gone".into(),
            None => format!("{name} has no program"),
        };
        Some(Fault::of(
            direction,
            FaultCode::NotAttached,
            format!("{what}: {unjudged}"),
            APPLY,
        ))
    }

    fn before_inbound(&self) -> Vec<String> {
        let others = self.inbound.others.iter();
        others
            .map(|(_, id)| format!("the XDP program {}", program(*id)))
            .collect()
    }

    /// Describes what is in force in a sentence.
    pub fn standing(&self) -> String {
        let records = self.records.as_ref().ok();
        if self.state().is_some_and(|state| state.has_ended()) {
            return "nothing is in force".into();
        }
        let of = |direction| {
            let id = self.running(direction)?;
            let generation = records.and_then(|records| records.generation_of(direction, id));
            let next = records.and_then(|records| records.next.as_ref());
            Some(match generation {
                _ if next.is_some_and(|next| next.only_remembers(direction, id)) => {
                    "a program that passes everything".into()
                }
                Some(generation) => format!("generation {generation}"),
                None => format!("the program {}", program(id)),
            })
        };
        match Direction::BOTH.map(of) {
            [None, None] if !matches!(self.place, Place::Unknown { .. }) => {
                "nothing is attached".into()
            }
            [Some(inbound), Some(outbound)] if inbound == outbound => {
                format!("both directions run {inbound}")
            }
            [inbound, outbound] => {
                let inbound = inbound.unwrap_or_else(|| "nothing".into());
                // A filter is only visible in the namespace of its interface.
                let outbound = match (outbound, &self.place) {
                    (Some(outbound), _) => outbound,
                    (None, Place::Unknown { .. }) => "what could not be looked at".into(),
                    (None, _) => "nothing".into(),
                };
                format!("inbound runs {inbound}, outbound {outbound}")
            }
        }
    }

    /// Whether the enforcer has added the clsact qdisc, so that it also has to remove it.
    pub(super) fn owns_qdisc(&self) -> bool {
        let records = self.records.as_ref().ok();
        let states = records.map(|records| [&records.current, &records.next]);
        let mut states = states.into_iter().flatten().flatten();
        states.any(|state| state.added_clsact)
    }
}
