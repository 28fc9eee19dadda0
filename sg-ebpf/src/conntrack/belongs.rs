//! Whether a packet that an ICMP error quotes belongs to a flow (SPEC K8). Nothing is changed.

use sg_common::{
    flow_entry::audits,
    flow_table::{Found, Word as _},
    ruling::{Ruling, has_ended, rule_on_live},
};

use super::table::{find, hash_of, is_expired};
use super::traits::Traits;
use crate::bpf::clock::now;
use crate::bpf::maps;
use crate::bpf::word::SharedWord;
use crate::packet::Packet;
use crate::rules::ask;

// What the packet is about that the error quotes.

/// Nothing of this node.
pub(crate) const NONE: u32 = 0;
/// A flow, or what the rules accept.
pub(crate) const TO_ACCEPTED: u32 = 1;
/// What passes only because it is watched (SPEC C9).
pub(crate) const TO_AUDITED: u32 = 2;

/// Whether `p`, a packet that was quoted and that the rules do not accept, belongs to a live flow
/// which the policy admits; 1 if so. Changes nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_belongs(p: *const Packet, class: u32) -> u32 {
    if p.is_null() || !maps::has_flows() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes a whole packet on its stack.
    let p = unsafe { &*p };
    let mut found = Found::NOTHING;
    let key = p.flow_key();
    if find(key, hash_of(key), &mut found) == 0 {
        return 0;
    }
    let (entry, policy) = (&found.contents, maps::InForce);
    if SharedWord::opaque(is_expired(entry.head, now()) | has_ended::<SharedWord>(entry, &policy))
        != 0
    {
        return 0;
    }
    // The rules do not accept it: see `sg_is_related`.
    match rule_on_live(entry, &Traits::of(p).about(0), &policy) {
        Ruling::Revoked => 0,
        Ruling::JudgedAgain => {
            let opposite = p.direction().opposite();
            ask(class, opposite, p.kind, p.return_number).accept_bit()
        }
        _ => 1,
    }
}

/// As [`sg_belongs`], for a policy that audits: one of [`NONE`] and those after it. Whatever the
/// rules audit of it, a flow that they admit comes first.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_belongs_audited(p: *const Packet, class: u32) -> u32 {
    if p.is_null() {
        return NONE;
    }
    // SAFETY: not null, and the only caller passes a whole packet on its stack.
    let p = unsafe { &*p };
    let by_rules = ask(class, p.direction(), p.kind, p.number).audit_bit() * TO_AUDITED;
    let mut found = Found::NOTHING;
    let key = p.flow_key();
    if find(key, hash_of(key), &mut found) == 0 {
        return by_rules;
    }
    let (entry, policy) = (&found.contents, maps::InForce);
    if SharedWord::opaque(is_expired(entry.head, now()) | has_ended::<SharedWord>(entry, &policy))
        != 0
    {
        return by_rules;
    }
    let of_flow = TO_ACCEPTED + audits(entry.rule) as u32;
    match rule_on_live(entry, &Traits::of(p).about(0), &policy) {
        Ruling::Revoked => by_rules,
        Ruling::JudgedAgain => {
            let opposite = p.direction().opposite();
            let verdict = ask(class, opposite, p.kind, p.return_number);
            match verdict.is_accept() {
                true => TO_ACCEPTED,
                false => by_rules | (verdict.audit_bit() * TO_AUDITED),
            }
        }
        _ => of_flow,
    }
}
