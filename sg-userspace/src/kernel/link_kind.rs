//! BPF links, as the kernel reports them.

use sg_common::verdict::Direction;

/// What the kernel reports about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub id: u32,
    /// The id of its program. A severed link keeps it.
    pub program: u32,
    /// Zero if the link is severed: another process has detached it, or its interface was deleted.
    pub ifindex: u32,
}

impl Link {
    pub fn is_live(&self) -> bool {
        self.ifindex != 0
    }
}

/// The hook that a link attaches a program to, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    XdpNative,
    XdpGeneric,
    /// At the tcx egress, before all other programs.
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
