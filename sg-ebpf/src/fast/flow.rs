//! Flows of plain packets. One cache line shows that there is no flow; two and the time show that a
//! flow goes on unchanged. All other packets go to conntrack by a tail call.

use core::mem::offset_of;

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};
use sg_common::{
    concern::only_rules_accept,
    flow_entry::{
        ADDRESSES, FlowKey, NAME, TOUCH_AGE, age, clock, finish, has_expired, hash_halves,
        hash_step, slot_of, tick,
    },
    flow_table::{
        Spot, Table as _, WAYS, change_head, choose, has_match, in_both, read_if, spread, tags_of,
    },
    ruling::{is_by_rules_alone, is_unsteady},
    tcp,
    verdict::Verdict,
};

use super::frame::{Addressed, Beginning};
use crate::bpf::bytes::{Stop, at, field, parsed};
use crate::bpf::clock::now;
use crate::bpf::hook::Hook;
use crate::bpf::maps;
use crate::bpf::verifier::forget;
use crate::conntrack::flows::REPLY;
use crate::conntrack::table::{Flows, HashKeys, spot};
use crate::conntrack::traits::Traits;
use crate::outcome::Outcome;
use crate::packet::{Numbers, ends};
use crate::scratch;

/// The addresses of a key.
#[inline(always)]
fn addresses6<H: Hook>(hook: &H) -> Result<[u64; 4], Stop> {
    let frame = at::<Addressed, H>(hook, 0)?;
    // SAFETY: an address inside what `at` has compared with the end of the packet.
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

// The hash of a plain packet's flow, as `flow_entry::hash` has it.

#[inline(always)]
fn sum4([local, remote]: [u64; 2]) -> u64 {
    let keys = HashKeys::get();
    let sum = hash_halves(keys.at(0), local, 0, keys.at(1), 0);
    hash_halves(sum, remote, 0, keys.at(5), 0)
}

#[inline(always)]
fn sum6<H: Hook>(hook: &H) -> Result<u64, Stop> {
    let keys = HashKeys::get();
    let mut sum = keys.at(0);
    for (i, word) in (0..).zip(addresses6(hook)?) {
        sum = hash_step(sum, word, keys.at(2 * i + 1), keys.at(2 * i + 2));
    }
    Ok(sum)
}

/// The hash of a flow, from the sum over its addresses and the two halves of its name (see
/// [`FlowKey::name`]).
#[inline(always)]
fn hash(sum: u64, [low, high]: [u64; 2]) -> u32 {
    let keys = HashKeys::get();
    finish(hash_halves(sum, low, high, keys.at(9), keys.at(10)))
}

/// What names the flow of a plain packet.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    /// The halves of [`FlowKey::name`].
    pub(crate) name: [u64; 2],
    /// The addresses of IPv4, local and remote, in wire order. Those of IPv6 are too many to be
    /// kept.
    pub(crate) addresses4: [u64; 2],
}

/// [`FlowKey::IS_V6`] in the upper half of a name.
pub(crate) const IS_V6: u64 = FlowKey::IS_V6 >> 32;

impl Names {
    #[inline(always)]
    fn is_v6(&self) -> bool {
        self.name[1] & IS_V6 != 0
    }

    #[inline(always)]
    fn name(&self) -> u64 {
        self.name[0] | self.name[1] << 32
    }
}

/// What else is known of a plain packet when its flow is looked for.
pub(crate) struct Step {
    pub(crate) class: u32,
    pub(crate) verdict: Verdict,
    pub(crate) is_drop: bool,
    /// The rules pass both directions of its connection, which may be cut all the same: see
    /// `MAY_HAVE_CUT`.
    pub(crate) is_passed: bool,
    /// TCP's, or none.
    pub(crate) flags: u64,
    /// Bytes of all headers.
    pub(crate) headers: u64,
}

/// What becomes of a packet that may belong to a flow.
pub(crate) enum Fate {
    /// What the rules say.
    ByRules,
    /// This outcome, packed.
    ByFlow(u64),
    /// Conntrack decides: what it needs is in the scratch.
    Unknown,
}

/// Looks for the packet's flow. A packet that the rules drop may have none, and so may one that
/// they pass in both directions; any other packet opens one.
#[inline(always)]
pub(crate) fn ask<H: Hook>(hook: &H, names: &Names, step: &Step) -> Result<Fate, Stop> {
    if step.is_drop && only_rules_accept(step.flags as u8) {
        return Ok(Fate::ByRules);
    }
    let sum = match names.is_v6() {
        false => sum4(names.addresses4),
        true => sum6(hook)?,
    };
    let hash = hash(sum, names.name);
    let spot = spot(hash);
    let line = Flows.line(spot.group).ok_or(parsed::MALFORMED)?;
    let tags = spread(spot.tag);
    // The half-open word is read first: a flow that leaves it meanwhile is found in the others.
    let half_open = tags_of(line, spot.half_open);
    let both = in_both(tags_of(line, spot.first), tags_of(line, spot.second), tags);
    if step.is_passed {
        // The slow path knows what to do where there is one, which is rare.
        return match both | has_match(half_open, tags) {
            0 => Ok(Fate::ByRules),
            _ => Err(parsed::MALFORMED),
        };
    }
    if both != 0 {
        if let Some(outcome) = steady(hook, names, step, &spot, both) {
            return Ok(Fate::ByFlow(outcome));
        }
    } else if step.is_drop && has_match(half_open, tags) == 0 {
        return Ok(Fate::ByRules);
    }
    hand_on(hook, names, step, hash)?;
    Ok(Fate::Unknown)
}

/// The outcome of a packet that changes nothing about its flow, which this policy admitted and
/// which is established.
#[inline(always)]
fn steady<H: Hook>(hook: &H, names: &Names, step: &Step, spot: &Spot, both: u64) -> Option<u64> {
    let page = Flows.page(spot.group)?;
    let (word, way) = choose(spot, both);
    let entry = &page[word as usize & 7][way as usize % WAYS];
    let contents = read_if(entry, |words| {
        let name = words.get(NAME) ^ names.name();
        // Of the other family there is none of that name.
        name | if names.is_v6() {
            let Ok([a, b, c, d]) = addresses6(hook) else {
                return 1;
            };
            let local = (words.get(ADDRESSES) ^ a) | (words.get(ADDRESSES + 1) ^ b);
            local | (words.get(ADDRESSES + 2) ^ c) | (words.get(ADDRESSES + 3) ^ d)
        } else {
            let [local, remote] = names.addresses4;
            (words.get(ADDRESSES) ^ local) | (words.get(ADDRESSES + 2) ^ remote)
        }
    })?;
    let (head, rule) = (contents.head, contents.rule);
    let now = now();
    let age = age(clock(now), head.last_seen());
    let is_unsteady = is_unsteady(head, rule, maps::mark(), step.flags);
    if is_unsteady != 0 || has_expired(age, Flows.time_out(head.state()).into()) != 0 {
        return None;
    }
    let by_rules = Outcome::rule(step.verdict).pack();
    if is_by_rules_alone(head, H::DIRECTION as u8, !step.is_drop) {
        return Some(by_rules);
    }
    if age >= TOUCH_AGE {
        // Where it fails another CPU has just done the same.
        change_head(entry, head, head.seen_at(tick(now)));
    }
    Some(if step.is_drop {
        REPLY | u64::from(slot_of(rule))
    } else {
        by_rules
    })
}

/// TCP's numbers; of UDP they mean nothing. Without branches, for the verifier's sake.
#[inline(always)]
fn numbers<H: Hook>(hook: &H, names: &Names, step: &Step) -> Result<Numbers, Stop> {
    const V4_END: u64 = (EthHdr::LEN + Ipv4Hdr::LEN) as u64;
    const V6_END: u64 = (EthHdr::LEN + Ipv6Hdr::LEN) as u64;
    // The lengths: IPv4's counts its own header, IPv6's does not.
    const V4_LEN: u64 = (EthHdr::LEN + offset_of!(Ipv4Hdr, tot_len)) as u64;
    const V6_LEN: u64 = (EthHdr::LEN + offset_of!(Ipv6Hdr, payload_len)) as u64;
    let is_v6 = (names.name[1] / IS_V6) & 1;
    let len_at = V4_LEN + is_v6 * (V6_LEN - V4_LEN);
    // SAFETY: `at` has compared it with the end of the packet.
    let len = unsafe { at::<u16, H>(hook, len_at as usize)?.read_unaligned() };
    let end = EthHdr::LEN as u64 + u64::from(u16::from_be(len)) + is_v6 * Ipv6Hdr::LEN as u64;
    let ip_end = V4_END + is_v6 * (V6_END - V4_END);
    let header = at::<Beginning, H>(hook, ip_end as usize)?;
    let data = end.wrapping_sub(step.headers) as u32;
    let flags = step.flags as u8;
    Ok(Numbers::of(
        field!(header, numbers as [u32; 2]),
        flags,
        data,
    ))
}

/// Leaves in the scratch what the next program needs.
#[inline(always)]
fn hand_on<H: Hook>(hook: &H, names: &Names, step: &Step, hash: u32) -> Result<(), Stop> {
    // All of its 64 bits.
    let mut unknown = field!(at::<EthHdr, H>(hook, 0)?, dst_addr as u64);
    let mut addresses = if names.is_v6() {
        addresses6(hook)?
    } else {
        let [local, remote] = names.addresses4;
        [local, 0, remote, 0]
    };
    // The verifier explores what follows once for both families. Each by another number: two that
    // the verifier knows to be equal are not like any other two.
    for word in &mut addresses {
        *word = forget(*word, unknown);
        unknown = unknown.wrapping_add(1);
    }
    let key = FlowKey {
        name: names.name(),
        addresses,
    };
    let flags = step.flags as u8;
    let numbers = numbers(hook, names, step)?;
    // TCP is 6 and UDP 17.
    let kind = key.protocol() >> 4;
    let opens = tcp::opens(flags);
    // The port to which the reply goes: the one that this packet comes from.
    let (return_number, _) = ends(H::DIRECTION, key.local_port(), key.remote_port());
    let scratch = scratch::get::<H>().ok_or(parsed::MALFORMED)?;
    scratch.packet.set_plain(&key, numbers, step.headers as u32);
    scratch.traits = Traits::new(kind, flags, H::DIRECTION as u8, opens, return_number);
    scratch.hash = hash;
    scratch.class = step.class;
    scratch.verdict = step.verdict.0;
    Ok(())
}
