//! The words of an entry, and what they say as a value.

use super::clock::{tick, time_of};
use super::handshake::{ANY_NUMBER, begun_word, created_of};
use super::head::Head;
use crate::flow::FlowValue;
use crate::verdict::Verdict;

// The words of an entry. All that changes from packet to packet is in `HEAD`, so that one
// compare-and-swap changes it whole; an entry is one cache line.
/// A [`Head`].
pub const HEAD: usize = 0;

/// Ports, protocol and family: see [`crate::flow_entry::FlowKey::name`].
pub const NAME: usize = 1;

/// The rule that admitted the flow: see [`rule_word`].
pub const RULE: usize = 2;

/// The first of four words with both addresses.
pub const ADDRESSES: usize = 3;

/// When it was entered, and what its handshake waits for: see [`begun_word`].
pub const BEGUN: usize = 7;

/// Words of an entry, of 64 bits each.
pub const ENTRY_WORDS: usize = 8;

/// What admitted a flow: a [`Verdict::admission`], which is the counter slot of the rule and
/// whether the flow is audited, and the generation.
pub const fn rule_word(admission: u32, generation: u32) -> u64 {
    admission as u64 | (generation as u64) << 32
}

/// The counter slot in a [`rule_word`].
pub const fn slot_of(rule: u64) -> u32 {
    rule as u32 & Verdict::SLOT_MASK
}

/// 1 if a flow with this [`rule_word`] passes only because it is watched (SPEC C9), else 0.
pub const fn audits(rule: u64) -> u64 {
    (rule / Verdict::AUDIT_BIT as u64) & 1
}

/// What differs between a [`rule_word`] and that of a flow which the policy of that mark admitted
/// and does not only watch; zero if nothing does. See [`crate::program::Config::mark`].
pub const fn differs_from_mark(rule: u64, mark: u64) -> u64 {
    (rule ^ mark) >> Verdict::AUDIT_BIT.trailing_zeros()
}

/// The generation in a [`rule_word`].
#[inline(always)]
pub const fn generation_of(rule: u64) -> u32 {
    (rule >> 32) as u32
}

/// What an entry says besides its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Contents {
    /// What packets change.
    pub head: Head,
    /// See [`rule_word`].
    pub rule: u64,
    /// See [`begun_word`].
    pub begun: u64,
}

impl Contents {
    /// The words for `value`.
    pub const fn of(value: &FlowValue) -> Contents {
        let mut head = Head::new(tick(value.last_seen), value.state, value.originator);
        let mut i = 0;
        while i < Head::FLAGS.len() {
            let (flag, bit) = Head::FLAGS[i];
            if value.flags & flag != 0 {
                head.0 |= bit;
            }
            i += 1;
        }
        Contents {
            head,
            rule: rule_word(
                value.slot & Verdict::SLOT_MASK | audit_bit(value.flags),
                value.generation,
            ),
            begun: begun_word(tick(value.created), ANY_NUMBER),
        }
    }

    /// The value that the words hold, as of `now`. Each time is that of the beginning of its tick,
    /// and never later than now.
    pub const fn value(&self, now: u64) -> FlowValue {
        let mut flags = 0;
        let mut i = 0;
        while i < Head::FLAGS.len() {
            let (flag, bit) = Head::FLAGS[i];
            if self.head.0 & bit != 0 {
                flags |= flag;
            }
            i += 1;
        }
        if audits(self.rule) != 0 {
            flags |= FlowValue::AUDITED;
        }
        FlowValue {
            created: time_of(created_of(self.begun), now),
            last_seen: time_of(self.head.last_seen(), now),
            slot: slot_of(self.rule),
            generation: generation_of(self.rule),
            originator: self.head.originator(),
            state: self.head.state(),
            flags,
            zero: [0; 5],
        }
    }
}

/// [`Verdict::AUDIT_BIT`], if the flags of a value have [`FlowValue::AUDITED`].
const fn audit_bit(flags: u8) -> u32 {
    if flags & FlowValue::AUDITED != 0 {
        Verdict::AUDIT_BIT
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{CUT, Timeout};
    use crate::flow_entry::TICK_SHIFT;
    use crate::tcp;
    use crate::verdict::Direction;

    /// Only a SYN shows which side has opened a TCP connection.
    #[test]
    fn the_middle_of_a_connection_does_not_show_its_originator() {
        for flags in 0..=u8::MAX {
            for state in [tcp::first(flags), Timeout::Udp, Timeout::Icmp] {
                let contents = Contents {
                    head: Head::of_first(77, state as u8, 1),
                    ..Contents::default()
                };
                let is_known = tcp::is_syn_without_ack(flags) && flags & tcp::RST == 0;
                let is_tcp = state == tcp::first(flags);
                let expected = (is_known || !is_tcp).then_some(Direction::Outbound);
                let value = contents.value(1 << 60);
                assert_eq!(value.opened_by(), expected, "{state:?} {flags:#x}");
                assert_eq!((value.originator, value.state), (1, state as u8));
            }
        }
    }

    #[test]
    fn contents_read_back_as_written() {
        let now = 50_000_000_000;
        for state in 0..=CUT {
            for flags in 0..32 {
                let value = FlowValue {
                    created: now - (300 << TICK_SHIFT),
                    last_seen: now - (100 << TICK_SHIFT),
                    slot: Verdict::SLOT_MASK,
                    generation: u32::MAX - 1,
                    originator: flags & 1,
                    state,
                    flags,
                    zero: [0; 5],
                };
                let back = Contents::of(&value).value(now);
                assert!(value.last_seen - back.last_seen < 1 << TICK_SHIFT);
                assert!(value.created - back.created < 1 << TICK_SHIFT);
                let FlowValue {
                    last_seen, created, ..
                } = value;
                let back = FlowValue {
                    last_seen,
                    created,
                    ..back
                };
                assert_eq!(back, value);
            }
        }
    }
}
