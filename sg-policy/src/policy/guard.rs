//! `guard`: what must stay reachable. Each entry is read as the match of an inbound rule is, and
//! has no action.

use super::dialect::Place;
use super::errors::Problem;
use super::fields::{self, Fields};
use super::loading::{Ctx, RULES};
use super::matching::{Scope, read_ports, read_remote};
use super::model::{Direction, Guard};
use super::rules::{charged, has_no_address, has_no_port, is_worth_writing, read_protocol};
use super::spelling::Spelling;
use super::yaml::Node;

/// The keys of a guard.
pub(crate) const KEYS: &[&str] = &["protocol", "ports", "from", "description"];

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
    let written = ports.as_ref().filter(|p| is_worth_writing(p));
    let written = written.map(|p| &p.written);
    let spelling = Spelling::new(protocol, written, None, Direction::Inbound, &remote.written);
    // What names nothing guards nothing.
    let (value, names) = (&remote.value, &remote.names);
    if has_no_address(scope, value, names, protocol, &spelling, &location)
        || has_no_port(scope, ports.as_ref(), &spelling, &location)
    {
        return None;
    }
    Some(Guard {
        protocol,
        ports: charged(ctx, node, ports)?,
        remote: remote.value,
        description,
        summary: spelling.summary,
        source: location,
    })
}
