//! The flow table: what admitted flows leave behind, and how their replies find it.
//! Only packets whose replies no rule would pass are remembered (SPEC K7).

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use sg_common::{
    flow::{FlowValue, TOUCH_INTERVAL_NS, Timeout, is_expired},
    tables::Kind,
    tcp,
    verdict::{Direction, Verdict},
};

use crate::{family, maps, packet::Packet};

/// What the flow table says of a packet that no rule accepts.
pub(crate) enum Found {
    Nothing,
    /// It answers a flow that the rule with this slot admitted.
    Reply(u32),
    /// It goes on in the direction of a flow that an earlier policy admitted and this one keeps.
    Kept(u32),
    /// Its flow was admitted by an earlier policy and this one takes that back.
    Revoked,
}

const TCP: u8 = Kind::Tcp as u8;
const UDP: u8 = Kind::Udp as u8;
const SCTP: u8 = Kind::Sctp as u8;
const ICMP: u8 = Kind::Icmp as u8;

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments; the kernel's coarse clock is enough for timeouts in seconds.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The state of a flow that begins with this packet.
#[inline(always)]
fn first_state(p: &Packet) -> Timeout {
    match p.kind {
        TCP => tcp::first(p.tcp_flags),
        UDP => Timeout::Udp,
        SCTP => Timeout::Sctp,
        ICMP => Timeout::Icmp,
        _ => Timeout::Other,
    }
}

/// The state after one more packet.
#[inline(always)]
fn next_state(flow: &FlowValue, p: &Packet, from_opener: bool) -> u8 {
    match p.kind {
        TCP => match Timeout::from_index(flow.state) {
            Some(state) => tcp::step(state, from_opener, p.tcp_flags) as u8,
            None => flow.state,
        },
        UDP if !from_opener => Timeout::UdpStream as u8,
        _ => flow.state,
    }
}

/// Writes back what changed: a busy flow's line is dirtied a few times a second, not per packet.
#[inline(always)]
fn touch(flow: &mut FlowValue, now: u64, state: u8) {
    if state != flow.state {
        flow.state = state;
        flow.last_seen = now;
    } else if now.saturating_sub(flow.last_seen) > TOUCH_INTERVAL_NS {
        flow.last_seen = now;
    }
}

/// Enters or refreshes the flow of a packet that the rules accept.
#[inline(always)]
pub(crate) fn remember(p: &Packet, direction: Direction, slot: u32) {
    let now = now();
    let fresh = FlowValue {
        created: now,
        last_seen: now,
        slot,
        generation: maps::generation(),
        opener: direction as u8,
        state: first_state(p) as u8,
        flags: 0,
        zero: [0; 5],
    };
    let Some(flow) = family::flow(p) else {
        if p.opens != 0 {
            family::insert_flow(p, &fresh);
        }
        return;
    };
    // SAFETY: a map value lives until after this program run; CPUs may race on its fields, and
    // each of them is valid at any time.
    let flow = unsafe { &mut *flow };
    let from_opener = flow.opened_by(direction);
    let is_over = flow.state == Timeout::TcpClose as u8 || flow.state == Timeout::TcpTimeWait as u8;
    let reopens = p.is_kind(Kind::Tcp) && tcp::is_bare_syn(p.tcp_flags) && is_over;
    if reopens || is_expired(now, flow.last_seen, maps::timeout(flow.state)) {
        if p.opens != 0 {
            *flow = fresh;
        }
        return;
    }
    if from_opener && flow.generation != fresh.generation {
        flow.slot = slot;
        flow.generation = fresh.generation;
    }
    let state = next_state(flow, p, from_opener);
    touch(flow, now, state);
}

/// Looks up the flow of a packet that no rule accepts. `rejudge` asks the rules of the opposite
/// direction about the packet that would answer this one.
#[inline(always)]
pub(crate) fn find(p: &Packet, direction: Direction, rejudge: impl FnOnce() -> Verdict) -> Found {
    let Some(flow) = family::flow(p) else {
        return Found::Nothing;
    };
    // SAFETY: as in `remember`.
    let flow = unsafe { &mut *flow };
    let now = now();
    if is_expired(now, flow.last_seen, maps::timeout(flow.state)) {
        family::remove_flow(p);
        return Found::Nothing;
    }
    let from_opener = flow.opened_by(direction);
    if flow.generation != maps::generation() && !maps::keeps_flows() {
        let verdict = if from_opener {
            // The rules of its own direction were asked just now, and did not accept.
            None
        } else {
            Some(rejudge()).filter(|v| v.is_accept())
        };
        let Some(verdict) = verdict else {
            family::remove_flow(p);
            return Found::Revoked;
        };
        flow.slot = verdict.slot();
        flow.generation = maps::generation();
    } else if from_opener && flow.generation == maps::generation() {
        // Same key, other match (an ICMP code): the rules have the word.
        return Found::Nothing;
    }
    let slot = flow.slot;
    let state = next_state(flow, p, from_opener);
    touch(flow, now, state);
    if from_opener {
        Found::Kept(slot)
    } else {
        Found::Reply(slot)
    }
}
