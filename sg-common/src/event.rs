//! What is kept of a packet that a rule with `log` decides, or that is dropped while somebody
//! watches, and the rings that hold it. Which of them are written is said in
//! [`event_budget`](crate::event_budget).
//!
//! Each CPU has a ring of its own, which it overwrites: the ring keeps the newest events, whether
//! or not anybody reads. Readers map the rings into memory and take nothing away, so that any
//! number of them see the same events. Each slot of a ring carries the number of the event in it;
//! a reader that finds another number knows that it came too late, and how many events it has
//! lost.

use crate::flow_table::Word;
use crate::verdict::{Action, Direction};

/// One packet. Addresses are words whose bytes in memory are those on the wire (IPv4 uses
/// the first), everything else is host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// When the packet was judged: `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// Counter slot of the rule, or of the reason.
    pub slot: u32,
    /// Bytes of the frame without its check sequence.
    pub bytes: u32,
    // As in `flow_entry::FlowKey`, so that the packet path copies both at once.
    /// The node's end.
    pub local: [u32; 4],
    /// The other end.
    pub remote: [u32; 4],
    /// Of TCP, UDP and SCTP, else zero.
    pub local_port: u16,
    /// As `local_port`.
    pub remote_port: u16,
    /// The number of the IP header, or of the last IPv6 extension header.
    pub protocol: u8,
    /// 1 if the addresses are of IPv6, else 0.
    pub v6: u8,
    /// ICMP type in the high byte, code in the low one.
    pub icmp: u16,
    /// Generation of the policy that decided.
    pub generation: u32,
    /// A [`Direction`].
    pub direction: u8,
    /// An [`Action`].
    pub action: u8,
    /// The flags of the header, of TCP; else zero.
    pub tcp_flags: u8,
    /// [`LOGGED`] and the bits after it.
    pub marks: u8,
    /// The interface that the packet crossed.
    pub ifindex: u32,
    /// The queue of the device that it came from or goes to.
    pub queue: u16,
    /// How many bytes of it there are in the slot.
    pub captured: u16,
    /// The VLAN tag (priority, DEI, number) that the device has taken out of the frame or is going
    /// to put in, if `has_tag` is 1. One that is in the frame is among its first bytes.
    pub tag: u16,
    /// See `tag`.
    pub has_tag: u16,
    /// How many packets the wire sees of it: more than one if the device segments it.
    pub packets: u32,
}

/// In [`Event::marks`]: the policy says that the packet is logged. Without it there is an event
/// only because somebody watched.
pub const LOGGED: u8 = 1;
/// As [`LOGGED`]: it is a later fragment, which has no ports.
pub const LATER_FRAGMENT: u8 = 2;

/// Words of an event.
pub const EVENT_WORDS: usize = 10;

/// The word that [`Event::captured`] is the highest part of.
const CAPTURED_WORD: usize = 8;

const _: () = assert!(core::mem::offset_of!(Event, captured) == CAPTURED_WORD * 8 + 6);

/// An event as it lies in a slot.
pub type EventWords = [u64; EVENT_WORDS];

const _: () = assert!(size_of::<Event>() == size_of::<EventWords>());

/// What one CPU has done with its events. Only that CPU writes it.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct EventRing<W> {
    /// Events written since the ring was made, which is also the number of the next one.
    pub written: W,
    /// Like `written`, but it counts the event that is being written too. A reader that loads
    /// `written`, then the counters, then `begun`, and finds both equal, knows that the counters
    /// include exactly these events.
    pub begun: W,
    /// Those of them that the policy logs.
    pub logged: W,
    /// Events that the policy logs and that were not written.
    pub logged_suppressed: W,
    /// The tick that is being counted: see [`event_budget`](crate::event_budget).
    pub tick: W,
    /// Events admitted in that tick.
    pub in_tick: W,
}

/// Bytes of each packet that an event always has: the headers, by which a malformed packet can be
/// named.
pub const HEAD: u64 = 64;

/// The most bytes of a packet that an event can have.
pub const SNAP: u64 = 256;

/// Words of a packet's first bytes.
pub const SNAP_WORDS: usize = (SNAP / 8) as usize;

/// Room for one event.
#[derive(Debug, Default)]
#[repr(C)]
pub struct EventSlot<W> {
    /// One more than the number of the event; zero while it is being written, and before the
    /// first one.
    pub sequence: W,
    /// The event: an [`Event`].
    pub words: [W; EVENT_WORDS],
    /// The first bytes of the packet, as many as [`Event::captured`] says.
    pub data: [W; SNAP_WORDS],
}

const _: () = assert!(size_of::<EventRing<u64>>() == 64 && size_of::<EventSlot<u64>>() == 344);

impl<W: Word> EventRing<W> {
    /// Whether `limit` events have been admitted in this tick. Begins the tick if it is a new one.
    #[inline(always)]
    pub fn is_full(&self, tick: u64, limit: u64) -> bool {
        if self.tick.load() != tick {
            self.tick.store(tick);
            self.in_tick.store(0);
        }
        self.in_tick.load() >= limit
    }

    /// Counts an event that is going to be written.
    #[inline(always)]
    pub fn count(&self) {
        self.in_tick.store(self.in_tick.load() + 1);
    }

    /// Begins an event, before anything counts it.
    #[inline(always)]
    pub fn begin(&self) {
        // A full barrier: whoever sees that the event is counted sees that it has begun.
        self.begun.swap(self.written.load() + 1);
    }

    /// Whether no event has begun after the first `written` ones. `earlier` is any value that was
    /// loaded before: it only forces the order of the loads.
    pub fn is_at(&self, written: u64, earlier: u64) -> bool {
        self.begun.load_after(earlier) == written
    }

    /// Writes an event into the slot of this number, and makes it the newest. `fill` writes the
    /// first bytes of the packet, and returns how many.
    #[inline(always)]
    pub fn write(
        &self,
        number: u64,
        slot: &EventSlot<W>,
        words: &EventWords,
        fill: impl FnOnce(&EventSlot<W>) -> u64,
    ) {
        // Both swaps are full barriers: a reader that sees a word of this event does not see the
        // number of the event before, and one that sees this number sees all words.
        slot.sequence.swap(0);
        for (to, from) in slot.words.iter().zip(words) {
            to.store(*from);
        }
        let captured = fill(slot);
        slot.words[CAPTURED_WORD].store(words[CAPTURED_WORD] | captured << 48);
        slot.sequence.swap(number + 1);
        self.written.store(number + 1);
    }
}

impl<W: Word> EventSlot<W> {
    /// The event of this number and the first bytes of its packet, unless another one has taken its
    /// place.
    pub fn read(&self, number: u64) -> Option<(EventWords, [u64; SNAP_WORDS])> {
        if self.sequence.load() != number + 1 {
            return None;
        }
        let mut words = [0; EVENT_WORDS];
        for (to, from) in words.iter_mut().zip(&self.words) {
            *to = from.load_after(number);
        }
        let mut data = [0; SNAP_WORDS];
        for (to, from) in data.iter_mut().zip(&self.data) {
            *to = from.load_after(number);
        }
        // A writer that came in between has set the number to zero before it changed a word.
        let last = data[SNAP_WORDS - 1];
        (self.sequence.load_after(last) == number + 1).then_some((words, data))
    }
}

impl Event {
    /// The event in the words of a slot.
    pub fn from_words(words: &EventWords) -> Event {
        // SAFETY: plain integers of the same size, as was asserted above; every bit pattern is
        // valid.
        unsafe { core::mem::transmute(*words) }
    }

    /// Whether the packet came in.
    pub const fn is_inbound(&self) -> bool {
        self.direction == Direction::Inbound as u8
    }

    /// What became of the packet. A number that is no action means that it was dropped.
    pub const fn action(&self) -> Action {
        match self.action {
            1 => Action::Accept,
            2 => Action::Audit,
            _ => Action::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use core::sync::atomic::AtomicU64;

    type Ring = EventRing<AtomicU64>;
    type Slot = EventSlot<AtomicU64>;

    #[test]
    fn a_slot_gives_the_event_of_its_number_and_no_other() {
        let (ring, slot) = (Ring::default(), Slot::default());
        assert_eq!(slot.read(0), None);
        let words = [7; EVENT_WORDS];
        ring.write(0, &slot, &words, |slot| {
            Word::store(&slot.data[1], 5);
            0
        });
        let mut data = [0; SNAP_WORDS];
        data[1] = 5;
        assert_eq!(slot.read(0), Some((words, data)));
        ring.write(4, &slot, &[8; EVENT_WORDS], |_| 0);
        assert_eq!(slot.read(0), None);
        assert_eq!(slot.read(4), Some(([8; EVENT_WORDS], data)));
        Word::swap(&slot.sequence, 0);
        assert_eq!(slot.read(4), None, "while it is being written");
    }

    /// A reader beside a writer that laps it all the time: what is read is whole.
    #[test]
    fn an_event_that_is_overwritten_while_it_is_read_is_not_given() {
        let (ring, slot) = (Ring::default(), Slot::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..200_000 {
                    ring.write(number, &slot, &[number; EVENT_WORDS], |slot| {
                        for word in &slot.data {
                            Word::store(word, number);
                        }
                        0
                    });
                }
            });
            let mut seen = 0;
            loop {
                let next = Word::load(&ring.written);
                if let Some(number) = next.checked_sub(1)
                    && let Some((words, data)) = slot.read(number)
                {
                    assert_eq!(words, [number; EVENT_WORDS]);
                    assert_eq!(data, [number; SNAP_WORDS]);
                    seen += 1;
                }
                if next == 200_000 {
                    break;
                }
            }
            assert!(seen > 0, "at least the last one can be read");
        });
    }

    #[test]
    fn an_event_says_what_became_of_the_packet() {
        for action in Action::ALL {
            let event = Event {
                action: action as u8,
                ..Event::default()
            };
            assert_eq!(event.action(), action);
        }
    }

    #[test]
    fn an_event_reads_back_as_the_packet_path_writes_it() {
        let event = Event {
            time: 1,
            slot: 2,
            bytes: 3,
            local: [4, 5, 6, 7],
            remote: [8, 9, 10, 11],
            local_port: 12,
            remote_port: 13,
            protocol: 14,
            v6: 1,
            icmp: 0x0102,
            generation: 15,
            direction: 1,
            action: 1,
            tcp_flags: 16,
            marks: LOGGED,
            ifindex: 17,
            queue: 18,
            captured: 64,
            tag: 19,
            has_tag: 1,
            packets: 20,
        };
        let pair = |low: u64, high: u64| low | high << 32;
        let words = [
            1,
            pair(2, 3),
            pair(4, 5),
            pair(6, 7),
            pair(8, 9),
            pair(10, 11),
            12 | 13 << 16 | 14 << 32 | 1 << 40 | 0x0102 << 48,
            pair(15, 1 | 1 << 8 | 16 << 16 | 1 << 24),
            pair(17, 18),
            pair(19 | 1 << 16, 20),
        ];
        let (ring, slot) = (Ring::default(), Slot::default());
        ring.write(0, &slot, &words, |_| 64);
        let read = slot.read(0).map(|(words, _)| Event::from_words(&words));
        assert_eq!(read, Some(event));
    }
}
