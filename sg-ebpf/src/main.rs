//! The packet path: packet → class → verdict → count. Two entry points, one for each direction.
//! Order of the rooms: `packet` parses, `classify` asks the rules, `flows` remembers, `count` counts.
#![no_std]
#![no_main]

mod classify;
mod count;
mod family;
mod flows;
mod hook;
mod maps;
mod packet;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::trace;
use sg_common::verdict::Reason;

use crate::{
    classify::Outcome,
    hook::Hook,
    packet::{Packet, parsed},
};

/// Inbound: at the driver, before the kernel has spent a socket buffer on the packet.
#[xdp(frags)]
pub(crate) fn sg_inbound(ctx: XdpContext) -> u32 {
    let outcome = decide(&ctx);
    count::count(&ctx, &outcome);
    if outcome.accept {
        trace!(&ctx, "inbound accept, slot {}", outcome.slot);
        xdp_action::XDP_PASS
    } else {
        trace!(&ctx, "inbound drop, slot {}", outcome.slot);
        xdp_action::XDP_DROP
    }
}

/// Outbound: after routing and source NAT, so that both hooks see the addresses on the wire.
#[classifier]
pub(crate) fn sg_outbound(ctx: TcContext) -> i32 {
    let outcome = decide(&ctx);
    count::count(&ctx, &outcome);
    if outcome.accept {
        trace!(&ctx, "outbound accept, slot {}", outcome.slot);
        // Not TC_ACT_OK: programs that others put on the same hook still get the packet.
        TC_ACT_UNSPEC
    } else {
        trace!(&ctx, "outbound drop, slot {}", outcome.slot);
        TC_ACT_SHOT
    }
}

/// Bytes made readable for a second try when headers lie outside the first buffer: more than
/// Ethernet with two tags and the longest IPv4 and TCP headers take.
const PULL: u32 = 256;

/// Every frame ends in exactly one outcome.
#[inline(always)]
fn decide<H: Hook>(hook: &H) -> Outcome {
    let mut packet = Packet::EMPTY;
    let mut found = hook.parse(&mut packet);
    if found == parsed::UNREADABLE {
        found = if hook.pull(PULL) {
            hook.parse(&mut packet)
        } else {
            parsed::MALFORMED
        };
    }
    match found {
        parsed::IP => classify::judge_packet(H::DIRECTION, &packet),
        parsed::OTHER => Outcome::reason(H::DIRECTION, Reason::NonIp),
        parsed::FRAGMENT => Outcome::reason(H::DIRECTION, Reason::Fragment),
        _ => Outcome::reason(H::DIRECTION, Reason::Malformed),
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
