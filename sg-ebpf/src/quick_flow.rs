//! Flows of plain packets: that there is none is known from one cache line and without a call; that a
//! flow goes on as it did, from two lines and by one call. All else goes the long way.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};
use sg_common::{
    flow_entry::{FlowKey, Head, TOUCH_AGE, age, clock, generation_of, hash_step, slot_of, tick},
    flow_table::{Table as _, WAYS, change_head, choose, read, tags_of},
    protocol::IPPROTO_TCP,
    tcp, track,
    verdict::Verdict,
};

use crate::{
    clock::now,
    flow_maps::{Flows, HashKeys, spot},
    flows::{self, REPLY, Traits},
    hook::Hook,
    maps,
    outcome::Outcome,
    packet::{ETH_P_IP, Stop, at, ends, field},
    verifier::forget,
};

/// What names the flow of a plain packet with a header of type `I`.
#[repr(C, packed)]
struct Named<I> {
    ethernet: EthHdr,
    ip: I,
    ports: u32,
}

/// The name of a flow with these ports, as they are on the wire: the source's and the destination's.
#[inline(always)]
fn name<H: Hook>(ports: u32, protocol: u8, is_v6: bool) -> u64 {
    let ports = u32::from_be(ports);
    let (local, remote) = ends(H::DIRECTION, (ports >> 16) as u16, ports as u16);
    FlowKey::name(local, remote, protocol, is_v6)
}

#[inline(always)]
fn key4<H: Hook>(hook: &H) -> Result<FlowKey, Stop> {
    let frame = at::<Named<Ipv4Hdr>, H>(hook, 0)?;
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let header = unsafe { &raw const (*frame).ip };
    let (local, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as u32),
        field!(header, dst_addr as u32),
    );
    let protocol = field!(header, proto as u8);
    Ok(FlowKey {
        addresses: [local.into(), 0, remote.into(), 0],
        name: name::<H>(field!(frame, ports as u32), protocol, false),
    })
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
        name: name::<H>(field!(frame, ports as u32), protocol, true),
        addresses: [
            pair(local[0], local[1]),
            pair(local[2], local[3]),
            pair(remote[0], remote[1]),
            pair(remote[2], remote[3]),
        ],
    })
}

// The hash of a plain packet's flow, as `flow_entry::hash` has it: the part of the addresses is added
// up where they are at hand, the rest where the hash is wanted.

#[inline(always)]
pub(crate) fn sum4(local: u32, remote: u32) -> u64 {
    let keys = HashKeys::get();
    let sum = hash_step(keys.at(0), local.into(), keys.at(1), 0);
    hash_step(sum, remote.into(), keys.at(5), 0)
}

#[inline(always)]
pub(crate) fn sum6<H: Hook>(hook: &H) -> Result<u64, Stop> {
    let keys = HashKeys::get();
    let mut sum = keys.at(0);
    for (i, word) in (0..).zip(key6(hook)?.addresses) {
        sum = hash_step(sum, word, keys.at(2 * i + 1), keys.at(2 * i + 2));
    }
    Ok(sum)
}

#[inline(always)]
pub(crate) fn hash(sum: u64, name: u64) -> u32 {
    let keys = HashKeys::get();
    (hash_step(sum, name, keys.at(9), keys.at(10)) >> 32) as u32
}

/// Last stage, for packets whose fate the flow table knows or that it has to remember. Returns an
/// [`Outcome`], packed.
#[inline(always)]
pub(crate) fn flow<H: Hook>(hook: &H, class: u32, verdict: u32, hash: u32) -> u64 {
    let verdict = Verdict(verdict);
    let mut key = FlowKey::default();
    // That the headers are there was looked at before.
    let Ok(traits) = read_key(hook, &mut key) else {
        return Outcome::rule(verdict).pack();
    };
    match steady(&key, traits, verdict, hash) {
        Some(outcome) => outcome,
        None => flows::track(&key, hash, traits, class, verdict),
    }
}

#[inline(always)]
fn read_key<H: Hook>(hook: &H, key: &mut FlowKey) -> Result<Traits, Stop> {
    let ethernet = at::<EthHdr, H>(hook, 0)?;
    // Whatever the verifier knows nothing about: what follows is walked once for both families.
    let unknown = field!(ethernet, dst_addr as u64);
    let is_v4 = u16::from_be(field!(ethernet, ether_type as u16)) == ETH_P_IP;
    let flags = if is_v4 {
        *key = key4(hook)?;
        // Each by another number: two that the verifier knows to be equal are not like any other two.
        let mut unknown = unknown;
        for word in &mut key.addresses {
            *word = forget(*word, unknown);
            unknown = unknown.wrapping_add(1);
        }
        tcp_flags::<Ipv4Hdr, H>(hook, key.protocol())?
    } else {
        *key = key6(hook)?;
        tcp_flags::<Ipv6Hdr, H>(hook, key.protocol())?
    };
    key.name = forget(key.name, unknown);
    let flags = forget(flags.into(), unknown) as u8;
    // TCP is 6 and UDP 17; what resets a connection opens none.
    let kind = key.protocol() >> 4;
    let opens = flags >> 2 & 1 ^ 1;
    // Where the answer goes: the port that this packet comes from.
    let (return_number, _) = ends(H::DIRECTION, key.local_port(), key.remote_port());
    let direction = H::DIRECTION as u8;
    Ok(Traits::new(kind, flags, direction, opens, return_number))
}

/// The outcome of a packet that changes nothing about its flow, which this policy admitted and which
/// is established.
#[inline(always)]
fn steady(key: &FlowKey, traits: Traits, verdict: Verdict, hash: u32) -> Option<u64> {
    let spot = spot(hash);
    let line = Flows.line(spot.group)?;
    let page = Flows.page(spot.group)?;
    let (first, second) = (tags_of(line, spot.first), tags_of(line, spot.second));
    let (word, way) = choose(&spot, first, second)?;
    let entry = &page[word as usize & 7][way as usize % WAYS];
    let contents = read(entry, key)?;
    let (head, rule) = (contents.head, contents.rule);
    let now = now();
    let age = age(clock(now), head.last_seen());
    let differs = u64::from(generation_of(rule) ^ maps::generation())
        | u64::from(traits.tcp_flags() & tcp::STATE_FLAGS)
        | u64::from(track::disturbs(head.state()))
        | head.0 & Head::SEEDED;
    if differs != 0 || age > Flows.time_out(head.state()) {
        return None;
    }
    let by_rules = Outcome::rule(verdict).pack();
    let from_opener = head.opener() == traits.direction();
    if from_opener && !verdict.is_accept() {
        // Same key, other match: the rules have the word.
        return Some(by_rules);
    }
    if age >= TOUCH_AGE {
        // Where it fails somebody else has just done the same.
        change_head(entry, head, head.seen_at(tick(now)));
    }
    Some(if verdict.is_accept() {
        by_rules
    } else {
        REPLY | u64::from(slot_of(rule))
    })
}

/// TCP's flags, or none.
#[inline(always)]
fn tcp_flags<I, H: Hook>(hook: &H, protocol: u8) -> Result<u8, Stop> {
    /// The headers up to the flags.
    #[repr(C, packed)]
    struct Flagged<I> {
        ethernet: EthHdr,
        ip: I,
        start: [u8; 13],
        flags: u8,
    }
    if protocol != IPPROTO_TCP {
        return Ok(0);
    }
    let frame = at::<Flagged<I>, H>(hook, 0)?;
    Ok(field!(frame, flags as u8))
}
