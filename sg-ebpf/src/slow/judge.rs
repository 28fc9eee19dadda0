//! Packet → outcome: essential traffic first, then the rules, then (only if they do not accept)
//! the flow table.

use sg_common::{
    concern::{Concern, concern, only_rules_accept},
    essential::{Headers, is_essential},
    protocol::Kind,
    verdict::{Direction, Reason},
};

use crate::{
    audit::{Auditing, Off, On},
    bpf::{hook::Hook, maps},
    classes,
    outcome::Outcome,
    packet::Packet,
    rules::ask,
};

/// Decides a packet of the hook's direction: see [`sg_judge_inbound`].
#[inline(always)]
pub(crate) fn judge<H: Hook, A: Auditing>(packet: &Packet, out: &mut Outcome) -> u64 {
    match (H::DIRECTION, A::ON) {
        (Direction::Inbound, false) => sg_judge_inbound(packet, out),
        (Direction::Outbound, false) => sg_judge_outbound(packet, out),
        (Direction::Inbound, true) => sg_audit_inbound(packet, out),
        (Direction::Outbound, true) => sg_audit_outbound(packet, out),
    }
}

/// Decides an inbound packet. Exported and never inlined, so that the verifier takes it for a
/// function of its own, behind which the outcome is plain unknown numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_judge_inbound(p: *const Packet, out: *mut Outcome) -> u64 {
    judge_into::<Off>(Direction::Inbound, p, out)
}

/// Decides an outbound packet, as [`sg_judge_inbound`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_judge_outbound(p: *const Packet, out: *mut Outcome) -> u64 {
    judge_into::<Off>(Direction::Outbound, p, out)
}

/// As [`sg_judge_inbound`], for a policy that audits.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_audit_inbound(p: *const Packet, out: *mut Outcome) -> u64 {
    judge_into::<On>(Direction::Inbound, p, out)
}

/// As [`sg_judge_inbound`], for an outbound packet and a policy that audits.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_audit_outbound(p: *const Packet, out: *mut Outcome) -> u64 {
    judge_into::<On>(Direction::Outbound, p, out)
}

#[inline(always)]
fn judge_into<A: Auditing>(direction: Direction, p: *const Packet, out: *mut Outcome) -> u64 {
    if p.is_null() || out.is_null() {
        return DECIDED;
    }
    // SAFETY: not null, and the only caller passes whole values.
    let (outcome, rest) = judge_packet::<A>(direction, unsafe { &*p });
    // SAFETY: as above.
    unsafe { *out = outcome };
    rest
}

/// What [`sg_judge_inbound`] returns unless the flow table is to be asked: then it is the class
/// and the verdict of the rules.
pub(crate) const DECIDED: u64 = 0;
const ASK_FLOWS: u64 = 1 << 63;
/// Set besides where the table is to be asked for a cut flow and for nothing else.
const ASK_FOR_CUT: u64 = 1 << 62;

/// The class and the verdict in what [`sg_judge_inbound`] returns.
#[inline(always)]
pub(crate) fn class_and_verdict(rest: u64) -> (u32, u32) {
    ((rest >> 32) as u32 & !(3 << 30), rest as u32)
}

/// Whether the table is to be asked for a cut flow and for nothing else.
#[inline(always)]
pub(crate) fn is_for_cut(rest: u64) -> bool {
    maps::may_have_cut() && rest & ASK_FOR_CUT != 0
}

#[inline(always)]
fn judge_packet<A: Auditing>(direction: Direction, p: &Packet) -> (Outcome, u64) {
    if maps::accepts_essential() && !p.is_first_fragment() {
        let (source, source_port, destination_port) = match direction {
            Direction::Inbound => (&p.remote, p.remote_port, p.local_port),
            Direction::Outbound => (&p.local, p.local_port, p.remote_port),
        };
        let headers = Headers {
            is_v6: p.is_v6(),
            kind: p.kind,
            number: p.number,
            hop_limit: p.hop_limit,
            source,
            ports: (source_port, destination_port),
        };
        if is_essential(&headers) {
            return (Outcome::reason(direction, Reason::Essential), DECIDED);
        }
    }

    let class = classes::sg_class(p);
    let verdict = ask(class, direction, p.kind, p.number);
    // A connection that was cut is so whatever the rules say by now.
    let may_have_cut = || maps::may_have_cut() && p.is_kind(Kind::Tcp);
    let concern = concern(verdict.is_accept(), may_have_cut, || {
        ask(class, direction.opposite(), p.kind, p.return_number).is_accept()
    });
    let rest = ASK_FLOWS | u64::from(class) << 32 | u64::from(verdict.0);
    let rest = match concern {
        _ if !maps::has_flows() || p.is_trackable == 0 => DECIDED,
        // What is audited enters a flow, though not one that its replies need.
        Concern::MayReply if A::ON && verdict.is_audit() => rest,
        Concern::MayReply if only_rules_accept(p.tcp_flags) => DECIDED,
        Concern::MayReply | Concern::Remembered => rest,
        Concern::MayBeCut => rest | ASK_FOR_CUT,
        Concern::None => DECIDED,
    };
    (Outcome::ruled::<A>(verdict), rest)
}
