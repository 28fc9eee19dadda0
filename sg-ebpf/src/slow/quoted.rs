//! The packet that an ICMP error quotes: its addresses and ports, as far as routers quote it.
//! It travelled in the opposite direction of the error, so that the ends are the other way round.

use network_types::{
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};
use sg_common::{
    protocol::{Kind, is_ipv6_extension, kind_of},
    verdict::Direction,
};

use super::{
    extension,
    transport::{icmp, other, ports},
};
use crate::{
    bpf::{
        bytes::{FURTHEST, Stop, at, field, parsed::MALFORMED},
        hook::Hook,
        verifier::forget,
    },
    packet::{Packet, ends},
};

/// What every quotation has of a transport header (RFC 792: 64 bits).
type FirstBytes = [u32; 2];

/// Parses what `error` quotes into `out`.
#[inline(always)]
pub(crate) fn parse<H: Hook>(hook: &H, error: &Packet, out: &mut Packet) -> Result<(), Stop> {
    if error.headers > FURTHEST {
        return Err(MALFORMED);
    }
    let offset = error.headers as usize;
    let direction = H::DIRECTION.opposite();
    out.direction = direction as u8;
    let at = if error.is_v6() {
        ipv6(hook, offset, direction, out)?
    } else {
        ipv4(hook, offset, direction, out)?
    };
    // Behind the error's end there may be padding, which quotes nothing.
    if at > FURTHEST as usize || at + size_of::<FirstBytes>() > error.claimed as usize {
        return Err(MALFORMED);
    }
    transport(hook, at, direction, out)
}

#[inline(always)]
fn ipv4<H: Hook>(
    hook: &H,
    offset: usize,
    direction: Direction,
    out: &mut Packet,
) -> Result<usize, Stop> {
    const OFFSET: u16 = 0x1fff;
    let header = at::<Ipv4Hdr, H>(hook, offset)?;
    let vihl = field!(header, vihl as u8);
    let header_len = ((vihl & 0x0f) as usize) * 4;
    let fragment = u16::from_be(field!(header, frags as u16));
    if vihl >> 4 != 4 || header_len < Ipv4Hdr::LEN || fragment & OFFSET != 0 {
        return Err(MALFORMED);
    }
    let source = field!(header, src_addr as u32);
    let destination = field!(header, dst_addr as u32);
    (out.local[0], out.remote[0]) = ends(direction, source, destination);
    out.protocol = field!(header, proto as u8);
    Ok(offset + header_len)
}

#[inline(always)]
fn ipv6<H: Hook>(
    hook: &H,
    offset: usize,
    direction: Direction,
    out: &mut Packet,
) -> Result<usize, Stop> {
    let header = at::<Ipv6Hdr, H>(hook, offset)?;
    if field!(header, vcf as u8) >> 4 != 6 {
        return Err(MALFORMED);
    }
    out.v6 = 1;
    let source = field!(header, src_addr as [u32; 4]);
    let destination = field!(header, dst_addr as [u32; 4]);
    (out.local, out.remote) = ends(direction, source, destination);
    let mut protocol = field!(header, next_hdr as u8);
    let mut at = offset + Ipv6Hdr::LEN;
    if is_ipv6_extension(protocol) {
        let walked = extension::walk(hook, at as u32, protocol.into(), out);
        let stop = (walked >> 32) as u32;
        if stop != 0 {
            return Err(stop);
        }
        protocol = walked as u8;
        at += (walked >> 16) as usize & 0x7fff;
    }
    out.protocol = protocol;
    Ok(at)
}

#[inline(always)]
fn transport<H: Hook>(
    hook: &H,
    offset: usize,
    direction: Direction,
    out: &mut Packet,
) -> Result<(), Stop> {
    let header = at::<FirstBytes, H>(hook, offset)?;
    // SAFETY: `at` has compared all of it with the end of the packet.
    let unknown = unsafe { *header.cast::<u64>() };
    out.is_trackable = 1;
    let with_ports = match kind_of(out.protocol, out.is_v6()) {
        Kind::Icmp => {
            icmp(header.cast::<Icmpv4Hdr>(), out);
            // There are no errors about errors, and other messages belong to nothing.
            return if out.is_trackable != 0 {
                Ok(())
            } else {
                Err(MALFORMED)
            };
        }
        Kind::Other => {
            other(out.protocol, out);
            return Ok(());
        }
        kind => kind,
    };
    // Without this the verifier explores three paths from here on.
    let kind = forget(with_ports as u64, unknown) as u8;
    ports(direction, kind, header.cast(), out);
    Ok(())
}
