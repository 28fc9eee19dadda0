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
}

impl Action {
    /// The name used in policies and output.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Drop => "drop",
            Action::Accept => "accept",
        }
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
}

impl Reason {
    /// All of them, each at its number.
    pub const ALL: [Reason; 10] = [
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
    ];

    /// The name used in output.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::NonIp | Reason::NonIpDropped => "non-ip",
            Reason::Essential => "essential",
            Reason::Related => "related",
            Reason::Seeded => "seeded",
            Reason::NoMatch => "no-match",
            Reason::Malformed => "malformed",
            Reason::Fragment => "fragment",
            Reason::Revoked => "revoked",
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
/// bit 29 asks for an event, bits 0-23 are the counter slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Verdict(pub u32);

impl Verdict {
    /// Set if the packet passes.
    pub const ACCEPT_BIT: u32 = 1 << 30;
    /// Set if it leaves an event.
    pub const LOG_BIT: u32 = 1 << 29;
    /// The bits of the counter slot.
    pub const SLOT_MASK: u32 = (1 << 24) - 1;

    /// A verdict of these parts; of `slot` the low 24 bits.
    pub const fn new(action: Action, slot: u32, log: bool) -> Self {
        let mut bits = slot & Self::SLOT_MASK;
        if matches!(action, Action::Accept) {
            bits |= Self::ACCEPT_BIT;
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

    /// The same, asking for an event if `log`.
    pub const fn logged(self, log: bool) -> Self {
        Verdict(self.0 | if log { Self::LOG_BIT } else { 0 })
    }

    /// Whether the packet passes.
    #[inline(always)]
    pub const fn is_accept(self) -> bool {
        self.0 & Self::ACCEPT_BIT != 0
    }

    /// 1 for accept, 0 for drop.
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
}
