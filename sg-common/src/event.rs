//! What a rule with `log` leaves behind of each packet it decides, and the rings that hold it.
//!
//! Each CPU has a ring of its own, which it overwrites: the ring keeps the newest events, whether
//! or not anybody reads. Readers map the rings into memory and take nothing away, so that any
//! number of them see the same events. Each slot of a ring carries the number of the event in it;
//! a reader that finds another number knows that it came too late, and how many events it has
//! lost.

use crate::flow_table::Word;
use crate::verdict::{Action, Direction};

/// One logged packet. Addresses are words whose bytes in memory are those on the wire (IPv4 uses
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
    /// 1 for IPv6.
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
    /// Always zero: there is no padding.
    pub zero: u8,
    /// The interface that the packet crossed.
    pub ifindex: u32,
    /// As `zero`.
    pub zero2: u32,
}

/// Words of an event.
pub const EVENT_WORDS: usize = 9;

/// An event as it lies in a slot.
pub type EventWords = [u64; EVENT_WORDS];

const _: () = assert!(size_of::<Event>() == size_of::<EventWords>());

/// Events that one CPU writes in a second at most; a flood must not become a flood of logs.
pub const EVENTS_PER_SECOND: u64 = 1000;

/// What one CPU has done with its events. Only that CPU writes it.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct EventRing<W> {
    /// Events written since the ring was made, which is also the number of the next one.
    pub written: W,
    /// Events not written since then, for being over [`EVENTS_PER_SECOND`].
    pub suppressed: W,
    /// The second that is being counted, and the events written in it.
    pub second: W,
    /// Events written in that second.
    pub written_in_second: W,
}

/// Room for one event.
#[derive(Debug, Default)]
#[repr(C)]
pub struct EventSlot<W> {
    /// One more than the number of the event; zero while it is being written, and before the
    /// first one.
    pub sequence: W,
    /// The event: an [`Event`].
    pub words: [W; EVENT_WORDS],
}

const _: () = assert!(size_of::<EventRing<u64>>() == 64 && size_of::<EventSlot<u64>>() == 80);

impl<W: Word> EventRing<W> {
    /// Counts one event at `now` nanoseconds. True if it may be written.
    #[inline(always)]
    pub fn admit(&self, now: u64) -> bool {
        let second = now / 1_000_000_000;
        let mut written = self.written_in_second.load();
        if second != self.second.load() {
            self.second.store(second);
            written = 0;
        }
        if written >= EVENTS_PER_SECOND {
            self.suppress();
            return false;
        }
        self.written_in_second.store(written + 1);
        true
    }

    /// Counts an event that is not written.
    #[inline(always)]
    pub fn suppress(&self) {
        self.suppressed.store(self.suppressed.load() + 1);
    }

    /// Writes an event into the slot of this number, and makes it the newest.
    #[inline(always)]
    pub fn write(&self, number: u64, slot: &EventSlot<W>, words: &EventWords) {
        // Both swaps are full barriers: a reader that sees a word of this event does not see the
        // number of the event before, and one that sees this number sees all words.
        slot.sequence.swap(0);
        for (to, from) in slot.words.iter().zip(words) {
            to.store(*from);
        }
        slot.sequence.swap(number + 1);
        self.written.store(number + 1);
    }
}

impl<W: Word> EventSlot<W> {
    /// The event of this number, unless another one has taken its place.
    pub fn read(&self, number: u64) -> Option<EventWords> {
        if self.sequence.load() != number + 1 {
            return None;
        }
        let mut words = [0; EVENT_WORDS];
        for (to, from) in words.iter_mut().zip(&self.words) {
            *to = from.load_after(number);
        }
        // A writer that came in between has set the number to zero before it changed a word.
        (self.sequence.load_after(words[EVENT_WORDS - 1]) == number + 1).then_some(words)
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

    /// What became of the packet; of a number that is none, a drop.
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
    fn the_limit_starts_anew_each_second_and_counts_what_it_holds_back() {
        let ring = Ring::default();
        let second = 1_000_000_000;
        for _ in 0..EVENTS_PER_SECOND {
            assert!(ring.admit(5 * second));
        }
        assert!(!ring.admit(5 * second + 1));
        assert_eq!(Word::load(&ring.suppressed), 1);
        assert!(ring.admit(6 * second));
    }

    #[test]
    fn a_slot_gives_the_event_of_its_number_and_no_other() {
        let (ring, slot) = (Ring::default(), Slot::default());
        assert_eq!(slot.read(0), None);
        let words = [7; EVENT_WORDS];
        ring.write(0, &slot, &words);
        assert_eq!(slot.read(0), Some(words));
        ring.write(4, &slot, &[8; EVENT_WORDS]);
        assert_eq!(slot.read(0), None);
        assert_eq!(slot.read(4), Some([8; EVENT_WORDS]));
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
                    ring.write(number, &slot, &[number; EVENT_WORDS]);
                }
            });
            let mut seen = 0;
            loop {
                let next = Word::load(&ring.written);
                if let Some(number) = next.checked_sub(1)
                    && let Some(words) = slot.read(number)
                {
                    assert_eq!(words, [number; EVENT_WORDS]);
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
            zero: 0,
            ifindex: 17,
            zero2: 0,
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
            pair(15, 1 | 1 << 8 | 16 << 16),
            17,
        ];
        assert_eq!(Event::from_words(&words), event);
    }
}
