//! Programs that the benchmarks put around the packet path. `generate_*` rewrites a frame and sends
//! it on. `prologue_*` rewrites it and tail-calls the program under test. `turn` sends what was
//! received out of another interface. `floor_*` are the empty programs that rows are compared with.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::bpf_redirect,
    macros::{classifier, map, xdp},
    maps::{Array, ProgramArray},
    programs::{TcContext, XdpContext},
};
use sg_bench_ebpf::{FLOW_REMOTE_PORT, FRAME, FRAME6, LOCAL4, Target, flow_address, flow_port};

/// The first target is drawn by whatever share is not drawn from the others.
#[map(name = "bench_targets")]
static TARGETS: Array<Target> = Array::with_max_entries(1, 0);

/// The program that a prologue tail-calls.
#[map(name = "bench_programs")]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// State of the random numbers. The programs run on one core at a time.
#[map(name = "bench_state")]
static STATE: Array<u64> = Array::with_max_entries(1, 0);

/// The interface that generated or turned frames leave by.
#[unsafe(no_mangle)]
static BENCH_IFINDEX: u32 = 0;
/// Targets besides the first.
#[unsafe(no_mangle)]
static BENCH_TARGETS: u32 = 0;
/// How many of 65536 packets go to one of the targets.
#[unsafe(no_mangle)]
static BENCH_SHARE: u32 = 0;
/// Sum of the IPv4 header's words, without those that the programs rewrite.
#[unsafe(no_mangle)]
static BENCH_SUM: u32 = 0;
/// In how many flows replies are sent.
#[unsafe(no_mangle)]
static BENCH_FLOWS: u32 = 1;

macro_rules! constant {
    ($name:ident) => {
        // SAFETY: a live static of plain data; nothing writes it once the program is loaded.
        // Volatile, because the compiler would otherwise fold in the default.
        unsafe { core::ptr::read_volatile(&raw const $name) }
    };
}

// Offsets in a frame without VLAN tags.
const PROTOCOL4: usize = 14 + 9;
const SUM4: usize = 14 + 10;
const SOURCE4: usize = 14 + 12;
const PORTS4: usize = 14 + 20;
const NEXT6: usize = 14 + 6;
const SOURCE6: usize = 14 + 8;
const PORTS6: usize = 14 + 40;

/// The start of a frame of at least `len` bytes.
#[inline(always)]
fn frame(ctx: &XdpContext, len: usize) -> Option<*mut u8> {
    (ctx.data() + len <= ctx.data_end()).then_some(ctx.data() as *mut u8)
}

/// Writes a value that may lie at an odd place.
#[inline(always)]
fn put<T>(frame: *mut u8, offset: usize, value: T) {
    // SAFETY: every offset used lies within the length that `frame` has checked.
    unsafe { frame.add(offset).cast::<T>().write_unaligned(value) }
}

/// Two random words.
#[inline(always)]
fn random() -> Option<(u64, u64)> {
    let state = STATE.get_ptr_mut(0)?;
    // SAFETY: the map's only value, written on one core at a time.
    let mut x = unsafe { *state };
    let mut step = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let words = (step(), step());
    // SAFETY: as above.
    unsafe { *state = x };
    Some(words)
}

#[inline(always)]
fn target(random: u64) -> Option<&'static Target> {
    let mut index = 0;
    if (random & 0xffff) < u64::from(constant!(BENCH_SHARE)) {
        index = 1 + ((u64::from(constant!(BENCH_TARGETS)) * (random >> 32)) >> 32) as u32;
    }
    TARGETS.get(index)
}

/// Destination and source port in the order of the wire.
#[inline(always)]
fn ports(target: &Target, random: u64) -> u32 {
    let port = target.port_base + (((random & 0xffff) as u32 * target.port_span) >> 16);
    let destination = (port | target.port_or) as u16;
    let source = (random >> 16) as u16 | 1024;
    u32::from(source.to_be()) | u32::from(destination.to_be()) << 16
}

/// Checksum and source of an IPv4 header.
#[inline(always)]
fn put_source4(frame: *mut u8, source: u32, protocol: u32) {
    let mut sum = constant!(BENCH_SUM) + protocol + (source >> 16) + (source & 0xffff);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    put(frame, SUM4, (!sum as u16).to_be());
    put(frame, PROTOCOL4, protocol as u8);
    put(frame, SOURCE4, source.to_be());
}

#[inline(always)]
fn random4(ctx: &XdpContext) -> Option<()> {
    let frame = frame(ctx, FRAME)?;
    let (first, second) = random()?;
    let target = target(second)?;
    let source = target.base[0] | (first as u32 & target.mask[0]);
    put_source4(frame, source, target.protocol);
    put(frame, PORTS4, ports(target, first >> 32));
    Some(())
}

#[inline(always)]
fn random6(ctx: &XdpContext) -> Option<()> {
    let frame = frame(ctx, FRAME6)?;
    let (first, second) = random()?;
    let target = target(second)?;
    let (third, _) = random()?;
    let words = [
        first as u32,
        (first >> 32) as u32,
        third as u32,
        (third >> 32) as u32,
    ];
    let mut i = 0;
    while i < 4 {
        let word = target.base[i] | (words[i] & target.mask[i]);
        put(frame, SOURCE6 + 4 * i, word.to_be());
        i += 1;
    }
    put(frame, NEXT6, target.protocol as u8);
    put(frame, PORTS6, ports(target, second ^ third));
    Some(())
}

/// The answer of a flow drawn at random.
#[inline(always)]
fn reply4(ctx: &XdpContext) -> Option<()> {
    let frame = frame(ctx, FRAME)?;
    let (first, _) = random()?;
    let index = ((u64::from(constant!(BENCH_FLOWS)) * (first >> 32)) >> 32) as u32;
    let source = flow_address(index);
    put_source4(frame, source, 17);
    let ports = u32::from(FLOW_REMOTE_PORT.to_be()) | u32::from(flow_port(source).to_be()) << 16;
    put(frame, PORTS4, ports);
    Some(())
}

#[inline(always)]
fn send(written: Option<()>) -> u32 {
    match written {
        Some(()) => {
            let interface = constant!(BENCH_IFINDEX);
            // SAFETY: no pointers.
            unsafe { bpf_redirect(interface, 0) as u32 }
        }
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn call_program(ctx: &XdpContext, written: Option<()>) -> u32 {
    if written.is_some() {
        // SAFETY: on success it does not return.
        unsafe { PROGRAMS.tail_call(ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[xdp(frags)]
pub(crate) fn generate_random4(ctx: XdpContext) -> u32 {
    send(random4(&ctx))
}

#[xdp(frags)]
pub(crate) fn generate_random6(ctx: XdpContext) -> u32 {
    send(random6(&ctx))
}

#[xdp(frags)]
pub(crate) fn generate_reply4(ctx: XdpContext) -> u32 {
    send(reply4(&ctx))
}

#[xdp(frags)]
pub(crate) fn prologue_random4(ctx: XdpContext) -> u32 {
    call_program(&ctx, random4(&ctx))
}

#[xdp(frags)]
pub(crate) fn prologue_random6(ctx: XdpContext) -> u32 {
    call_program(&ctx, random6(&ctx))
}

#[xdp(frags)]
pub(crate) fn prologue_reply4(ctx: XdpContext) -> u32 {
    call_program(&ctx, reply4(&ctx))
}

#[xdp(frags)]
pub(crate) fn floor_drop(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Drops every packet too, but looks at its addresses first.
#[xdp(frags)]
pub(crate) fn touch(ctx: XdpContext) -> u32 {
    let Some(frame) = frame(&ctx, SOURCE4 + 8) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: `frame` has compared it with the end of the packet, where BPF may read at any
    // address.
    let addresses = unsafe { frame.add(SOURCE4).cast::<u64>().read_unaligned() };
    // No packet has none.
    if addresses == 0 {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
}

#[xdp(frags)]
pub(crate) fn floor_pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Where packets that a row lets pass end, before the network stack or the driver sees them. The
/// kernel takes a program once at each hook: [`floor_tc_drop`] may stand before it.
#[classifier]
pub(crate) fn sink(_: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// Drops every packet at a tc hook.
#[classifier]
pub(crate) fn floor_tc_drop(_: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// Passes every packet at a tc hook; programs behind it on the same hook still get it, as behind
/// the enforcer's.
#[classifier]
pub(crate) fn floor_tc_pass(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Makes a received packet an outbound one and sends it out of another interface: it comes from the
/// node and goes to where it came from. That leaves its checksums as they are. The ports stay, so
/// that the target's port is still the destination port. The node's address is not taken from the
/// packet, because the kernel uses the memory of a frame again, and the generator writes its source
/// only.
#[classifier]
pub(crate) fn turn(ctx: TcContext) -> i32 {
    if ctx.data() + SOURCE4 + 8 > ctx.data_end() {
        return TC_ACT_SHOT;
    }
    let interface = constant!(BENCH_IFINDEX);
    // SAFETY: compared with the end of the packet just now; BPF may read and write at any address.
    unsafe {
        let source = (ctx.data() + SOURCE4) as *mut u32;
        let remote = source.read_unaligned();
        source.write_unaligned(u32::from_ne_bytes(LOCAL4));
        source.add(1).write_unaligned(remote);
        bpf_redirect(interface, 0) as i32
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // No panic is reachable (the verifier would reject the loop); the compiler asks for this.
    loop {}
}

/// The kernel reads this section.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
