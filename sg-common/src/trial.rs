//! The trial of a policy that is not confirmed yet (SPEC C4). One word, shared by all hooks of an
//! attachment and by userspace, says until when the policy decides: so it is confirmed or undone
//! on all of them at once, by one store. The *gate* in front of the programs reads it for each
//! packet.

/// The word of a policy that stays: its trial is over.
pub const CONFIRMED: u64 = u64::MAX;

/// The word of a policy that was undone, by hand or at its deadline.
pub const RETURNED: u64 = 0;

/// Whether a policy does not decide any more at `now`. Its word is [`CONFIRMED`], [`RETURNED`], or
/// its deadline; both times are nanoseconds of `CLOCK_BOOTTIME`, which no one can set, and which
/// goes on while the machine is suspended.
#[inline(always)]
pub const fn is_over(word: u64, now: u64) -> bool {
    now >= word
}

/// Whether packets of a policy with this word may end flows. Until it is confirmed, a policy drops
/// the packets of the flows that it does not admit, and leaves the flows as they are: they go on
/// where it is undone.
#[inline(always)]
pub const fn ends_flows(word: u64) -> bool {
    word == CONFIRMED
}

/// What a gate passes packets to: the indices in its program array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// The policy on trial.
    OnTrial = 0,
    /// The policy that was in force before it.
    Fallback = 1,
}

impl Behind {
    /// Both, each at its index.
    pub const BOTH: [Behind; 2] = [Behind::OnTrial, Behind::Fallback];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves C4: a policy decides until its deadline, from then on no more; one that was confirmed
    /// decides for ever, and one that was undone never.
    #[test]
    fn the_word_says_who_decides() {
        let deadline = 1_000;
        for (word, now, expected) in [
            (deadline, 0, false),
            (deadline, 999, false),
            (deadline, 1_000, true),
            (deadline, u64::MAX - 1, true),
            (CONFIRMED, 0, false),
            (CONFIRMED, u64::MAX - 1, false),
            (RETURNED, 0, true),
            (RETURNED, u64::MAX - 1, true),
        ] {
            assert_eq!(is_over(word, now), expected, "{word} at {now}");
        }
        for (word, expected) in [(deadline, false), (RETURNED, false), (CONFIRMED, true)] {
            assert_eq!(ends_flows(word), expected);
        }
        for (index, behind) in Behind::BOTH.into_iter().enumerate() {
            assert_eq!(behind as usize, index);
        }
    }
}
