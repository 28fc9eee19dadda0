//! Packet → verdict: essential traffic first, then the rules, then (only if they do not accept)
//! the flow table.

use sg_common::{
    tables::{Kind, judge},
    tcp,
    verdict::{Action, Direction, Reason, Verdict, reason_slot},
};

use crate::{
    family,
    flows::{self, Found},
    maps::{self, KernelTables},
    packet::Packet,
};

/// What happens to a frame, and the one counter that says so.
pub(crate) struct Outcome {
    pub(crate) accept: bool,
    pub(crate) slot: u32,
    /// Counted as a reply of the slot's rule.
    pub(crate) is_reply: bool,
    /// A rule that asks for events decided it.
    pub(crate) is_logged: bool,
    /// Bytes of all headers, or zero where they are not known.
    pub(crate) headers: u32,
}

impl Outcome {
    #[inline(always)]
    pub(crate) fn reason(direction: Direction, reason: Reason) -> Self {
        Outcome {
            accept: matches!(reason.action(), Action::Accept),
            slot: reason_slot(direction, reason),
            is_reply: false,
            is_logged: false,
            headers: 0,
        }
    }
}

#[inline(always)]
pub(crate) fn judge_packet(direction: Direction, p: &Packet) -> Outcome {
    let with_headers = |outcome: Outcome| Outcome {
        headers: p.headers,
        ..outcome
    };
    let reason = |reason| with_headers(Outcome::reason(direction, reason));
    let by_rule = |verdict: Verdict| {
        with_headers(Outcome {
            accept: verdict.is_accept(),
            slot: verdict.slot(),
            is_reply: false,
            is_logged: verdict.is_logged(),
            headers: 0,
        })
    };

    if maps::accepts_essential() && p.is_fragment == 0 {
        let (source, source_port, destination_port) = match direction {
            Direction::Inbound => (&p.remote, p.remote_port, p.local_port),
            Direction::Outbound => (&p.local, p.local_port, p.remote_port),
        };
        if family::is_essential(p, source, (source_port, destination_port)) {
            return reason(Reason::Essential);
        }
    }

    // Tables without an entry for this address cannot be: fail closed.
    let Some(row) = family::class(p).and_then(maps::row) else {
        return reason(Reason::NoMatch);
    };
    let kind = p.kind;
    let verdict = judge(&KernelTables, row, direction, kind, p.number);
    // What the rules of the other direction say of the packet that would answer this one.
    let judge_answer = || {
        judge(
            &KernelTables,
            row,
            direction.opposite(),
            kind,
            p.return_number,
        )
    };

    if verdict.is_accept() {
        if p.is_trackable != 0 {
            // The other direction's rules pass the replies by themselves: nothing to remember.
            if !judge_answer().is_accept() {
                flows::remember(p, direction, verdict.slot());
            }
        }
        return by_rule(verdict);
    }

    // A bare SYN opens a connection, so it can only be accepted by a rule: a flood of them never
    // gets as far as the flow table.
    let opens_only = p.is_kind(Kind::Tcp) && p.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    if p.is_trackable == 0 || opens_only {
        return by_rule(verdict);
    }
    match flows::find(p, direction, judge_answer) {
        Found::Reply(slot) => with_headers(Outcome {
            accept: true,
            slot,
            is_reply: true,
            is_logged: false,
            headers: 0,
        }),
        Found::Kept(slot) => with_headers(Outcome {
            accept: true,
            slot,
            is_reply: false,
            is_logged: false,
            headers: 0,
        }),
        Found::Revoked => reason(Reason::Revoked),
        Found::Nothing => by_rule(verdict),
    }
}
