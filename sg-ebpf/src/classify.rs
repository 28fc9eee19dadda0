//! Packet → outcome: essential traffic first, then the rules, then (only if they do not accept)
//! the flow table.

use sg_common::{
    flow_table::Word as _,
    lookup::{Tables as _, column_index, verdict_below},
    protocol::Kind,
    tcp,
    verdict::{Direction, Reason, Verdict},
};

use crate::{
    family,
    maps::{self, AsLoaded, KernelTables},
    outcome::Outcome,
    packet::Packet,
    word::SharedWord,
};

/// Decides an inbound packet. Exported and never inlined, so that the verifier takes it for a
/// function of its own, behind which the outcome is plain unknown numbers.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_judge_inbound(p: *const Packet, out: *mut Outcome) -> u64 {
    judge_into(Direction::Inbound, p, out)
}

/// Decides an outbound packet, as [`sg_judge_inbound`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_judge_outbound(p: *const Packet, out: *mut Outcome) -> u64 {
    judge_into(Direction::Outbound, p, out)
}

#[inline(always)]
fn judge_into(direction: Direction, p: *const Packet, out: *mut Outcome) -> u64 {
    if p.is_null() || out.is_null() {
        return DECIDED;
    }
    // SAFETY: not null, and the only caller passes whole values.
    let (outcome, rest) = judge_packet(direction, unsafe { &*p });
    // SAFETY: as above.
    unsafe { *out = outcome };
    rest
}

/// What [`sg_judge_inbound`] returns unless the flow table is to be asked: then it is the class and
/// the verdict of the rules.
pub(crate) const DECIDED: u64 = 0;
const ASK_FLOWS: u64 = 1 << 63;
/// Set besides where the table is to be asked for a cut flow and for nothing else.
const ASK_FOR_CUT: u64 = 1 << 62;

/// The class and the verdict in what [`sg_judge_inbound`] returns.
#[inline(always)]
pub(crate) fn class_and_verdict(rest: u64) -> (u32, u32) {
    ((rest >> 32) as u32 & !(3 << 30), rest as u32)
}

/// 1 if a cut flow is to be asked for and nothing else, else 0.
#[inline(always)]
pub(crate) fn is_for_cut(rest: u64) -> u64 {
    rest / ASK_FOR_CUT & 1
}

/// The verdict of `direction`'s rules on `number` of `kind` in `class`; without tables for it, which
/// cannot be, nothing is accepted.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sg_ask_rules(class: u32, direction: u32, kind: u32, number: u32) -> u32 {
    // As `lookup::judge`, but that the direction is a number: a condition would be two ways to walk.
    const APART: u32 = column_index(Direction::Outbound, 0) as u32;
    let column = SharedWord::opaque(((direction & 1) * APART + (kind & 7)).into());
    let tables = KernelTables::<AsLoaded>::GET;
    let begin = tables.column(column as usize);
    let entry = tables.word(begin.wrapping_add(class));
    let direction = Direction::BOTH[SharedWord::opaque(direction.into()) as usize & 1];
    let verdict = match entry {
        Some(entry) => verdict_below(&tables, entry, direction, u64::from(number) & 0xffff),
        None => Verdict::no_match(direction),
    };
    verdict.0
}

/// As [`sg_ask_rules`], in our own types.
#[inline(always)]
pub(crate) fn ask(class: u32, direction: Direction, kind: u8, number: u16) -> Verdict {
    Verdict(sg_ask_rules(
        class,
        direction as u32,
        kind.into(),
        number.into(),
    ))
}

#[inline(always)]
fn judge_packet(direction: Direction, p: &Packet) -> (Outcome, u64) {
    if maps::accepts_essential() && !p.is_first_fragment() {
        let (source, source_port, destination_port) = match direction {
            Direction::Inbound => (&p.remote, p.remote_port, p.local_port),
            Direction::Outbound => (&p.local, p.local_port, p.remote_port),
        };
        if family::is_essential(p, source, (source_port, destination_port)) {
            return (Outcome::reason(direction, Reason::Essential), DECIDED);
        }
    }

    let class = family::sg_class(p);
    let verdict = ask(class, direction, p.kind, p.number);
    let decided_by_rules = if verdict.is_accept() {
        // Where the other direction's rules pass the replies by themselves there is nothing to
        // remember.
        ask(class, direction.opposite(), p.kind, p.return_number).is_accept()
    } else {
        // A bare SYN opens a connection, so it can only be accepted by a rule: a flood of them
        // never gets as far as the flow table.
        p.is_kind(Kind::Tcp) && tcp::is_syn_without_ack(p.tcp_flags)
    };
    if !maps::has_flows() || p.is_trackable == 0 {
        return (Outcome::rule(verdict), DECIDED);
    }
    let rest = ASK_FLOWS | u64::from(class) << 32 | u64::from(verdict.0);
    if !decided_by_rules {
        return (Outcome::rule(verdict), rest);
    }
    // A connection that was cut is so whatever the rules say by now.
    if maps::may_have_cut() && verdict.is_accept() && p.is_kind(Kind::Tcp) {
        return (Outcome::rule(verdict), rest | ASK_FOR_CUT);
    }
    (Outcome::rule(verdict), DECIDED)
}

/// SPEC K8: whether an ICMP error that no rule accepts is about something that the node does send
/// or receive. `quoted` is the packet in it, which travelled the other way. 1 if so, 0 if not, or else
/// [`ASK_WHETHER_IT_BELONGS`] and the class.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sg_is_related(error: *const Packet, quoted: *const Packet) -> u64 {
    if error.is_null() || quoted.is_null() {
        return 0;
    }
    // SAFETY: not null, and the only caller passes whole values.
    let (error, quoted) = unsafe { (&*error, &*quoted) };
    // An error goes to whoever sent what it is about: inbound to the quoted packet's local end, outbound to
    // its remote one. It may come from any router on the way, and outbound also from this node as a router
    // or from what is behind it. As nf_conntrack_inet_error in net/netfilter/nf_conntrack_proto_icmp.c.
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
    let class = family::sg_class(quoted);
    if ask(class, direction, quoted.kind, quoted.number).is_accept() {
        return 1;
    }
    ASK_WHETHER_IT_BELONGS | u64::from(class)
}

/// What [`sg_is_related`] returns above a class unless it knows.
pub(crate) const ASK_WHETHER_IT_BELONGS: u64 = 1 << 32;
