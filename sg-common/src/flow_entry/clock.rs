//! The clock of flows: ticks, ages, and when a flow has expired.

/// The clock of flows: ticks of 2²⁴ nanoseconds (about 17 ms), which wrap after two years.
pub const TICK_SHIFT: u32 = 24;

/// How far in the future a flow may have been seen: the clocks of CPUs differ a little. It counts
/// as seen just now.
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

/// How long ago `last_seen` was, given the [`clock`]. Ages can be compared with each other and
/// with results of [`of_ticks`], and with nothing else.
#[inline(always)]
pub const fn age(clock: u32, last_seen: u32) -> u32 {
    clock.wrapping_sub(last_seen)
}

/// The age of what was seen so many ticks ago.
#[inline(always)]
pub const fn of_ticks(ticks: u32) -> u32 {
    AHEAD + ticks
}

/// How many ticks old something of this [`age`] is.
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

/// 1 if a flow of this [`age`] has expired, else 0; `time_out` is [`time_out()`]'s, in 64 bits, so
/// that the packet path can hide from the compiler how large it is: there is no branch then.
#[inline(always)]
pub const fn has_expired(age: u32, time_out: u64) -> u64 {
    time_out.wrapping_sub(age as u64) >> 63
}

/// A live flow's time is rewritten only when it has this age: see
/// [`crate::flow::TOUCH_INTERVAL_NS`].
pub const TOUCH_AGE: u32 = of_ticks((crate::flow::TOUCH_INTERVAL_NS >> TICK_SHIFT) as u32 + 1);

/// The age from which on a flow lasts: conversations that are over sooner are many, and nothing
/// is lost with them. Two seconds, as the kernel's connection tracking has it
/// (net/netfilter/nf_conntrack_proto_udp.c).
pub const LASTING_AGE: u32 = of_ticks(2_000_000_000u64.div_ceil(1 << TICK_SHIFT) as u32 + 1);

/// When a tick began, as of `now`, and never later than now.
pub(super) const fn time_of(tick: u32, now: u64) -> u64 {
    let ticks = ticks_of(age(clock(now), tick)) as u64;
    (now >> TICK_SHIFT << TICK_SHIFT).wrapping_sub(ticks << TICK_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    has_expired(age(clock, tick(then)), time_out(seconds).into()) != 0
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
}
