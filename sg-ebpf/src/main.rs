//! The packet path: packet → class → verdict → count. Two entry points, one for each direction.
//! Order of the rooms: `quick` decides plain packets by itself; for all others `packet` parses,
//! `classify` asks the rules, `flows` (in the table of `flow_maps`) and `fragments` remember, `quoted`
//! looks into ICMP errors, `count` counts, `events` tells.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// Only `word.rs` uses them: nothing else makes atomic instructions for this target.
#![allow(internal_features)]
#![feature(core_intrinsics)]

mod classify;
mod clock;
mod count;
mod events;
mod extension;
mod family;
mod flow_maps;
mod flows;
mod fragments;
mod hook;
mod maps;
mod outcome;
mod packet;
mod quick;
mod quick_flow;
mod quoted;
mod verifier;
mod word;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::trace;
use sg_common::verdict::Reason;

use crate::{
    hook::Hook,
    outcome::Outcome,
    packet::{Packet, parsed},
};

/// Inbound: at the driver, before the kernel has spent a socket buffer on the packet.
#[xdp(frags)]
pub(crate) fn sg_inbound(ctx: XdpContext) -> u32 {
    if is_accepted(&ctx) {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
}

/// Outbound: after routing and source NAT, so that both hooks see the addresses on the wire.
#[classifier]
pub(crate) fn sg_outbound(ctx: TcContext) -> i32 {
    if is_accepted(&ctx) {
        // Not TC_ACT_OK: programs that others put on the same hook still get the packet.
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// Bytes made readable for a second try when headers lie outside the first buffer: more than the
/// longest chain of eight IPv6 extension headers takes. Few frames have their headers there.
pub(crate) const PULL: u32 = 17 << 10;

/// Decides a frame, counts it, and writes its event if it is to have one.
#[inline(always)]
fn is_accepted<H: Hook>(hook: &H) -> bool {
    match quick::decide(hook) {
        quick::ACCEPTED => true,
        quick::DROPPED => false,
        _ => hook.decide_thoroughly(),
    }
}

/// The long way, of any frame.
#[inline(always)]
pub(crate) fn decide_thoroughly<H: Hook>(hook: &H) -> bool {
    let mut packet = Packet::EMPTY;
    let mut outcome = Outcome::EMPTY;
    decide(hook, &mut packet, &mut outcome);
    let bytes = count::count(hook, packet.claimed, packet.headers, &outcome);
    if maps::has_logging_rules() && outcome.is_logged() {
        events::emit(&packet, H::DIRECTION, &outcome, bytes);
    }
    trace!(
        hook,
        "direction {} accept {} slot {}",
        H::DIRECTION as u8,
        u8::from(outcome.is_accepted()),
        outcome.slot
    );
    outcome.is_accepted()
}

/// Every frame ends in exactly one outcome.
#[inline(always)]
fn decide<H: Hook>(hook: &H, packet: &mut Packet, outcome: &mut Outcome) {
    let mut found = hook.parse(packet);
    if found == parsed::UNREADABLE && hook.pull(PULL) {
        found = hook.parse(packet);
    }
    match found {
        parsed::IP => {
            let rest = H::judge(packet, outcome);
            classify::finish(packet, rest, outcome);
            if packet.is_error != 0 && !outcome.is_accepted() && hook.is_related(packet) {
                outcome.set_reason(H::DIRECTION, Reason::Related);
            }
            if packet.is_first_fragment() {
                fragments::sg_keep_fragment(packet, outcome);
            }
        }
        parsed::LATER_FRAGMENT => {
            fragments::sg_follow_fragment(packet, outcome);
        }
        parsed::OTHER => outcome.set_reason(H::DIRECTION, Reason::NonIp),
        _ => outcome.set_reason(H::DIRECTION, Reason::Malformed),
    }
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
