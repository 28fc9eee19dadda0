//! Links, as the kernel knows them.

use sg_common::verdict::Direction;

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub id: u32,
    /// The id of the program that it runs, or ran until it was severed.
    pub program: u32,
    /// Zero when it is severed: somebody has detached it, or its interface was deleted.
    pub ifindex: u32,
}

impl Link {
    pub fn is_live(&self) -> bool {
        self.ifindex != 0
    }
}

/// Which kind of link, and in which mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    XdpNative,
    XdpGeneric,
    /// Before all other programs of the chain.
    TcxEgressFirst,
}

impl Kind {
    pub(super) fn direction(self) -> Direction {
        match self {
            Kind::XdpNative | Kind::XdpGeneric => Direction::Inbound,
            Kind::TcxEgressFirst => Direction::Outbound,
        }
    }
}
