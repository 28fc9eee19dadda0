//! The `ports` and the `from` or `to` of a rule, resolved: literals and sets joined, and reduced
//! to the address families that the protocol can be seen with. Equal lists share one value.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sg_common::protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6};

use super::errors::{At, Problem};
use super::fields::Fields;
use super::finding::Finding;
use super::items::{self, Meaning};
use super::kind::{self, Addresses, Kind, PortKind};
use super::loading::Ctx;
use super::model::{Direction, Protocol, Remote};
use super::protocol::{self, Families};
use super::sets::{Lookup, Sets, combine};
use super::spelling::Written;
use super::yaml::Node;

/// The sets of one file, and what its rules share.
#[derive(Default)]
pub(crate) struct Scope {
    pub(crate) addresses: Sets<Addresses>,
    pub(crate) ports: Sets<PortKind>,
    /// By canonical spelling and by the families that the protocol leaves.
    remotes: HashMap<(String, Families), Arc<Remote>>,
    /// Lists as they are written.
    texts: HashSet<Arc<str>>,
    /// Empty sets for which there is a finding already.
    pub(crate) empty: HashSet<String>,
    pub(crate) findings: Vec<Finding>,
}

impl Scope {
    /// Whether none of these address sets has an address.
    pub(crate) fn is_empty(&mut self, names: &[String]) -> bool {
        let mut found = names.iter().map(|name| self.addresses.get(name));
        found.all(|it| !matches!(it, Lookup::Found(value) if Addresses::size(&value) > 0))
    }

    /// The text, as one that is shared with the rules that have the same.
    fn share(&mut self, text: String) -> Arc<str> {
        match self.texts.get(text.as_str()) {
            Some(known) => Arc::clone(known),
            None => {
                let text = Arc::<str>::from(text);
                self.texts.insert(Arc::clone(&text));
                text
            }
        }
    }
}

/// A list of addresses or ports, resolved.
pub(crate) struct Resolved<V> {
    pub(crate) value: Arc<V>,
    pub(crate) written: Written,
    /// As written, joined by commas.
    pub(crate) text: Arc<str>,
    /// The names of sets in the list.
    pub(crate) names: Vec<String>,
}

/// A list of addresses or ports with its names looked up but nothing joined yet.
struct Listed<K: Kind> {
    literals: Vec<K::Literal>,
    parts: Vec<Arc<K::Value>>,
    written: Written,
    text: String,
    names: Vec<String>,
}

/// `None` when absent, `all`, or wrong (which is reported).
pub(crate) fn read_ports(
    ctx: &mut Ctx<'_>,
    scope: &mut Scope,
    rule: &Fields<'_, '_>,
    protocol: Option<Protocol>,
) -> Option<Resolved<Vec<(u16, u16)>>> {
    let (key, node) = rule.entry("ports")?;
    if node.text() == Some("all") {
        return None;
    }
    if let Some(protocol) = protocol.filter(|p| !protocol::has_ports(*p)) {
        let name = protocol::name(protocol);
        let problem = Problem::new("misplaced-key", format!("`ports` on protocol `{name}`"))
            .expected("`ports` only with tcp, udp or sctp");
        let help = match protocol {
            Protocol::All => {
                "write one rule for tcp and one for udp, each with these ports".to_owned()
            }
            Protocol::Number(IPPROTO_ICMP | IPPROTO_ICMPV6) => {
                "ICMP has types and no ports: write `icmp: {type: ...}`".to_owned()
            }
            _ => format!("`{name}` has no ports: change `protocol` to one that has"),
        };
        ctx.error(key, problem.help(help));
    }
    let listed = list::<PortKind>(ctx, &mut scope.ports, node, "`ports`")?;
    Some(Resolved {
        value: combine::<PortKind>(ctx, node.at, &listed.literals, listed.parts)?,
        written: listed.written,
        text: scope.share(listed.text),
        names: listed.names,
    })
}

/// Reads `from` of an inbound rule and `to` of an outbound one.
pub(crate) fn read_remote(
    ctx: &mut Ctx<'_>,
    scope: &mut Scope,
    rule: &Fields<'_, '_>,
    direction: Direction,
    protocol: Option<Protocol>,
) -> Option<Resolved<Remote>> {
    let (right, wrong) = match direction {
        Direction::Inbound => ("from", "to"),
        Direction::Outbound => ("to", "from"),
    };
    if let Some((at, _)) = rule.entry(wrong) {
        let problem = Problem::new(
            "misplaced-key",
            format!("`{wrong}` in an {} rule", direction.name()),
        )
        .expected(format!("`{right}`"))
        .help(match rule.entry(right) {
            None => format!("write `{right}:`; the other end is this node itself"),
            Some(_) => format!(
                "the other end is this node itself, and rules match none of its addresses; a \
                     rule without `{wrong}` matches more"
            ),
        });
        ctx.error(at, problem);
    }
    let Some(node) = rule.get(right) else {
        if rule.entry(wrong).is_none() {
            let problem = Problem::new("missing-key", format!("the rule has no `{right}`"))
                .expected("addresses, CIDRs, ranges, the name of an address set, or `any`")
                .help("name the addresses that are meant; every address is `any`");
            ctx.error(rule.at, problem);
        }
        return None;
    };
    let listed = list::<Addresses>(ctx, &mut scope.addresses, node, &format!("`{right}`"))?;
    let key = (listed.written.canonical.clone(), Families::BOTH);
    let all = match scope.remotes.get(&key) {
        Some(known) => Arc::clone(known),
        None => {
            let value = combine::<Addresses>(ctx, node.at, &listed.literals, listed.parts)?;
            scope.remotes.insert(key, Arc::clone(&value));
            value
        }
    };
    let protocol = protocol?;
    // A set may have no address of a family, as it may have none at all.
    let may_be_empty = !listed.names.is_empty();
    let value = reduce(
        ctx,
        scope,
        &listed.written,
        node.at,
        all,
        protocol,
        may_be_empty,
    )?;
    Some(Resolved {
        value,
        written: listed.written,
        text: scope.share(listed.text),
        names: listed.names,
    })
}

/// Leaves only the families that `protocol` can be seen with.
fn reduce(
    ctx: &mut Ctx<'_>,
    scope: &mut Scope,
    written: &Written,
    at: At,
    all: Arc<Remote>,
    protocol: Protocol,
    may_be_empty: bool,
) -> Option<Arc<Remote>> {
    let families = protocol::families(protocol);
    let nothing_to_do = (families.v4 || all.v4.is_empty()) && (families.v6 || all.v6.is_empty());
    if nothing_to_do {
        return Some(all);
    }
    let key = (written.canonical.clone(), families);
    if let Some(known) = scope.remotes.get(&key) {
        return Some(Arc::clone(known));
    }
    let mut value = Remote::default();
    if families.v4 {
        value.v4.clone_from(&all.v4);
    }
    if families.v6 {
        value.v6.clone_from(&all.v6);
    }
    if Addresses::size(&value) == 0 && !may_be_empty {
        let name = protocol::name(protocol);
        let (sees, has) = match families.v4 {
            true => ("IPv4", "IPv6"),
            false => ("IPv6", "IPv4"),
        };
        let problem = Problem::new("matches-nothing", format!(
            "the rule can match nothing: protocol `{name}` is only seen with {sees}, and the addresses are all {has}"
        ))
        .expected(format!("an {sees} address or `any`"));
        let help = match name.as_str() {
            "icmp" => "for IPv6 write `protocol: icmpv6`",
            "icmpv6" => "for IPv4 write `protocol: icmp`",
            _ => {
                "in IPv6 this is an extension header and never the protocol: name the protocol behind it"
            }
        };
        ctx.error(at, problem.help(help));
        return None;
    }
    if let Err(problem) = kind::charge::<Addresses>(ctx.loading, &value) {
        ctx.error(at, problem);
        return None;
    }
    let value = Arc::new(value);
    scope.remotes.insert(key, Arc::clone(&value));
    Some(value)
}

/// Reads a list and looks its names up. `None` after an error, or when it names a broken set.
fn list<K: Kind>(
    ctx: &mut Ctx<'_>,
    sets: &mut Sets<K>,
    node: &Node<'_>,
    what: &str,
) -> Option<Listed<K>> {
    let (items, mut good) = items::read::<K>(ctx, node, what);
    if items.is_empty() && good {
        let problem = Problem::new(
            "matches-nothing",
            format!("{what} is an empty list, which matches nothing"),
        )
        .expected(format!(
            "at least one literal or the name of {} set",
            items::article::<K>()
        ))
        .help("write what is meant, or name a set: it may be empty");
        ctx.error(node.at, problem);
        return None;
    }
    let (mut literals, mut parts, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let mut canonical = Vec::with_capacity(items.len());
    let written = items.iter().map(|item| item.text).collect::<Vec<_>>();
    for item in &items {
        match &item.meaning {
            Meaning::Literal(literal) => {
                canonical.push(literal.to_string());
                literals.push(*literal);
            }
            Meaning::Named(name) => match sets.get(name) {
                Lookup::Found(value) => {
                    canonical.push(name.clone());
                    names.push(name.clone());
                    parts.push(value);
                }
                Lookup::Broken => good = false,
                Lookup::Unknown => {
                    good = false;
                    let problem = sets.unknown(ctx, name);
                    ctx.error(item.at, problem);
                }
            },
        }
    }
    let listed = Listed {
        literals,
        parts,
        written: Written::new(&written, canonical),
        text: items::joined(&items),
        names,
    };
    good.then_some(listed)
}
