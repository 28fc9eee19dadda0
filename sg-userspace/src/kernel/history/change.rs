//! The two steps in which a change is written down, and the return of an earlier policy.

use super::book::{Book, Entry, Intended};
use super::keepsake::Keepsake;
use crate::kernel::blob::{self, Kind};
use crate::kernel::error::KernelError;
use crate::kernel::how::How;
use crate::kernel::pins::{InterfacePins, unpin};
use crate::kernel::records::Records;
use crate::kernel::state::State;

/// Writes down that a policy is about to be put in force, before anything else is changed.
/// `in_force` is the record of the one that it replaces, which ends `how`, and at the time `at`
/// if that is not the moment of the change.
pub(in crate::kernel) fn begin(
    pins: &InterfacePins,
    in_force: Option<&State>,
    next: &Keepsake,
    how: How,
    at: Option<String>,
) -> Result<(), KernelError> {
    let book = Book::read_or_begin(pins)?;
    let book = match in_force {
        Some(state) => book.settled(state),
        None => Book::default(),
    };
    let generation = next.entry.generation;
    if let Some(text) = &next.text {
        blob::write(&pins.policy_text(generation), Kind::Policy, text)?;
    }
    if let Some((watch, text)) = &next.candidate {
        blob::write(&pins.candidate_text(*watch), Kind::Policy, text)?;
    }
    Book {
        intended: Some(Intended {
            entry: next.entry.clone(),
            at,
            how,
        }),
        ..book
    }
    .write(pins)
}

/// Removes the texts of candidates that no record of the attachment names. Where a record cannot be
/// read, none.
fn forget_candidates(pins: &InterfacePins) -> Result<(), KernelError> {
    let texts = pins.candidate_texts()?;
    if texts.is_empty() {
        return Ok(());
    }
    let mut named = Vec::new();
    for one in pins.of_attachment()? {
        let Ok(records) = Records::read(&one) else {
            return Ok(());
        };
        let candidates = records.all().filter_map(|state| state.candidate.as_ref());
        named.extend(candidates.map(|candidate| candidate.watch));
    }
    let gone = texts.iter().filter(|watch| !named.contains(watch));
    gone.map(|watch| pins.candidate_text(*watch))
        .try_for_each(|path| unpin(&path))
}

/// Writes down that the policy of this record is in force, whether or not [`begin`] has announced
/// it, and removes what is not kept any more.
pub(in crate::kernel) fn settle(pins: &InterfacePins, state: &State) -> Result<(), KernelError> {
    Book::read_or_begin(pins)?.settle(pins, state)
}

/// Writes down that the policy of this record is in force again, since the one after it was taken
/// back.
pub(in crate::kernel) fn returned(
    pins: &InterfacePins,
    state: &State,
    how: How,
    at: String,
) -> Result<(), KernelError> {
    let mut book = Book::read_or_begin(pins)?;
    let generation = state.policy.generation;
    let before = book.ended.iter().find(|it| it.generation == generation);
    book.intended = Some(Intended {
        entry: before.cloned().unwrap_or_else(|| Entry::of_record(state)),
        at: Some(at),
        how,
    });
    book.settle(pins, state)
}

impl Book {
    /// Becomes what it has to be while the policy of this record is in force, and removes the texts
    /// that are not kept any more.
    fn settle(self, pins: &InterfacePins, state: &State) -> Result<(), KernelError> {
        let mut book = self.settled(state);
        book.bound();
        book.write(pins)?;
        for generation in pins.policy_texts()? {
            let is_kept = |it: &Entry| it.generation == generation && it.text_bytes.is_some();
            if !book.entries().any(is_kept) {
                unpin(&pins.policy_text(generation))?;
            }
        }
        forget_candidates(pins)
    }
}
