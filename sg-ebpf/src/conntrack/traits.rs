//! What conntrack has to know of a packet besides its tuple, in one number.

use sg_common::ruling;

use crate::packet::Packet;

/// The packet's kind in bits 0-7, TCP's flags in 8-15, its direction in bit 16, whether it may open
/// a flow in bit 17, and from bit 32 on the number that the other direction's rules are asked for.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Traits(pub(crate) u64);

impl Traits {
    #[inline(always)]
    pub(crate) fn new(
        kind: u8,
        tcp_flags: u8,
        direction: u8,
        opens: u8,
        return_number: u16,
    ) -> Self {
        let low = u64::from(kind) | u64::from(tcp_flags) << 8;
        let bits = u64::from(direction) << 16 | u64::from(opens) << 17;
        Traits(low | bits | u64::from(return_number) << 32)
    }

    #[inline(always)]
    pub(crate) fn of(p: &Packet) -> Self {
        Traits::new(p.kind, p.tcp_flags, p.direction, p.opens, p.return_number)
    }

    #[inline(always)]
    pub(super) fn kind(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    pub(crate) fn tcp_flags(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline(always)]
    pub(crate) fn direction(self) -> u8 {
        (self.0 >> 16) as u8 & 1
    }

    #[inline(always)]
    pub(super) fn opens(self) -> u32 {
        (self.0 >> 17) as u32 & 1
    }

    /// The packet as the rulings see it; `is_accepted` is what the rules say of it.
    #[inline(always)]
    pub(super) fn about(self, is_accepted: u32) -> ruling::Packet {
        ruling::Packet {
            kind: self.kind(),
            tcp_flags: self.tcp_flags(),
            direction: self.direction(),
            opens: self.opens(),
            is_accepted,
        }
    }

    #[inline(always)]
    pub(super) fn return_number(self) -> u16 {
        (self.0 >> 32) as u16
    }
}
