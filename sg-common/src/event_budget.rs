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
//! Where there are many CPUs these three are halved ([`halvings`]), so that one reader can follow.
//!
//! A slot that is over its limit is closed for the rest of the tick, and one that is crowded is
//! closed to that source. What comes after that is only counted: by one or two comparisons beside
//! the slot's counter, nearly always without a look at the clock ([`Closing`]).
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

/// CPUs that write so many at once. With more of them each writes less.
const CPUS: u32 = 16;

/// How many times [`SLOT_LIMIT`], [`CPU_LIMIT`] and [`CROWDED`] are halved on a machine with so
/// many CPUs. All of them together then write no more than sixteen do, up to 128.
pub const fn halvings(cpus: u32) -> u8 {
    match cpus {
        0..=CPUS => 0,
        17..=32 => 1,
        33..=64 => 2,
        65.. => 3,
    }
}

/// Ticks after which a watcher that has not renewed its watch is taken for dead: 3.2 seconds.
pub const WATCH_TICKS: u64 = 6;

/// At one of so many suppressed events of a slot the clock is read all the same, which ends a watch
/// whose watcher is dead. A power of two.
///
/// With fewer than a hundred drops a second on a CPU no slot is closed before its watch is over,
/// and with more the next look comes within five seconds, also where the fast path and the slow
/// path, which count apart, drop half of them each.
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
        if tick == 0 || self.end_if_over(tick, now) {
            return 0;
        }
        tick
    }

    /// Ends the watch that was last renewed in `tick`, if it is over. Returns whether it was.
    #[inline(always)]
    pub fn end_if_over(&self, tick: u64, now: u64) -> bool {
        if !is_over(tick, tick_of(now)) {
            return false;
        }
        // Where it fails a watcher has just renewed it.
        if self.tick.replace(tick, 0) {
            self.snap.store(0);
        }
        true
    }
}

/// To whose packets a counter slot is closed on one CPU. Only that CPU writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Closing {
    /// The tick for which it is closed to all; or that tick, [`Closing::TO_ONE`] and, in the upper
    /// half, the source to which it is closed. So one comparison says that nothing is to be
    /// written in a flood from many sources, and a second one in a flood from one.
    state: u64,
}

const _: () = assert!(size_of::<Closing>() == 8);

impl Closing {
    /// It is closed to one source only. What is left for the tick has 31 bits, which last for 36
    /// years of uptime.
    const TO_ONE: u64 = 1 << 31;

    /// What `state` is while it is closed to one source.
    #[inline(always)]
    fn to_one(tick: u64, source: u32) -> u64 {
        u64::from(source) << 32 | Self::TO_ONE | tick
    }

    /// Whether packets from `source` are only counted in `tick`.
    #[inline(always)]
    pub fn is_closed(&self, tick: u64, source: impl FnOnce() -> u32) -> bool {
        self.state == tick || self.state == Self::to_one(tick, source())
    }

    /// Closes it for the rest of `tick`.
    #[inline(always)]
    fn close(&mut self, tick: u64) {
        self.state = tick;
    }

    /// Closes it to this source for the rest of `tick`.
    #[inline(always)]
    fn close_to(&mut self, tick: u64, source: u32) {
        self.state = Self::to_one(tick, source);
    }
}

/// Counts one more suppressed event. Now and then it calls `look`, which ends the watch if it is
/// over.
#[inline(always)]
pub(crate) fn suppress(suppressed: &mut u64, look: impl FnOnce()) {
    *suppressed += 1;
    if *suppressed & (LOOK_EVERY - 1) == 0 {
        look();
    }
}

/// What one CPU has done with the events of a counter slot besides [`Closing`]. Only that CPU
/// writes it, when it writes events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventCounts {
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
    /// Events not written of what somebody watched, besides those that the fast path has counted
    /// by [`CounterSlot::suppress`](crate::counters::CounterSlot::suppress).
    pub watched_suppressed: u64,
}

const _: () = assert!(size_of::<EventCounts>() == 56);

impl EventCounts {
    /// Counts an event. True if it is to be written.
    #[inline(always)]
    pub fn admit<W: Word>(
        &mut self,
        closing: &mut Closing,
        ring: &EventRing<W>,
        tick: u64,
        source: u32,
        is_logged: bool,
        halvings: u8,
    ) -> bool {
        let is_admitted = self.has_room(closing, ring, tick, source, halvings);
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

    /// Counts an event that is not written because the slot is closed. Now and then it calls
    /// `look`, which ends the watch if it is over.
    #[inline(always)]
    pub fn suppress(&mut self, look: impl FnOnce()) {
        suppress(&mut self.watched_suppressed, look);
    }

    #[inline(always)]
    fn has_room<W: Word>(
        &mut self,
        closing: &mut Closing,
        ring: &EventRing<W>,
        tick: u64,
        source: u32,
        halvings: u8,
    ) -> bool {
        let of = |limit: u64| limit >> (halvings & 3);
        if self.tick != tick {
            self.tick = tick;
            self.in_tick = 0;
            self.votes = 0;
        }
        if closing.is_closed(tick, || source) {
            return false;
        }
        let is_full = ring.is_full(tick, of(CPU_LIMIT));
        if self.in_tick > 0 && (self.in_tick >= of(SLOT_LIMIT) || is_full) {
            closing.close(tick);
            return false;
        }
        self.in_tick += 1;
        ring.count();
        // From then on it is settled who crowds the slot.
        if self.in_tick <= of(CROWDED) {
            self.vote(source);
        }
        if self.in_tick == of(CROWDED) {
            closing.close_to(tick, self.source);
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

    /// What there is of one slot.
    #[derive(Clone, Copy, Default)]
    struct Slot {
        closing: Closing,
        counts: EventCounts,
        halvings: u8,
    }

    impl Slot {
        fn admit(&mut self, ring: &Ring, tick: u64, source: u32, is_logged: bool) -> bool {
            let Slot {
                closing, counts, ..
            } = self;
            counts.admit(closing, ring, tick, source, is_logged, self.halvings)
        }

        /// Which of the events of these sources are admitted.
        fn admitted(
            &mut self,
            ring: &Ring,
            tick: u64,
            sources: impl IntoIterator<Item = u32>,
        ) -> Vec<u32> {
            let sources = sources.into_iter();
            sources
                .filter(|source| self.admit(ring, tick, *source, true))
                .collect()
        }
    }

    /// Proves O4: one source under a rule does not silence the others under the same rule.
    #[test]
    fn one_source_leaves_room_to_others() {
        let (mut slot, ring) = (Slot::default(), Ring::default());
        for tick in 5..8 {
            let flood = (0..1000).map(|i| if i % 100 == 99 { i } else { 7 });
            let seen = slot.admitted(&ring, tick, flood);
            let others = seen.iter().filter(|source| **source != 7).count();
            assert_eq!(others, 10, "{seen:?}");
            // Two of the others are among the first.
            assert_eq!(seen.len() as u64, CROWDED + 8);
        }
        let counts = slot.counts;
        assert_eq!(counts.logged, 3 * (CROWDED + 8));
        assert_eq!(counts.logged + counts.logged_suppressed, 3000);
        assert_eq!(counts.watched_suppressed, 0);
    }

    /// Proves O4: however many rules are under flood, each gets its first event of each tick.
    #[test]
    fn each_slot_gets_an_event_in_each_tick() {
        let ring = Ring::default();
        let mut slots = [Slot::default(); 300];
        for tick in 1..4 {
            for round in 0..500 {
                for slot in &mut slots {
                    slot.admit(&ring, tick, round, false);
                }
            }
        }
        assert!(slots.iter().all(|slot| slot.counts.watched >= 3));
        let of_all: u64 = slots.iter().map(|slot| slot.counts.watched).sum();
        assert!(of_all <= 3 * (CPU_LIMIT + 300), "{of_all}");
        let all = |slot: &Slot| slot.counts.watched + slot.counts.watched_suppressed;
        assert!(slots.iter().all(|slot| all(slot) == 1500));
    }

    #[test]
    fn many_sources_close_a_slot_for_the_rest_of_the_tick() {
        let (mut slot, ring) = (Slot::default(), Ring::default());
        let seen = slot.admitted(&ring, 9, 0..1000);
        assert_eq!(seen.len() as u64, SLOT_LIMIT);
        let is_closed = |tick| slot.closing.is_closed(tick, || 12345);
        assert!(is_closed(9) && !is_closed(8) && !is_closed(10));
    }

    /// On a machine with many CPUs each of them writes less, and they write no more together.
    #[test]
    fn many_cpus_write_as_much_as_sixteen() {
        for (cpus, of_slot) in [
            (1, 384),
            (16, 384),
            (17, 192),
            (64, 96),
            (65, 48),
            (4096, 48),
        ] {
            let ring = Ring::default();
            let mut slot = Slot {
                halvings: halvings(cpus),
                ..Slot::default()
            };
            let seen = slot.admitted(&ring, 9, 0..1000);
            assert_eq!(seen.len(), of_slot, "{cpus} CPUs");
            let seen = slot.admitted(&ring, 10, [7; 1000]);
            assert_eq!(seen.len(), of_slot / 3 * 2, "{cpus} CPUs");
            // The first one of each slot is written all the same.
            let mut slots = [slot; 600];
            let mut written = 0;
            for slot in &mut slots {
                for source in 0..2 {
                    written += u64::from(slot.admit(&ring, 11, source, false));
                }
            }
            assert_eq!(
                written,
                600 + (CPU_LIMIT >> halvings(cpus)) / 2,
                "{cpus} CPUs"
            );
        }
    }

    /// While events are only counted, somebody looks now and then whether it is still watched.
    #[test]
    fn one_looks_now_and_then_who_watches() {
        let mut counts = EventCounts::default();
        let mut looks = 0;
        for _ in 0..10 * LOOK_EVERY {
            counts.suppress(|| looks += 1);
        }
        assert_eq!(looks, 10);
        assert_eq!(counts.watched_suppressed, 10 * LOOK_EVERY);
    }

    /// A slot that one source crowds is closed to that one, whatever its address, and later
    /// perhaps to all.
    #[test]
    fn a_crowded_slot_is_closed_to_one_source() {
        for source in [0, 1, u32::MAX] {
            let (mut slot, ring) = (Slot::default(), Ring::default());
            let other = source ^ 1;
            let seen = slot.admitted(&ring, 7, [source; 1000]);
            assert_eq!(seen.len() as u64, CROWDED);
            assert!(slot.closing.is_closed(7, || source));
            assert!(!slot.closing.is_closed(7, || other));
            assert!(!slot.closing.is_closed(8, || source));
            let seen = slot.admitted(&ring, 7, [other; 1000]);
            assert_eq!(seen.len() as u64, SLOT_LIMIT - CROWDED);
            assert!(slot.closing.is_closed(7, || other));
        }
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
