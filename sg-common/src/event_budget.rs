//! Which events are written, so that a flood of one kind never silences the others (SPEC O4), and
//! the counts of those that are not.
//!
//! Time is cut into ticks of about half a second. In each tick each CPU writes
//!
//! - the first event of each counter slot, always: so each rule and each reason gets some through,
//! - further ones of the slot up to [`SLOT_LIMIT`], as long as the CPU has written fewer than
//!   [`CPU_LIMIT`],
//! - after [`CROWDED`] of them only those of other sources than the most frequent one, so that one
//!   source does not silence the others under the same rule.
//!
//! A slot that is over its limit is closed for the rest of the tick. What comes after that is only
//! counted, by one comparison, without a look at the clock.
//!
//! While somebody watches, the number of the tick comes from the watcher (see [`EventWatch`]), and
//! else from the clock.

use crate::event::EventRing;
use crate::flow_table::Word;

/// A tick is 2^29 nanoseconds long: 0.537 seconds.
pub const TICK_SHIFT: u32 = 29;

/// Events of one counter slot that one CPU writes in a tick.
pub const SLOT_LIMIT: u64 = 384;

/// As [`SLOT_LIMIT`], of all slots together, besides the first one of each.
pub const CPU_LIMIT: u64 = 512;

/// Events of one slot in a tick after which the most frequent source gets no more.
pub const CROWDED: u64 = 256;

/// Ticks after which a watcher that has not renewed its watch is taken for dead: 3.2 seconds.
pub const WATCH_TICKS: u64 = 6;

/// One of so many dropped packets of a closed slot takes the slow path all the same, which ends a
/// watch whose watcher is dead. A power of two.
///
/// With fewer than a hundred drops a second on a CPU no slot is closed before its watch is over,
/// and with more the next look comes within three seconds.
pub const LOOK_EVERY: u64 = 256;

const _: () = assert!(LOOK_EVERY.is_power_of_two());

/// What watchers write and the packet path reads. All generations of an attachment share it.
#[derive(Debug, Default)]
#[repr(C)]
pub struct EventWatch<W> {
    /// The current tick while somebody watches, else zero: then packets that are dropped leave an
    /// event also if no rule says so. Watchers write the latest tick again and again.
    pub tick: W,
    /// How many bytes of each packet the watchers want, if that is more than
    /// [`HEAD`](crate::event::HEAD).
    pub snap: W,
}

const _: () = assert!(size_of::<EventWatch<u64>>() == 16);

/// The tick of a time in nanoseconds.
#[inline(always)]
pub const fn tick_of(now: u64) -> u64 {
    now >> TICK_SHIFT
}

/// Whether a watch that was last renewed in `tick` is over. One from the future is no watch.
#[inline(always)]
pub const fn is_over(tick: u64, now: u64) -> bool {
    // The watcher's clock may be ahead of the coarse clock of the packet path.
    (now + 1).wrapping_sub(tick) > WATCH_TICKS
}

impl<W: Word> EventWatch<W> {
    /// Ends the watch if it is over. Returns the tick, or zero.
    #[inline(always)]
    pub fn current(&self, now: u64) -> u64 {
        let tick = self.tick.load();
        if tick == 0 || !is_over(tick, tick_of(now)) {
            return tick;
        }
        // Where it fails a watcher has just renewed it.
        if self.tick.replace(tick, 0) {
            self.snap.store(0);
        }
        0
    }
}

/// What one CPU has done with the events of a counter slot. Only that CPU writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventCounts {
    /// The tick in which the slot gets no more events.
    pub closed: u64,
    /// The tick in which the most frequent source gets no more.
    pub crowded: u64,
    /// The tick that is being counted.
    pub tick: u64,
    /// Events written in it.
    pub in_tick: u64,
    /// The most frequent source of the tick: see `EventCounts::vote`.
    pub source: u32,
    /// How often it was seen, less what was seen of others.
    pub votes: u32,
    /// Events written of what policies log.
    pub logged: u64,
    /// Events not written of what policies log.
    pub logged_suppressed: u64,
    /// Events written only because somebody watched.
    pub watched: u64,
    /// Events not written of what somebody watched.
    pub watched_suppressed: u64,
}

const _: () = assert!(size_of::<EventCounts>() == 72);

impl EventCounts {
    /// Whether events from `source` are only counted in `tick`.
    #[inline(always)]
    pub fn is_closed(&self, tick: u64, source: impl FnOnce() -> u32) -> bool {
        self.closed == tick || (self.crowded == tick && self.source == source())
    }

    /// Counts a dropped packet that nobody but a watcher wants to see. False if the slow path is to
    /// have it, which counts it.
    #[inline(always)]
    pub fn suppress(&mut self, tick: u64, source: impl FnOnce() -> u32) -> bool {
        let next = self.watched_suppressed + 1;
        if !self.is_closed(tick, source) || next & (LOOK_EVERY - 1) == 0 {
            return false;
        }
        self.watched_suppressed = next;
        true
    }

    /// Counts an event. True if it is to be written.
    #[inline(always)]
    pub fn admit<W: Word>(
        &mut self,
        ring: &EventRing<W>,
        tick: u64,
        source: u32,
        is_logged: bool,
    ) -> bool {
        let is_admitted = self.has_room(ring, tick, source);
        if is_admitted {
            ring.begin();
        }
        let one_more = |word: &W| word.store(word.load() + 1);
        match (is_logged, is_admitted) {
            (true, true) => {
                self.logged += 1;
                one_more(&ring.logged);
            }
            (true, false) => {
                self.logged_suppressed += 1;
                one_more(&ring.logged_suppressed);
            }
            (false, true) => self.watched += 1,
            (false, false) => self.watched_suppressed += 1,
        }
        is_admitted
    }

    #[inline(always)]
    fn has_room<W: Word>(&mut self, ring: &EventRing<W>, tick: u64, source: u32) -> bool {
        if self.tick != tick {
            self.tick = tick;
            self.in_tick = 0;
            self.votes = 0;
        }
        if self.is_closed(tick, || source) {
            return false;
        }
        let is_full = ring.is_full(tick, CPU_LIMIT);
        if self.in_tick > 0 && (self.in_tick >= SLOT_LIMIT || is_full) {
            self.closed = tick;
            return false;
        }
        self.in_tick += 1;
        ring.count();
        // Who crowds the slot is settled then.
        if self.crowded != tick {
            self.vote(source);
        }
        if self.in_tick == CROWDED {
            self.crowded = tick;
        }
        true
    }

    /// Finds the source of more than half of the events, if there is one (the majority vote of
    /// Boyer and Moore, 1981).
    #[inline(always)]
    fn vote(&mut self, source: u32) {
        if self.votes == 0 {
            self.source = source;
            self.votes = 1;
        } else if self.source == source {
            self.votes += 1;
        } else {
            self.votes -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use core::sync::atomic::AtomicU64;
    use std::vec::Vec;

    type Ring = EventRing<AtomicU64>;

    /// How many of the events of these sources are admitted.
    fn admitted(
        counts: &mut EventCounts,
        ring: &Ring,
        tick: u64,
        sources: impl IntoIterator<Item = u32>,
    ) -> Vec<u32> {
        let sources = sources.into_iter();
        sources
            .filter(|source| counts.admit(ring, tick, *source, true))
            .collect()
    }

    /// Proves O4: one source under a rule does not silence the others under the same rule.
    #[test]
    fn one_source_leaves_room_to_others() {
        let (mut counts, ring) = (EventCounts::default(), Ring::default());
        for tick in 5..8 {
            let flood = (0..1000).map(|i| if i % 100 == 99 { i } else { 7 });
            let seen = admitted(&mut counts, &ring, tick, flood);
            let others = seen.iter().filter(|source| **source != 7).count();
            assert_eq!(others, 10, "{seen:?}");
            // Two of the others are among the first.
            assert_eq!(seen.len() as u64, CROWDED + 8);
        }
        assert_eq!(counts.logged, 3 * (CROWDED + 8));
        assert_eq!(counts.logged + counts.logged_suppressed, 3000);
    }

    /// Proves O4: however many rules are under flood, each gets its first event of each tick.
    #[test]
    fn each_slot_gets_an_event_in_each_tick() {
        let ring = Ring::default();
        let mut slots = [EventCounts::default(); 300];
        for tick in 1..4 {
            for round in 0..500 {
                for counts in &mut slots {
                    counts.admit(&ring, tick, round, false);
                }
            }
        }
        assert!(slots.iter().all(|counts| counts.watched >= 3));
        let of_all: u64 = slots.iter().map(|counts| counts.watched).sum();
        assert!(of_all <= 3 * (CPU_LIMIT + 300), "{of_all}");
        let all = |counts: &EventCounts| counts.watched + counts.watched_suppressed;
        assert!(slots.iter().all(|counts| all(counts) == 1500));
    }

    #[test]
    fn many_sources_close_a_slot_for_the_rest_of_the_tick() {
        let (mut counts, ring) = (EventCounts::default(), Ring::default());
        let seen = admitted(&mut counts, &ring, 9, 0..1000);
        assert_eq!(seen.len() as u64, SLOT_LIMIT);
        assert!(counts.is_closed(9, || 12345) && !counts.is_closed(10, || 12345));
    }

    /// What is only counted on the fast path is counted once, and now and then goes on to the slow
    /// path, which counts it then.
    #[test]
    fn a_closed_slot_is_looked_at_now_and_then() {
        let (mut counts, ring) = (EventCounts::default(), Ring::default());
        counts.closed = 3;
        let mut looked = 0;
        for _ in 0..10 * LOOK_EVERY {
            if !counts.suppress(3, || 1) {
                looked += 1;
                assert!(!counts.admit(&ring, 3, 1, false));
            }
        }
        assert_eq!(looked, 10);
        assert_eq!(counts.watched_suppressed, 10 * LOOK_EVERY);
        assert!(!counts.suppress(4, || 1), "open again in the next tick");
    }

    #[test]
    fn a_watch_ends_by_itself_and_not_early() {
        let watch = EventWatch::<AtomicU64>::default();
        assert_eq!(watch.current(1 << TICK_SHIFT), 0);
        for (tick, now, is_watched) in [
            (100, 100, true),
            (100, 99, true),
            (100, 100 + WATCH_TICKS - 1, true),
            (100, 100 + WATCH_TICKS, false),
            (100, 98, false),
        ] {
            Word::store(&watch.tick, tick);
            Word::store(&watch.snap, 128);
            let found = watch.current(now << TICK_SHIFT);
            assert_eq!(found == tick, is_watched, "{tick} at {now}");
            assert_eq!(Word::load(&watch.tick) != 0, is_watched);
            assert_eq!(Word::load(&watch.snap) != 0, is_watched);
        }
    }
}
