//! A packet that the rules pass both ways, while a flow may be cut (SPEC K11).

use sg_common::{
    flow_table::Found,
    ruling::{Ruling, rule_on_passed},
    verdict::Verdict,
};

use super::flows::{cut, revoked};
use super::table::{find, is_expired, sg_flow_forget};
use super::traits::Traits;
use crate::audit::{Auditing, Off, On};
use crate::bpf::clock::now;
use crate::bpf::maps;
use crate::bpf::word::SharedWord;
use crate::outcome::Outcome;
use crate::packet::Packet;

/// Whatever entry the flow of the packet has, only that it is a cut one matters: the rules do not
/// bring a connection back, but a new one may take its place. Returns an [`Outcome`], packed.
#[inline(always)]
pub(crate) fn pass_unless_cut<A: Auditing>(
    packet: *const Packet,
    hash: u32,
    traits: u64,
    verdict: u32,
) -> u64 {
    match A::ON {
        true => sg_pass_audited(packet, hash, traits, verdict),
        false => sg_pass_unless_cut(packet, hash, traits, verdict),
    }
}

/// See [`pass_unless_cut`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_pass_unless_cut(
    packet: *const Packet,
    hash: u32,
    traits: u64,
    verdict: u32,
) -> u64 {
    pass_or_drop::<Off>(packet, hash, traits, verdict)
}

/// See [`pass_unless_cut`], for a policy that audits.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_pass_audited(packet: *const Packet, hash: u32, traits: u64, verdict: u32) -> u64 {
    pass_or_drop::<On>(packet, hash, traits, verdict)
}

#[inline(always)]
fn pass_or_drop<A: Auditing>(packet: *const Packet, hash: u32, traits: u64, verdict: u32) -> u64 {
    let by_rules = Outcome::rule(Verdict(verdict)).pack();
    if packet.is_null() {
        return by_rules;
    }
    // SAFETY: not null, and the only caller passes its whole packet.
    let packet = unsafe { &*packet };
    let (traits, now) = (Traits(traits), now());
    let mut found = Found::NOTHING;
    if find(packet.flow_key(), hash, &mut found) == 0 {
        return by_rules;
    }
    let entry = &found.contents;
    let about = traits.about(Verdict(verdict).accept_bit());
    match rule_on_passed::<SharedWord>(entry, &about, &maps::InForce, is_expired(entry.head, now)) {
        Ruling::NoFlow => {
            sg_flow_forget(&found);
            by_rules
        }
        Ruling::Cut => {
            cut(&found, now);
            revoked::<A>(traits.direction())
        }
        _ => by_rules,
    }
}
