//! ICMP errors: whether one is about traffic of this node (SPEC K8).

use super::quoted;
use crate::{
    audit::{Auditing, Off, On},
    bpf::{
        hook::{Hook, PULL},
        twins::twins,
    },
    classes,
    conntrack::belongs,
    packet::Packet,
    rules::ask,
};
use sg_common::verdict::Direction;

/// What `error`, an ICMP error that no rule accepts, is about: one of [`belongs::NONE`] and those
/// after it.
#[inline(always)]
pub(crate) fn relation<H: Hook, A: Auditing>(hook: &H, error: *const Packet) -> u32 {
    match A::ON {
        true => relates_audited(hook, error),
        false => relates(hook, error),
    }
}

twins! {
    /// See [`is_related`].
    fn relates(error: *const Packet) -> u32 = of_accepting as sg_relates_xdp, sg_relates_tc;
    /// The same, for a policy that audits.
    fn relates_audited(error: *const Packet) -> u32 = of_auditing as sg_rel_aud_xdp, sg_rel_aud_tc;
}

#[inline(always)]
fn of_accepting<H: Hook>(hook: &H, error: *const Packet) -> u32 {
    is_related::<H, Off>(hook, error)
}

#[inline(always)]
fn of_auditing<H: Hook>(hook: &H, error: *const Packet) -> u32 {
    is_related::<H, On>(hook, error)
}

/// Whether `error`, which no rule accepts, is about traffic of this node (SPEC K8): one of
/// [`belongs::NONE`] and those after it. Nothing is malformed here: a quotation that cannot be read
/// relates to nothing.
#[inline(always)]
fn is_related<H: Hook, A: Auditing>(hook: &H, error: *const Packet) -> u32 {
    if error.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes a whole packet.
    let error = unsafe { &*error };
    // Errors are rare, so that the bytes are made readable whether or not they are already. The
    // mask changes nothing, since headers take less than 17 KiB; the verifier of Linux 6.12 loses
    // the bounds of a number to which something was added that might overflow.
    hook.pull((error.headers & 0x7fff) + PULL);
    let mut quoted = Packet::EMPTY;
    match quoted::parse(hook, error, &mut quoted) {
        Ok(()) if A::ON => match sg_is_related(error, &quoted) {
            rest if rest & ASK_WHETHER_IT_BELONGS != 0 => {
                belongs::sg_belongs_audited(&quoted, rest as u32)
            }
            known => known as u32,
        },
        Ok(()) => match sg_is_related(error, &quoted) {
            rest if rest & ASK_WHETHER_IT_BELONGS != 0 => belongs::sg_belongs(&quoted, rest as u32),
            known => known as u32,
        },
        Err(_) => 0,
    }
}

/// SPEC K8: whether an ICMP error that no rule accepts is about something that the node does send
/// or receive. `quoted` is the packet in it, which travelled the other way. 1 if so, 0 if not, or
/// else [`ASK_WHETHER_IT_BELONGS`] and the class.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_is_related(error: *const Packet, quoted: *const Packet) -> u64 {
    if error.is_null() || quoted.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes whole values.
    let (error, quoted) = unsafe { (&*error, &*quoted) };
    // An error goes to the sender of the packet that it is about: inbound to the quoted packet's
    // local end, outbound to its remote one. It may come from any router on the way, and
    // outbound also from this node as a router or from what is behind it. As
    // nf_conntrack_inet_error in net/netfilter/nf_conntrack_proto_icmp.c.
    let direction = quoted.direction();
    let (to, sender) = match direction {
        Direction::Inbound => (&error.remote, &quoted.remote),
        Direction::Outbound => (&error.local, &quoted.local),
    };
    let [a, b, c, d] = *to;
    let [e, f, g, h] = *sender;
    if (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) != 0 {
        return 0;
    }
    let class = classes::sg_class(quoted);
    if ask(class, direction, quoted.kind, quoted.number).is_accept() {
        return 1;
    }
    ASK_WHETHER_IT_BELONGS | u64::from(class)
}

/// What [`sg_is_related`] returns above a class unless it knows.
const ASK_WHETHER_IT_BELONGS: u64 = 1 << 32;
