//! What is in force in an attachment and what was: for the policy in force and the last ones that
//! it replaced, who applied it, when, and its text. `show`, `history`, `diff --iface` and `rollback
//! --to` read it; it goes with its attachment.
//!
//! The record of an interface (`state`) is the truth about what is in force; nothing here claims
//! anything else. A change is written down in two steps, so that a process may be killed at any
//! moment:
//!
//! 1. `begin`, before any hook is touched, keeps the text of the new policy and notes what is
//!    intended: the generation that is to be, and how the one before it ends.
//! 2. `settle`, when the records name the new generation, makes the note true and removes what is
//!    too old.
//!
//! Whoever reads in between asks the record which generation is in force, and believes the note
//! only if it is that one. What an attempt has left that failed is removed by the next change.
//!
//! Pins, in the directory of the attachment: `history` is a blob of JSON (`Book`); `policy_7` is
//! the text of generation 7, as the JSON of a [`PolicyText`], compressed: its length (u32,
//! little-endian), then DEFLATE (RFC 1951). `candidate_8` is in the same form the text of the
//! candidate that was put beside a policy with generation 8, for as long as a record names it.

use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec_with_limit;
use serde::{Deserialize, Serialize};

use super::blob::{self, Kind};
use super::error::KernelError;
pub use super::how::{Ended, How};
use super::pins::{InterfacePins, unpin};
use super::records::Records;
use super::state::{CandidateRecord, State};
use super::who::Who;
use sg_policy::formats::{Style, write};
use sg_policy::policy::{AuditScope, Policy, PolicyText, load_written};

/// How many policies are kept that are not in force any more.
pub const KEPT: usize = 5;

/// The most memory of the kernel that the texts of an attachment take, compressed. While a policy
/// is replaced, one more may be there.
pub const BYTES: usize = 16 << 20;

/// The most that a text may be, uncompressed: more than the largest policy that can be loaded.
const TEXT_BYTES: usize = 1 << 30;

/// Sets with more entries are kept as set files, which are smaller and faster to load.
const ENTRIES_INLINE: usize = 1000;

/// The fastest level of DEFLATE. The slow ones save little of a list of addresses, and `apply` has
/// to wait for them.
const LEVEL: u8 = 1;

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
    fn of_record(state: &State) -> Entry {
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
struct Intended {
    entry: Entry,
    /// When and how the policy before it ends. No time is the moment at which it is replaced.
    at: Option<String>,
    how: How,
}

/// What is written down of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    /// The policy that was in force when this was written.
    current: Option<Entry>,
    /// Those before it, the newest first.
    ended: Vec<Entry>,
    intended: Option<Intended>,
}

impl Book {
    /// What is pinned. A book that is damaged is begun anew by the next change, and so is one that
    /// is missing.
    fn read(pins: &InterfacePins) -> Result<Book, KernelError> {
        let path = pins.history();
        let Some(book) = blob::read_json(&path, Kind::History)? else {
            return Ok(Book::default());
        };
        book.map_err(|reason| KernelError::DamagedHistory { path, reason })
    }

    /// The same for a writer.
    fn read_or_begin(pins: &InterfacePins) -> Result<Book, KernelError> {
        match Book::read(pins) {
            Err(KernelError::DamagedHistory { .. }) => Ok(Book::default()),
            book => book,
        }
    }

    fn write(&self, pins: &InterfacePins) -> Result<(), KernelError> {
        blob::write_json(&pins.history(), Kind::History, self)
    }

    /// Corrects the book by what is in force: a command that was killed may have left an entry
    /// about a policy that never came into force, or none about the one that did.
    fn settled(mut self, state: &State) -> Book {
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
    fn bound(&mut self) {
        let mut total = 0;
        for entry in self.current.iter_mut().chain(&mut self.ended) {
            let bytes = entry.text_bytes.unwrap_or_default();
            match total + bytes <= BYTES {
                true => total += bytes,
                false => entry.text_bytes = None,
            }
        }
    }

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

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.current.iter().chain(&self.ended)
    }
}

/// A policy that can be put in force, with its text, whatever becomes of its pins.
#[derive(Clone, Debug)]
pub struct Keepsake {
    entry: Entry,
    /// The body of its blob. `None` if it is not kept, because it is too large.
    text: Option<Vec<u8>>,
    /// The number of the watch of its candidate, and the body of that one's blob. `None` if it has
    /// none, or if the blob is there already.
    candidate: Option<(u32, Vec<u8>)>,
}

impl Keepsake {
    /// A policy that is about to be applied by the caller, and the text of a candidate that was not
    /// beside a policy before.
    pub(super) fn of(
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
    pub(super) fn again(
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
    pub(super) fn in_force(pins: &InterfacePins, state: &State) -> Result<Keepsake, KernelError> {
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

/// Writes down that a policy is about to be put in force, before anything else is changed.
/// `in_force` is the record of the one that it replaces, which ends `how`, and at the time `at`
/// if that is not the moment of the change.
pub(super) fn begin(
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
pub(super) fn settle(pins: &InterfacePins, state: &State) -> Result<(), KernelError> {
    Book::read_or_begin(pins)?.settle(pins, state)
}

/// Writes down that the policy of this record is in force again, since the one after it was taken
/// back.
pub(super) fn returned(
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
    let loaded = load_written(&name, &text).map_err(|errors| damaged(errors.to_string()))?;
    if loaded.policy.digest != entry.digest {
        return Err(damaged("it is the text of another policy".to_owned()));
    }
    Ok((entry.clone(), loaded.policy))
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
    let loaded = load_written(&record.name, &text);
    let policy = loaded.map_err(|errors| damaged(errors.to_string()))?.policy;
    match policy.digest == record.digest {
        true => Ok(policy),
        false => Err(damaged("it is the text of another policy".to_owned())),
    }
}

fn read_text(pins: &InterfacePins, generation: u32) -> Result<Option<Vec<u8>>, KernelError> {
    let path = pins.policy_text(generation);
    let body = blob::read(&path, Kind::Policy)?.transpose();
    body.map_err(|reason| KernelError::DamagedHistory { path, reason })
}

/// The body of a policy's blob. `None` if it is too large to be kept.
pub(super) fn render(policy: &Policy) -> Result<Option<Vec<u8>>, KernelError> {
    let style = Style {
        entries_inline: ENTRIES_INLINE,
    };
    let written = write(policy, style);
    let json = serde_json::to_vec(&written)
        .map_err(|e| KernelError::io("writing the text of the policy", e.into()))?;
    let Some(len) = u32::try_from(json.len())
        .ok()
        .filter(|_| json.len() <= TEXT_BYTES)
    else {
        return Ok(None);
    };
    let mut body = len.to_le_bytes().to_vec();
    body.append(&mut compress_to_vec(&json, LEVEL));
    Ok((body.len() <= BYTES).then_some(body))
}

fn parse(body: &[u8]) -> Result<PolicyText, String> {
    let (len, compressed) = body.split_first_chunk::<4>().ok_or("it is cut off")?;
    let len = u32::from_le_bytes(*len) as usize;
    let json = decompress_to_vec_with_limit(compressed, len.min(TEXT_BYTES))
        .map_err(|e| format!("it cannot be decompressed: {e}"))?;
    if json.len() != len {
        return Err("its length is not what it says".into());
    }
    serde_json::from_slice(&json).map_err(|e| e.to_string())
}

/// Reads the text of a policy as it is kept, for fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(body: &[u8]) -> bool {
    match parse(body) {
        Ok(text) => load_written("p.yaml", &text).is_ok(),
        Err(reason) => {
            assert!(!reason.is_empty(), "refused without a reason");
            false
        }
    }
}

/// The text of a policy as it is kept, for fuzzing.
#[cfg(test)]
pub(super) fn samples() -> Vec<Vec<u8>> {
    let text = "name: p\naddress-sets: {a: [10.0.0.0/8]}\n\
                inbound: [{protocol: tcp, ports: 22, from: a, action: accept}]\n";
    let loaded = sg_policy::policy::load_text("p.yaml", text, None, &[]);
    let policy = loaded.map(|it| it.policy).ok();
    let rendered = policy.and_then(|policy| render(&policy).ok().flatten());
    rendered.into_iter().collect()
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

    #[test]
    fn a_text_reads_back_as_written_and_a_damaged_one_is_refused() {
        let policy = sg_policy::policy::rules_from_lines("in tcp 22 from 192.0.2.0/24 accept");
        let body = render(&policy).unwrap().unwrap();
        let text = parse(&body).unwrap();
        assert!(text.yaml.contains("192.0.2.0/24"));
        assert!(parse(&body[..3]).is_err());
        assert!(parse(&body[..body.len() - 1]).is_err());
        let mut longer = body.clone();
        longer[0] += 1;
        assert!(parse(&longer).is_err());
        let mut shorter = body;
        shorter[0] -= 1;
        assert!(parse(&shorter).is_err());
    }
}
