//! The number that completes a handshake, kept beside the tick in which the flow was entered.

/// The tick in which a flow was entered, and the *number* of its handshake. That is the number
/// which acknowledges the whole last segment of the side that did not open the flow. Only hosts on
/// the path between the two can know it, so a sender that acknowledges it is no spoofer (RFC 9293
/// section 3.4.1 on why sequence numbers begin anywhere).
#[inline(always)]
pub const fn begun_word(tick: u32, number: u32) -> u64 {
    tick as u64 | (number as u64) << 32
}

/// The number of a handshake in which the other side has sent nothing: no segment acknowledges
/// it. Two of four billion real numbers are stored as this one; a handshake with one of them is
/// completed after the other side's next segment.
pub const NO_NUMBER: u32 = 0;

/// The number of a flow that userspace entered, whose segments were not seen: any segment
/// acknowledges it.
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
/// By arithmetic, so that the verifier has one path to explore.
#[inline(always)]
pub const fn acknowledges(number: u32, acknowledged: u32) -> u32 {
    const fn is_zero(x: u32) -> u32 {
        ((x as u64).wrapping_sub(1) >> 63) as u32
    }
    (is_zero(number ^ acknowledged) | is_zero(number ^ ANY_NUMBER)) & !is_zero(number ^ NO_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
