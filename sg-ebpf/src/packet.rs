//! What is known of a packet once its headers are read.

use core::mem::offset_of;

use sg_common::{flow_entry::FlowKey, protocol::Kind, tcp, verdict::Direction};

/// What the rules and the flow table need of an IP packet.
///
/// Parsing writes it through a pointer, from a function that the verifier checks once by itself:
/// everything behind parsing then sees plain unknown numbers, and is checked once too instead of
/// once for each path on which a packet can be built.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Packet {
    /// Addresses as words whose bytes in memory are those on the wire; IPv4 uses the first.
    pub(crate) local: [u32; 4],
    pub(crate) remote: [u32; 4],
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) protocol: u8,
    /// 1 for IPv6.
    pub(crate) v6: u8,
    zero: u16,
    /// The number that the rules of this packet's direction are asked about: the destination port,
    /// the ICMP type and code, or the protocol.
    pub(crate) number: u16,
    /// The number that the rules of the other direction would be asked about for a reply.
    pub(crate) return_number: u16,
    /// Bytes of all headers, repeated in every segment of an offloaded packet.
    pub(crate) headers: u32,
    /// Where in the frame the IP packet ends.
    pub(crate) claimed: u32,
    /// Of a fragment: the datagram's identification, and the protocol that is part of its key.
    pub(crate) fragment_id: u32,
    pub(crate) fragment_protocol: u8,
    /// 1 for a first fragment: it is decided by its ports, but is never essential traffic.
    pub(crate) is_fragment: u8,
    /// A [`Kind`].
    pub(crate) kind: u8,
    pub(crate) hop_limit: u8,
    pub(crate) tcp_flags: u8,
    /// 1 if the packet may belong to a flow in the table.
    pub(crate) is_trackable: u8,
    /// 1 if it may open a flow (a reply or a reset never does).
    pub(crate) opens: u8,
    /// A [`Direction`].
    pub(crate) direction: u8,
    /// 1 for an ICMP error about another packet, which it quotes.
    pub(crate) is_error: u8,
    /// Of a later fragment, where it belongs in its datagram, in units of eight bytes.
    pub(crate) fragment_offset: u16,
    /// TCP's, of a packet whose flow may be looked up.
    pub(crate) numbers: Numbers,
}

/// The sequence numbers of TCP that a handshake is followed by.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Numbers {
    /// What the segment acknowledges.
    pub(crate) acknowledged: u32,
    /// What acknowledges all of the segment.
    pub(crate) next: u32,
}

impl Numbers {
    pub(crate) const NONE: Numbers = Numbers {
        acknowledged: 0,
        next: 0,
    };

    /// As one number, which functions can take.
    #[inline(always)]
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.acknowledged) | u64::from(self.next) << 32
    }

    #[inline(always)]
    pub(crate) fn unpack(packed: u64) -> Self {
        Numbers {
            acknowledged: packed as u32,
            next: (packed >> 32) as u32,
        }
    }

    /// Of a segment with that header, whose numbers begin at `numbers`, and so many bytes of data.
    #[inline(always)]
    pub(crate) fn of(numbers: [u32; 2], flags: u8, data: u32) -> Self {
        let [sequence, acknowledged] = numbers.map(u32::from_be);
        // SYN is bit 1 and FIN bit 0: each takes a number of its own (RFC 9293 section 3.4).
        let marks = u32::from((flags & tcp::SYN) / tcp::SYN) + u32::from(flags & tcp::FIN);
        Numbers {
            acknowledged,
            next: sequence.wrapping_add(data).wrapping_add(marks),
        }
    }
}

// A packet begins with the key of its flow, so that there is no copy of that on the stack.
const _: () = assert!(
    offset_of!(Packet, local) == 0
        && offset_of!(Packet, remote) == offset_of!(FlowKey, addresses) + 16
        && offset_of!(Packet, local_port) == offset_of!(FlowKey, name)
        && offset_of!(Packet, remote_port) == offset_of!(FlowKey, name) + 2
        && offset_of!(Packet, protocol) == offset_of!(FlowKey, name) + 4
        && offset_of!(Packet, v6) == offset_of!(FlowKey, name) + 5
        && offset_of!(Packet, zero) == offset_of!(FlowKey, name) + 6
        && align_of::<Packet>() == align_of::<FlowKey>()
);

impl Packet {
    /// The key of the packet's flow.
    #[inline(always)]
    pub(crate) fn flow_key(&self) -> &FlowKey {
        // SAFETY: `repr(C)`, and the fields of the key come first, as was asserted above; plain
        // integers.
        unsafe { &*core::ptr::from_ref(self).cast::<FlowKey>() }
    }

    /// The words of that key, which fill the front of a packet.
    #[inline(always)]
    pub(crate) fn flow_key_words(&self) -> [u64; 5] {
        const _: () = assert!(size_of::<FlowKey>() == size_of::<[u64; 5]>());
        // SAFETY: as above.
        unsafe { *core::ptr::from_ref(self).cast() }
    }

    /// Makes it a plain packet with this tuple, these sequence numbers and so many bytes of
    /// headers. Fields that only the rules need keep their old values.
    #[inline(always)]
    pub(crate) fn set_plain(&mut self, key: &FlowKey, numbers: Numbers, headers: u32) {
        // SAFETY: as in `flow_key`.
        unsafe { *core::ptr::from_mut(self).cast::<FlowKey>() = *key };
        self.numbers = numbers;
        self.headers = headers;
        self.claimed = 0;
        self.is_fragment = 0;
    }

    pub(crate) const EMPTY: Packet = Packet {
        local: [0; 4],
        remote: [0; 4],
        local_port: 0,
        remote_port: 0,
        protocol: 0,
        v6: 0,
        zero: 0,
        number: 0,
        return_number: 0,
        headers: 0,
        claimed: 0,
        fragment_id: 0,
        fragment_protocol: 0,
        is_fragment: 0,
        kind: 0,
        hop_limit: 0,
        tcp_flags: 0,
        is_trackable: 0,
        opens: 0,
        direction: 0,
        is_error: 0,
        fragment_offset: 0,
        numbers: Numbers::NONE,
    };

    #[inline(always)]
    pub(crate) fn direction(&self) -> Direction {
        if self.direction == Direction::Inbound as u8 {
            Direction::Inbound
        } else {
            Direction::Outbound
        }
    }

    #[inline(always)]
    pub(crate) fn is_first_fragment(&self) -> bool {
        self.is_fragment != 0
    }

    #[inline(always)]
    pub(crate) fn is_v6(&self) -> bool {
        self.v6 != 0
    }

    #[inline(always)]
    pub(crate) fn is_kind(&self, kind: Kind) -> bool {
        self.kind == kind as u8
    }
}

/// (local, remote) of the (source, destination) of a packet in `direction`.
#[inline(always)]
pub(crate) fn ends<A>(direction: Direction, source: A, destination: A) -> (A, A) {
    match direction {
        Direction::Inbound => (destination, source),
        Direction::Outbound => (source, destination),
    }
}
