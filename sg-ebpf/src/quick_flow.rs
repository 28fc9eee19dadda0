//! Flows of plain packets: that there is none is known from one cache line and without a call; that a
//! flow goes on as it did, from two lines and by one call. All else goes the long way.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};
use sg_common::{
    flow_entry::{FlowKey, Head, TOUCH_AGE, age, clock, generation_of, hash_step, slot_of, tick},
    flow_table::{Table as _, WAYS, change_head, choose, read, tags_of},
    tables::IPPROTO_TCP,
    tcp, track,
    verdict::{Direction, Verdict},
};

use crate::{
    clock::now,
    flow_maps::{Flows, hash_key, spot},
    flows::REPLY,
    hook::Hook,
    maps,
    outcome::Outcome,
    packet::{ETH_P_IP, Stop, at, ends, field},
    quick,
    verifier::forget,
};

/// What names the flow of a plain packet with a header of type `I`.
#[repr(C, packed)]
struct Named<I> {
    ethernet: EthHdr,
    ip: I,
    ports: u32,
}

/// The name of a flow with these ports, as they are on the wire.
#[inline(always)]
fn name<H: Hook>(ports: u32, protocol: u8, family: u64) -> u64 {
    let ports = u32::from_be(ports);
    // The destination is in the lower half, the local port is to be.
    let ports = match H::DIRECTION {
        Direction::Inbound => ports,
        Direction::Outbound => ports.rotate_left(16),
    };
    u64::from(ports) | u64::from(protocol) << 32 | family
}

#[inline(always)]
fn key4<H: Hook>(hook: &H) -> Result<(u64, u64), Stop> {
    let frame = at::<Named<Ipv4Hdr>, H>(hook, 0)?;
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let header = unsafe { &raw const (*frame).ip };
    let (local, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as u32),
        field!(header, dst_addr as u32),
    );
    let protocol = field!(header, proto as u8);
    let name = name::<H>(field!(frame, ports as u32), protocol, 0);
    Ok((name, FlowKey::pair(local, remote)))
}

#[inline(always)]
fn key6<H: Hook>(hook: &H) -> Result<FlowKey, Stop> {
    let frame = at::<Named<Ipv6Hdr>, H>(hook, 0)?;
    // SAFETY: as above.
    let header = unsafe { &raw const (*frame).ip };
    let (local, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as [u32; 4]),
        field!(header, dst_addr as [u32; 4]),
    );
    let protocol = field!(header, next_hdr as u8);
    let pair = FlowKey::pair;
    Ok(FlowKey {
        name: name::<H>(field!(frame, ports as u32), protocol, FlowKey::V6),
        addresses: [
            pair(local[0], local[1]),
            pair(local[2], local[3]),
            pair(remote[0], remote[1]),
            pair(remote[2], remote[3]),
        ],
    })
}

#[inline(always)]
fn is_v4<H: Hook>(hook: &H) -> Result<bool, Stop> {
    let ethernet = at::<EthHdr, H>(hook, 0)?;
    Ok(u16::from_be(field!(ethernet, ether_type as u16)) == ETH_P_IP)
}

/// The hash of a plain packet's flow, as `flow_entry::hash` has it.
#[inline(always)]
pub(crate) fn hash<H: Hook>(hook: &H, unknown: u64) -> Result<u32, Stop> {
    let sum = hash_key(0);
    let (sum, name) = if is_v4(hook)? {
        let (name, addresses) = key4(hook)?;
        (hash_step(sum, addresses, hash_key(1), hash_key(2)), name)
    } else {
        let key = key6(hook)?;
        let [a, b, c, d] = key.addresses;
        let sum = hash_step(sum, a, hash_key(1), hash_key(2));
        let sum = hash_step(sum, b, hash_key(3), hash_key(4));
        let sum = hash_step(sum, c, hash_key(5), hash_key(6));
        (hash_step(sum, d, hash_key(7), hash_key(8)), key.name)
    };
    let sum = hash_step(forget(sum, unknown), name, hash_key(9), hash_key(10));
    Ok((forget(sum, unknown) >> 32) as u32)
}

/// Last stage, for packets whose fate the flow table knows or that it has to remember. Returns an
/// [`Outcome`], packed.
#[inline(always)]
pub(crate) fn flow<H: Hook>(hook: &H, class: u32, verdict: u32, hash: u32) -> u64 {
    match steady(hook, Verdict(verdict), hash) {
        Ok(outcome) => outcome,
        Err(_) => quick::flow(hook, class, verdict),
    }
}

/// The outcome of a packet that changes nothing about its flow, which this policy admitted and which
/// is established.
#[inline(always)]
fn steady<H: Hook>(hook: &H, verdict: Verdict, hash: u32) -> Result<u64, Stop> {
    const NO: Stop = 1;
    let spot = spot(hash);
    let line = Flows.line(spot.group).ok_or(NO)?;
    let page = Flows.page(spot.group).ok_or(NO)?;
    let (first, second) = (tags_of(line, spot.first), tags_of(line, spot.second));
    let (word, way) = choose(&spot, first, second).ok_or(NO)?;
    let entry = &page[word as usize & 7][way as usize % WAYS];

    let (key, flags) = if is_v4(hook)? {
        let (name, addresses) = key4(hook)?;
        let addresses = [addresses, 0, 0, 0];
        (FlowKey { name, addresses }, tcp_flags::<Ipv4Hdr, H>(hook, name)?)
    } else {
        let key = key6(hook)?;
        (key, tcp_flags::<Ipv6Hdr, H>(hook, key.name)?)
    };
    let contents = read(entry, &key).ok_or(NO)?;
    let (head, rule) = (contents.head, contents.rule);
    let now = now();
    let age = age(clock(now), head.last_seen());
    let differs = u64::from(generation_of(rule) ^ maps::generation())
        | u64::from(flags & tcp::STATE_FLAGS)
        | u64::from(track::disturbs(head.state()))
        | head.0 & Head::SEEDED;
    if differs != 0 || age > Flows.time_out(head.state()) {
        return Err(NO);
    }
    let by_rules = Outcome::rule(verdict).pack();
    let from_opener = head.opener() == H::DIRECTION as u8;
    if from_opener && !verdict.is_accept() {
        // Same key, other match: the rules have the word.
        return Ok(by_rules);
    }
    if age >= TOUCH_AGE {
        // Where it fails somebody else has just done the same.
        change_head(entry, head, head.seen_at(tick(now)));
    }
    Ok(if verdict.is_accept() {
        by_rules
    } else {
        REPLY | u64::from(slot_of(rule))
    })
}

/// TCP's flags, or none.
#[inline(always)]
fn tcp_flags<I, H: Hook>(hook: &H, name: u64) -> Result<u8, Stop> {
    /// The headers up to the flags.
    #[repr(C, packed)]
    struct Flagged<I> {
        ethernet: EthHdr,
        ip: I,
        start: [u8; 13],
        flags: u8,
    }
    const _: () = assert!(size_of::<Flagged<()>>() < EthHdr::LEN + TcpHdr::LEN);
    if (name >> 32) as u8 != IPPROTO_TCP {
        return Ok(0);
    }
    let frame = at::<Flagged<I>, H>(hook, 0)?;
    Ok(field!(frame, flags as u8))
}
