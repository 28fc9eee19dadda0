//! IPv4 and IPv6 behind one trait, so that everything above the addresses is written once.

use aya_ebpf::maps::LruHashMap;
use sg_common::{
    flow::{FlowKey4, FlowKey6, FlowValue},
    tables::{Kind, walk16},
};

use crate::{
    maps::{self, KernelTables},
    packet::Packet,
};

// Message types of RFC 4861, RFC 2710 and RFC 3810.
const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;
const MLD_QUERY: u8 = 130;
const MLD_DONE: u8 = 132;
const MLD2_REPORT: u8 = 143;

/// First ten bits of fe80::/10.
const LINK_LOCAL: u32 = 0xfe80 >> 6;

pub(crate) trait Family {
    type Key: Copy + 'static;

    /// The address class; `None` if the tables are not there.
    fn class(packet: &Packet) -> Option<u32>;

    fn key(packet: &Packet) -> Self::Key;

    fn flows() -> &'static LruHashMap<Self::Key, FlowValue>;

    /// SPEC K5, but for the fragment check. `source` is the sender's address, `ports` are the
    /// sender's and the receiver's.
    fn is_essential(packet: &Packet, source: &[u32; 4], ports: (u16, u16)) -> bool;
}

pub(crate) struct V4;

impl Family for V4 {
    type Key = FlowKey4;

    #[inline(always)]
    fn class(p: &Packet) -> Option<u32> {
        let address = u32::from_be(p.remote[0]);
        let entry = maps::root4()?[(address >> 16) as usize];
        walk16(&KernelTables, entry, address as u16)
    }

    #[inline(always)]
    fn key(p: &Packet) -> FlowKey4 {
        FlowKey4 {
            local: p.local[0],
            remote: p.remote[0],
            local_port: p.local_port,
            remote_port: p.remote_port,
            protocol: p.protocol,
            zero: [0; 3],
        }
    }

    #[inline(always)]
    fn flows() -> &'static LruHashMap<FlowKey4, FlowValue> {
        &maps::FLOWS4
    }

    /// A DHCP server's answer (RFC 2131): 67 → 68.
    #[inline(always)]
    fn is_essential(p: &Packet, _source: &[u32; 4], ports: (u16, u16)) -> bool {
        p.is_kind(Kind::Udp) && ports == (67, 68)
    }
}

pub(crate) struct V6;

impl Family for V6 {
    type Key = FlowKey6;

    #[inline(always)]
    fn class(p: &Packet) -> Option<u32> {
        Some(maps::class6(p.remote))
    }

    #[inline(always)]
    fn key(p: &Packet) -> FlowKey6 {
        FlowKey6 {
            local: p.local,
            remote: p.remote,
            local_port: p.local_port,
            remote_port: p.remote_port,
            protocol: p.protocol,
            zero: [0; 3],
        }
    }

    #[inline(always)]
    fn flows() -> &'static LruHashMap<FlowKey6, FlowValue> {
        &maps::FLOWS6
    }

    /// Neighbour discovery that no router can have forwarded (RFC 4861: hop limit 255), MLD from
    /// a link-local address, a DHCPv6 server's answer (RFC 8415): 547 → 546.
    #[inline(always)]
    fn is_essential(p: &Packet, source: &[u32; 4], ports: (u16, u16)) -> bool {
        if p.is_kind(Kind::Udp) {
            return ports == (547, 546);
        }
        p.is_kind(Kind::Icmp)
            && match (p.number >> 8) as u8 {
                ROUTER_SOLICITATION..=REDIRECT => p.hop_limit == 255,
                MLD_QUERY..=MLD_DONE | MLD2_REPORT => {
                    u32::from_be(source[0]) >> 22 == LINK_LOCAL
                }
                _ => false,
            }
    }
}
