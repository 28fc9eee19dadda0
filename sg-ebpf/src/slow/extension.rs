//! The IPv6 header chain: from the fixed header to the transport, over at most eight extension
//! headers.

use sg_common::protocol::{IPPROTO_AH, IPPROTO_FRAGMENT, is_ipv6_extension};

use crate::{
    bpf::{
        bytes::{FURTHEST, Stop, at, field, parsed, parsed::MALFORMED},
        hook::Hook,
        twins::twins,
    },
    packet::Packet,
};

/// More extension headers than this are malformed (SPEC K3).
const MAX_EXTENSION_HEADERS: usize = 8;

/// What every IPv6 extension header begins with; the last two are the fragment header's.
#[repr(C)]
struct ExtensionHeader {
    next: u8,
    length: u8,
    fragment: u16,
    identification: u32,
}

/// What every authentication header has: up to its sequence number (RFC 4302 section 2).
const SHORTEST_AUTHENTICATION: u64 = 12;

const IPV6_MORE_FRAGMENTS: u16 = 1;
const IPV6_OFFSET: u16 = 0xfff8;

twins! {
    /// See [`walk_extension_headers`].
    pub(crate) fn walk(offset: u32, protocol: u32, out: *mut Packet) -> u64 =
        walk_extension_headers as sg_walk6_xdp, sg_walk6_tc;
    /// See [`extension_header`].
    fn one_more(offset: u32, walked: u64, out: *mut Packet) -> u64 =
        extension_header as sg_extension_header_xdp, sg_extension_header_tc;
}

/// Walks the IPv6 header chain from `offset` on, where a header of type `protocol` begins. Returns
/// in bits 0-7 the protocol behind it and in bits 16-31 the bytes skipped; or one of [`parsed`]'s
/// numbers in the high half when it cannot go on. For a later fragment bits 0-12 are its offset in
/// units of eight bytes. Of a fragment it writes the name, and whether it is a first one.
#[inline(always)]
fn walk_extension_headers<H: Hook>(hook: &H, offset: u32, protocol: u32, out: *mut Packet) -> u64 {
    let mut walked = u64::from(protocol);
    for _ in 0..MAX_EXTENSION_HEADERS {
        walked = one_more(hook, offset, walked, out);
        if walked & MORE_HEADERS == 0 {
            return walked;
        }
    }
    u64::from(MALFORMED) << 32
}

/// Set beside a result of [`walk_extension_headers`] whose protocol is one more extension header.
const MORE_HEADERS: u64 = 1 << 63;

/// One more extension header. `walked` says of which type it is, and how far behind `offset`.
/// Returns what [`walk_extension_headers`] does, and [`MORE_HEADERS`] if another one follows.
#[inline(always)]
fn extension_header<H: Hook>(hook: &H, offset: u32, walked: u64, out: *mut Packet) -> u64 {
    let stop = |why: Stop| u64::from(why) << 32;
    // Eight headers of at most 2,048 bytes: the mask changes nothing.
    let before = (walked >> 16) & 0x7fff;
    let (protocol, offset) = (walked as u8, u64::from(offset) + before);
    if out.is_null() {
        return stop(MALFORMED);
    }
    // SAFETY: not null, and every caller passes a whole `Packet`.
    let out = unsafe { &mut *out };
    if offset > FURTHEST as u64 {
        return stop(MALFORMED);
    }
    // Every extension header is at least this long, and the fragment header just this.
    let start = match at::<ExtensionHeader, H>(hook, offset as usize) {
        Ok(start) => start,
        Err(why) => return stop(why),
    };
    let next = field!(start, next as u8);
    let length = u64::from(field!(start, length as u8));
    let length = match protocol {
        IPPROTO_FRAGMENT => {
            const LEN: u64 = size_of::<ExtensionHeader>() as u64;
            let fragment = u16::from_be(field!(start, fragment as u16));
            // Neither an offset nor more to come: nothing has been cut (RFC 6946).
            if fragment & (IPV6_OFFSET | IPV6_MORE_FRAGMENTS) != 0 {
                if out.is_fragment != 0 {
                    return stop(MALFORMED);
                }
                out.is_fragment = 1;
                out.fragment_id = u32::from_be(field!(start, identification as u32));
                out.fragment_protocol = next;
            }
            if fragment & IPV6_OFFSET != 0 {
                let skipped = before + LEN;
                return stop(parsed::LATER_FRAGMENT) | skipped << 16 | u64::from(fragment >> 3);
            }
            LEN
        }
        IPPROTO_AH => {
            let length = (length + 2) * 4;
            if length < SHORTEST_AUTHENTICATION {
                return stop(MALFORMED);
            }
            length
        }
        _ => (length + 1) * 8,
    };
    let more = u64::from(is_ipv6_extension(next)) * MORE_HEADERS;
    u64::from(next) | more | ((before + length) & 0x7fff) << 16
}
