//! A flow that existed before the enforcer, with the addresses that its packets have on the
//! interface.

use std::collections::HashSet;
use std::net::IpAddr;

use sg_common::flow::Timeout;
use sg_common::icmp::{query_number, request_of};
use sg_common::protocol::{Kind, kind_of, other_number};
use sg_common::verdict::Direction;

/// The tuple of a flow in either family. The fields mean what they mean in
/// [`sg_common::flow_entry::FlowKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::kernel) struct Key {
    pub(in crate::kernel) local: IpAddr,
    pub(in crate::kernel) remote: IpAddr,
    pub(in crate::kernel) local_port: u16,
    pub(in crate::kernel) remote_port: u16,
    pub(in crate::kernel) protocol: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Existing {
    pub(in crate::kernel) key: Key,
    /// The direction of the packet that opened it, known or guessed.
    pub(in crate::kernel) originator: Direction,
    pub(in crate::kernel) is_originator_known: bool,
    pub(in crate::kernel) state: Timeout,
    pub(in crate::kernel) has_seen_reply: bool,
    /// Whether it is certain that this host has sent the first packet. A forged sender cannot
    /// cause that.
    pub(in crate::kernel) is_ours: bool,
    /// If there are more flows than the table holds, those with the highest values are kept.
    pub(in crate::kernel) recency: u32,
}

impl Existing {
    /// The same flow, of which connection tracking and a socket know. Connection tracking has seen
    /// the packets, so it is right about the originator.
    pub(in crate::kernel) fn with_socket(self, socket: &Existing) -> Existing {
        Existing {
            recency: socket.recency,
            is_ours: self.is_ours || socket.is_ours,
            ..self
        }
    }

    /// The direction of the packet that opened it, if it is known.
    pub(in crate::kernel) fn opened_by(&self) -> Option<Direction> {
        self.is_originator_known.then_some(self.originator)
    }
}

impl Key {
    pub(in crate::kernel) fn kind(&self) -> Kind {
        kind_of(self.protocol, self.remote.is_ipv6())
    }

    /// The number (port, or ICMP type and code) by which the rules of `direction` match this flow's
    /// packets.
    pub(in crate::kernel) fn number(&self, direction: Direction, originator: Direction) -> u16 {
        match self.kind() {
            Kind::Tcp | Kind::Udp | Kind::Sctp => match direction {
                Direction::Inbound => self.local_port,
                Direction::Outbound => self.remote_port,
            },
            Kind::Icmp => query_number(request_of(self.remote_port), direction == originator),
            Kind::Other => other_number(self.protocol),
        }
    }

    /// Whether packets of the flow can leave the host. `own` are the addresses of this network
    /// namespace.
    pub(in crate::kernel) fn can_be_on_the_wire(&self, own: &HashSet<IpAddr>) -> bool {
        let is_somewhere = |a: IpAddr| !a.is_unspecified() && !a.is_loopback();
        is_somewhere(self.local) && is_somewhere(self.remote) && !own.contains(&self.remote)
    }
}
