//! What becomes of a policy that is on trial (C4): it is confirmed, or undone by hand before its
//! deadline, each by one store into the word of the trial, which decides on all interfaces of the
//! attachment at once. What follows is tidying up, which changes nothing for packets: the programs
//! of the policy that decides are attached in the place of the gates, and the rest is removed. The
//! next command that changes something does it where nobody has confirmed the policy in time.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use sg_common::verdict::Direction;

use super::commit::ORDER;
use super::condition::standing_on;
use super::error::KernelError;
use super::flow_tables::flush;
use super::history::{self, How};
use super::hooks::Hooks;
use super::inspect::{Inspection, inspect};
use super::links;
use super::load::targets;
use super::location::Place;
use super::options::{EgressHook, XdpMode};
use super::outcome::Decided;
use super::pins::{InterfacePins, PinTree};
use super::records::Records;
use super::removal::remove;
use super::state::{PolicyRecord, State};
use super::trial::{Stands, Word, since};
use sg_policy::policy::Established;

/// How a trial is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Only this generation, or whichever it is.
    Confirm(Option<u32>),
    Undo,
}

/// Confirms the policy that is on trial on the attachment of this interface. If its deadline has
/// passed, tidies up, and the error says so.
pub fn confirm(bpffs: &Path, pins: &InterfacePins) -> Result<Decided, KernelError> {
    end(bpffs, pins, End::Confirm(None))
}

/// Confirms one generation, as [`confirm`] does. If another one is on trial by now, it is left
/// alone, and the error says that nothing waits.
pub fn confirm_generation(
    bpffs: &Path,
    pins: &InterfacePins,
    generation: u32,
) -> Result<Decided, KernelError> {
    end(bpffs, pins, End::Confirm(Some(generation)))
}

/// Undoes the policy that is on trial on the attachment of this interface. If it was undone at its
/// deadline, only tidies up. `None` if none is on trial.
pub fn undo(bpffs: &Path, pins: &InterfacePins) -> Result<Option<Decided>, KernelError> {
    match end(bpffs, pins, End::Undo) {
        Err(KernelError::NothingToConfirm { .. }) => Ok(None),
        decided => decided.map(Some),
    }
}

fn end(bpffs: &Path, pins: &InterfacePins, end: End) -> Result<Decided, KernelError> {
    let tree = PinTree::new(bpffs);
    let _lock = tree.lock()?;
    let found = all_of(pins)?;
    let open = |one: &&Inspection| one.state().is_some_and(|it| it.open_trial().is_some());
    if let Some(one) = found.iter().find(open)
        && let Some(state) = one.state()
    {
        if let End::Confirm(only) = end {
            if only.is_some_and(|only| only != state.policy.generation) {
                return Err(KernelError::NothingToConfirm {
                    scope: state.interface,
                });
            }
            refuse_what_is_halfway(&found, &state)?;
        }
        let word = Word::open(&one.pins, state.number())?;
        // If the deadline passes now, tidying up finds it.
        match end {
            End::Confirm(_) => word.confirm()?,
            End::Undo => word.undo()?,
        };
    }
    let Some(decided) = tidy_attachment(pins).inspect(|_| tree.prune())? else {
        return Err(KernelError::NothingToConfirm {
            scope: found
                .iter()
                .find_map(|one| one.state())
                .map_or_else(|| "this interface".into(), |state| state.interface),
        });
    };
    match end {
        End::Confirm(_) if !decided.is_confirmed => Err(KernelError::TooLate {
            undone: decided.sentence(),
        }),
        _ => Ok(decided),
    }
}

/// Fails if not all interfaces run the policy on trial in both directions, because an `apply` was
/// killed: then confirming it would keep two policies.
fn refuse_what_is_halfway(found: &[Inspection], state: &State) -> Result<(), KernelError> {
    let number = state.number();
    let is_whole = |one: &Inspection| {
        let Some(own) = one.state().filter(|own| own.trial.is_some()) else {
            return one.ahead.is_none();
        };
        own.number() == number && one.runs(&own)
    };
    match found.iter().find(|one| !is_whole(one)) {
        None => Ok(()),
        Some(one) => {
            let name = one.state().map_or_else(|| "IF".into(), |it| it.interface);
            Err(KernelError::Fixed {
                what: format!("confirming generation {}", state.policy.generation),
                reason: format!("its apply was cut short: on {name} {}", one.standing()),
                help: "apply again; what is there now is undone at its deadline, or at once by \
                       `sgctl rollback`"
                    .into(),
            })
        }
    }
}

impl Decided {
    fn of(state: &State) -> Option<Decided> {
        let trial = state.trial.as_ref()?;
        Some(Decided {
            interfaces: vec![state.interface.clone()],
            policy: state.policy.clone(),
            until: trial.until.clone(),
            deadline: trial.deadline,
            is_confirmed: match trial.stands {
                Stands::OnTrial => return None,
                Stands::Confirmed => true,
                Stands::Returned => false,
            },
            returned_to: trial.returns_to.as_ref().map(|it| it.policy.clone()),
        })
    }

    /// What has happened, as a clause.
    pub fn sentence(&self) -> String {
        let PolicyRecord {
            name, generation, ..
        } = &self.policy;
        let on = self.interfaces.join(", ");
        match (&self.returned_to, self.is_confirmed) {
            (_, true) => format!("{name}, generation {generation}, is confirmed on {on}"),
            (Some(before), false) => format!(
                "{name}, generation {generation}, was not confirmed and is undone on {on}: {}, generation {}, \
                 is in force again",
                before.name, before.generation
            ),
            (None, false) => format!(
                "{name}, generation {generation}, was not confirmed and is undone on {on}: nothing is in \
                 force, as before it"
            ),
        }
    }
}

/// What is found on all interfaces of an attachment. A record that cannot be read at the moment may
/// name a trial, so nothing is decided without it; one that is damaged names none.
fn all_of(pins: &InterfacePins) -> Result<Vec<Inspection>, KernelError> {
    let readable = |found: Inspection| match found.records {
        Err(error) if !matches!(error, KernelError::DamagedState { .. }) => Err(error),
        records => Ok(Inspection { records, ..found }),
    };
    let all = pins.of_attachment()?;
    all.iter()
        .map(|pins| inspect(pins).and_then(readable))
        .collect()
}

/// Tidies up after a trial that is over, on all interfaces of an attachment. `None` if there is
/// none. To be called under the lock.
pub(super) fn tidy_attachment(pins: &InterfacePins) -> Result<Option<Decided>, KernelError> {
    let mut done: Option<Decided> = None;
    for found in all_of(pins)? {
        let Some(decided) = over(&found) else {
            continue;
        };
        // A filter is reached in the namespace of its interface only. Where it is elsewhere the
        // gates stay, which decide the same.
        if matches!(&found.place, Place::There(at) if at.netns().is_none()) {
            let name = decided.interfaces.join(", ");
            tidy(&found, &decided).map_err(|e| standing_on(e, &[(&name, &found.pins)]))?;
        }
        match &mut done {
            Some(done) => done.interfaces.extend(decided.interfaces),
            None => done = Some(decided),
        }
    }
    if let Some(decided) = &done {
        Records::forget_trials(pins)?;
        write_down(pins, decided)?;
    }
    Ok(done)
}

/// Writes down in the history how a policy that was undone ended: at its deadline, or by hand
/// before it.
fn write_down(pins: &InterfacePins, decided: &Decided) -> Result<(), KernelError> {
    let in_force = match decided.is_confirmed {
        true => None,
        false => State::read(pins)?,
    };
    let Some(state) = in_force.filter(|state| !state.has_ended()) else {
        return Ok(());
    };
    // The clock of the machine may have been set since the trial began.
    let (how, ago) = match since(decided.deadline) {
        Some(ago) => (How::Undone, ago),
        None => (How::RolledBack, Duration::ZERO),
    };
    let now = jiff::Timestamp::now();
    let at = now.checked_sub(ago).unwrap_or(now);
    history::returned(pins, &state, how, at.to_string())
}

/// The trial on an interface, if it is over.
pub(crate) fn over(found: &Inspection) -> Option<Decided> {
    let records = found.records.as_ref().ok()?;
    let gates = Direction::BOTH.into_iter().filter_map(|direction| {
        let attached = found.attached(direction)?;
        records.on_trial_behind(direction, attached)
    });
    let mut on_trial = gates.chain(records.current.as_ref());
    on_trial.find_map(Decided::of)
}

/// Attaches the programs of the policy that decides in the place of its gates, and removes the
/// rest; or removes all, if none is in force.
fn tidy(found: &Inspection, decided: &Decided) -> Result<(), KernelError> {
    let pins = &found.pins;
    let Some(state) = found.state().filter(|state| !state.has_ended()) else {
        return remove(found);
    };
    let hooks = Hooks {
        pins,
        interface: &state.interface,
        xdp_mode: match state.xdp_mode {
            XdpMode::Generic => XdpMode::Generic,
            _ => XdpMode::Auto,
        },
        egress_hook: match found.outbound.live_link() {
            Some(_) => EgressHook::Tcx,
            None => EgressHook::Clsact,
        },
        owns_qdisc: state.added_clsact,
    };
    for direction in ORDER {
        let id = state.program(direction);
        let Some((_, program)) = targets::pinned_program(pins, direction, id)? else {
            return Err(KernelError::MissingPin {
                what: format!(
                    "opening {}",
                    pins.program(direction, state.number()).display()
                ),
            });
        };
        hooks.put(direction, program.as_fd())?;
    }
    state.write(pins)?;
    links::unpin(&pins.state_next())
        .map_err(|e| KernelError::io("removing the record of the trial", e))?;
    targets::leave_only(pins, &state)?;
    // Until now it has forgotten nothing. One that means the same as the one before flushes
    // nothing.
    let is_new = decided.returned_to.is_some() && state.epoch == state.policy.generation;
    if decided.is_confirmed && is_new && state.established == Established::Flush {
        flush(pins, state.epoch)?;
    }
    Ok(())
}
