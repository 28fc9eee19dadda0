//! What the benchmark and its BPF programs must agree on: the frames, and where random packets go.
#![no_std]

/// Bytes of a frame: 64 on the wire, less the frame check sequence.
pub const FRAME: usize = 60;
/// The same for IPv6, whose header and a TCP header do not fit in less.
pub const FRAME6: usize = 74;

/// The address of the node: where generated packets go, or what they come from once they are
/// turned.
pub const LOCAL4: [u8; 4] = [10, 10, 0, 2];

/// Where packets come from and which ports they are for: one of these is drawn for each packet.
/// Numbers are in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Target {
    /// Bits of the source address that are fixed; IPv4 uses the first word.
    pub base: [u32; 4],
    /// Bits of the source address that are random.
    pub mask: [u32; 4],
    /// Destination ports: `port_base + random below port_span`, with the bits of `port_or` set.
    pub port_base: u32,
    pub port_span: u32,
    pub port_or: u32,
    /// Zero keeps the protocol of the frame.
    pub protocol: u32,
}

impl Target {
    pub const WORDS: usize = size_of::<Target>() / size_of::<u32>();
}

/// The remote address of the `index`-th flow, in 64.0.0.0/2: another for each index below 2³⁰, and
/// no pattern that a hash function could profit from.
pub const fn flow_address(index: u32) -> u32 {
    const BITS: u32 = (1 << 30) - 1;
    let mut x = index & BITS;
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d) & BITS;
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b) & BITS;
    0x4000_0000 | (x ^ (x >> 16))
}

/// The local port of the flow with that remote address, above the well-known ones.
pub const fn flow_port(address: u32) -> u16 {
    (32768 + (address.wrapping_mul(0x9e37_79b1) >> 18)) as u16
}

/// The remote port of every flow.
pub const FLOW_REMOTE_PORT: u16 = 443;
