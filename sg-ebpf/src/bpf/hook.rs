//! What the two hooks have in common: bytes, lengths and a direction.
//! Everything after this file is written once for XDP and tc.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{
        bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    programs::{TcContext, XdpContext},
};
use sg_common::verdict::Direction;

/// Bytes made readable for a second try when headers lie outside the first buffer: more than the
/// longest chain of eight IPv6 extension headers takes. Few frames have their headers there.
pub(crate) const PULL: u32 = 17 << 10;

/// A first buffer shorter than this is the whole frame, unless the IP packet says that it is
/// longer: drivers and the kernel's own conversion fill the first buffer before they use a second.
/// The smallest buffers are virtio_net's, of 1536 bytes that begin with a header of 12.
const SURELY_WHOLE: u64 = 1536 - 12;

pub(crate) trait Hook: EbpfContext {
    const DIRECTION: Direction;

    /// Address of the first byte that the program may read.
    fn start(&self) -> usize;

    /// Address after the last byte that the program may read.
    fn end(&self) -> usize;

    /// Length of the whole frame, which may continue in buffers that the program cannot read.
    fn frame_len(&self) -> u32;

    /// The whole frame's length, more cheaply. `claimed` is where the IP packet in it ends, or
    /// zero.
    fn counted_len(&self, claimed: u32) -> u64;

    /// Makes `len` bytes readable if the frame has them. True when that changed anything, so that
    /// parsing is worth another try.
    fn pull(&self, len: u32) -> bool;

    /// How many packets the wire will see: more than one for a segmentation offload packet.
    fn segments(&self) -> u32;

    /// Whether the kernel is going to cut the frame into segments.
    fn is_to_be_segmented(&self) -> bool;

    /// Whether there is a VLAN tag that is not in the frame yet, since the device will put it in.
    fn has_tag_beside(&self) -> bool;

    /// How many bytes these have, as the kernel reckons; zero where it does not.
    fn wire_len(&self) -> u32;

    /// The interface that the frame crosses.
    fn ifindex(&self) -> u32;

    /// The queue of the device that it came from or goes to.
    fn queue(&self) -> u32;

    /// The VLAN tag beside the frame (see [`Hook::has_tag_beside`]).
    fn tag_beside(&self) -> u32;

    /// Copies the first `len` bytes of the frame, which has as many, wherever they lie. True if it
    /// did.
    fn copy(&self, to: *mut core::ffi::c_void, len: u32) -> bool;
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

    /// Only a helper knows the length of a frame in several buffers, and a call of it for each
    /// packet would cost more than the whole lookup. If there are several buffers the first one
    /// is long, or the IP packet ends behind it.
    #[inline(always)]
    fn counted_len(&self, claimed: u32) -> u64 {
        let readable = (self.end() - self.start()) as u64;
        if readable < SURELY_WHOLE && u64::from(claimed) <= readable {
            readable
        } else {
            self.frame_len().into()
        }
    }

    #[inline(always)]
    fn pull(&self, _len: u32) -> bool {
        false
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        1
    }

    /// What the kernel has joined before XDP in the generic path has lengths that fit.
    #[inline(always)]
    fn is_to_be_segmented(&self) -> bool {
        false
    }

    /// One that the device has taken out is not shown to XDP.
    #[inline(always)]
    fn has_tag_beside(&self) -> bool {
        false
    }

    #[inline(always)]
    fn wire_len(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: reading a field of the context the kernel passed in.
        unsafe { (*self.as_ptr().cast::<xdp_md>()).ingress_ifindex }
    }

    #[inline(always)]
    fn queue(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.as_ptr().cast::<xdp_md>()).rx_queue_index }
    }

    #[inline(always)]
    fn tag_beside(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn copy(&self, to: *mut core::ffi::c_void, len: u32) -> bool {
        // SAFETY: the context pointer is the one the kernel passed in; the verifier has compared
        // the length with that of the memory.
        unsafe { bpf_xdp_load_bytes(self.as_ptr().cast::<xdp_md>(), 0, to, len) == 0 }
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
    fn counted_len(&self, _claimed: u32) -> u64 {
        self.len().into()
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
    fn segments(&self) -> u32 {
        // SAFETY: reading a field of the context the kernel passed in.
        let segments = unsafe { (*self.skb.skb).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    #[inline(always)]
    fn is_to_be_segmented(&self) -> bool {
        // SAFETY: reading a field of the context the kernel passed in.
        unsafe { (*self.skb.skb).gso_size != 0 }
    }

    #[inline(always)]
    fn has_tag_beside(&self) -> bool {
        // SAFETY: reading a field of the context the kernel passed in.
        unsafe { (*self.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn wire_len(&self) -> u32 {
        // SAFETY: reading a field of the context the kernel passed in.
        unsafe { (*self.skb.skb).wire_len }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: reading a field of the context the kernel passed in.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn queue(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb.skb).queue_mapping }
    }

    #[inline(always)]
    fn tag_beside(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb.skb).vlan_tci }
    }

    #[inline(always)]
    fn copy(&self, to: *mut core::ffi::c_void, len: u32) -> bool {
        // SAFETY: as for XDP.
        unsafe { bpf_skb_load_bytes(self.as_ptr().cast(), 0, to, len) == 0 }
    }
}
