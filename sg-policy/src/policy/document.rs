//! One policy file: its options, sets and groups, each checked as far as one file can be.

use std::collections::HashMap;
use std::sync::Arc;

use sg_common::flow::{TIMEOUTS, Timeout};

use super::dialect::Place;
use super::duration;
use super::errors::{At, Problem};
use super::fields::{self, Fields};
use super::finding::{Finding, Lint, Location};
use super::guard;
use super::input::SetOverride;
use super::loading::Ctx;
use super::matching::Scope;
use super::model::{self, Direction, Established, Guard, NonIp, TrailingDeny};
use super::other_format;
use super::rules::{self, Draft};
use super::sets::Sets;
use super::source::Source;
use super::yaml::{self, Node};

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(crate) struct Given<T> {
    pub(crate) value: T,
    pub(crate) at: At,
    pub(crate) location: Location,
}

/// The options of a file, absent ones as `None`.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) trailing_deny: Option<Given<TrailingDeny>>,
    pub(crate) essential: Option<Given<bool>>,
    pub(crate) non_ip: Option<Given<NonIp>>,
    pub(crate) established: Option<Given<Established>>,
    /// By direction.
    pub(crate) log_no_match: Option<Given<[bool; 2]>>,
    /// Seconds, by index of `Timeout`.
    pub(crate) timeouts: [Option<Given<u32>>; TIMEOUTS],
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// False when the name is derived from that of the file.
    pub(crate) is_named: bool,
    pub(crate) description: Option<String>,
    pub(crate) at: At,
    pub(crate) location: Location,
    pub(crate) inbound: Vec<Draft>,
    pub(crate) outbound: Vec<Draft>,
}

impl Group {
    pub(crate) fn rules_mut(&mut self, direction: Direction) -> &mut Vec<Draft> {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }
}

/// A policy file that was read.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) options: Options,
    pub(crate) groups: Vec<Group>,
    pub(crate) sets: Arc<model::Sets>,
    pub(crate) guard: Vec<Guard>,
    pub(crate) findings: Vec<Finding>,
}

/// The keys of a policy file.
pub(crate) const KEYS: &[&str] = &[
    "name",
    "file-name",
    "description",
    "trailing-deny",
    "essential",
    "non-ip",
    "established",
    "log-no-match",
    "timeouts",
    "address-sets",
    "port-sets",
    "guard",
    "inbound",
    "outbound",
    "groups",
];
/// The keys of one of its groups.
pub(crate) const GROUP_KEYS: &[&str] = &["name", "file-name", "description", "inbound", "outbound"];

/// The words of `trailing-deny`.
pub(crate) const TRAILING_DENY: [(&str, TrailingDeny); 2] = [
    ("defer", TrailingDeny::Defer),
    ("honour", TrailingDeny::Honour),
];
/// The words of `established`.
pub(crate) const ESTABLISHED: [(&str, Established); 3] = [
    ("revalidate", Established::Revalidate),
    ("keep", Established::Keep),
    ("flush", Established::Flush),
];
/// The words of `log-no-match`, and which directions each means.
pub(crate) const LOG_NO_MATCH: [(&str, [bool; 2]); 4] = [
    ("true", [true, true]),
    ("false", [false, false]),
    ("inbound", [true, false]),
    ("outbound", [false, true]),
];

/// Walks a policy text. `None` when it has no shape to walk; errors are in the report.
pub(crate) fn read(ctx: &mut Ctx<'_>, overrides: &[SetOverride]) -> Option<Document> {
    let source: &Source = ctx.source;
    let root = match yaml::parse(source) {
        Ok(root) => root,
        Err((at, problem)) => {
            let (at, problem) = match other_format::other_text(&source.text) {
                Some(other) => (At::FIRST, other),
                None => (at, problem),
            };
            ctx.error(at, problem);
            return None;
        }
    };
    if let Some(problem) = other_format::other_document(&root) {
        ctx.error(root.at, problem);
        return None;
    }
    if let Some(problem) = root
        .text()
        .and_then(|_| other_format::other_text(&source.text))
    {
        ctx.error(root.at, problem);
        return None;
    }
    let file = Fields::read(ctx, &root, "the policy", Place::Rules, KEYS)?;
    let named = name_of(ctx, &file, "`name`");
    let description = file
        .get("description")
        .and_then(|node| fields::description(ctx, node));
    let options = options(ctx, &file);
    let mut scope = sets(ctx, &file, overrides);
    let is_named = matches!(named, Some((_, true)));
    let name = named.map_or_else(|| source.stem.clone(), |(name, _)| name);
    let groups = groups(ctx, &mut scope, &file, &name, is_named);
    let guard = match file.get("guard") {
        Some(node) => guard::read_list(ctx, &mut scope, node),
        None => Vec::new(),
    };
    let mut findings = std::mem::take(&mut scope.findings);
    let unused = scope.addresses.unused().chain(scope.ports.unused());
    findings.extend(unused.take(20).map(|(name, at)| {
        Finding::note(Lint::UnusedSet, format!("no rule uses the set `{name}`"))
            .help("remove it, or name it in a rule")
            .at(&ctx.location(at))
    }));
    Some(Document {
        name,
        description,
        options,
        groups,
        guard,
        sets: Arc::new(model::Sets {
            addresses: scope.addresses.resolved(),
            ports: scope.ports.resolved(),
        }),
        findings,
    })
}

/// The name, and whether it is one of its own: `file-name` is that of the file that a policy or a
/// group without a name was read from, so that it can be written down elsewhere and stay the same.
fn name_of(ctx: &mut Ctx<'_>, fields: &Fields<'_, '_>, what: &str) -> Option<(String, bool)> {
    let own = fields
        .get("name")
        .and_then(|node| fields::name(ctx, node, what));
    let Some((at, node)) = fields.entry("file-name") else {
        return own.map(|name| (name, true));
    };
    let of_file = fields::name(ctx, node, "`file-name`");
    if fields.entry("name").is_some() {
        let problem = Problem::new("conflict", "`file-name` beside `name`")
            .expected("one or the other")
            .help("remove `file-name`, which only stands for a name that is missing");
        ctx.error(at, problem);
    }
    own.map(|name| (name, true))
        .or_else(|| of_file.map(|name| (name, false)))
}

fn given<T>(ctx: &Ctx<'_>, at: At, value: T) -> Given<T> {
    Given {
        value,
        at,
        location: ctx.location(at),
    }
}

fn options(ctx: &mut Ctx<'_>, file: &Fields<'_, '_>) -> Options {
    let mut options = Options::default();
    if let Some((at, node)) = file.entry("trailing-deny") {
        options.trailing_deny =
            fields::choice(ctx, node, "`trailing-deny`", &TRAILING_DENY).map(|v| given(ctx, at, v));
    }
    if let Some((at, node)) = file.entry("essential") {
        options.essential = fields::boolean(ctx, node, "`essential`").map(|v| given(ctx, at, v));
    }
    if let Some((at, node)) = file.entry("non-ip") {
        let known = [NonIp::Accept, NonIp::ArpOnly].map(|value| (value.name(), value));
        options.non_ip = fields::choice(ctx, node, "`non-ip`", &known).map(|v| given(ctx, at, v));
    }
    if let Some((at, node)) = file.entry("established") {
        options.established =
            fields::choice(ctx, node, "`established`", &ESTABLISHED).map(|v| given(ctx, at, v));
    }
    if let Some((at, node)) = file.entry("log-no-match") {
        options.log_no_match =
            fields::choice(ctx, node, "`log-no-match`", &LOG_NO_MATCH).map(|v| given(ctx, at, v));
    }
    if let Some(node) = file.get("timeouts") {
        timeouts(ctx, node, &mut options);
    }
    options
}

fn timeouts(ctx: &mut Ctx<'_>, node: &Node<'_>, options: &mut Options) {
    let names = Timeout::ALL.map(Timeout::name);
    let Some(fields) = Fields::read(ctx, node, "`timeouts`", Place::Timeouts, &names) else {
        return;
    };
    for (name, slot) in names.into_iter().zip(&mut options.timeouts) {
        let Some((at, node)) = fields.entry(name) else {
            continue;
        };
        let Some(text) = fields::scalar(ctx, node, &format!("`{name}`"), "a duration") else {
            continue;
        };
        match duration::parse(text) {
            Ok(seconds) => *slot = Some(given(ctx, at, seconds)),
            Err(problem) => ctx.error(node.at, problem),
        }
    }
}

fn sets(ctx: &mut Ctx<'_>, file: &Fields<'_, '_>, overrides: &[SetOverride]) -> Scope {
    let mut scope = Scope::default();
    if let Some(node) = file.get("address-sets") {
        scope.addresses = Sets::define(ctx, node, overrides);
    }
    if let Some(node) = file.get("port-sets") {
        scope.ports = Sets::define(ctx, node, overrides);
    }
    let both: Vec<(String, At)> = scope
        .ports
        .names()
        .filter(|name| scope.addresses.defined_at(name).is_some())
        .filter_map(|name| Some((name.to_owned(), scope.ports.defined_at(name)?)))
        .collect();
    for (name, at) in both {
        let problem = Problem::new(
            "duplicate-name",
            format!("`{name}` is both an address set and a port set"),
        )
        .expected("different names, so that `--set` knows which is meant")
        .help("rename one of them");
        ctx.error(at, problem);
    }
    scope.addresses.resolve(ctx);
    scope.ports.resolve(ctx);
    scope
}

fn groups(
    ctx: &mut Ctx<'_>,
    scope: &mut Scope,
    file: &Fields<'_, '_>,
    name: &str,
    is_named: bool,
) -> Vec<Group> {
    let Some((at, node)) = file.entry("groups") else {
        let (inbound, outbound) = directions(ctx, scope, file);
        return vec![Group {
            name: name.to_owned(),
            is_named,
            description: None,
            at: file.at,
            location: ctx.location(file.at),
            inbound,
            outbound,
        }];
    };
    if file.entry("inbound").or(file.entry("outbound")).is_some() {
        let problem = Problem::new(
            "conflict",
            "`groups` beside top-level `inbound` or `outbound`",
        )
        .expected("one or the other")
        .help("move the top-level rules into a group of their own");
        ctx.error(at, problem);
        // Their rules are checked nevertheless, so that one reading finds all errors.
        directions(ctx, scope, file);
    }
    let Some(list) = fields::list(ctx, node, "`groups`", "[]") else {
        return Vec::new();
    };
    let mut groups = Vec::new();
    let mut names: HashMap<String, At> = HashMap::new();
    for node in list {
        let Some(fields) = Fields::read(ctx, node, "the group", Place::Rules, GROUP_KEYS) else {
            continue;
        };
        let description = fields
            .get("description")
            .and_then(|node| fields::description(ctx, node));
        let (inbound, outbound) = directions(ctx, scope, &fields);
        let Some(name_node) = fields.get("name").or_else(|| fields.get("file-name")) else {
            let problem = Problem::new("missing-key", "the group has no `name`")
                .expected("a name that no other group of the policy has")
                .help("counters and errors call the group by it");
            ctx.error(node.at, problem);
            continue;
        };
        let Some((name, is_named)) = name_of(ctx, &fields, "the group's `name`") else {
            continue;
        };
        if let Some(first) = names.insert(name.clone(), name_node.at) {
            let problem = Problem::new(
                "duplicate-name",
                format!(
                    "a second group `{name}`; the first is at line {}",
                    first.line
                ),
            )
            .expected("each group's name once")
            .help("rename one of them");
            ctx.error(name_node.at, problem);
        }
        groups.push(Group {
            name,
            is_named,
            description,
            at: name_node.at,
            location: ctx.location(name_node.at),
            inbound,
            outbound,
        });
    }
    groups
}

fn directions(
    ctx: &mut Ctx<'_>,
    scope: &mut Scope,
    fields: &Fields<'_, '_>,
) -> (Vec<Draft>, Vec<Draft>) {
    let mut of = |direction: Direction| match fields.get(direction.name()) {
        Some(node) => rules::read_list(ctx, scope, direction, node),
        None => Vec::new(),
    };
    (of(Direction::Inbound), of(Direction::Outbound))
}
