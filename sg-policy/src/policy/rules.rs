//! One rule: the walk over its keys, and what makes it a rule that can match something.
//! A rule with an error is left out, after all of its keys have been checked.

use std::sync::Arc;

use sg_common::protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6};

use super::clip::clip;
use super::dialect::Place;
use super::errors::Problem;
use super::fields::{self, Fields};
use super::finding::{Finding, Lint, Location};
use super::kind::{self, Addresses, Kind, PortKind};
use super::loading::{Ctx, RULES};
use super::matching::{Resolved, Scope, read_ports, read_remote};
use super::model::{Action, Direction, IcmpMatch, Protocol, Remote, Written};
use super::protocol;
use super::spelling::Spelling;
use super::yaml::{Node, Value};

/// A rule before it has a position.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) location: Location,
    pub(crate) direction: Direction,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) protocol: Protocol,
    pub(crate) ports: Option<Vec<(u16, u16)>>,
    pub(crate) icmp: Option<IcmpMatch>,
    pub(crate) remote: Arc<Remote>,
    pub(crate) written: Written,
    pub(crate) action: Action,
    pub(crate) log: bool,
    pub(crate) spelling: Spelling,
}

/// The keys of a rule.
pub(crate) const KEYS: &[&str] = &[
    "protocol",
    "ports",
    "icmp",
    "from",
    "to",
    "action",
    "audit",
    "description",
    "log",
    "name",
];

/// The words of `action`.
pub(crate) const ACTIONS: [(&str, Action); 2] =
    [("accept", Action::Accept), ("drop", Action::Drop)];

/// Reads the rules under `inbound` or `outbound`.
pub(crate) fn read_list(
    ctx: &mut Ctx<'_>,
    scope: &mut Scope,
    direction: Direction,
    node: &Node<'_>,
) -> Vec<Draft> {
    let what = format!("`{}`", direction.name());
    let Some(list) = fields::list(ctx, node, &what, "[]") else {
        return Vec::new();
    };
    let mut drafts = Vec::with_capacity(list.len().min(RULES));
    for rule in list {
        ctx.loading.rules += 1;
        if ctx.loading.rules > RULES {
            let problem = Problem::new("too-large", "the policy has too many rules")
                .expected(format!("at most {RULES} rules in all"))
                .help("join rules that differ only in ports or addresses: both may be lists");
            ctx.error(rule.at, problem);
            break;
        }
        drafts.extend(read(ctx, scope, direction, rule));
    }
    drafts
}

/// Reads one rule.
fn read(
    ctx: &mut Ctx<'_>,
    scope: &mut Scope,
    direction: Direction,
    node: &Node<'_>,
) -> Option<Draft> {
    let errors = ctx.loading.report.count();
    let rule = Fields::read(ctx, node, "the rule", Place::Rule(direction), KEYS)?;
    let protocol = read_protocol(ctx, &rule);
    let ports = read_ports(ctx, scope, &rule, protocol);
    let icmp = read_icmp(ctx, &rule, protocol);
    let remote = read_remote(ctx, scope, &rule, direction, protocol);
    let action = read_action(ctx, &rule);
    let action = read_audit(ctx, &rule, action);
    let log = rule
        .get("log")
        .and_then(|n| fields::boolean(ctx, n, "`log`"));
    let name = rule
        .get("name")
        .and_then(|n| fields::name(ctx, n, "`name`"));
    let description = rule
        .get("description")
        .and_then(|n| fields::description(ctx, n));
    if ctx.loading.report.count() != errors {
        return None;
    }
    let (protocol, remote, action) = (protocol?, remote?, action?);
    let location = ctx.location(node.at);
    let written = ports.as_ref().filter(|p| is_worth_writing(p));
    let text = written.map(|p| Arc::clone(&p.text));
    let written = written.map(|p| &p.written);
    let spelling = Spelling::new(protocol, written, icmp, direction, &remote.written);
    let written = Written {
        ports: text,
        remote: remote.text,
    };
    let mut value = remote.value;
    has_no_address(scope, &value, &remote.names, protocol, &spelling, &location);
    if has_no_port(scope, ports.as_ref(), &spelling, &location) {
        // A rule without ports matches nothing. Without addresses, later steps need not know.
        value = Arc::new(Remote::default());
    }
    let ports = charged(ctx, node, ports)?;
    Some(Draft {
        location,
        direction,
        name,
        description,
        protocol,
        ports,
        icmp,
        remote: value,
        written,
        action,
        log: log.unwrap_or(false),
        spelling,
    })
}

/// The ports that were read, resolved.
type Ports = Resolved<Vec<(u16, u16)>>;

/// Whether these are all ports, which is as if none were named.
fn are_all(ports: &Ports) -> bool {
    ports.value.as_slice() == [(0, u16::MAX)]
}

/// Whether the ports belong into what is shown of a rule.
pub(crate) fn is_worth_writing(ports: &Ports) -> bool {
    !are_all(ports) || !ports.names.is_empty()
}

/// Whether the sets that a rule names have no address that it could match, which is reported.
pub(crate) fn has_no_address(
    scope: &mut Scope,
    remote: &Remote,
    names: &[String],
    protocol: Protocol,
    spelling: &Spelling,
    location: &Location,
) -> bool {
    let has_none = Addresses::size(remote) == 0;
    if has_none {
        match scope.is_empty(names) {
            true => empty_sets(scope, names, Addresses::NOUN, spelling, location),
            false => other_family(scope, names, protocol, spelling, location),
        }
    }
    has_none
}

/// Whether the sets that a rule names have no port, which is reported.
pub(crate) fn has_no_port(
    scope: &mut Scope,
    ports: Option<&Ports>,
    spelling: &Spelling,
    location: &Location,
) -> bool {
    let Some(ports) = ports.filter(|ports| ports.value.is_empty()) else {
        return false;
    };
    empty_sets(scope, &ports.names, PortKind::NOUN, spelling, location);
    true
}

/// The ports of a rule, or none for all ports. They count towards what a policy may hold; `None`
/// after an error if that is too much.
pub(crate) fn charged(
    ctx: &mut Ctx<'_>,
    node: &Node<'_>,
    ports: Option<Ports>,
) -> Option<Option<Vec<(u16, u16)>>> {
    let ports = ports
        .filter(|ports| !are_all(ports))
        .map(|ports| ports.value);
    if let Some(problem) = ports
        .as_ref()
        .and_then(|ports| kind::charge::<PortKind>(ctx.loading, ports).err())
    {
        ctx.error(node.at, problem);
        return None;
    }
    Some(ports.map(Arc::unwrap_or_clone))
}

/// Reports each empty set once: rules that name it match nothing.
fn empty_sets(
    scope: &mut Scope,
    names: &[String],
    kind: &str,
    spelling: &Spelling,
    location: &Location,
) {
    for name in names {
        if !scope.empty.insert(name.clone()) {
            continue;
        }
        let message = format!(
            "the {kind} set `{name}` is empty, so that `{}` matches nothing",
            spelling.summary
        );
        let finding = Finding::note(Lint::EmptySet, message)
            .help(format!(
                "fill it, for example with `--set {name}=...`, if that is not meant"
            ))
            .at(location);
        scope.findings.push(finding);
    }
}

/// Reports that a rule matches nothing, since the sets that it names have no address of the family
/// that its protocol is seen with.
fn other_family(
    scope: &mut Scope,
    names: &[String],
    protocol: Protocol,
    spelling: &Spelling,
    location: &Location,
) {
    let (sees, has) = match protocol::families(protocol).v4 {
        true => ("IPv4", "IPv6"),
        false => ("IPv6", "IPv4"),
    };
    let message = format!(
        "`{}` has no {sees} address, so that `{}` matches nothing",
        names.join("`, `"),
        spelling.summary
    );
    let finding = Finding::note(Lint::EmptySet, message)
        .help(format!(
            "the addresses are all {has}; add those of {sees} if that is not meant"
        ))
        .at(location);
    scope.findings.push(finding);
}

pub(crate) fn read_protocol(ctx: &mut Ctx<'_>, rule: &Fields<'_, '_>) -> Option<Protocol> {
    const EXPECTED: &str = "`all`, a protocol's name, or its number";
    let Some(node) = rule.get("protocol") else {
        let problem = Problem::new("missing-key", "the rule has no `protocol`")
            .expected(EXPECTED)
            .help("name the protocol that is meant; every protocol is `all`");
        ctx.error(rule.at, problem);
        return None;
    };
    if let Value::List(_) = node.value {
        let problem = Problem::new("bad-protocol", "`protocol` is a list")
            .expected(EXPECTED)
            .help(protocol::ONE_EACH);
        ctx.error(node.at, problem);
        return None;
    }
    let text = fields::scalar(ctx, node, "`protocol`", EXPECTED)?;
    protocol::parse(text)
        .map_err(|problem| ctx.error(node.at, problem))
        .ok()
}

fn read_action(ctx: &mut Ctx<'_>, rule: &Fields<'_, '_>) -> Option<Action> {
    match rule.get("action") {
        Some(node) => fields::choice(ctx, node, "`action`", &ACTIONS),
        None => {
            let problem = Problem::new("missing-key", "the rule has no `action`")
                .expected("`accept` or `drop`")
                .help("write `action: accept` or `action: drop`");
            ctx.error(rule.at, problem);
            None
        }
    }
}

/// The action, given what `audit` says (SPEC C9).
fn read_audit(ctx: &mut Ctx<'_>, rule: &Fields<'_, '_>, action: Option<Action>) -> Option<Action> {
    let Some((key, node)) = rule.entry("audit") else {
        return action;
    };
    if !fields::boolean(ctx, node, "`audit`")? {
        return action;
    }
    if action == Some(Action::Accept) {
        let problem = Problem::new("misplaced-key", "`audit` on a rule that accepts")
            .expected("`audit: true` only with `action: drop`: what the rule would drop passes")
            .help("leave `audit` out; to see what the rule accepts, write `log: true`");
        ctx.error(key, problem);
        return None;
    }
    action.map(|_| Action::Audit)
}

fn read_icmp(
    ctx: &mut Ctx<'_>,
    rule: &Fields<'_, '_>,
    protocol: Option<Protocol>,
) -> Option<IcmpMatch> {
    let (key, node) = rule.entry("icmp")?;
    let is_icmp = |p: &Protocol| {
        matches!(
            p,
            Protocol::Number(IPPROTO_ICMP) | Protocol::Number(IPPROTO_ICMPV6)
        )
    };
    if let Some(protocol) = protocol.filter(|p| !is_icmp(p)) {
        let name = protocol::name(protocol);
        let problem = Problem::new("misplaced-key", format!("`icmp` on protocol `{name}`"))
            .expected("`icmp` only with protocol icmp or icmpv6")
            .help("change `protocol` to `icmp` for IPv4, or to `icmpv6`");
        ctx.error(key, problem);
    }
    if let Some(text) = node.text().filter(|_| !node.is_null()) {
        let problem = Problem::new("wrong-shape", format!("`icmp` is `{}`", clip(text)))
            .expected("`{type: ...}`, or `{type: ..., code: ...}`")
            .help(format!("write `icmp: {{type: {}}}`", clip(text)));
        ctx.error(node.at, problem);
        return None;
    }
    let fields = Fields::read(ctx, node, "`icmp`", Place::Elsewhere, &["type", "code"])?;
    let code = fields.get("code").and_then(|node| {
        let text = fields::scalar(ctx, node, "`code`", "an ICMP code")?;
        protocol::icmp_code(text)
            .map_err(|problem| ctx.error(node.at, problem))
            .ok()
    });
    let Some(node) = fields.get("type") else {
        let problem = Problem::new("missing-key", "`icmp` has no `type`")
            .expected("`type`, and `code` if only one code is meant")
            .help("write the type too, such as `type: echo-request`");
        ctx.error(fields.at, problem);
        return None;
    };
    let text = fields::scalar(ctx, node, "`type`", "an ICMP type")?;
    let v6 = protocol == Some(Protocol::Number(IPPROTO_ICMPV6));
    let kind = protocol::icmp_type(text, v6)
        .map_err(|problem| ctx.error(node.at, problem))
        .ok()?;
    Some(IcmpMatch { kind, code })
}
