//! The packet path: packet → class → verdict → count. Each hook has five programs, of which the
//! first is attached and the others are reached by tail calls:
//!
//! ```text
//!                           ┌─ decided: pass or drop
//!  sg_inbound, sg_outbound ─┤
//!    fast path              ├─ Track ──► sg_in_track, sg_out_track ──► decided
//!                           │             scratch: tuple, TCP numbers, traits, hash, class, verdict
//!                           └─ Slow ───► sg_in_slow, sg_out_slow ────► decided
//!                                          slow path, scratch: nothing yet
//!                                          ├─ Track ──► as above, scratch: the whole packet as well
//!                                          └─ Related ► sg_in_related, sg_out_related ──► decided
//!                                                       scratch: the packet and the rules' outcome
//! ```
//!
//! All but the first go on to a fifth one, `sg_in_event` or `sg_out_event`, with a packet that is
//! decided and counted and of which there is to be an event.
//!
//! Of each tail-call target but that there are two programs, and the loader takes one of them:
//! those whose names end in `_aud` are for policies that audit.
//!
//! `fast` decides TCP and UDP right behind an IP header; `slow` parses and judges any frame;
//! `conntrack` is the flow table and what a packet does to a flow; `rules` and `classes` ask the
//! tables; `count` counts, `events` logs; `gate` is in front of a policy that is not confirmed.
//! `bpf` has the parts that all of it is made of.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// Only `word.rs` uses them: nothing else makes atomic instructions for this target.
#![allow(internal_features)]
#![feature(core_intrinsics)]

mod audit;
mod bpf;
mod classes;
mod conntrack;
mod count;
mod events;
mod fast;
mod gate;
mod outcome;
mod packet;
mod rules;
mod scratch;
mod slow;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::trace;
use sg_common::{
    program::Target,
    verdict::{Reason, Verdict},
};

use crate::{
    audit::{Auditing, Off, On},
    bpf::{
        bytes::parsed,
        hook::{Hook, PULL},
        maps,
        tail_call::tail_call,
    },
    conntrack::{belongs, flows, table::hash_of, traits::Traits, unless_cut},
    outcome::Outcome,
    packet::Packet,
    scratch::Scratch,
    slow::{fragments, judge, parse::parse_frame, related},
};

// Inbound: at the driver, before the kernel has spent a socket buffer on the packet.

#[xdp(frags)]
#[inline(always)]
pub(crate) fn sg_inbound(ctx: XdpContext) -> u32 {
    xdp_verdict(decide(&ctx))
}

#[xdp(frags)]
pub(crate) fn sg_in_slow(ctx: XdpContext) -> u32 {
    xdp_verdict(decide_any::<_, Off>(&ctx))
}

#[xdp(frags)]
pub(crate) fn sg_in_slow_aud(ctx: XdpContext) -> u32 {
    xdp_verdict(decide_any::<_, On>(&ctx))
}

#[xdp(frags)]
pub(crate) fn sg_in_track(ctx: XdpContext) -> u32 {
    xdp_verdict(track::<_, Off>(&ctx))
}

#[xdp(frags)]
pub(crate) fn sg_in_track_aud(ctx: XdpContext) -> u32 {
    xdp_verdict(track::<_, On>(&ctx))
}

#[xdp(frags)]
pub(crate) fn sg_in_related(ctx: XdpContext) -> u32 {
    xdp_verdict(relate::<_, Off>(&ctx))
}

#[xdp(frags)]
pub(crate) fn sg_in_rel_aud(ctx: XdpContext) -> u32 {
    xdp_verdict(relate::<_, On>(&ctx))
}

#[xdp(frags)]
pub(crate) fn sg_in_event(ctx: XdpContext) -> u32 {
    xdp_verdict(events::write(&ctx))
}

/// In front of a policy that is not confirmed.
#[xdp(frags)]
pub(crate) fn sg_in_gate(ctx: XdpContext) -> u32 {
    xdp_verdict(gate::pass(&ctx))
}

// Outbound: after routing and source NAT, so that both hooks see the addresses on the wire.

#[classifier]
#[inline(always)]
pub(crate) fn sg_outbound(ctx: TcContext) -> i32 {
    tc_verdict(decide(&ctx))
}

#[classifier]
pub(crate) fn sg_out_slow(ctx: TcContext) -> i32 {
    tc_verdict(decide_any::<_, Off>(&ctx))
}

#[classifier]
pub(crate) fn sg_out_slow_aud(ctx: TcContext) -> i32 {
    tc_verdict(decide_any::<_, On>(&ctx))
}

#[classifier]
pub(crate) fn sg_out_track(ctx: TcContext) -> i32 {
    tc_verdict(track::<_, Off>(&ctx))
}

#[classifier]
pub(crate) fn sg_out_track_aud(ctx: TcContext) -> i32 {
    tc_verdict(track::<_, On>(&ctx))
}

#[classifier]
pub(crate) fn sg_out_related(ctx: TcContext) -> i32 {
    tc_verdict(relate::<_, Off>(&ctx))
}

#[classifier]
pub(crate) fn sg_out_rel_aud(ctx: TcContext) -> i32 {
    tc_verdict(relate::<_, On>(&ctx))
}

#[classifier]
pub(crate) fn sg_out_event(ctx: TcContext) -> i32 {
    tc_verdict(events::write(&ctx))
}

/// In front of a policy that is not confirmed.
#[classifier]
pub(crate) fn sg_out_gate(ctx: TcContext) -> i32 {
    tc_verdict(gate::pass(&ctx))
}

#[inline(always)]
fn xdp_verdict(is_accepted: bool) -> u32 {
    if is_accepted {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
}

#[inline(always)]
fn tc_verdict(is_accepted: bool) -> i32 {
    if is_accepted {
        // Not TC_ACT_OK: programs that others put on the same hook still get the packet.
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// The first program: plain packets, which are nearly all.
#[inline(always)]
fn decide<H: Hook>(hook: &H) -> bool {
    match fast::decide::decide(hook) {
        fast::decide::ACCEPTED => return true,
        fast::decide::DROPPED => return false,
        fast::decide::IS_TO_TRACK => tail_call(hook, Target::Track),
        _ => tail_call(hook, Target::Slow),
    }
    if maps::only_remembers() {
        return true;
    }
    // Counted here, and not from the per-CPU scratch: there is no packet in it.
    let outcome = Outcome::reason(H::DIRECTION, Reason::Incomplete);
    count::count(hook, 0, 0, &outcome);
    false
}

/// [`Target::Slow`]: any frame.
#[inline(always)]
fn decide_any<H: Hook, A: Auditing>(hook: &H) -> bool {
    let Some(scratch) = scratch::get::<H>() else {
        return maps::only_remembers();
    };
    let Scratch {
        packet, outcome, ..
    } = scratch;
    *packet = Packet::EMPTY;
    match parse(hook, packet) {
        parsed::IP => {
            let rest = judge::judge::<H, A>(packet, outcome);
            if rest != judge::DECIDED {
                scratch.traits = Traits::of(packet);
                scratch.hash = hash_of(packet.flow_key());
                (scratch.class, scratch.verdict) = judge::class_and_verdict(rest);
            }
            if judge::is_for_cut(rest) {
                let (hash, traits) = (scratch.hash, scratch.traits.0);
                let packed =
                    unless_cut::pass_unless_cut::<A>(packet, hash, traits, scratch.verdict);
                *outcome = Outcome::unpack(packed);
            } else if rest != judge::DECIDED {
                tail_call(hook, Target::Track);
                // The code behind a tail call runs only if the target is missing (SPEC A1).
                // The rules' verdict does not count then: an accepted packet would open no flow.
                outcome.set_reason(H::DIRECTION, Reason::Incomplete);
            } else if packet.is_error != 0 && !outcome.is_accepted::<A>() {
                tail_call(hook, Target::Related);
                outcome.set_reason(H::DIRECTION, Reason::Incomplete);
            }
            keep_if_first(packet, outcome);
        }
        parsed::LATER_FRAGMENT => {
            fragments::sg_follow_fragment(packet, outcome);
            if A::ON && maps::audits_all() {
                outcome.audit_if(H::DIRECTION, Reason::Fragment, Reason::FragmentAudited);
            }
        }
        parsed::OTHER if maps::passes_only_arp() => outcome.set_reason(
            H::DIRECTION,
            match A::ON && maps::audits_all() {
                true => Reason::NonIpAudited,
                false => Reason::NonIpDropped,
            },
        ),
        parsed::OTHER | parsed::ARP => outcome.set_reason(H::DIRECTION, Reason::NonIp),
        _ => outcome.set_reason(
            H::DIRECTION,
            match A::ON && maps::audits_everything() {
                true => Reason::MalformedAudited,
                false => Reason::Malformed,
            },
        ),
    }
    finish::<H, A>(hook, packet, outcome)
}

/// [`Target::Track`]: a packet whose fate the flow table knows, or that it has to remember.
#[inline(always)]
fn track<H: Hook, A: Auditing>(hook: &H) -> bool {
    let Some(scratch) = scratch::get::<H>() else {
        return maps::only_remembers();
    };
    // The first program leaves them in the traits only, and an event shows them.
    scratch.packet.tcp_flags = scratch.traits.tcp_flags();
    let (packet, traits) = (&scratch.packet, scratch.traits.0);
    let packed = flows::track::<A>(packet, scratch.hash, traits, scratch.class, scratch.verdict);
    scratch.outcome = match A::ON && packed == flows::BY_RULES {
        true => Outcome::ruled::<A>(Verdict(scratch.verdict)),
        false => Outcome::unpack(packed),
    };
    keep_if_first(packet, &scratch.outcome);
    finish::<H, A>(hook, packet, &scratch.outcome)
}

/// [`Target::Related`]: an ICMP error that no rule accepts.
#[inline(always)]
fn relate<H: Hook, A: Auditing>(hook: &H) -> bool {
    let Some(scratch) = scratch::get::<H>() else {
        return maps::only_remembers();
    };
    let (packet, outcome) = (&scratch.packet, &mut scratch.outcome);
    match related::relation::<H, A>(hook, packet) {
        belongs::NONE => (),
        // What the rules audit themselves stays theirs.
        belongs::TO_AUDITED if A::ON => {
            if !outcome.passes() {
                outcome.set_reason(H::DIRECTION, Reason::RelatedAudited);
            }
        }
        _ => outcome.set_reason(H::DIRECTION, Reason::Related),
    }
    keep_if_first(packet, outcome);
    finish::<H, A>(hook, packet, outcome)
}

/// Parses a frame, one of whose headers may have to be fetched first.
#[inline(always)]
fn parse<H: Hook>(hook: &H, packet: &mut Packet) -> u32 {
    let found = parse_frame(hook, packet);
    if found == parsed::UNREADABLE && hook.pull(PULL) {
        return parse_frame(hook, packet);
    }
    found
}

#[inline(always)]
fn keep_if_first(packet: &Packet, outcome: &Outcome) {
    if packet.is_first_fragment() {
        fragments::sg_keep_fragment(packet, outcome);
    }
}

/// Every frame that is enforced ends in exactly one outcome: counts it, and goes on to write its
/// event if it may have one.
#[inline(always)]
fn finish<H: Hook, A: Auditing>(hook: &H, packet: &Packet, outcome: &Outcome) -> bool {
    if maps::only_remembers() {
        return true;
    }
    let bytes = count::count(hook, packet.claimed, packet.headers, outcome);
    trace!(
        hook,
        "direction {} accept {} slot {}",
        H::DIRECTION as u8,
        u8::from(outcome.passes()),
        outcome.slot
    );
    events::emit::<H, A>(hook, packet, outcome, bytes);
    outcome.passes()
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // No panic is reachable (the verifier would reject the loop); the compiler asks for this.
    loop {}
}

/// The kernel reads this section; several helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
