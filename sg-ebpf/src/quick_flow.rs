//! Flows of plain packets: that there is none is known from one cache line; that a flow goes on as it
//! did, from two lines and the time. All else is handed on to be tracked.

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
    flows::{REPLY, Traits},
    hook::Hook,
    maps,
    outcome::Outcome,
    packet::{Stop, at, ends, field, parsed},
    relay,
    verifier::forget,
};

/// A plain packet up to its addresses, in a header of type `I`.
#[repr(C, packed)]
struct Addressed<I> {
    ethernet: EthHdr,
    ip: I,
}

/// The addresses of a key.
#[inline(always)]
fn addresses4<H: Hook>(hook: &H) -> Result<[u64; 4], Stop> {
    let frame = at::<Addressed<Ipv4Hdr>, H>(hook, 0)?;
    // SAFETY: an address inside what `at` has compared with the end of the packet.
    let header = unsafe { &raw const (*frame).ip };
    let (local, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as u32),
        field!(header, dst_addr as u32),
    );
    Ok([local.into(), 0, remote.into(), 0])
}

#[inline(always)]
fn addresses6<H: Hook>(hook: &H) -> Result<[u64; 4], Stop> {
    let frame = at::<Addressed<Ipv6Hdr>, H>(hook, 0)?;
    // SAFETY: as above.
    let header = unsafe { &raw const (*frame).ip };
    let (local, remote) = ends(
        H::DIRECTION,
        field!(header, src_addr as [u32; 4]),
        field!(header, dst_addr as [u32; 4]),
    );
    let pair = FlowKey::pair;
    Ok([
        pair(local[0], local[1]),
        pair(local[2], local[3]),
        pair(remote[0], remote[1]),
        pair(remote[2], remote[3]),
    ])
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
    for (i, word) in (0..).zip(addresses6(hook)?) {
        sum = hash_step(sum, word, keys.at(2 * i + 1), keys.at(2 * i + 2));
    }
    Ok(sum)
}

#[inline(always)]
pub(crate) fn hash(sum: u64, name: u64) -> u32 {
    let keys = HashKeys::get();
    (hash_step(sum, name, keys.at(9), keys.at(10)) >> 32) as u32
}

/// What is known of a plain packet whose fate the flow table knows, or that it has to remember.
pub(crate) struct Step {
    pub(crate) name: u64,
    pub(crate) hash: u32,
    pub(crate) class: u32,
    pub(crate) verdict: Verdict,
    /// Bytes of all headers.
    pub(crate) headers: u32,
}

/// Its outcome, packed; `None` after it was handed on to be tracked. What can be read again is: the packets
/// of no flow, which are more, would have to keep it for nothing.
#[inline(always)]
pub(crate) fn flow<H: Hook>(hook: &H, step: &Step, unknown: u64) -> Result<Option<u64>, Stop> {
    let mut key = FlowKey {
        name: step.name,
        ..FlowKey::default()
    };
    let flags = if step.name & FlowKey::IS_V6 == 0 {
        key.addresses = addresses4(hook)?;
        // What follows is walked once for both families. Each by another number: two that the verifier
        // knows to be equal are not like any other two.
        let mut unknown = unknown;
        for word in &mut key.addresses {
            *word = forget(*word, unknown);
            unknown = unknown.wrapping_add(1);
        }
        tcp_flags::<Ipv4Hdr, H>(hook, key.protocol())?
    } else {
        key.addresses = addresses6(hook)?;
        tcp_flags::<Ipv6Hdr, H>(hook, key.protocol())?
    };
    let flags = forget(flags.into(), unknown) as u8;
    // TCP is 6 and UDP 17; what resets a connection opens none.
    let kind = key.protocol() >> 4;
    let opens = flags >> 2 & 1 ^ 1;
    // Where the answer goes: the port that this packet comes from.
    let (return_number, _) = ends(H::DIRECTION, key.local_port(), key.remote_port());
    let traits = Traits::new(kind, flags, H::DIRECTION as u8, opens, return_number);
    if let Some(outcome) = steady(&key, traits, step.verdict, step.hash) {
        return Ok(Some(outcome));
    }
    let relay = relay::get::<H>().ok_or(parsed::MALFORMED)?;
    relay.packet.set_plain(&key, step.headers);
    relay.traits = traits;
    relay.hash = step.hash;
    relay.class = step.class;
    relay.verdict = step.verdict.0;
    Ok(None)
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
