//! The events of an attachment: packets that its policies log, and, while somebody watches, all
//! that are dropped. Any number of readers get the same events, each at its own position, and each
//! can say exactly what it was not shown.

mod frame;
mod names;
mod packet;
mod tally;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use self::names::Names;
pub use self::packet::{CandidateSays, LoggedPacket, LoggingRule, end};
use self::tally::{Counts, Delivered};
pub use self::tally::{EventTotals, Tally, event_totals};
use super::attached::Attached;
use crate::kernel::KernelError;
use crate::kernel::event_ring::{EventReader, LoggedSoFar, Taken};
use crate::kernel::event_watch::Watch;
use crate::kernel::pins::InterfacePins;
use sg_common::event::LOGGED;

/// A reader of the events of an attachment. It does not affect other readers.
pub struct Events {
    pins: InterfacePins,
    reader: EventReader,
    /// The pin of the rings, to see whether another one has taken its place.
    rings: Option<u64>,
    /// `None` if only what policies log is wanted.
    watch: Option<Watch>,
    /// Whether what was written only because somebody watched is wanted.
    takes_watched: bool,
    names: Names,
    /// What the counts said when the reader was opened and when they were read last, and what it
    /// has got since then.
    from: Counts,
    last: Counts,
    from_logged: LoggedSoFar,
    delivered: Delivered,
    logged: u64,
    /// How many suppressed and lost events were reported so far.
    suppressed: u64,
    lost_logged: u64,
    /// Lost events of which it is not known yet whether they are wanted.
    unsorted: u64,
    /// When the counts may be read again: they are long where there are many CPUs and rules.
    next_look: Instant,
}

/// The events since the last reading. `packets`, `lost` and `suppressed` together are all packets
/// of which there was to be an event.
#[derive(Clone, Debug, Default)]
pub struct Logged {
    /// The packets, oldest first.
    pub packets: Vec<LoggedPacket>,
    /// How many were overwritten before they were read.
    pub lost: u64,
    /// How many were over a limit, and so not written. For a reader that watches, brought up to
    /// date about once a second.
    pub suppressed: u64,
    /// Whether the watch had ended, for it was not renewed in time: what was dropped meanwhile has
    /// no event and is in none of these numbers.
    pub unwatched: bool,
}

impl Logged {
    /// Adds a later reading, or that of another reader.
    pub fn add(&mut self, more: Logged) {
        self.packets.extend(more.packets);
        self.lost += more.lost;
        self.suppressed += more.suppressed;
        self.unwatched |= more.unwatched;
    }
}

/// How often the counts are read at most, and for how much of the time.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_SHARE: u32 = 50;

/// How often reading is tried again if an event was written meanwhile. Each takes less than a
/// millisecond, or as long as reading the counts.
const TRIES: usize = 200;

impl Events {
    /// Opens the events that policies log, from now on.
    pub fn open(attached: &Attached) -> Result<Self, KernelError> {
        let mut events = Self::from_the_first(attached)?;
        events.begin_now()?;
        Ok(events)
    }

    /// Opens those of an interface that was just attached, from the first one on.
    pub fn from_the_first(attached: &Attached) -> Result<Self, KernelError> {
        let pins = attached.pins.clone();
        Ok(Events {
            rings: inode(&pins),
            reader: EventReader::from_the_first(&pins)?,
            pins,
            watch: None,
            takes_watched: false,
            names: Names::default(),
            from: Counts::default(),
            last: Counts::default(),
            from_logged: LoggedSoFar::default(),
            delivered: Delivered::default(),
            logged: 0,
            suppressed: 0,
            lost_logged: 0,
            unsorted: 0,
            next_look: Instant::now(),
        })
    }

    /// Opens all events that are still there, those of watchers too, without watching. What is
    /// older counts as lost.
    pub fn newest(attached: &Attached) -> Result<Self, KernelError> {
        let events = Self::from_the_first(attached)?;
        Ok(Events {
            takes_watched: true,
            ..events
        })
    }

    /// Opens those that policies log and those of all that is dropped, from now on, and watches, so
    /// that there are such. `snap` is how many bytes of each packet are wanted, 0 for the headers.
    /// The watch ends by itself soon after the last call of [`Events::drain`].
    pub fn watch(attached: &Attached, snap: u32) -> Result<Self, KernelError> {
        let mut events = Self::newest_and_watch(attached, snap)?;
        events.begin_now()?;
        Ok(events)
    }

    /// As [`Events::newest`], and watches from now on.
    pub fn newest_and_watch(attached: &Attached, snap: u32) -> Result<Self, KernelError> {
        let events = Self::newest(attached)?;
        Ok(Events {
            watch: Some(Watch::begin(&attached.pins, snap)?),
            ..events
        })
    }

    /// Leaves out all events until now, with their counts.
    fn begin_now(&mut self) -> Result<(), KernelError> {
        for _ in 0..TRIES {
            self.reader.skip();
            if self.takes_watched {
                self.from = Counts::read(&self.pins)?;
                self.delivered.note(&self.from);
                self.last = self.from.clone();
            }
            self.from_logged = self.reader.logged_so_far();
            if self.reader.is_at_the_end(self.from_logged.written) {
                break;
            }
        }
        Ok(())
    }

    /// Sets the pins, after they were moved.
    pub fn moved_to(&mut self, pins: &InterfacePins) {
        self.pins = pins.clone();
        self.rings = inode(pins);
    }

    /// Whether the rings are gone or others have taken their place: nothing will come any more.
    pub fn is_over(&self) -> bool {
        inode(&self.pins) != self.rings
    }

    /// All events since the last call.
    pub fn drain(&mut self) -> Result<Logged, KernelError> {
        let unwatched = self.watch.as_mut().is_some_and(|watch| !watch.renew());
        let mut logged = Logged {
            unwatched,
            ..Logged::default()
        };
        let mut taken = Vec::new();
        self.take(&mut taken, &mut logged);
        match self.takes_watched {
            true => self.look(&mut logged)?,
            false => self.sort_out(&mut taken, &mut logged),
        }
        logged.packets = self.named(taken)?;
        Ok(logged)
    }

    /// As [`Events::drain`], with all numbers up to date.
    pub fn settle(&mut self) -> Result<Logged, KernelError> {
        self.next_look = Instant::now();
        self.drain()
    }

    /// Reads the rings.
    fn take(&mut self, taken: &mut Vec<Taken>, logged: &mut Logged) {
        let drained = self.reader.drain();
        for one in &drained.events {
            self.logged += u64::from(one.event.marks & LOGGED);
            self.delivered.count(&one.event);
            if !self.delivered.knows(one.event.ifindex) {
                // Of an interface that has come since the counts were read.
                self.next_look = Instant::now();
            }
        }
        match self.takes_watched {
            true => {
                logged.lost += drained.lost;
                taken.extend(drained.events);
            }
            false => {
                self.unsorted += drained.lost;
                let events = drained.events.into_iter();
                taken.extend(events.filter(|one| one.event.marks & LOGGED != 0));
            }
        }
    }

    /// Reads what the headers of the rings say of logged events: how many were suppressed, and how
    /// many of the lost ones were logged.
    fn sort_out(&mut self, taken: &mut Vec<Taken>, logged: &mut Logged) {
        let so_far = self.reader.logged_so_far();
        let suppressed = so_far.suppressed - self.from_logged.suppressed;
        logged.suppressed = suppressed.saturating_sub(self.suppressed);
        self.suppressed = suppressed;
        for _ in 0..TRIES {
            if self.unsorted == 0 {
                return;
            }
            let so_far = self.reader.logged_so_far();
            if self.reader.is_at_the_end(so_far.written) {
                let produced = so_far.written - self.from_logged.written;
                let lost = produced.saturating_sub(self.logged);
                logged.lost += lost - self.lost_logged;
                self.lost_logged = lost;
                self.unsorted = 0;
                return;
            }
            self.take(taken, logged);
        }
    }

    /// Reads the counts, unless they were read lately.
    fn look(&mut self, logged: &mut Logged) -> Result<(), KernelError> {
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        self.read_counts()?;
        let took = now.elapsed();
        self.next_look = now + LOOK.max(took * LOOK_SHARE);
        logged.suppressed = self.more_suppressed();
        Ok(())
    }

    /// Reads the counts. Those of what is not attached any more stay what they were.
    fn read_counts(&mut self) -> Result<(), KernelError> {
        if !self.is_over() {
            self.last.update(Counts::read(&self.pins)?);
        }
        self.delivered.note(&self.last);
        Ok(())
    }

    /// Packets, with the names that there were last if nothing is attached any more.
    fn named(&mut self, taken: Vec<Taken>) -> Result<Vec<LoggedPacket>, KernelError> {
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        self.refresh_names()?;
        Ok(self.names.packets(taken))
    }

    fn refresh_names(&mut self) -> Result<(), KernelError> {
        match self.is_over() {
            true => Ok(()),
            false => self.names.refresh(&self.pins),
        }
    }

    /// How many events more were suppressed than it was said before.
    fn more_suppressed(&mut self) -> u64 {
        let known = self.from.suppressed() + self.suppressed;
        let more = self.last.suppressed().saturating_sub(known);
        self.suppressed += more;
        more
    }

    /// What has become of the events since the reader was opened, by interface, direction and what
    /// decided: only of a reader that takes watched ones too. `more` gets the events that come
    /// meanwhile.
    pub fn tally(&mut self, more: &mut Logged) -> Result<Vec<Tally>, KernelError> {
        for _ in 0..TRIES {
            self.read_counts()?;
            let is_at_the_end = self.reader.is_at_the_end(self.last.suppressed());
            if is_at_the_end {
                more.suppressed += self.more_suppressed();
                self.refresh_names()?;
                let (from, last) = (&self.from, &self.last);
                return Ok(self.names.tallies(from, last, &self.delivered));
            }
            let mut taken = Vec::new();
            self.take(&mut taken, more);
            more.packets.extend(self.named(taken)?);
        }
        // Events come so fast that counts and rings cannot be read at one moment.
        Ok(Vec::new())
    }
}

fn inode(pins: &InterfacePins) -> Option<u64> {
    fs::metadata(pins.event_rings()).ok().map(|it| it.ino())
}
