//! Words of other tools - nftables, iptables, the clouds' security groups, Terraform, Kubernetes -
//! and what is written here instead. A remedy never widens access: where a word that has no
//! counterpart narrows a rule, the remedy says so, and does not tell anybody to leave it out.

use sg_common::flow::Timeout;

use super::errors::Problem;
use super::model::Direction;
use super::set_name::is_set_name;

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The policy itself, or one of its groups.
    Rules,
    Rule(Direction),
    Timeouts,
    Elsewhere,
}

/// The word in lower case and without separators, so that `source-ports`, `source_ports` and
/// `SourcePorts` are one word.
pub(crate) fn plain(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '-' | '_' | ' ' | '.'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// The remedy for an unknown key that means something elsewhere.
pub(crate) fn key(place: Place, key: &str) -> Option<String> {
    let word = plain(key);
    match place {
        Place::Rules => in_rules(&word).map(str::to_owned),
        Place::Rule(direction) => in_rule(direction, &word),
        Place::Timeouts => in_timeouts(&word),
        Place::Elsewhere => None,
    }
}

/// The remedy for any other unknown key.
pub(crate) fn unknown(place: Place) -> &'static str {
    match place {
        Place::Rule(_) => {
            "`sgctl templates show tke` prints rules to compare with; mind that a rule without this \
             line may match more"
        }
        Place::Rules => "`sgctl templates show tke` prints a policy to compare with",
        Place::Timeouts | Place::Elsewhere => "write one of those keys",
    }
}

fn in_rules(word: &str) -> Option<&'static str> {
    Some(match word {
        "ingress"
        | "ingresses"
        | "input"
        | "in"
        | "inboundrules"
        | "ingressrules"
        | "incoming"
        | "ippermissions"
        | "securitygroupingress"
        | "from" => "did you mean `inbound`?",
        "egress"
        | "egresses"
        | "output"
        | "out"
        | "outboundrules"
        | "egressrules"
        | "outgoing"
        | "ippermissionsegress"
        | "securitygroupegress"
        | "to" => "did you mean `outbound`?",
        "rules" | "rule" | "chain" | "chains" | "entries" | "acl" | "acls" | "forward"
        | "prerouting" | "postrouting" => {
            "rules stand in the lists `inbound` and `outbound`, as packets pass the interface"
        }
        "sets" | "set" | "ipsets" | "ipset" | "addresses" | "addressgroups" | "addressgroup"
        | "prefixlists" | "maps" | "elements" => "did you mean `address-sets`?",
        "ports" | "services" | "servicegroups" | "portgroups" | "portlists" => {
            "did you mean `port-sets`?"
        }
        "define" | "defines" | "variables" | "variable" | "vars" | "locals" => {
            "named sets stand under `address-sets` and `port-sets`"
        }
        "policy" | "default" | "defaultaction" | "defaultpolicy" | "defaultverdict" => {
            "what no rule matches is dropped, in both directions; nothing has to say so"
        }
        "securitygroup" | "securitygroups" | "tables" | "table" => "did you mean `groups`?",
        "comment" | "comments" => "did you mean `description`?",
        "stateful" | "conntrack" => "rules are stateful: answers need no rule",
        "log" | "logging" => "a rule is logged with `log: true` in it",
        _ => return None,
    })
}

/// Ends the remedy for a word that narrows a rule and has no counterpart here.
const NARROWS: &str = "; a rule without this line matches more";

fn in_rule(direction: Direction, word: &str) -> Option<String> {
    let form = || other_form(word).map(str::to_owned);
    let narrows = || not_matched(word).map(|text| format!("{text}{NARROWS}"));
    addresses(direction, word)
        .or_else(|| other_name(word).map(did_you_mean))
        .or_else(form)
        .or_else(narrows)
}

fn did_you_mean(key: &str) -> String {
    format!("did you mean `{key}`?")
}

/// What a word for addresses is about.
enum End {
    /// The other end, in both directions.
    Remote,
    Source,
    Destination,
    /// Whoever has a name or a label elsewhere.
    ByName,
}

/// Words for one or both ends of a packet: a rule is about the remote one.
fn addresses(direction: Direction, word: &str) -> Option<String> {
    let (remote, local) = match direction {
        Direction::Inbound => ("from", "destination"),
        Direction::Outbound => ("to", "source"),
    };
    Some(match (end_of(word)?, direction) {
        (End::Remote, _)
        | (End::Source, Direction::Inbound)
        | (End::Destination, Direction::Outbound) => did_you_mean(remote),
        (End::Source | End::Destination, _) => format!(
            "rules match the remote end only, `{remote}`, and no {local} of the node's own{NARROWS}"
        ),
        (End::ByName, _) => format!(
            "rules match addresses: put those that are meant into an address set, and name it in \
             `{remote}`"
        ),
    })
}

fn end_of(word: &str) -> Option<End> {
    Some(match word {
        "cidr" | "cidrs" | "cidrblock" | "cidrblocks" | "cidrip" | "cidripv4" | "cidripv6"
        | "ipv4cidr" | "ipv6cidr" | "ipv6cidrblock" | "ipv6cidrblocks" | "ipranges"
        | "ipv6ranges" | "iprange" | "ip" | "ips" | "ipaddress" | "ipaddresses" | "ipblock"
        | "ipblocks" | "address" | "addresses" | "addr" | "remote" | "remoteip"
        | "remoteipprefix" | "peer" | "peers" | "prefix" | "prefixes" | "network" | "networks"
        | "net" | "nets" | "subnet" | "subnets" | "host" | "hosts" | "addresstemplate" | "who" => {
            End::Remote
        }
        "source"
        | "sources"
        | "src"
        | "srcs"
        | "srcip"
        | "srcaddr"
        | "saddr"
        | "sourceip"
        | "sourceips"
        | "sourceaddress"
        | "sourceaddresses"
        | "sourceaddressprefix"
        | "sourcecidr"
        | "sourcecidrs"
        | "sourcecidrip"
        | "sourceranges"
        | "sourceiprange"
        | "ipsaddr"
        | "ip6saddr"
        | "fromcidr"
        | "fromcidrset" => End::Source,
        "destination"
        | "destinations"
        | "dest"
        | "dests"
        | "dst"
        | "dstip"
        | "dstaddr"
        | "daddr"
        | "destinationip"
        | "destinationaddress"
        | "destinationaddresses"
        | "destip"
        | "destinationaddressprefix"
        | "destinationcidr"
        | "destinationcidrs"
        | "destinationranges"
        | "destcidrip"
        | "ipdaddr"
        | "ip6daddr"
        | "tocidr"
        | "tocidrset" => End::Destination,
        "securitygroup"
        | "securitygroups"
        | "securitygroupid"
        | "sourcesecuritygroup"
        | "sourcesecuritygroupid"
        | "useridgrouppairs"
        | "prefixlistid"
        | "prefixlistids"
        | "podselector"
        | "namespaceselector"
        | "selector"
        | "selectors"
        | "endpointselector"
        | "fromendpoints"
        | "toendpoints"
        | "fqdn"
        | "tofqdns"
        | "fqdns"
        | "domain"
        | "self"
        | "toentities"
        | "fromentities"
        | "serviceaccount" => End::ByName,
        _ => return None,
    })
}

/// The key that is meant.
fn other_name(word: &str) -> Option<&'static str> {
    Some(match word {
        "port"
        | "dport"
        | "dports"
        | "dstport"
        | "dstports"
        | "destport"
        | "destports"
        | "destinationport"
        | "destinationports"
        | "destinationportrange"
        | "destinationportranges"
        | "portrange"
        | "portranges"
        | "toports"
        | "tcpdport"
        | "udpdport"
        | "servicetemplate" => "ports",
        "proto" | "protos" | "protocols" | "ipprotocol" | "ipprotocols" | "l4proto"
        | "transport" | "nexthdr" | "protocolnumber" | "metal4proto" => "protocol",
        "verdict" | "target" | "jump" | "policy" | "effect" | "decision" | "then" | "access"
        | "ruleaction" | "permission" | "disposition" => "action",
        "comment" | "comments" | "desc" | "policydescription" | "remark" | "note" | "notes"
        | "title" => "description",
        "id" | "sid" | "ruleid" | "rulename" | "label" => "name",
        "logging" | "logprefix" | "nflog" => "log",
        _ => return None,
    })
}

/// How the same is said here, where it is not one key for another.
fn other_form(word: &str) -> Option<&'static str> {
    Some(match word {
        "fromport" | "toport" | "startport" | "endport" | "portmin" | "portmax"
        | "portrangemin" | "portrangemax" | "firstport" | "lastport" => {
            "write both ends as one range: `ports: 8000-8099`"
        }
        "allow" | "allowed" | "accept" | "permit" => {
            "write `action: accept`, and the matches beside it"
        }
        "deny" | "denied" | "drop" | "reject" | "block" => {
            "write `action: drop`, and the matches beside it"
        }
        "icmptype" | "icmpcode" | "icmptypes" | "icmpv6type" | "icmpv6" | "type" | "code"
        | "types" => "write `icmp: {type: ..., code: ...}`",
        "service" | "services" | "application" => {
            "write `protocol` and `ports`; service names are not looked up"
        }
        "except" | "not" | "exclude" | "excludes" | "excluding" | "exceptions" | "unless" => AROUND,
        "priority" | "order" | "number" | "index" | "position" | "ruleno" | "rulenumber"
        | "sequence" | "precedence" | "weight" => {
            "rules are tried in the order of the file, and the first that matches decides: put \
             the rule where it belongs"
        }
        "enabled" | "disabled" | "active" => "a rule that stands in the file is in force",
        "direction" | "traffic" => {
            "a rule's direction is the list that it stands in: `inbound` or `outbound`"
        }
        "family" | "ethertype" | "addressfamily" | "ipversion" | "af" => {
            "the addresses say it: `0.0.0.0/0` is every IPv4 address, `::/0` every IPv6 address"
        }
        "counter" | "counters" => "each rule is counted as it is: `sgctl counters` shows it",
        _ => return None,
    })
}

/// Why a rule cannot match what the word is about. The remedy goes on with [`NARROWS`].
fn not_matched(word: &str) -> Option<&'static str> {
    Some(match word {
        "sport" | "sports" | "srcport" | "srcports" | "sourceport" | "sourceports"
        | "sourceportrange" | "sourceportranges" | "tcpsport" | "udpsport" => {
            "source ports are not matched: `ports` is the destination port of the packet that \
             opens the flow, and answers need no rule"
        }
        "localport" | "localports" => {
            "`ports` is the destination port of the packet that opens the flow: the node's own \
             port inbound, the remote one outbound"
        }
        "remoteport" | "remoteports" => {
            "`ports` is the destination port of the packet that opens the flow: the remote one \
             outbound, the node's own inbound"
        }
        "state" | "states" | "ctstate" | "ct" | "conntrack" | "stateful" | "established" => {
            "rules are about the packet that opens a flow; what belongs to a flow that they \
             accepted needs no rule"
        }
        "iif" | "oif" | "iifname" | "oifname" | "interface" | "interfaces" | "iface" | "device"
        | "dev" | "inputinterface" | "outinterface" => {
            "a policy holds for the interface that `--iface` names, and its rules match none"
        }
        "limit" | "rate" | "ratelimit" | "quota" | "connlimit" | "hashlimit" | "burst" => {
            "there are no rate limits here"
        }
        "flags" | "tcpflags" | "syn" => {
            "flags are not matched: a bare SYN opens a flow, and what belongs to one needs no rule"
        }
        "mac" | "macaddress" | "smac" | "macsource" | "mark" | "uid" | "gid" | "user" | "dscp"
        | "vlan" | "time" | "schedule" | "string" | "geoip" | "country" => {
            "rules match protocol, ports and the remote address, nothing else"
        }
        _ => return None,
    })
}

fn in_timeouts(word: &str) -> Option<String> {
    // The kernel's own settings for connection tracking have these words in their names.
    let word = word
        .replace("nfconntrack", "")
        .replace("netnetfilter", "")
        .replace("timeout", "");
    let named = |name: &str| plain(name) == word || plain(name) == format!("tcp{word}");
    if let Some(timeout) = Timeout::ALL.into_iter().find(|t| named(t.name())) {
        return Some(format!("did you mean `{}`?", timeout.name()));
    }
    match word.as_str() {
        "tcp" | "tcpidle" | "idle" => {
            let states = Timeout::ALL.map(Timeout::name);
            let states = states.iter().filter(|name| name.starts_with("tcp-"));
            let states = states.map(|name| format!("`{name}`")).collect::<Vec<_>>();
            Some(format!(
                "TCP has a timeout for each state: {}; connections without traffic last for \
                 `tcp-established`",
                states.join(", ")
            ))
        }
        "icmpv6" => Some("did you mean `icmp`? It is for both families".to_owned()),
        "generic" | "gre" | "default" => Some("did you mean `other`?".to_owned()),
        "frag" | "fragments" | "fragtime" | "ipfragtime" | "frag6" => {
            Some("did you mean `fragment`?".to_owned())
        }
        _ => None,
    }
}

/// How an exception is written. Not as a rule with the other action, which accepts what is left
/// out of a rule that drops.
const AROUND: &str = "list the ranges around what is left out, so that the rule is about nothing \
                      else: all but port 25 is `0-24, 26-65535`";

/// What is wrong with a value that negates.
pub(crate) fn negation(text: &str) -> Problem {
    Problem::new("negation", format!("`{text}` negates, and no rule can"))
        .expected("what the rule is about")
        .help(AROUND)
}

/// What is wrong with a protocol that is negated.
pub(crate) fn negated_protocol(text: &str) -> Problem {
    Problem::new("negation", format!("`{text}` negates, and no rule can"))
        .expected("the protocol that the rule is about")
        .help(
            "write a rule for each protocol that it is to be about, and none for the one left out",
        )
}

/// Whether a value negates, as one or another tool writes that.
pub(crate) fn negates(text: &str) -> bool {
    let words = ["not ", "except "];
    let lower = text.to_ascii_lowercase();
    text.starts_with(['!', '^', '~'])
        || words.iter().any(|word| lower.starts_with(word))
        || words.iter().any(|word| lower.contains(&format!(" {word}")))
}

/// The name in `@office`, `$office` or `${office}`, as other tools name a set.
pub(crate) fn sigil(text: &str) -> Option<&str> {
    let name = match text.strip_prefix(['@', '$', '%', '+']) {
        Some(name) => name,
        None => text
            .strip_prefix("var.")
            .or_else(|| text.strip_prefix("local."))?,
    };
    let name = name
        .strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'))
        .unwrap_or(name)
        .trim();
    is_set_name(name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_known_by_what_other_tools_put_before_their_names() {
        for text in [
            "@office",
            "$office",
            "${office}",
            "${ office }",
            "var.office",
        ] {
            assert_eq!(sigil(text), Some("office"), "{text}");
        }
        for text in ["office", "@", "$1", "@Office", "${}"] {
            assert_eq!(sigil(text), None, "{text}");
        }
    }

    /// Proves P8: no remedy for a key tells anybody to leave it out.
    #[test]
    fn no_remedy_for_a_key_widens_a_rule() {
        let words = [
            "source-ports",
            "sport",
            "daddr",
            "iifname",
            "limit",
            "mac",
            "state",
            "flags",
            "source_security_group_id",
            "local-port",
        ];
        for word in words {
            let help = key(Place::Rule(Direction::Inbound), word).unwrap();
            assert!(
                !help.contains("remove") && !help.contains("leave"),
                "{word}: {help}"
            );
        }
        for (direction, word) in [
            (Direction::Inbound, "daddr"),
            (Direction::Outbound, "saddr"),
        ] {
            let help = key(Place::Rule(direction), word).unwrap();
            assert!(help.contains("matches more"), "{word}: {help}");
        }
    }
}
