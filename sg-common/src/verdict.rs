//! Directions, actions, reasons, and the 32-bit verdict that a table lookup ends in.
//! A verdict names the action and the counter slot; nothing else about a rule reaches the kernel.

/// Which way a packet crosses the interface, seen from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// From the wire to the node.
    Inbound = 0,
    /// From the node to the wire.
    Outbound = 1,
}

impl Direction {
    /// Both, each at its number.
    pub const BOTH: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

    /// The other one.
    pub const fn opposite(self) -> Direction {
        match self {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        }
    }

    /// The name used in JSON, tables and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// It goes no further.
    Drop = 0,
    /// It passes.
    Accept = 1,
    /// It passes, although it is to be dropped: what would be dropped is being watched (SPEC C9).
    Audit = 2,
}

impl Action {
    /// All of them, each at its number.
    pub const ALL: [Action; 3] = [Action::Drop, Action::Accept, Action::Audit];

    /// The name used in policies and output.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Drop => "drop",
            Action::Accept => "accept",
            Action::Audit => "audit",
        }
    }

    /// Whether the packet goes on.
    pub const fn passes(self) -> bool {
        matches!(self, Action::Accept | Action::Audit)
    }
}

/// Why a packet was decided when no rule decided it (SPEC A1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Neither IPv4 nor IPv6.
    NonIp = 0,
    /// Without it a node has no network (SPEC K5).
    Essential = 1,
    /// An ICMP error about a packet of ours (SPEC K8).
    Related = 2,
    /// A flow that was there before the first attachment, and that no rule admits (SPEC K12).
    Seeded = 3,
    /// No rule matches (SPEC P2).
    NoMatch = 4,
    /// It cannot be parsed (SPEC K3).
    Malformed = 5,
    /// A fragment whose first one is unknown (SPEC K4).
    Fragment = 6,
    /// Its flow is not admitted any more, or is cut (SPEC K11).
    Revoked = 7,
    /// A tail call found no target: the enforcer's own programs are damaged.
    Incomplete = 8,
    /// As [`Reason::NonIp`], where the policy lets only ARP pass (SPEC P10). The two have one
    /// name and differ by their action.
    NonIpDropped = 9,
    // What would be counted under one of the reasons above and dropped, but passes while it is
    // watched (SPEC C9). Each has the name of that reason, and differs by its action.
    /// As [`Reason::NoMatch`].
    NoMatchAudited = 10,
    /// As [`Reason::Malformed`].
    MalformedAudited = 11,
    /// As [`Reason::Fragment`].
    FragmentAudited = 12,
    /// As [`Reason::Revoked`].
    RevokedAudited = 13,
    /// As [`Reason::NonIpDropped`].
    NonIpAudited = 14,
    /// An ICMP error about a packet that passes only because it is watched.
    RelatedAudited = 15,
}

impl Reason {
    /// All of them, each at its number.
    pub const ALL: [Reason; 16] = [
        Reason::NonIp,
        Reason::Essential,
        Reason::Related,
        Reason::Seeded,
        Reason::NoMatch,
        Reason::Malformed,
        Reason::Fragment,
        Reason::Revoked,
        Reason::Incomplete,
        Reason::NonIpDropped,
        Reason::NoMatchAudited,
        Reason::MalformedAudited,
        Reason::FragmentAudited,
        Reason::RevokedAudited,
        Reason::NonIpAudited,
        Reason::RelatedAudited,
    ];

    /// The name used in output.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::NonIp | Reason::NonIpDropped | Reason::NonIpAudited => "non-ip",
            Reason::Essential => "essential",
            Reason::Related | Reason::RelatedAudited => "related",
            Reason::Seeded => "seeded",
            Reason::NoMatch | Reason::NoMatchAudited => "no-match",
            Reason::Malformed | Reason::MalformedAudited => "malformed",
            Reason::Fragment | Reason::FragmentAudited => "fragment",
            Reason::Revoked | Reason::RevokedAudited => "revoked",
            Reason::Incomplete => "incomplete",
        }
    }

    /// What becomes of packets that are counted so.
    pub const fn action(self) -> Action {
        match self {
            Reason::NonIp | Reason::Essential | Reason::Related | Reason::Seeded => Action::Accept,
            Reason::NoMatch
            | Reason::Malformed
            | Reason::Fragment
            | Reason::Revoked
            | Reason::Incomplete
            | Reason::NonIpDropped => Action::Drop,
            Reason::NoMatchAudited
            | Reason::MalformedAudited
            | Reason::FragmentAudited
            | Reason::RevokedAudited
            | Reason::NonIpAudited
            | Reason::RelatedAudited => Action::Audit,
        }
    }
}

/// Slots below this number count reasons; rules own the slots from here on.
pub const FIRST_RULE_SLOT: u32 = 32;

/// The counter slot of `reason` in `direction`.
pub const fn reason_slot(direction: Direction, reason: Reason) -> u32 {
    direction as u32 * 16 + reason as u32
}

/// A decided packet: action and counter slot in one word, as stored in the port tables.
///
/// Bit 31 is always zero (it marks a pointer in the tables), bit 30 is the action (1 = accept),
/// bit 29 asks for an event, bit 28 lets a packet pass that is dropped otherwise, bits 0-23 are the
/// counter slot. Bit 28 is set together with bit 29 and never with bit 30, so that the verdict is a
/// drop for all code that asks whether the rules accept a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Verdict(pub u32);

impl Verdict {
    /// Set if the packet passes.
    pub const ACCEPT_BIT: u32 = 1 << 30;
    /// Set if it leaves an event.
    pub const LOG_BIT: u32 = 1 << 29;
    /// Set if the packet is to be dropped and passes all the same.
    pub const AUDIT_BIT: u32 = 1 << 28;
    /// The bits of the counter slot.
    pub const SLOT_MASK: u32 = (1 << 24) - 1;

    /// A verdict of these parts; of `slot` the low 24 bits.
    pub const fn new(action: Action, slot: u32, log: bool) -> Self {
        let mut bits = slot & Self::SLOT_MASK;
        match action {
            Action::Drop => (),
            Action::Accept => bits |= Self::ACCEPT_BIT,
            Action::Audit => bits |= Self::AUDIT_BIT | Self::LOG_BIT,
        }
        if log {
            bits |= Self::LOG_BIT;
        }
        Verdict(bits)
    }

    /// The verdict of packets that no rule of `direction` matches.
    pub const fn no_match(direction: Direction) -> Self {
        Verdict::new(Action::Drop, reason_slot(direction, Reason::NoMatch), false)
    }

    /// The verdict of such packets where what would be dropped is watched.
    pub const fn no_match_audited(direction: Direction) -> Self {
        let slot = reason_slot(direction, Reason::NoMatchAudited);
        Verdict::new(Action::Audit, slot, true)
    }

    /// This verdict, asking for an event if `log`.
    pub const fn logged(self, log: bool) -> Self {
        Verdict(self.0 | if log { Self::LOG_BIT } else { 0 })
    }

    /// Whether the rules accept the packet: one that is only watched is to be dropped.
    #[inline(always)]
    pub const fn is_accept(self) -> bool {
        self.0 & Self::ACCEPT_BIT != 0
    }

    /// Whether the packet is audited: the rules drop it, and it passes nevertheless.
    #[inline(always)]
    pub const fn is_audit(self) -> bool {
        self.0 & Self::AUDIT_BIT != 0
    }

    /// 1 if so, else 0.
    #[inline(always)]
    pub const fn audit_bit(self) -> u32 {
        (self.0 / Self::AUDIT_BIT) & 1
    }

    /// Whether the packet goes on.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        self.0 & (Self::ACCEPT_BIT | Self::AUDIT_BIT) != 0
    }

    /// What becomes of the packet.
    pub const fn action(self) -> Action {
        match (self.is_accept(), self.is_audit()) {
            (true, _) => Action::Accept,
            (false, true) => Action::Audit,
            (false, false) => Action::Drop,
        }
    }

    /// What a flow keeps of the verdict that admits it: the counter slot, and [`AUDIT_BIT`].
    ///
    /// [`AUDIT_BIT`]: Self::AUDIT_BIT
    #[inline(always)]
    pub const fn admission(self) -> u32 {
        self.0 & (Self::SLOT_MASK | Self::AUDIT_BIT)
    }

    /// 1 for accept, else 0.
    #[inline(always)]
    pub const fn accept_bit(self) -> u32 {
        (self.0 / Self::ACCEPT_BIT) & 1
    }

    /// Whether it leaves an event.
    #[inline(always)]
    pub const fn is_logged(self) -> bool {
        self.0 & Self::LOG_BIT != 0
    }

    /// The counter slot.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 & Self::SLOT_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_slots_are_distinct_and_below_the_first_rule() {
        let mut seen = [false; FIRST_RULE_SLOT as usize];
        for direction in Direction::BOTH {
            for reason in Reason::ALL {
                let slot = reason_slot(direction, reason);
                assert!(slot < FIRST_RULE_SLOT);
                assert!(!core::mem::replace(&mut seen[slot as usize], true));
            }
        }
    }

    /// Proves A1: a row of the counters is known by its direction, reason and action.
    #[test]
    fn no_two_reasons_share_name_and_action() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            let of = |reason: Reason| (reason.name(), reason.action());
            assert!(Reason::ALL[..number].iter().all(|r| of(*r) != of(reason)));
        }
    }

    #[test]
    fn verdict_keeps_its_parts() {
        let v = Verdict::new(Action::Accept, 77, true);
        assert!(v.is_accept() && v.is_logged());
        assert_eq!(v.slot(), 77);
        assert_eq!(v.0 >> 31, 0);
        assert!(!Verdict::no_match(Direction::Outbound).is_accept());
    }

    /// Proves C9: an audited packet is no accepted one, passes, and leaves an event.
    #[test]
    fn an_audited_verdict_is_a_logged_drop_that_passes() {
        for action in Action::ALL {
            for log in [false, true] {
                let v = Verdict::new(action, 77, log);
                assert_eq!((v.action(), v.slot(), v.0 >> 31), (action, 77, 0));
                assert_eq!(v.is_accept(), action == Action::Accept);
                assert_eq!(v.passes(), action.passes());
                assert_eq!(v.is_logged(), log || action == Action::Audit);
                assert_eq!(v.audit_bit() != 0, v.is_audit());
                assert_eq!(v.admission() & Verdict::SLOT_MASK, 77);
            }
        }
        let v = Verdict::no_match_audited(Direction::Outbound);
        assert_eq!(v.action(), Action::Audit);
    }

    /// Proves C9: what passes while it is watched is counted beside what is dropped, by the same
    /// name.
    #[test]
    fn an_audited_reason_has_the_name_of_the_one_it_stands_for() {
        let audited = Reason::ALL
            .into_iter()
            .filter(|r| r.action() == Action::Audit);
        let mut count = 0;
        for reason in audited {
            count += 1;
            let of_name = |r: &Reason| r.name() == reason.name() && *r != reason;
            assert!(Reason::ALL.iter().any(of_name), "{reason:?}");
        }
        assert_eq!(count, 6);
    }
}
