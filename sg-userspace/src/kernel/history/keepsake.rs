//! What is needed to write a policy down once more, for as long as it may come back.

use super::book::{Book, Entry};
use super::text::{read_text, render};
use crate::kernel::blob::{self, Kind};
use crate::kernel::error::KernelError;
use crate::kernel::pins::InterfacePins;
use crate::kernel::state::State;
use crate::kernel::who::Who;
use sg_policy::policy::Policy;

/// A policy that can be put in force, with its text, whatever becomes of its pins.
#[derive(Clone, Debug)]
pub struct Keepsake {
    pub(super) entry: Entry,
    /// The body of its blob. `None` if it is not kept, because it is too large.
    pub(super) text: Option<Vec<u8>>,
    /// The number of the watch of its candidate, and the body of that one's blob. `None` if it has
    /// none, or if the blob is there already.
    pub(super) candidate: Option<(u32, Vec<u8>)>,
}

impl Keepsake {
    /// A policy that is about to be applied by the caller, and the text of a candidate that was not
    /// beside a policy before.
    pub(in crate::kernel) fn of(
        policy: &Policy,
        state: &State,
        candidate: Option<(u32, Vec<u8>)>,
    ) -> Result<Keepsake, KernelError> {
        let text = render(policy)?;
        let entry = Entry {
            by: Some(Who::here()),
            text_bytes: text.as_ref().map(Vec::len),
            ..Entry::of_record(state)
        };
        Ok(Keepsake {
            entry,
            text,
            candidate,
        })
    }

    /// The policy in force, as the generation of the record `next`, with the same text and by whom
    /// it was applied.
    pub(in crate::kernel) fn again(
        pins: &InterfacePins,
        in_force: &State,
        next: &State,
        candidate: Option<(u32, Vec<u8>)>,
    ) -> Result<Keepsake, KernelError> {
        let (entry, text) = entry_and_text(pins, in_force)?;
        Ok(Keepsake {
            entry: Entry {
                generation: next.policy.generation,
                ..entry
            },
            text,
            candidate,
        })
    }

    /// The policy in force on an interface.
    pub(in crate::kernel) fn in_force(
        pins: &InterfacePins,
        state: &State,
    ) -> Result<Keepsake, KernelError> {
        let (entry, text) = entry_and_text(pins, state)?;
        let candidate = state.candidate.as_ref().map(|it| it.watch);
        let candidate = candidate.and_then(|watch| {
            // Where it cannot be read, it cannot be kept.
            let body = blob::read(&pins.candidate_text(watch), Kind::Policy).ok()??;
            Some((watch, body.ok()?))
        });
        Ok(Keepsake {
            entry,
            text,
            candidate,
        })
    }
}

/// What the history says of the policy in force, and its text if that is kept.
fn entry_and_text(
    pins: &InterfacePins,
    state: &State,
) -> Result<(Entry, Option<Vec<u8>>), KernelError> {
    let book = Book::read_or_begin(pins)?.settled(state);
    let entry = book.current.unwrap_or_else(|| Entry::of_record(state));
    let text = match entry.text_bytes {
        // What cannot be read is not kept; `run` begins nevertheless.
        Some(_) => match read_text(pins, entry.generation) {
            Err(KernelError::DamagedHistory { .. }) => None,
            text => text?,
        },
        None => None,
    };
    let text_bytes = text.as_ref().map(Vec::len);
    let entry = Entry {
        text_bytes,
        ..entry
    };
    Ok((entry, text))
}
