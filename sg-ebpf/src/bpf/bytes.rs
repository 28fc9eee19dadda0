//! Reads headers out of a frame, each only after it has been compared with the frame's end.

use super::hook::Hook;

// IEEE 802 numbers, as include/uapi/linux/if_ether.h has them.
pub(crate) const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;

/// What parsing found, as the number that its function returns.
pub(crate) mod parsed {
    /// IPv4 or IPv6.
    pub(crate) const IP: u32 = 0;
    /// Neither IPv4 nor IPv6, nor ARP.
    pub(crate) const OTHER: u32 = 1;
    /// Headers lie outside the readable bytes.
    pub(crate) const UNREADABLE: u32 = 2;
    pub(crate) const MALFORMED: u32 = 3;
    /// A later fragment, which has no ports.
    pub(crate) const LATER_FRAGMENT: u32 = 4;
    pub(crate) const ARP: u32 = 5;
}

/// Why parsing stopped: one of [`parsed`]'s numbers.
pub(crate) type Stop = u32;

/// The verifier wants every offset into a packet below 65,536, with the bytes read there. Headers
/// cannot reach this far: twice eight extension headers of 2,048 bytes are the longest chain.
pub(crate) const FURTHEST: u32 = 60_000;

/// Where a `T` begins, if all of it is readable.
#[inline(always)]
pub(crate) fn at<T, H: Hook>(hook: &H, offset: usize) -> Result<*const T, Stop> {
    let start = hook.start() + offset;
    if start + size_of::<T>() > hook.end() {
        return Err(parsed::UNREADABLE);
    }
    Ok(start as *const T)
}

/// Reads a field of the header that `$pointer` from [`at`] points to, as a whole word where the
/// header has it as bytes: a BPF load takes any address, and byte by byte it would be four loads
/// and as many shifts.
macro_rules! field {
    ($pointer:expr, $field:ident as $type:ty) => {
        // SAFETY: `at` compared the whole header with the end of the packet, which is what the
        // verifier looks for too; every field type is plain integers.
        unsafe { *(&raw const (*$pointer).$field).cast::<$type>() }
    };
}

pub(crate) use field;

/// The largest number in a length field of 16 bits.
pub(crate) const LONGEST_SAID: usize = u16::MAX as usize;
