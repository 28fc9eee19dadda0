//! The trial of a policy that is not confirmed: its word, which all gates of an attachment read,
//! and the clock that its deadline is on.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use sg_common::trial::{CONFIRMED, RETURNED, is_over};

use super::error::KernelError;
use super::map_memory::{failed, memory_to_read, shared_memory};
use super::pins::{InterfacePins, unpin};
use super::{faults, sys};

/// Which policy decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stands {
    /// The policy on trial, until its deadline.
    #[default]
    OnTrial,
    /// The policy that was on trial, for good.
    Confirmed,
    /// The policy before it, or none if there was none.
    Returned,
}

impl Stands {
    /// By the word of a trial at `now`, see [`boot_now`].
    pub(super) fn of(word: u64, now: u64) -> Stands {
        match word {
            CONFIRMED => Stands::Confirmed,
            word if is_over(word, now) => Stands::Returned,
            _ => Stands::OnTrial,
        }
    }
}

/// The word of a trial, in a pinned map.
pub(super) struct Word {
    memory: sys::MapMemory,
}

/// The name of the map in the programs.
pub(super) const MAP: &str = "sg_trial";

impl Word {
    /// Makes a word that says that the policy before decides, and pins it.
    pub(super) fn create(pins: &InterfacePins, number: u32) -> Result<Word, KernelError> {
        let path = pins.trial(number);
        // A process that was killed may have left this pin.
        unpin(&path)?;
        let pin = |map: aya::maps::MapData| map.pin(&path).map_err(sys::pin_error);
        let create = || sys::create_blob(MAP, size_of::<u64>() as u32).and_then(pin);
        faults::step(|| "making the word of the trial".into(), create)
            .map_err(|e| failed(&path, "creating", e))?;
        Word::open(pins, number)
    }

    pub(super) fn open(pins: &InterfacePins, number: u32) -> Result<Word, KernelError> {
        Word::view(&pins.trial(number), shared_memory)
    }

    fn open_to_read(pins: &InterfacePins, number: u32) -> Result<Word, KernelError> {
        Word::view(&pins.trial(number), memory_to_read)
    }

    fn view(
        path: &Path,
        open: impl Fn(&Path, u32, usize) -> io::Result<sys::MapMemory>,
    ) -> Result<Word, KernelError> {
        open(path, 1, size_of::<u64>())
            .map(|memory| Word { memory })
            .map_err(|e| KernelError::at_pin("opening", path, e))
    }

    fn word(&self) -> Option<&AtomicU64> {
        self.memory.counters().first()
    }

    fn load(&self) -> u64 {
        self.word()
            .map_or(RETURNED, |word| word.load(Ordering::SeqCst))
    }

    /// Begins the trial: from now on the policy decides wherever its gate is attached.
    pub(super) fn begin(&self, deadline: u64) -> Result<(), KernelError> {
        self.set("beginning the trial", |word| {
            word.store(deadline, Ordering::SeqCst)
        })
    }

    /// Confirms the policy on all hooks at once. False if it was undone before.
    pub(super) fn confirm(&self) -> Result<bool, KernelError> {
        self.close("confirming the policy", CONFIRMED)
    }

    /// Lets the policy before decide on all hooks at once. False if the other one was confirmed.
    pub(super) fn undo(&self) -> Result<bool, KernelError> {
        self.close("undoing the policy", RETURNED)
    }

    /// Replaces the deadline, if it has not passed, by `end`. Returns whether `end` is what the
    /// word says then. A gate that sees the deadline passed replaces it as well, and the first one
    /// wins.
    fn close(&self, step: &str, end: u64) -> Result<bool, KernelError> {
        let mut is_so = false;
        self.set(step, |word| {
            let found = word.load(Ordering::SeqCst);
            let next = match Stands::of(found, boot_now()) {
                Stands::OnTrial => end,
                Stands::Confirmed => CONFIRMED,
                Stands::Returned => RETURNED,
            };
            // If this fails, a gate has been faster.
            let _ = word.compare_exchange(found, next, Ordering::SeqCst, Ordering::SeqCst);
            is_so = word.load(Ordering::SeqCst) == end;
        })?;
        Ok(is_so)
    }

    fn set(&self, step: &str, act: impl FnOnce(&AtomicU64)) -> Result<(), KernelError> {
        let no_word = || io::Error::other("its map is too short");
        let act = || self.word().map(act).ok_or_else(no_word);
        faults::step(|| step.to_owned(), act).map_err(|e| KernelError::io(step, e))
    }
}

/// Which policy decides, by the pinned word of a trial. If it is not there, by the deadline: the
/// gates have the word in any case, and nobody has closed it through the pin.
///
/// # Errors
/// If the word is there and cannot be read: it may say something else than the deadline does.
pub(super) fn stands(
    pins: &InterfacePins,
    number: u32,
    deadline: u64,
) -> Result<Stands, KernelError> {
    let word = match Word::open_to_read(pins, number) {
        Ok(word) => word.load(),
        Err(KernelError::MissingPin { .. }) => deadline,
        Err(error) => return Err(error),
    };
    Ok(Stands::of(word, boot_now()))
}

/// The time on the clock of deadlines, as the kernel's programs see it: nanoseconds of
/// `CLOCK_BOOTTIME`. In a time namespace processes see it moved by an offset, and programs do not:
/// see time_namespaces(7).
pub(crate) fn boot_now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        i128::from(time.tv_sec()) * SECOND + i128::from(time.tv_nsec())
    });
    u64::try_from(now - boot_offset()).unwrap_or(0)
}

const SECOND: i128 = 1_000_000_000;

/// The time on the clock of events and flows, as the kernel's programs see it: nanoseconds of
/// `CLOCK_MONOTONIC`, without the offset of a time namespace.
pub(super) fn monotonic_of_programs() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        i128::from(time.tv_sec()) * SECOND + i128::from(time.tv_nsec())
    });
    u64::try_from(now - i128::from(monotonic_offset())).unwrap_or(0)
}

/// What this process's time namespace adds to `CLOCK_MONOTONIC`, in nanoseconds.
pub(crate) fn monotonic_offset() -> i64 {
    let offset = offset_in(&offsets(), ["monotonic", "1"]);
    i64::try_from(offset).unwrap_or(0)
}

/// The offset of this process's time namespace, in nanoseconds.
fn boot_offset() -> i128 {
    offset_in(&offsets(), ["boottime", "7"])
}

fn offsets() -> String {
    std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default()
}

/// From lines such as `boottime  100  5`: seconds and nanoseconds. Either name or number of the
/// clock stands first.
fn offset_in(text: &str, clock: [&str; 2]) -> i128 {
    let of_clock = |line: &str| {
        let mut words = line.split_whitespace();
        let is_it = words.next().is_some_and(|name| clock.contains(&name));
        let mut number = || words.next()?.parse::<i128>().ok();
        let (seconds, nanoseconds) = (number()?, number()?);
        is_it.then_some(seconds * SECOND + nanoseconds)
    };
    text.lines().find_map(of_clock).unwrap_or(0)
}

/// The deadline of a trial that begins now.
pub(super) fn deadline_after(within: Duration) -> u64 {
    let within = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX / 2);
    boot_now().saturating_add(within).min(CONFIRMED - 1)
}

/// How long ago a deadline passed. `None` if it has not passed.
pub(super) fn since(deadline: u64) -> Option<Duration> {
    boot_now().checked_sub(deadline).map(Duration::from_nanos)
}

/// How long it is until the deadline.
pub fn left_until(deadline: u64) -> Duration {
    Duration::from_nanos(deadline.saturating_sub(boot_now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_read_by_the_name_of_its_clock() {
        for (text, expected) in [
            (
                "monotonic           5         0\nboottime          100         7\n",
                100 * SECOND + 7,
            ),
            ("1 0 0\n7 -3 0\n", -3 * SECOND),
            ("monotonic 5 0\n", 0),
            ("boottime x y\n", 0),
            ("", 0),
        ] {
            assert_eq!(offset_in(text, ["boottime", "7"]), expected, "{text}");
        }
    }

    #[test]
    fn the_clock_goes_on() {
        let before = boot_now();
        assert!(before > 0);
        assert!(boot_now() >= before);
        assert_eq!(left_until(0), Duration::ZERO);
        assert!(since(0).is_some_and(|ago| ago >= Duration::from_nanos(before)));
        let far = deadline_after(Duration::from_secs(3600));
        assert!(left_until(far) > Duration::from_secs(3000));
        assert_eq!(since(far), None);
    }
}
