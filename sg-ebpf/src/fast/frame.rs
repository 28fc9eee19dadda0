//! The parts of a frame that the fast path reads, each as one struct: one comparison with the
//! frame's end serves all fields.

use network_types::{eth::EthHdr, ip::Ipv6Hdr};

use crate::bpf::bytes::field;

/// The frame of a plain packet, whose IP header is an `I`, up to the last field that is read.
/// Nearly every UDP packet is that long; a shorter one takes the slow path.
#[repr(C, packed)]
pub(super) struct Frame<I> {
    pub(super) ethernet: EthHdr,
    pub(super) ip: I,
    pub(super) transport: Beginning,
}

/// The start of TCP's header. It is longer than UDP's, but a plain frame of UDP has as many bytes.
#[repr(C, packed)]
pub(super) struct Beginning {
    pub(super) ports: u32,
    pub(super) numbers: [u8; 8],
    data_offset: u8,
    pub(super) flags: u8,
}

impl Beginning {
    /// UDP's length field, of a header that is one of UDP.
    #[inline(always)]
    pub(super) fn udp_len(header: *const Self) -> u64 {
        // SAFETY: an address inside what `at` has compared with the end of the packet.
        let len = unsafe { (&raw const (*header).numbers).cast::<u16>().read() };
        u64::from(u16::from_be(len))
    }

    /// The length of TCP's header.
    #[inline(always)]
    pub(super) fn len(header: *const Self) -> u64 {
        u64::from(field!(header, data_offset as u8)) >> 2 & 0x3c
    }
}

/// A plain IPv6 frame up to and with the addresses.
#[repr(C, packed)]
pub(super) struct Addressed {
    ethernet: EthHdr,
    pub(super) ip: Ipv6Hdr,
}
