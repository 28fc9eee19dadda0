//! What the two hooks have in common: bytes, lengths and a direction.
//! Everything after this file is written once for XDP and tc.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{bpf_skb_pull_data, bpf_xdp_get_buff_len},
    programs::{TcContext, XdpContext},
};
use sg_common::verdict::Direction;

use crate::packet::{self, Packet};

pub(crate) trait Hook: EbpfContext {
    const DIRECTION: Direction;

    /// Address of the first byte that the program may read.
    fn start(&self) -> usize;

    /// Address after the last byte that the program may read.
    fn end(&self) -> usize;

    /// Length of the whole frame, which may continue in buffers that the program cannot read.
    fn frame_len(&self) -> u32;

    /// The frame's length for the byte counters, given the readable bytes.
    fn counted_len(&self, readable: u64) -> u64;

    /// Makes `len` bytes readable if the frame has them. True when that changed anything, so that
    /// parsing is worth another try.
    fn pull(&self, len: u32) -> bool;

    /// See `packet::sg_parse_xdp`.
    fn parse(&self, out: &mut Packet) -> u32;

    /// See `packet::skip_vlans`.
    fn skip_vlans(&self) -> u64;

    /// See `packet::walk_extension_headers`.
    fn walk_extension_headers(&self, offset: u32, protocol: u32) -> u64;

    /// How many packets the wire will see: more than one for a segmentation offload packet.
    fn segments(&self) -> u32;
}

impl Hook for XdpContext {
    const DIRECTION: Direction = Direction::Inbound;

    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        // SAFETY: the context pointer is the one the kernel passed in.
        unsafe { bpf_xdp_get_buff_len(self.as_ptr().cast::<xdp_md>()) as u32 }
    }

    /// The rest of a frame in several buffers is known to a helper only; asking it for each packet
    /// would cost more than the whole lookup.
    #[inline(always)]
    fn counted_len(&self, readable: u64) -> u64 {
        readable
    }

    #[inline(always)]
    fn pull(&self, _len: u32) -> bool {
        false
    }

    #[inline(always)]
    fn parse(&self, out: &mut Packet) -> u32 {
        packet::sg_parse_xdp(self.as_ptr().cast(), out)
    }

    #[inline(always)]
    fn skip_vlans(&self) -> u64 {
        sg_skip_vlans_xdp(self.as_ptr().cast())
    }

    #[inline(always)]
    fn walk_extension_headers(&self, offset: u32, protocol: u32) -> u64 {
        sg_walk6_xdp(self.as_ptr().cast(), offset, protocol)
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        1
    }
}

impl Hook for TcContext {
    const DIRECTION: Direction = Direction::Outbound;

    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn counted_len(&self, _readable: u64) -> u64 {
        u64::from(self.len())
    }

    #[inline(always)]
    fn pull(&self, len: u32) -> bool {
        let frame = self.len();
        let readable = (self.end() - self.start()) as u32;
        if readable >= frame || readable >= len {
            return false;
        }
        let len = if len < frame { len } else { frame };
        // SAFETY: the context pointer is the one the kernel passed in; no packet pointer is kept
        // across the call.
        unsafe { bpf_skb_pull_data(self.as_ptr().cast::<__sk_buff>(), len) == 0 }
    }

    #[inline(always)]
    fn parse(&self, out: &mut Packet) -> u32 {
        packet::sg_parse_tc(self.as_ptr().cast(), out)
    }

    #[inline(always)]
    fn skip_vlans(&self) -> u64 {
        sg_skip_vlans_tc(self.as_ptr().cast())
    }

    #[inline(always)]
    fn walk_extension_headers(&self, offset: u32, protocol: u32) -> u64 {
        sg_walk6_tc(self.as_ptr().cast(), offset, protocol)
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: reading a field of the context the kernel passed in.
        let segments = unsafe { (*self.skb.skb).gso_segs };
        if segments == 0 { 1 } else { segments }
    }
}

// Rare headers are walked in functions of their own, which the verifier checks once instead of
// once for each path that leads to them; exported and never inlined, or it would not.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_skip_vlans_xdp(ctx: *mut xdp_md) -> u64 {
    packet::skip_vlans(&XdpContext::new(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_skip_vlans_tc(ctx: *mut __sk_buff) -> u64 {
    packet::skip_vlans(&TcContext::new(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_walk6_xdp(ctx: *mut xdp_md, offset: u32, protocol: u32) -> u64 {
    packet::walk_extension_headers(&XdpContext::new(ctx), offset, protocol)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_walk6_tc(ctx: *mut __sk_buff, offset: u32, protocol: u32) -> u64 {
    packet::walk_extension_headers(&TcContext::new(ctx), offset, protocol)
}
