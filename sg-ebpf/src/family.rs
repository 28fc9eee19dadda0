//! Where IPv4 and IPv6 differ: the address lookup, the flow table, essential traffic. Everything
//! else is written, and checked by the verifier, once.

use aya_ebpf::bindings::BPF_NOEXIST;
use sg_common::{
    flow::{FlowKey4, FlowKey6, FlowValue},
    tables::{Kind, walk16},
};

use crate::{
    maps::{self, FLOWS4, FLOWS6, KernelTables},
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

/// The class of the remote address; `None` if the tables are not there.
#[inline(always)]
pub(crate) fn class(p: &Packet) -> Option<u32> {
    if p.is_v6() {
        return Some(maps::class6(p.remote));
    }
    let address = u32::from_be(p.remote[0]);
    let entry = maps::root4()?[(address >> 16) as usize];
    walk16(&KernelTables, entry, address as u16)
}

#[inline(always)]
fn key4(p: &Packet) -> FlowKey4 {
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
fn key6(p: &Packet) -> FlowKey6 {
    FlowKey6 {
        local: p.local,
        remote: p.remote,
        local_port: p.local_port,
        remote_port: p.remote_port,
        protocol: p.protocol,
        zero: [0; 3],
    }
}

/// The entry of the packet's flow.
#[inline(always)]
pub(crate) fn flow(p: &Packet) -> Option<*mut FlowValue> {
    if p.is_v6() {
        FLOWS6.get_ptr_mut(key6(p))
    } else {
        FLOWS4.get_ptr_mut(key4(p))
    }
}

/// Enters the packet's flow. When another CPU was faster its entry serves as well; a full table
/// evicts. Neither is a reason to drop a packet that the rules accept.
#[inline(always)]
pub(crate) fn insert_flow(p: &Packet, value: &FlowValue) {
    let _ = if p.is_v6() {
        FLOWS6.insert(key6(p), value, BPF_NOEXIST.into())
    } else {
        FLOWS4.insert(key4(p), value, BPF_NOEXIST.into())
    };
}

/// Forgets the packet's flow; it may be gone already.
#[inline(always)]
pub(crate) fn remove_flow(p: &Packet) {
    let _ = if p.is_v6() {
        FLOWS6.remove(key6(p))
    } else {
        FLOWS4.remove(key4(p))
    };
}

/// SPEC K5, but for the fragment check: a DHCP server's answer (RFC 2131: 67 → 68, RFC 8415:
/// 547 → 546); neighbour discovery that no router can have forwarded (RFC 4861: hop limit 255);
/// MLD from a link-local address. `source` is the sender's address, `ports` are the sender's and
/// the receiver's.
#[inline(always)]
pub(crate) fn is_essential(p: &Packet, source: &[u32; 4], ports: (u16, u16)) -> bool {
    if p.is_kind(Kind::Udp) {
        return ports == if p.is_v6() { (547, 546) } else { (67, 68) };
    }
    p.is_v6()
        && p.is_kind(Kind::Icmp)
        && match (p.number >> 8) as u8 {
            ROUTER_SOLICITATION..=REDIRECT => p.hop_limit == 255,
            MLD_QUERY..=MLD_DONE | MLD2_REPORT => u32::from_be(source[0]) >> 22 == LINK_LOCAL,
            _ => false,
        }
}
