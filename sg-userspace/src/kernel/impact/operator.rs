//! What a change does to the connection through which the operator works, and to a new one made the
//! same way: from the same remote address to the same local address and port (SPEC C6).

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sg_common::protocol::{IPPROTO_TCP, Kind};
use sg_common::verdict::Direction;

use super::super::seed::{Existing, Key, View};
use super::connections::is_vouched_for;
use super::connections::{self, Known, Outcome};
use super::crossing::Crossing;
use super::report::{Dropped, OwnConnection, Session};
use super::session::{Way, search};
use super::terms::{Decides as _, Terms};

/// What the connections are judged by.
pub(super) struct About<'a> {
    pub(super) terms: &'a Terms<'a>,
    pub(super) existing: &'a HashMap<Key, Existing>,
    pub(super) view: &'a View,
    /// Why the machine's connections could not be listed.
    pub(super) blind: Option<&'a str>,
    /// The interfaces that the change concerns.
    pub(super) indices: &'a [u32],
}

/// Finds the connections of the process that runs this, and judges them by the change.
pub(super) fn look(about: &About<'_>, crossing: &mut Crossing) -> Session {
    let named = std::env::var("SSH_CONNECTION").ok();
    let found = search(Path::new("/proc"), std::process::id(), named.as_deref());
    let mut session = Session {
        connections: Vec::new(),
        unseen: found.unseen,
    };
    session.unseen.extend(about.blind.map(str::to_owned));
    let here = std::fs::metadata("/proc/thread-self/ns/net").map_or(0, |it| it.ino());
    for way in found.ways {
        let inside = key_of(&way);
        let key = about.view.translated.get(&inside).copied();
        let key = key.unwrap_or(inside);
        let known = Known {
            key,
            entry: about.terms.entry(&key),
            existing: about.existing.get(&key).copied(),
        };
        // A connection of another network namespace concerns this one if it is forwarded here.
        let is_known = known.entry.is_some() || known.existing.is_some();
        let is_here = !way.is_certain || way.netns == here || is_known;
        let crosses = is_here && crossing.may_cross(about.indices, key.local, key.remote);
        let judged = judged(about.terms, way, &known, crosses, crossing);
        session.connections.push(judged);
    }
    session
}

fn key_of(way: &Way) -> Key {
    Key {
        local: way.local.0,
        remote: way.remote.0,
        local_port: way.local.1,
        remote_port: way.remote.1,
        protocol: IPPROTO_TCP,
    }
}

fn judged(
    terms: &Terms<'_>,
    way: Way,
    known: &Known,
    crosses: bool,
    crossing: &mut Crossing,
) -> OwnConnection {
    let key = known.key;
    let by_entry = known
        .entry
        .and_then(|entry| entry.value(terms.now).opened_by());
    let by_others = known.existing.map(|flow| flow.originator);
    let opened = match way.process {
        // It is known by `SSH_CONNECTION` alone, which an SSH server sets.
        None => Direction::Inbound,
        Some(_) => by_entry.or(by_others).unwrap_or(Direction::Inbound),
    };
    let number = key.number(opened, opened);
    let verdict = terms.rules(opened, key.remote, Kind::Tcp, number);
    let rule = terms.rule_of(verdict);
    let dropped = Dropped {
        reason: if rule.is_some() { "rule" } else { "no-match" },
        direction: opened,
        rule,
    };
    let outcome = connections::outcome(terms, known, crossing);
    let is_known = known.entry.is_some() || known.existing.is_some_and(|it| is_vouched_for(&it));
    OwnConnection {
        local: key.local,
        local_port: key.local_port,
        remote: key.remote,
        remote_port: key.remote_port,
        opened,
        process: way.process,
        crosses,
        cut: match outcome {
            Outcome::Cut(by) => Some(by.1),
            Outcome::GoesOn | Outcome::Kept => {
                // Nothing is known of it, so that only the rules can let it pass.
                (!is_known && !verdict.passes()).then(|| dropped.clone())
            }
        },
        new: (!verdict.passes()).then_some(dropped),
    }
}
