//! `guard`: what must stay reachable. Each entry is read as the match of an inbound rule is, and
//! has no action.

use std::sync::Arc;

use super::dialect::Place;
use super::errors::Problem;
use super::fields::{self, Fields};
use super::kind::{self, Addresses, Kind, PortKind};
use super::loading::{Ctx, RULES};
use super::matching::{Resolved, Scope, read_ports, read_remote};
use super::model::{Direction, Guard};
use super::rules::{empty_sets, other_family, read_protocol};
use super::spelling::Spelling;
use super::yaml::Node;

const KEYS: &[&str] = &["protocol", "ports", "from", "description"];

/// Reads the list under `guard`. An entry with an error is left out, after all of its keys have
/// been checked.
pub(crate) fn read_list(ctx: &mut Ctx<'_>, scope: &mut Scope, node: &Node<'_>) -> Vec<Guard> {
    let Some(list) = fields::list(ctx, node, "`guard`", "[]") else {
        return Vec::new();
    };
    let mut guards = Vec::new();
    for entry in list {
        ctx.loading.rules += 1;
        if ctx.loading.rules > RULES {
            let problem = Problem::new("too-large", "the policy has too many rules and guards")
                .expected(format!("at most {RULES} in all"))
                .help("join those that differ only in ports or addresses: both may be lists");
            ctx.error(entry.at, problem);
            break;
        }
        guards.extend(read(ctx, scope, entry));
    }
    guards
}

fn read(ctx: &mut Ctx<'_>, scope: &mut Scope, node: &Node<'_>) -> Option<Guard> {
    let errors = ctx.loading.report.count();
    let place = Place::Rule(Direction::Inbound);
    let entry = Fields::read(ctx, node, "the guard", place, KEYS)?;
    let protocol = read_protocol(ctx, &entry);
    let ports = read_ports(ctx, scope, &entry, protocol);
    let remote = read_remote(ctx, scope, &entry, Direction::Inbound, protocol);
    let description = entry
        .get("description")
        .and_then(|n| fields::description(ctx, n));
    if ctx.loading.report.count() != errors {
        return None;
    }
    let (protocol, remote) = (protocol?, remote?);
    let location = ctx.location(node.at);
    let whole = |p: &Resolved<Vec<(u16, u16)>>| p.value.as_slice() == [(0, u16::MAX)];
    let written = ports.as_ref().filter(|p| !whole(p) || !p.names.is_empty());
    let written = written.map(|p| &p.written);
    let spelling = Spelling::new(protocol, written, None, Direction::Inbound, &remote.written);
    // What names nothing guards nothing.
    if Addresses::size(&remote.value) == 0 {
        match scope.is_empty(&remote.names) {
            true => empty_sets(scope, &remote.names, Addresses::NOUN, &spelling, &location),
            false => other_family(scope, &remote.names, protocol, &spelling, &location),
        }
        return None;
    }
    if let Some(ports) = ports.as_ref().filter(|p| p.value.is_empty()) {
        empty_sets(scope, &ports.names, PortKind::NOUN, &spelling, &location);
        return None;
    }
    let ports = ports.filter(|p| !whole(p)).map(|p| p.value);
    if let Some(problem) = ports
        .as_ref()
        .and_then(|p| kind::charge::<PortKind>(ctx.loading, p).err())
    {
        ctx.error(node.at, problem);
        return None;
    }
    Some(Guard {
        protocol,
        ports: ports.map(Arc::unwrap_or_clone),
        remote: remote.value,
        description,
        summary: spelling.summary,
        source: location,
    })
}
