//! The book of an attachment: the policy in force and those before it, and how a book is corrected
//! by what the record says.

use serde::{Deserialize, Serialize};

use super::text::BYTES;
use crate::kernel::blob::{self, Kind};
use crate::kernel::error::KernelError;
use crate::kernel::how::{Ended, How};
use crate::kernel::pins::InterfacePins;
use crate::kernel::state::State;
use crate::kernel::who::Who;
use sg_policy::policy::AuditScope;

/// How many policies are kept that are not in force any more.
pub const KEPT: usize = 5;

/// A policy that is or was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub generation: u32,
    pub name: String,
    pub digest: String,
    /// RFC 3339.
    pub applied_at: String,
    /// `None` if that was not written down.
    pub by: Option<Who>,
    /// `None` while it is in force.
    pub ended: Option<Ended>,
    /// How many bytes its text takes. `None` if it is not kept, because it is too large.
    pub text_bytes: Option<usize>,
    /// What it audits, besides what its text says. `None` if it enforces all its rules.
    #[serde(default)]
    pub audit: Option<AuditScope>,
}

impl Entry {
    /// The policy in force, as far as the record knows it.
    pub(super) fn of_record(state: &State) -> Entry {
        Entry {
            generation: state.policy.generation,
            name: state.policy.name.clone(),
            digest: state.policy.digest.clone(),
            applied_at: state.policy.applied_at.clone(),
            by: None,
            ended: None,
            text_bytes: None,
            audit: state.policy.audit,
        }
    }
}

/// The policy that is about to be put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intended {
    pub(super) entry: Entry,
    /// When and how the policy before it ends. No time is the moment at which it is replaced.
    pub(super) at: Option<String>,
    pub(super) how: How,
}

/// What is written down of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// The policy that was in force when this was written.
    pub(super) current: Option<Entry>,
    /// Those before it, the newest first.
    pub(super) ended: Vec<Entry>,
    pub(super) intended: Option<Intended>,
}

impl Book {
    /// What is pinned. A book that is damaged is begun anew by the next change, and so is one that
    /// is missing.
    pub(super) fn read(pins: &InterfacePins) -> Result<Book, KernelError> {
        let path = pins.history();
        let Some(book) = blob::read_json(&path, Kind::History)? else {
            return Ok(Book::default());
        };
        book.map_err(|reason| KernelError::DamagedHistory { path, reason })
    }

    /// What is pinned, for a writer: in the place of a damaged book a new one.
    pub(super) fn read_or_begin(pins: &InterfacePins) -> Result<Book, KernelError> {
        match Book::read(pins) {
            Err(KernelError::DamagedHistory { .. }) => Ok(Book::default()),
            book => book,
        }
    }

    pub(super) fn write(&self, pins: &InterfacePins) -> Result<(), KernelError> {
        blob::write_json(&pins.history(), Kind::History, self)
    }

    /// Corrects the book by what is in force: a command that was killed may have left an entry
    /// about a policy that never came into force, or none about the one that did.
    pub(super) fn settled(mut self, state: &State) -> Book {
        let intended = self.intended.take();
        let generation = state.policy.generation;
        let mut entry = match self.current.take() {
            Some(current) if current.generation == generation => current,
            before => {
                let intended = intended.filter(|it| it.entry.generation == generation);
                // An earlier policy that is in force again is not one that has ended.
                let again = self.ended.iter().position(|it| it.generation == generation);
                let again = again.map(|index| self.ended.remove(index));
                let now = || Some(state.policy.applied_at.clone());
                let (at, how) = match &intended {
                    Some(intended) => (intended.at.clone().or_else(now), intended.how),
                    // Nobody wrote down that it came back: the kernel did that by itself.
                    None if again.is_some() => (None, How::Undone),
                    None => (now(), How::Replaced),
                };
                // A policy that was loaded again, as a repair does it, has replaced nothing.
                if let Some(before) = before.filter(|it| it.digest != state.policy.digest) {
                    let ended = Some(Ended { at, how });
                    self.ended.insert(0, Entry { ended, ..before });
                }
                let intended = intended.map(|it| it.entry);
                intended
                    .or(again)
                    .unwrap_or_else(|| Entry::of_record(state))
            }
        };
        entry.name.clone_from(&state.policy.name);
        entry.applied_at.clone_from(&state.policy.applied_at);
        entry.ended = None;
        if entry.digest != state.policy.digest {
            entry = Entry::of_record(state);
        }
        self.current = Some(entry);
        self.ended.truncate(KEPT);
        self
    }

    /// Forgets the oldest texts until the others are within the bound.
    pub(super) fn bound(&mut self) {
        let mut total = 0;
        for entry in self.current.iter_mut().chain(&mut self.ended) {
            let bytes = entry.text_bytes.unwrap_or_default();
            match total + bytes <= BYTES {
                true => total += bytes,
                false => entry.text_bytes = None,
            }
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.current.iter().chain(&self.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::state::tests::sample;

    /// The record while this generation of this policy is in force.
    fn record(generation: u32, policy: &str) -> State {
        let mut state = sample();
        state.policy.generation = generation;
        state.policy.name = policy.to_owned();
        state.policy.digest = format!("sha256:{policy}");
        state.policy.applied_at = format!("at {generation}");
        state
    }

    fn entry(generation: u32, policy: &str) -> Entry {
        Entry {
            text_bytes: Some(10),
            by: Some(Who::here()),
            ..Entry::of_record(&record(generation, policy))
        }
    }

    fn intended(generation: u32, policy: &str, how: How) -> Option<Intended> {
        Some(Intended {
            entry: entry(generation, policy),
            at: None,
            how,
        })
    }

    /// Generations with their policies, and how they ended.
    fn shown(book: &Book) -> String {
        let of = |it: &Entry| {
            let ended = it.ended.as_ref();
            let at = |it: &Ended| it.at.clone().unwrap_or_else(|| "?".into());
            let ended = ended.map(|it| format!(" {} {}", it.how.name(), at(it)));
            format!("{}{}{}", it.generation, it.name, ended.unwrap_or_default())
        };
        book.entries().map(of).collect::<Vec<_>>().join(", ")
    }

    /// Proves C3: an intention is believed only if the record names it, whoever was killed when.
    #[test]
    fn the_record_decides_what_is_in_force() {
        let first = Book {
            intended: intended(1, "a", How::Replaced),
            ..Book::default()
        };
        let one = first.settled(&record(1, "a"));
        assert_eq!(shown(&one), "1a");
        let begun = Book {
            intended: intended(2, "b", How::Replaced),
            ..one.clone()
        };
        // It was killed before the change, or the change was taken back.
        assert_eq!(begun.clone().settled(&record(1, "a")), one);
        // It was killed behind the change.
        let two = begun.settled(&record(2, "b"));
        assert_eq!(shown(&two), "2b, 1a replaced at 2");
        // The kernel has undone it by itself: nobody wrote that down.
        let undone = two.clone().settled(&record(1, "a"));
        assert_eq!(shown(&undone), "1a, 2b undone ?");
        // Somebody did, with the time.
        let mut noted = two.clone();
        noted.intended = intended(1, "a", How::Undone);
        noted.intended.as_mut().unwrap().at = Some("the deadline".into());
        let noted = noted.settled(&record(1, "a"));
        assert_eq!(shown(&noted), "1a, 2b undone the deadline");
        // A policy that nobody announced: what is known is what the record has.
        let other = two.clone().settled(&record(3, "c"));
        assert_eq!(shown(&other), "3c, 2b replaced at 3, 1a replaced at 2");
        assert_eq!(other.current.unwrap().text_bytes, None);
        // The same policy loaded again has replaced nothing.
        let again = Book {
            intended: intended(3, "b", How::Replaced),
            ..two
        };
        assert_eq!(
            shown(&again.settled(&record(3, "b"))),
            "3b, 1a replaced at 2"
        );
    }

    #[test]
    fn five_are_kept_and_their_texts_are_bounded() {
        let mut book = Book::default();
        for (generation, policy) in (1..).zip(["a", "b", "c", "d", "e", "f", "g"]) {
            book.intended = intended(generation, policy, How::Replaced);
            book = book.settled(&record(generation, policy));
        }
        let numbers: Vec<u32> = book.entries().map(|it| it.generation).collect();
        assert_eq!(numbers, [7, 6, 5, 4, 3, 2]);
        let sizes = [BYTES / 2, BYTES / 4, BYTES / 2, BYTES / 4, 1, 0];
        let entries = book.current.iter_mut().chain(&mut book.ended);
        for (entry, size) in entries.zip(sizes) {
            entry.text_bytes = Some(size);
        }
        book.bound();
        let kept: Vec<bool> = book.entries().map(|it| it.text_bytes.is_some()).collect();
        assert_eq!(kept, [true, true, false, true, false, true]);
    }
}
