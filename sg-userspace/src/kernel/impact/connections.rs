//! The connections that a change would cut: those of the flow table, of this host's sockets and of
//! its connection tracking, each with what admits it now and what drops it then.
//!
//! A connection is cut if the next packet of its originator passes now and does not pass then.
//! Where the originator's packets pass, so do the replies: by the rules, or because of the entry
//! that the flow table has by then (K6).

use std::collections::{HashMap, HashSet};

use sg_common::flow::{FlowValue, state_name};
use sg_common::flow_entry::{self, Contents};
use sg_common::protocol::Kind;
use sg_common::verdict::Direction;

use super::super::machine::interfaces;
use super::super::seed::{Existing, Key, View, carry, decide};
use super::crossing::Crossing;
use super::fate::Fate;
use super::report::{Admitted, CutConnection, Dropped, RuleOf};
use super::terms::{Before, Decides as _, Terms};

/// What was found.
pub(super) struct Found {
    pub(super) cut: Vec<CutConnection>,
    /// How many a first attachment keeps although no rule admits them.
    pub(super) kept: usize,
}

/// A connection, with what is known of it.
pub(super) struct Known {
    pub(super) key: Key,
    /// Its entry in the flow table.
    pub(super) entry: Option<Contents>,
    /// What sockets and connection tracking say.
    pub(super) existing: Option<Existing>,
}

/// What becomes of one.
pub(super) enum Outcome {
    GoesOn,
    /// It goes on, only because it was there before.
    Kept,
    Cut(Box<(Admitted, Dropped)>),
}

/// What sockets and connection tracking say, by tuple.
pub(super) fn existing(view: &View) -> HashMap<Key, Existing> {
    let tracked = view.tracked.iter().map(|flow| (flow.key, *flow));
    let mut all: HashMap<Key, Existing> = tracked.collect();
    for socket in &view.sockets {
        let both = all.get(&socket.key).map(|flow| flow.with_socket(socket));
        all.insert(socket.key, both.unwrap_or(*socket));
    }
    all
}

/// The connections that the change cuts, established ones first.
pub(super) fn find(
    terms: &Terms<'_>,
    existing: &HashMap<Key, Existing>,
    view: &View,
    crossing: &mut Crossing,
) -> Found {
    let mut found = Found {
        cut: Vec::new(),
        kept: 0,
    };
    let mut look = |known: Known| match outcome(terms, &known, crossing) {
        Outcome::GoesOn => {}
        Outcome::Kept => found.kept += 1,
        Outcome::Cut(by) => found.cut.push(row(terms, &known, *by, crossing)),
    };
    terms.each_entry(|key, entry| {
        look(Known {
            key,
            entry: Some(entry),
            existing: existing.get(&key).copied(),
        });
    });
    for (key, flow) in existing {
        // A tuple that the host translates is not on the wire.
        if terms.entry(key).is_none() && !view.translated.contains_key(key) {
            look(Known {
                key: *key,
                entry: None,
                existing: Some(*flow),
            });
        }
    }
    let is_established =
        |one: &CutConnection| matches!(one.state, "tcp-established" | "udp-stream" | "sctp");
    found.cut.sort_by_cached_key(|one| {
        let ends = (one.remote, one.remote_port, one.local, one.local_port);
        (!is_established(one), one.protocol, ends)
    });
    found
}

/// What becomes of a connection.
pub(super) fn outcome(terms: &Terms<'_>, known: &Known, crossing: &mut Crossing) -> Outcome {
    let plan = terms.plan;
    let of = |is_added: bool| -> Vec<u32> {
        let all = plan.interfaces.iter();
        let wanted = all.filter(|one| one.replaced().is_none() == is_added);
        wanted.map(|one| one.pins.ifindex).collect()
    };
    let (added, replaced) = (of(true), of(false));
    let (local, remote) = (known.key.local, known.key.remote);
    let mut result = Outcome::GoesOn;
    if let Some(before) = &terms.before {
        let outcome = under_a_policy(terms, before, known);
        let is_here = known.entry.as_ref().is_some_and(Terms::was_seen_since);
        if !matches!(outcome, Outcome::GoesOn)
            && (is_here || crossing.may_cross(&replaced, local, remote))
        {
            result = outcome;
        }
    }
    if !added.is_empty() && !matches!(result, Outcome::Cut(..)) {
        let outcome = at_first(terms, known);
        if !matches!(outcome, Outcome::GoesOn) && crossing.may_cross(&added, local, remote) {
            result = outcome;
        }
    }
    result
}

/// The directions to be asked about: that of the originator, or both where it is only a guess.
fn asked(known: &Known) -> Vec<Direction> {
    match (&known.entry, &known.existing) {
        (Some(entry), _) => vec![Direction::BOTH[usize::from(entry.head.originator() & 1)]],
        (None, Some(flow)) if flow.is_originator_known => vec![flow.originator],
        (None, Some(flow)) => vec![flow.originator, flow.originator.opposite()],
        (None, None) => Vec::new(),
    }
}

/// Whose packets are asked about by which number, for ICMP queries.
fn originator(known: &Known) -> Direction {
    asked(known).first().copied().unwrap_or(Direction::Inbound)
}

/// Where a policy is in force.
fn under_a_policy(terms: &Terms<'_>, before: &Before<'_>, known: &Known) -> Outcome {
    let key = &known.key;
    let opener = originator(known);
    let entry = before.finds(known.entry.as_ref(), terms.now);
    if entry.is_some_and(|entry| is_over(entry.head.state())) {
        return Outcome::GoesOn;
    }
    if known.existing.is_some_and(|flow| is_over(flow.state as u8)) {
        return Outcome::GoesOn;
    }
    let after = |d, remote, kind, number| terms.rules(d, remote, kind, number);
    // Where the policy in force has passed the flow without an entry, it gets one before the swap.
    let carried = match (&known.entry, &known.existing) {
        (None, Some(flow)) if before.carries => {
            let was = |d, remote, kind, number| before.rules(d, remote, kind, number);
            carry(flow, was, after, before.state.epoch, terms.now)
        }
        _ => None,
    };
    let carried = carried.map(|(_, value)| Contents::of(&value));
    let then = match &known.entry {
        Some(entry) if terms.is_live(entry) => Some(entry),
        _ => carried.as_ref(),
    };
    let directions = match carried {
        Some(carried) => vec![Direction::BOTH[usize::from(carried.head.originator() & 1)]],
        None => asked(known),
    };
    let passes =
        |direction: &Direction| before.fate(key, opener, *direction, entry) == Fate::Passes;
    if !directions.iter().any(passes) {
        return Outcome::GoesOn;
    }
    let fates = directions
        .iter()
        .map(|direction| terms.fate(key, opener, *direction, then));
    let fates: Vec<Fate> = fates.collect();
    let Some(fate) = fates.first().filter(|_| !fates.contains(&Fate::Passes)) else {
        return Outcome::GoesOn;
    };
    let now = match entry {
        Some(entry) if entry.head.is_seeded() => Admitted {
            reason: "seeded",
            rule: None,
        },
        Some(entry) => {
            let rule = before.rule_of(flow_entry::slot_of(entry.rule));
            admitted(rule, before.audits_all())
        }
        None => {
            let passing = directions.iter().copied().find(|d| passes(d));
            let direction = passing.unwrap_or(opener);
            let number = key.number(direction, opener);
            let verdict = before.rules(direction, key.remote, key.kind(), number);
            admitted(before.rule_of(verdict.slot()), before.audits_all())
        }
    };
    Outcome::Cut(Box::new((now, dropped(terms, key, opener, *fate))))
}

/// By what the policy in force lets a connection pass. One that `audits_all` also passes what no
/// rule matches, and what has been cut.
fn admitted(rule: Option<RuleOf>, audits_all: bool) -> Admitted {
    Admitted {
        reason: match rule {
            None if audits_all => "audit",
            _ => "rule",
        },
        rule,
    }
}

/// Where no policy is in force yet.
fn at_first(terms: &Terms<'_>, known: &Known) -> Outcome {
    let key = &known.key;
    let opener = originator(known);
    let cuts = terms.plan.options.cut_existing;
    if known.existing.is_some_and(|flow| is_over(flow.state as u8)) {
        return Outcome::GoesOn;
    }
    let Some(flow) = &known.existing else {
        return Outcome::GoesOn;
    };
    let after = |d, remote, kind, number| terms.rules(d, remote, kind, number);
    let seeded = decide(flow, after, terms.after.epoch, terms.now).map(|(_, value)| value);
    let is_seeded = seeded.is_some_and(|value| value.is_seeded());
    let value = match (cuts, key.kind()) {
        (false, _) => seeded,
        (true, Kind::Tcp) => seeded.map(|_| FlowValue::cut(terms.now, flow.opened_by())),
        (true, _) => None,
    };
    let entered = value.map(|value| Contents::of(&value));
    let entry = known.entry.as_ref().or(entered.as_ref());
    if entry.is_none() && !is_vouched_for(flow) {
        return Outcome::GoesOn;
    }
    let directions = match entry {
        Some(entry) => vec![Direction::BOTH[usize::from(entry.head.originator() & 1)]],
        None => asked(known),
    };
    let fates = directions
        .iter()
        .map(|direction| terms.fate(key, opener, *direction, entry));
    let fates: Vec<Fate> = fates.collect();
    let Some(fate) = fates.first().filter(|_| !fates.contains(&Fate::Passes)) else {
        return match is_seeded && !cuts {
            true => Outcome::Kept,
            false => Outcome::GoesOn,
        };
    };
    let now = Admitted {
        reason: "no-policy",
        rule: None,
    };
    Outcome::Cut(Box::new((now, dropped(terms, key, opener, *fate))))
}

/// What drops a packet of this fate.
fn dropped(terms: &Terms<'_>, key: &Key, opener: Direction, fate: Fate) -> Dropped {
    match fate {
        Fate::ByRules(direction) => {
            let number = key.number(direction, opener);
            let verdict = terms.rules(direction, key.remote, key.kind(), number);
            let rule = terms.rule_of(verdict);
            Dropped {
                reason: if rule.is_some() { "rule" } else { "no-match" },
                direction,
                rule,
            }
        }
        Fate::Ended | Fate::Passes => Dropped {
            reason: match terms.plan.options.cut_existing {
                true => "cut-existing",
                false => "flush",
            },
            direction: opener,
            rule: None,
        },
    }
}

fn row(
    terms: &Terms<'_>,
    known: &Known,
    (now, then): (Admitted, Dropped),
    crossing: &mut Crossing,
) -> CutConnection {
    let Key {
        local,
        remote,
        local_port,
        remote_port,
        protocol,
    } = known.key;
    let kind = known.key.kind();
    let has_ports = matches!(kind, Kind::Tcp | Kind::Udp | Kind::Sctp);
    let value = known.entry.map(|entry| entry.value(terms.now));
    let opened = match (&known.existing, value) {
        (_, Some(value)) => value.opened_by(),
        (Some(flow), None) => flow.opened_by(),
        (None, None) => None,
    };
    let state = match (&known.existing, value) {
        (_, Some(value)) => state_name(value.state),
        (Some(flow), None) => flow.state.name(),
        (None, None) => "",
    };
    let only = match &terms.plan.interfaces[..] {
        [one] if terms.plan.unchanged.is_empty() => Some(one.pins.ifindex),
        _ => None,
    };
    CutConnection {
        interface: match only {
            Some(index) => interfaces::name_of(index),
            None => crossing.name(local, remote),
        },
        protocol,
        local,
        local_port: has_ports.then_some(local_port),
        remote,
        remote_port: has_ports.then_some(remote_port),
        icmp_id: (kind == Kind::Icmp).then_some(local_port),
        opened: opened.map_or("unknown", Direction::name),
        state,
        age_seconds: known.entry.as_ref().map(|entry| terms.age_of(entry)),
        is_older: value.is_some_and(|value| value.is_seeded()),
        processes: Vec::new(),
        now,
        then,
    }
}

/// The tuple of a row.
pub(super) fn key_of(one: &CutConnection) -> Key {
    Key {
        local: one.local,
        remote: one.remote,
        local_port: one.local_port.or(one.icmp_id).unwrap_or(0),
        remote_port: one.remote_port.unwrap_or(0),
        protocol: one.protocol,
    }
}

/// The inodes of the sockets of these connections, which a socket may know by another tuple.
pub(super) fn inodes(cut: &[CutConnection], view: &View) -> HashMap<Key, u32> {
    let wanted: HashSet<Key> = cut.iter().map(key_of).collect();
    let direct = view.inodes.iter().map(|(key, inode)| (*key, *inode));
    let translated = view.translated.iter();
    let translated =
        translated.filter_map(|(inside, wire)| Some((*wire, *view.inodes.get(inside)?)));
    let all = direct.chain(translated);
    all.filter(|(key, _)| wanted.contains(key)).collect()
}

/// Whether there is anything left of a connection that could be cut: one that both ends have closed
/// is over.
fn is_over(state: u8) -> bool {
    use sg_common::flow::Timeout;
    [Timeout::TcpLastAck, Timeout::TcpTimeWait, Timeout::TcpClose]
        .iter()
        .any(|over| *over as u8 == state)
}

/// Whether a connection is known to be one: its other end has sent something, or this host has
/// opened it. A sender of a single request may be forged.
pub(super) fn is_vouched_for(flow: &Existing) -> bool {
    flow.has_seen_reply || flow.is_ours
}
