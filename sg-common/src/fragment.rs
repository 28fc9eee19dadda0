//! What is remembered of the first fragment of an IP datagram, so that the later ones follow it.
//! RFC 791 section 3.2 and RFC 8200 section 4.5 name a datagram by addresses, protocol and number.

/// Names an IPv4 datagram that crosses the interface in one direction. An address is the word
/// whose bytes in memory are those on the wire; the identification is in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey4 {
    /// The node's end.
    pub local: u32,
    /// The other end.
    pub remote: u32,
    /// The number that all fragments of the datagram carry.
    pub identification: u32,
    /// The protocol; for IPv6 what the fragment header says comes next.
    pub protocol: u8,
    /// A `Direction`.
    pub direction: u8,
    /// Always zero: there is no padding.
    pub zero: [u8; 2],
}

/// Names an IPv6 datagram; fields as in [`FragmentKey4`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey6 {
    /// As for IPv4.
    pub local: [u32; 4],
    /// As for IPv4.
    pub remote: [u32; 4],
    /// As for IPv4, of all 32 bits.
    pub identification: u32,
    /// As for IPv4.
    pub protocol: u8,
    /// As for IPv4.
    pub direction: u8,
    /// Always zero: there is no padding.
    pub zero: [u8; 2],
}

/// How the first fragment was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentValue {
    /// When it was seen: `CLOCK_MONOTONIC` nanoseconds (coarse).
    pub seen: u64,
    /// Counter slot that it was counted in.
    pub slot: u32,
    /// [`FragmentValue::ACCEPT`] and those after it.
    pub flags: u32,
}

impl FragmentValue {
    /// It passed.
    pub const ACCEPT: u32 = 1;
    /// Counted as a reply of the slot's rule.
    pub const REPLY: u32 = 2;
    /// It passed only because what would be dropped is watched (SPEC C9), and so do the later ones,
    /// which leave events too.
    pub const AUDIT: u32 = 8;
    /// All bits.
    pub const FLAGS: u32 = Self::ACCEPT | Self::REPLY | Self::AUDIT;
}

/// Bytes that a later fragment must leave to the first one: what TCP (RFC 9293 section 3.1) and
/// SCTP (RFC 9260 section 3.1) begin with. One that starts inside them would overwrite what was
/// judged (RFC 1858 section 3); the eight bytes of UDP and ICMP fit into every first fragment.
pub const TCP_HEADER: usize = 20;
/// As [`TCP_HEADER`], of SCTP.
pub const SCTP_HEADER: usize = 12;

/// The longest datagram that its fragments may build (RFC 791 section 3.1).
pub const LONGEST_DATAGRAM: usize = 65_535;

const _: () = assert!(size_of::<FragmentKey4>() == 16);
const _: () = assert!(size_of::<FragmentKey6>() == 40);
const _: () = assert!(size_of::<FragmentValue>() == 16);

// SAFETY: integers and byte arrays without padding; every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FragmentKey4 {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FragmentKey6 {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FragmentValue {}
