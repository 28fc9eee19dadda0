//! Reads the history of an attachment: the list of its policies, and the text of those that are
//! kept.

use super::book::{Book, Entry};
use super::text::{BYTES, parse, read_text};
use crate::kernel::blob::{self, Kind};
use crate::kernel::error::KernelError;
use crate::kernel::how::{Ended, How};
use crate::kernel::pins::InterfacePins;
use crate::kernel::state::{CandidateRecord, State};
use sg_policy::policy::{Policy, PolicyErrors, PolicyText, load_written};

/// The lines of comments above a text where `sgctl show` writes it. Places in the text count them.
pub const HEAD_LINES: usize = 3;

/// What is in force on an interface, and then what was, the newest first.
///
/// # Errors
/// [`KernelError::NotAttached`] if no policy is in force.
pub fn history(pins: &InterfacePins) -> Result<Vec<Entry>, KernelError> {
    let state = record(pins)?;
    let book = Book::read(pins)?.settled(&state);
    Ok(book.entries().cloned().collect())
}

/// The last policy that came out of force on an interface, if it is the one of this digest and was
/// undone: what was in force before it is in force again, and nothing has been put there since.
/// `None` also where nothing was in force before it, since that leaves no history.
///
/// # Errors
/// If the history cannot be read.
pub fn just_undone(pins: &InterfacePins, digest: &str) -> Result<Option<Entry>, KernelError> {
    let state = match record(pins) {
        Err(KernelError::NotAttached { .. }) => return Ok(None),
        state => state?,
    };
    let book = Book::read_or_begin(pins)?.settled(&state);
    let last = book.ended.into_iter().next().filter(|last| {
        let is_undone = |ended: &Ended| ended.how == How::Undone;
        last.digest == digest && last.ended.as_ref().is_some_and(is_undone)
    });
    Ok(last)
}

/// The policy of a generation that is in force on an interface or was, and what is known about it.
///
/// # Errors
/// [`KernelError::NotKept`] if there is no such generation, or not its text.
pub fn kept(pins: &InterfacePins, generation: u32) -> Result<(Entry, Policy), KernelError> {
    let entries = history(pins)?;
    let not_kept = |reason: String| KernelError::NotKept { generation, reason };
    let Some(entry) = entries.iter().find(|it| it.generation == generation) else {
        let known: Vec<String> = entries.iter().map(|it| it.generation.to_string()).collect();
        return Err(not_kept(format!(
            "the generations that are, are {}",
            known.join(", ")
        )));
    };
    let path = pins.policy_text(generation);
    let damaged = |reason: String| KernelError::DamagedHistory {
        path: path.clone(),
        reason,
    };
    let text = match entry.text_bytes {
        Some(_) => read_text(pins, generation)?,
        None => None,
    };
    let Some(text) = text else {
        return Err(not_kept(match entry.by {
            Some(_) => format!(
                "its text is too large: those of an attachment take at most {} MiB",
                BYTES >> 20
            ),
            None => "its text was not written down".to_owned(),
        }));
    };
    let text = parse(&text).map_err(damaged)?;
    let name = format!("generation {generation}");
    let policy = load(&name, text).map_err(|errors| damaged(errors.to_string()))?;
    if policy.digest != entry.digest {
        return Err(damaged("it is the text of another policy".to_owned()));
    }
    Ok((entry.clone(), policy))
}

/// The policy of a generation that is in force on an interface or was. See [`kept`].
///
/// # Errors
/// [`KernelError::NotKept`] if there is no such generation, or not its text.
pub fn policy(pins: &InterfacePins, generation: u32) -> Result<Policy, KernelError> {
    kept(pins, generation).map(|(_, policy)| policy)
}

/// The generation in force.
///
/// # Errors
/// [`KernelError::NotAttached`] if no policy is in force.
pub fn in_force(pins: &InterfacePins) -> Result<u32, KernelError> {
    record(pins).map(|state| state.policy.generation)
}

fn record(pins: &InterfacePins) -> Result<State, KernelError> {
    let state = State::read(pins)?.filter(|state| !state.has_ended());
    state.ok_or_else(|| KernelError::NotAttached {
        scope: format!("the interface with the index {}", pins.ifindex),
    })
}

/// The candidate that a record of the attachment names.
///
/// # Errors
/// [`KernelError::DamagedHistory`] if its text cannot be read.
pub fn candidate(pins: &InterfacePins, record: &CandidateRecord) -> Result<Policy, KernelError> {
    let path = pins.candidate_text(record.watch);
    let damaged = |reason: String| KernelError::DamagedHistory {
        path: path.clone(),
        reason,
    };
    let body = blob::read(&path, Kind::Policy)?;
    let body = body.ok_or_else(|| damaged("it is not there".to_owned()))?;
    let text = body.and_then(|body| parse(&body)).map_err(damaged)?;
    let name = format!("candidate {}", record.name);
    let policy = load(&name, text).map_err(|errors| damaged(errors.to_string()))?;
    match policy.digest == record.digest {
        true => Ok(policy),
        false => Err(damaged("it is the text of another policy".to_owned())),
    }
}

/// The policy of a kept text. Its places are lines of what `sgctl show` writes.
fn load(name: &str, mut text: PolicyText) -> Result<Policy, PolicyErrors> {
    text.yaml.insert_str(0, &"\n".repeat(HEAD_LINES));
    load_written(name, &text).map(|loaded| loaded.policy)
}
