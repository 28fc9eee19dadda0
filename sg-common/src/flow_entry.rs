//! One flow as eight words of shared memory, the hash that says where it lives, and its clock.
//! Layouts and pure arithmetic; what is done with them is in `flow_table`.

use crate::flow::{CUT, FlowValue, Timeout};

// The words of an entry. All that changes from packet to packet is in `HEAD`, so that one
// compare-and-swap changes it whole; an entry is one cache line.
/// A [`Head`].
pub const HEAD: usize = 0;
/// Ports, protocol and family: see [`FlowKey::name`].
pub const NAME: usize = 1;
/// The rule that admitted the flow: see [`rule_word`].
pub const RULE: usize = 2;
/// The first of four words with both addresses.
pub const ADDRESSES: usize = 3;
/// When it was entered, and what its handshake waits for: see [`begun_word`].
pub const BEGUN: usize = 7;
/// Words of an entry, of 64 bits each.
pub const ENTRY_WORDS: usize = 8;

/// What names a flow: (local, remote), never (source, destination). The hook knows its direction,
/// so one key serves both directions and nothing is ever swapped. The first two address words are
/// the local address, the others the remote one; IPv4's take half of the first word each. Bytes
/// in memory are those on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Two words for each end, as above; those that IPv4 does not use are zero.
    pub addresses: [u64; 4],
    /// From the lowest bit on: the local port and the remote one, 16 bits each, the protocol, 8
    /// bits, and 1 for IPv6. For ICMP queries the local port is the identifier and the remote one
    /// the type of the request, plus 256 if requests come in; protocols without ports have zero
    /// in both.
    pub name: u64,
}

impl FlowKey {
    /// Set in the name of an IPv6 flow.
    pub const IS_V6: u64 = 1 << 40;

    /// The word of [`FlowKey::name`]. Ports are in host order.
    #[inline(always)]
    pub const fn name(local_port: u16, remote_port: u16, protocol: u8, is_v6: bool) -> u64 {
        let ports = local_port as u64 | (remote_port as u64) << 16;
        let family = if is_v6 { Self::IS_V6 } else { 0 };
        ports | (protocol as u64) << 32 | family
    }

    /// In host order.
    #[inline(always)]
    pub const fn local_port(&self) -> u16 {
        self.name as u16
    }

    /// In host order.
    #[inline(always)]
    pub const fn remote_port(&self) -> u16 {
        (self.name >> 16) as u16
    }

    /// The IP protocol.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.name >> 32) as u8
    }

    /// Whether the addresses are IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.name & Self::IS_V6 != 0
    }

    /// Two words of an address as one.
    #[inline(always)]
    pub const fn pair(first: u32, second: u32) -> u64 {
        first as u64 | (second as u64) << 32
    }
}

/// Secret multipliers of the hash: one that is added, one for each half of the address words and
/// of the name.
pub const HASH_KEYS: usize = 11;

/// Adds `word` to a hash, by one multiplier for each half of it. The upper half of such a sum is
/// strongly universal (Lemire and Kaser, "Strongly universal string hashing is fast"), so that
/// whoever does not know the multipliers cannot choose where a flow goes.
#[inline(always)]
pub const fn hash_step(sum: u64, word: u64, key_low: u64, key_high: u64) -> u64 {
    hash_halves(sum, word & 0xffff_ffff, word >> 32, key_low, key_high)
}

/// The same, for a word that is at hand in halves.
#[inline(always)]
pub const fn hash_halves(sum: u64, low: u64, high: u64, key_low: u64, key_high: u64) -> u64 {
    let (low, high) = (low.wrapping_mul(key_low), high.wrapping_mul(key_high));
    sum.wrapping_add(low).wrapping_add(high)
}

/// The hash of a flow's key; `key_at` gives the [`HASH_KEYS`] multipliers.
#[inline(always)]
pub fn hash(key: &FlowKey, key_at: impl Fn(usize) -> u64) -> u32 {
    let mut sum = key_at(0);
    let words = [
        key.addresses[0],
        key.addresses[1],
        key.addresses[2],
        key.addresses[3],
        key.name,
    ];
    for (i, word) in words.into_iter().enumerate() {
        sum = hash_step(sum, word, key_at(2 * i + 1), key_at(2 * i + 2));
    }
    finish(sum)
}

/// What a sum of [`hash_step`]s comes to: its upper half, mixed. In the sums themselves, keys in
/// a row (the ports of one client, the hosts of one network) lie equally far apart, and for some
/// secrets so that they share a few words of the table. Each step is reversible, so that the hash
/// is as universal as the sum. Of the result the upper bits are used, which the last product has
/// mixed best.
#[inline(always)]
pub const fn finish(sum: u64) -> u32 {
    /// Odd, and without a pattern of bits: 2³² divided by the golden ratio.
    const FACTOR: u32 = 0x9e37_79b1;
    let half = (sum >> 32) as u32;
    let half = (half ^ half >> 16).wrapping_mul(FACTOR);
    (half ^ half >> 15).wrapping_mul(FACTOR)
}

/// The clock of flows: ticks of 2²⁴ nanoseconds (about 17 ms), which wrap after two years.
pub const TICK_SHIFT: u32 = 24;

/// A flow that was seen this far in the future was seen just now: clocks of CPUs differ a little.
const AHEAD: u32 = 1 << 28;

/// The longest time-out that the clock can express: over 2 years.
pub const LONGEST_TICKS: u32 = u32::MAX - AHEAD - 1;

/// The time in ticks, so many ticks ahead that ages are never negative.
#[inline(always)]
pub const fn clock(now: u64) -> u32 {
    ((now >> TICK_SHIFT) as u32).wrapping_add(AHEAD)
}

/// The tick in which `now` lies.
#[inline(always)]
pub const fn tick(now: u64) -> u32 {
    (now >> TICK_SHIFT) as u32
}

/// How long ago `last_seen` is, by [`clock`]: comparable with other ages, [`of_ticks`] and
/// nothing else.
#[inline(always)]
pub const fn age(clock: u32, last_seen: u32) -> u32 {
    clock.wrapping_sub(last_seen)
}

/// The age of what was seen so many ticks ago.
#[inline(always)]
pub const fn of_ticks(ticks: u32) -> u32 {
    AHEAD + ticks
}

/// The ticks since then of an [`age`].
#[inline(always)]
pub const fn ticks_of(age: u32) -> u32 {
    age.saturating_sub(AHEAD)
}

/// The age beyond which a flow has been silent for more than `seconds`: never too early, and at
/// most two ticks late.
pub const fn time_out(seconds: u32) -> u32 {
    let nanoseconds = seconds as u64 * 1_000_000_000;
    let ticks = nanoseconds.div_ceil(1 << TICK_SHIFT);
    of_ticks(if ticks > LONGEST_TICKS as u64 {
        LONGEST_TICKS
    } else {
        ticks as u32
    })
}

/// A live flow's time is rewritten only when it has this age: see
/// [`crate::flow::TOUCH_INTERVAL_NS`].
pub const TOUCH_AGE: u32 = of_ticks((crate::flow::TOUCH_INTERVAL_NS >> TICK_SHIFT) as u32 + 1);

/// The word of an entry that packets change.
///
/// Bits 0-31: the tick in which the flow was seen last. 32-35: state. 36: the direction whose
/// rules admit the flow, see [`FlowValue::originator`]. 37: a reply was seen. 38: seeded. 39: the
/// entry is being written, or free. 40 and 41: which side has really opened it, see
/// [`FlowValue::opened_by`]. 42-63: version, another one for each flow that the entry has held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Head(pub u64);

impl Head {
    const STATE: u32 = 32;
    const ORIGINATOR: u32 = 36;
    /// As [`FlowValue::SEEN_REPLY`].
    pub const SEEN_REPLY: u64 = 1 << 37;
    /// As [`FlowValue::SEEDED`].
    pub const SEEDED: u64 = 1 << 38;
    /// The entry is being written, or belongs to no flow.
    pub const BUSY: u64 = 1 << 39;
    const OPENED_OTHERWISE: u64 = 1 << 40;
    const ORIGINATOR_UNKNOWN: u64 = 1 << 41;
    const VERSION: u64 = !0 << Self::VERSION_AT;
    const VERSION_AT: u32 = 42;
    /// The bits of [`FlowValue::flags`], and where they are here.
    const FLAGS: [(u8, u64); 4] = [
        (FlowValue::SEEN_REPLY, Self::SEEN_REPLY),
        (FlowValue::SEEDED, Self::SEEDED),
        (FlowValue::OPENED_OTHERWISE, Self::OPENED_OTHERWISE),
        (FlowValue::ORIGINATOR_UNKNOWN, Self::ORIGINATOR_UNKNOWN),
    ];

    /// Of no version.
    #[inline(always)]
    pub const fn new(last_seen: u32, state: u8, originator: u8) -> Head {
        let (state, originator) = ((state & 15) as u64, (originator & 1) as u64);
        Head(last_seen as u64 | state << Self::STATE | originator << Self::ORIGINATOR)
    }

    /// Of a flow that begins in `state` with a packet of `direction`. A TCP connection that does
    /// not begin with a SYN was there before, and it cannot be told which side has opened it.
    #[inline(always)]
    pub const fn of_first(tick: u32, state: u8, direction: u8) -> Head {
        const MIDDLE: u64 = 1 << Timeout::TcpSynRecv as u8
            | 1 << Timeout::TcpEstablished as u8
            | 1 << Timeout::TcpFinWait as u8
            | 1 << Timeout::TcpClose as u8;
        let is_unknown = MIDDLE >> (state & 15) & 1;
        Head(Head::new(tick, state, direction).0 | (is_unknown * Self::ORIGINATOR_UNKNOWN))
    }

    /// The tick of the last packet.
    #[inline(always)]
    pub const fn last_seen(self) -> u32 {
        self.0 as u32
    }

    /// A [`Timeout`] index, or [`CUT`].
    #[inline(always)]
    pub const fn state(self) -> u8 {
        (self.0 >> Self::STATE) as u8 & 15
    }

    /// See [`FlowValue::originator`].
    #[inline(always)]
    pub const fn originator(self) -> u8 {
        (self.0 >> Self::ORIGINATOR) as u8 & 1
    }

    /// See [`FlowValue::SEEN_REPLY`].
    #[inline(always)]
    pub const fn has_seen_reply(self) -> bool {
        self.0 & Self::SEEN_REPLY != 0
    }

    /// See [`FlowValue::SEEDED`].
    #[inline(always)]
    pub const fn is_seeded(self) -> bool {
        self.0 & Self::SEEDED != 0
    }

    /// See [`Head::BUSY`].
    #[inline(always)]
    pub const fn is_busy(self) -> bool {
        self.0 & Self::BUSY != 0
    }

    /// The head of a cut flow, which belongs to no rule and to no generation.
    #[inline(always)]
    pub const fn cut(self) -> Head {
        Head(self.in_state(CUT).0 & !Self::SEEDED)
    }

    /// The same, of a flow whose last packet came in `tick`.
    #[inline(always)]
    pub const fn seen_at(self, tick: u32) -> Head {
        Head(self.0 & (!0 << 32) | tick as u64)
    }

    /// The same, of a flow in `state`.
    #[inline(always)]
    pub const fn in_state(self, state: u8) -> Head {
        let rest = self.0 & !(15 << Self::STATE);
        Head(rest | ((state & 15) as u64) << Self::STATE)
    }

    /// The same flow: not another one that has taken its place, nor one that is leaving.
    #[inline(always)]
    pub const fn is_same_flow(self, other: Head) -> bool {
        (self.0 ^ other.0) & (Self::VERSION | Self::BUSY) == 0
    }

    /// Zero if what was read between two readings of a head belongs to one flow: nobody has
    /// written the entry meanwhile, or does now.
    #[inline(always)]
    pub const fn moved(before: u64, after: u64) -> u64 {
        (before ^ after) & Self::VERSION | (before | after) & Self::BUSY
    }

    /// While the entry's next owner writes it.
    #[inline(always)]
    pub const fn next_busy(self) -> Head {
        Head((self.0 & Self::VERSION).wrapping_add(1 << Self::VERSION_AT) | Self::BUSY)
    }

    /// This head, of the version that `busy` has announced.
    #[inline(always)]
    pub const fn of_version(self, busy: Head) -> Head {
        Head(self.0 & !(Self::VERSION | Self::BUSY) | busy.0 & Self::VERSION)
    }
}

/// The counter slot of the rule that admitted a flow, and the generation that did.
#[inline(always)]
pub const fn rule_word(slot: u32, generation: u32) -> u64 {
    slot as u64 | (generation as u64) << 32
}

/// The counter slot in a [`rule_word`].
#[inline(always)]
pub const fn slot_of(rule: u64) -> u32 {
    rule as u32
}

/// The generation in a [`rule_word`].
#[inline(always)]
pub const fn generation_of(rule: u64) -> u32 {
    (rule >> 32) as u32
}

/// The tick in which a flow was entered, and the *number* of its handshake: the one that
/// acknowledges all of the last segment which the side that did not open the flow has sent.
/// Nobody outside the path between the two can know it, so that whoever acknowledges it is no
/// spoofer (RFC 9293 section 3.4.1 on why sequence numbers begin anywhere).
#[inline(always)]
pub const fn begun_word(tick: u32, number: u32) -> u64 {
    tick as u64 | (number as u64) << 32
}

/// The number of a handshake in which the other side has sent nothing: no segment acknowledges
/// it. Two of four billion numbers count as this one, so that what acknowledges them waits for
/// the other side's next segment.
pub const NO_NUMBER: u32 = 0;

/// The number of a flow that was entered from outside, where nobody has seen its segments: any
/// segment acknowledges it.
pub const ANY_NUMBER: u32 = u32::MAX;

/// The number after a segment whose last one is before `end`.
#[inline(always)]
pub const fn number_after(end: u32) -> u32 {
    let is_any = ((end as u64 + 1) >> 32) as u32;
    end & is_any.wrapping_sub(1)
}

/// The tick in which a flow was entered.
#[inline(always)]
pub const fn created_of(begun: u64) -> u32 {
    begun as u32
}

/// The number that is waited for.
#[inline(always)]
pub const fn number_of(begun: u64) -> u32 {
    (begun >> 32) as u32
}

/// 1 if a segment whose acknowledgement number is `acknowledged` acknowledges `number`, else 0.
/// By arithmetic, for the verifier's sake.
#[inline(always)]
pub const fn acknowledges(number: u32, acknowledged: u32) -> u32 {
    const fn is_zero(x: u32) -> u32 {
        ((x as u64).wrapping_sub(1) >> 63) as u32
    }
    (is_zero(number ^ acknowledged) | is_zero(number ^ ANY_NUMBER)) & !is_zero(number ^ NO_NUMBER)
}

/// The age from which on a flow lasts: conversations that are over sooner are many, and nothing
/// is lost with them. Two seconds, as the kernel's connection tracking has it
/// (net/netfilter/nf_conntrack_proto_udp.c).
pub const LASTING_AGE: u32 = of_ticks(2_000_000_000u64.div_ceil(1 << TICK_SHIFT) as u32 + 1);

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
            rule: rule_word(value.slot, value.generation),
            begun: begun_word(tick(value.created), ANY_NUMBER),
        }
    }

    /// The other way round, as of `now`. A time is that of the beginning of its tick, and never
    /// later than now.
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

/// When a tick began, as of `now`, and never later than now.
const fn time_of(tick: u32, now: u64) -> u64 {
    let ticks = ticks_of(age(clock(now), tick)) as u64;
    (now >> TICK_SHIFT << TICK_SHIFT).wrapping_sub(ticks << TICK_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::TIMEOUTS;
    use crate::tcp;
    use crate::verdict::Direction;

    const _: () = assert!(
        TIMEOUTS <= CUT as usize && CUT < 16,
        "a state has four bits"
    );

    #[test]
    fn a_number_is_acknowledged_by_itself() {
        for number in [1, 2, 77, 1 << 31, u32::MAX - 1] {
            assert_eq!(acknowledges(number, number), 1);
            for other in [0, 1, u32::MAX, 1 << 31].map(|bits| number ^ bits) {
                assert_eq!(acknowledges(number, other), u32::from(number == other));
            }
        }
        for any in [0, 1, u32::MAX] {
            assert_eq!(acknowledges(ANY_NUMBER, any), 1);
            assert_eq!(acknowledges(NO_NUMBER, any), 0);
        }
        for (end, number) in [(1, 1), (u32::MAX - 1, u32::MAX - 1)] {
            assert_eq!(number_after(end), number);
        }
        assert_eq!([0, ANY_NUMBER].map(number_after), [NO_NUMBER; 2]);
        let begun = begun_word(7, 9);
        assert_eq!((created_of(begun), number_of(begun)), (7, 9));
    }

    /// Proves K9: two seconds, never less, whatever the moment within a tick.
    #[test]
    fn a_flow_lasts_after_two_seconds() {
        const SECOND: u64 = 1_000_000_000;
        for then in [0, 5, (1 << TICK_SHIFT) - 1, 77 * SECOND, (1 << 56) - 1] {
            let lasts = |after: u64| age(clock(then + after), tick(then)) >= LASTING_AGE;
            assert!(!lasts(0) && !lasts(2 * SECOND - 1));
            assert!(lasts(2 * SECOND + (2 << TICK_SHIFT)));
        }
    }

    /// Proves K9: a flow is forgotten after its time-out and never before, across the clock's zero
    /// and its wrap.
    #[test]
    fn a_flow_expires_after_its_time_out_and_not_before() {
        const SECOND: u64 = 1_000_000_000;
        for seconds in [1, 10, 30, 432_000, 365 * 24 * 3600] {
            for then in [
                0u64,
                7,
                SECOND * 1000,
                (1 << 56) - 1,
                (1 << 56) + 12_345_678,
            ] {
                let expires = |after: u64| {
                    let clock = clock(then.wrapping_add(after));
                    age(clock, tick(then)) > time_out(seconds)
                };
                let timeout = u64::from(seconds) * SECOND;
                assert!(!expires(0) && !expires(timeout));
                assert!(expires(timeout + (3 << TICK_SHIFT)), "{seconds} s, {then}");
            }
        }
    }

    #[test]
    fn a_clock_that_lags_makes_nothing_old() {
        let then = tick(500 << TICK_SHIFT);
        let before = age(clock(400 << TICK_SHIFT), then);
        assert_eq!(ticks_of(before), 0);
        assert!(before < TOUCH_AGE && before < time_out(0));
        assert_eq!(time_out(u32::MAX), of_ticks(LONGEST_TICKS));
    }

    #[test]
    fn a_head_keeps_its_parts() {
        let head = Head(Head::new(77, 11, 1).0 | Head::SEEN_REPLY);
        let busy = Head(!Head::BUSY).next_busy();
        let head = head.of_version(busy);
        assert_eq!(
            (head.last_seen(), head.state(), head.originator()),
            (77, 11, 1)
        );
        assert!(head.has_seen_reply() && !head.is_seeded() && !head.is_busy());
        assert!(!head.is_same_flow(busy), "it is being written");
        let later = head.seen_at(99).in_state(3);
        assert_eq!((later.last_seen(), later.state()), (99, 3));
        assert!(later.is_same_flow(head));
        let next = head.of_version(head.next_busy());
        assert!(!next.is_same_flow(head));
        assert_eq!((next.last_seen(), next.state()), (77, 11));
    }

    /// Only a SYN tells who has opened a TCP connection.
    #[test]
    fn who_opened_a_connection_is_not_told_by_its_middle() {
        for flags in 0..=u8::MAX {
            for state in [tcp::first(flags), Timeout::Udp, Timeout::Icmp] {
                let contents = Contents {
                    head: Head::of_first(77, state as u8, 1),
                    ..Contents::default()
                };
                let is_told = tcp::is_syn_without_ack(flags) && flags & tcp::RST == 0;
                let is_tcp = state == tcp::first(flags);
                let expected = (is_told || !is_tcp).then_some(Direction::Outbound);
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
            for flags in 0..16 {
                let value = FlowValue {
                    created: now - (300 << TICK_SHIFT),
                    last_seen: now - (100 << TICK_SHIFT),
                    slot: u32::MAX,
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
