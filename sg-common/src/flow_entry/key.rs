//! The tuple that names a flow.

/// What names a flow: (local, remote), never (source, destination). The hook knows its direction,
/// so one key serves both directions and nothing is ever swapped. The first two address words are
/// the local address, the others the remote one; IPv4's take half of the first word each. Bytes
/// in memory are those on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Two words for each end, as above; those that IPv4 does not use are zero.
    pub addresses: [u64; 4],
    /// From the lowest bit on: the local port and the remote one, 16 bits each, the protocol, 8
    /// bits, and 1 for IPv6. For ICMP queries the local port is the identifier and the remote one
    /// the type of the request, plus 256 if requests come in; protocols without ports have zero
    /// in both.
    pub name: u64,
}

impl FlowKey {
    /// Set in the name of an IPv6 flow.
    pub const IS_V6: u64 = 1 << 40;

    /// The word of [`FlowKey::name`]. Ports are in host order.
    #[inline(always)]
    pub const fn name(local_port: u16, remote_port: u16, protocol: u8, is_v6: bool) -> u64 {
        let ports = local_port as u64 | (remote_port as u64) << 16;
        let family = if is_v6 { Self::IS_V6 } else { 0 };
        ports | (protocol as u64) << 32 | family
    }

    /// In host order.
    #[inline(always)]
    pub const fn local_port(&self) -> u16 {
        self.name as u16
    }

    /// In host order.
    #[inline(always)]
    pub const fn remote_port(&self) -> u16 {
        (self.name >> 16) as u16
    }

    /// The IP protocol.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.name >> 32) as u8
    }

    /// Whether the addresses are IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.name & Self::IS_V6 != 0
    }

    /// Two words of an address as one.
    #[inline(always)]
    pub const fn pair(first: u32, second: u32) -> u64 {
        first as u64 | (second as u64) << 32
    }
}
