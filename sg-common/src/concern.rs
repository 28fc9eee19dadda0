//! What the flow table has to do with a packet, given what the rules say of it and of its reply
//! (SPEC K6 and K7). The fast path, the slow path, the seeder and the compiler ask.

use crate::tcp::is_syn_without_ack;

/// What the flow table has to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Concern {
    /// Nothing: the rules have decided.
    None = 0,
    /// The rules drop the packet, but it may be a reply in a flow.
    MayReply = 1,
    /// The rules pass both directions, but the connection may be cut all the same.
    MayBeCut = 2,
    /// The rules accept the packet and not its reply: the flow is entered or goes on.
    Remembered = 3,
}

/// Whether the rules pass both directions of a flow by themselves: then no entry is made for it
/// (SPEC K7). The first argument is whether one direction's rules accept their side, the second
/// asks the other direction's rules about theirs, if that matters.
#[inline(always)]
pub fn needs_no_entry(is_accepted: bool, accepts_other_side: impl FnOnce() -> bool) -> bool {
    is_accepted && accepts_other_side()
}

/// What the flow table has to do with a packet that the rules accept or drop. `accepts_reply` asks
/// the other direction's rules about its reply; `may_have_cut` says whether any flow of its kind
/// may be cut: see [`crate::program::MAY_HAVE_CUT`].
#[inline(always)]
pub fn concern(
    is_accepted: bool,
    may_have_cut: impl FnOnce() -> bool,
    accepts_reply: impl FnOnce() -> bool,
) -> Concern {
    if !is_accepted {
        Concern::MayReply
    } else if !needs_no_entry(is_accepted, accepts_reply) {
        Concern::Remembered
    } else if may_have_cut() {
        Concern::MayBeCut
    } else {
        Concern::None
    }
}

/// True for a packet that only the rules can accept, and no flow: a TCP segment with SYN and
/// without ACK, which opens a connection (SPEC K6). So a flood of them never gets as far as the
/// flow table. `tcp_flags` is zero for other protocols.
#[inline(always)]
pub const fn only_rules_accept(tcp_flags: u8) -> bool {
    is_syn_without_ack(tcp_flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves K7: an entry is made where the rules accept a packet and not its reply, and only
    /// there.
    #[test]
    fn a_flow_is_remembered_where_its_reply_needs_it() {
        for (is_accepted, accepts_reply, may_have_cut, expected) in [
            (false, false, false, Concern::MayReply),
            (false, true, false, Concern::MayReply),
            (false, true, true, Concern::MayReply),
            (true, false, false, Concern::Remembered),
            (true, false, true, Concern::Remembered),
            (true, true, false, Concern::None),
            (true, true, true, Concern::MayBeCut),
        ] {
            let found = concern(is_accepted, || may_have_cut, || accepts_reply);
            assert_eq!(found, expected);
            let both = needs_no_entry(is_accepted, || accepts_reply);
            let has_entry = matches!(found, Concern::Remembered);
            assert!(!(both && has_entry) && (both || !is_accepted || has_entry));
        }
    }

    /// Proves K6: whatever has SYN and no ACK; no flag beside them makes a reply of it.
    #[test]
    fn no_flow_accepts_what_opens_a_connection() {
        for flags in 0..=u8::MAX {
            assert_eq!(
                only_rules_accept(flags),
                flags & 0x12 == 0x02,
                "{flags:#04x}"
            );
        }
    }
}
