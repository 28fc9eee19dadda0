//! The JSON Schema of policy files, for editors that check and complete what is typed. It is made
//! from the tables that the reader itself reads by: its keys, words and limits.
//!
//! A schema says which keys there are and what each may look like. What it cannot say is left to
//! `check`: whether a set is defined, which prefix has host bits, which rule is in vain.

use serde_json::{Map, Value, json};
use sg_common::flow::Timeout;
use sg_common::protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6};

use super::document;
use super::fields::NAME;
use super::guard;
use super::model::NonIp;
use super::protocol;
use super::rules;
use super::set_name::{KEYWORDS, SET_NAME};

/// The schema, in the draft that editors know best.
pub fn schema() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "sgctl policy",
        "description": "Which packets pass a node's interface: ordered rules for each direction, the first that matches decides, and what no rule matches is dropped",
        "type": "object",
        "additionalProperties": false,
        "properties": properties(document::KEYS, of_policy),
        "not": {"anyOf": [
            {"required": ["groups", "inbound"]},
            {"required": ["groups", "outbound"]},
            {"required": ["name", "file-name"]},
        ]},
        "definitions": {
            "name": name(),
            "text": {"type": ["string", "number", "boolean"]},
            "yes-or-no": {"anyOf": [{"type": "boolean"}, {"enum": ["true", "false"]}]},
            "addresses": list(&address(), 1),
            "ports": list(&port(), 1),
            "address-set": set(&address()),
            "port-set": set(&port()),
            "duration": {
                "description": "Seconds, or a number and a unit: 30s, 2m, 1h, 5d",
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": 365 * 24 * 3600},
                    {"type": "string", "pattern": r"^[1-9][0-9]{0,8}\s*[smhd]?\s*$"},
                ],
            },
            "group": {
                "type": "object",
                "additionalProperties": false,
                "properties": properties(document::GROUP_KEYS, of_policy),
                "oneOf": [{"required": ["name"]}, {"required": ["file-name"]}],
            },
            "inbound-rule": rule("from", "to"),
            "outbound-rule": rule("to", "from"),
            "guard": {
                "type": "object",
                "additionalProperties": false,
                "properties": properties(guard::KEYS, of_rule),
                "required": ["protocol", "from"],
                "allOf": [ports_need_a_protocol_with_ports()],
            },
            "icmp-message": icmp(protocol::icmp_type_names(false)),
            "icmpv6-message": icmp(protocol::icmp_type_names(true)),
        },
    })
}

/// What each of these keys may hold. One that is not known here may hold anything; a test says that
/// there is none.
fn properties(keys: &[&'static str], of: fn(&str) -> Option<Value>) -> Value {
    let all = keys.iter().map(|key| {
        let value = of(key).unwrap_or_else(|| json!({}));
        ((*key).to_owned(), value)
    });
    Value::Object(all.collect::<Map<String, Value>>())
}

/// `schema` with a sentence for whoever points at the key.
fn about(description: &str, schema: Value) -> Value {
    let mut of = Map::new();
    of.insert("description".to_owned(), description.into());
    if let Value::Object(schema) = schema {
        of.extend(schema);
    }
    Value::Object(of)
}

/// A definition. A reference stands alone in this draft: what is beside it is not looked at.
fn reference(name: &str) -> Value {
    json!({"allOf": [{"$ref": format!("#/definitions/{name}")}]})
}

fn list_of(name: &str) -> Value {
    json!({"type": "array", "items": {"$ref": format!("#/definitions/{name}")}})
}

fn map_of(name: &str) -> Value {
    json!({
        "type": "object",
        "propertyNames": {"pattern": format!("^{}$", set_name())},
        "additionalProperties": {"$ref": format!("#/definitions/{name}")},
    })
}

fn words<'w>(words: impl IntoIterator<Item = &'w str>) -> Value {
    json!({"enum": words.into_iter().collect::<Vec<_>>()})
}

/// The keys of a policy and of a group.
fn of_policy(key: &str) -> Option<Value> {
    Some(match key {
        "name" => about(
            "What the policy or group is called; by default as its file",
            reference("name"),
        ),
        "file-name" => about(
            "The name of the file that this was read from; `sgctl show` writes it",
            reference("name"),
        ),
        "description" => about("What it is for", reference("text")),
        "trailing-deny" => about(
            "What a closing rule that drops everything does in a group that is not the last: wait until the end (defer), or drop there (honour)",
            words(document::TRAILING_DENY.map(|(word, _)| word)),
        ),
        "essential" => about(
            "Whether what a node needs to have a network passes whatever the rules say: neighbour discovery, MLD, IGMP, DHCP replies. Default: true",
            reference("yes-or-no"),
        ),
        "non-ip" => about(
            "What happens to frames that are neither IPv4 nor IPv6. Default: accept",
            words([NonIp::Accept, NonIp::ArpOnly].map(NonIp::name)),
        ),
        "established" => about(
            "What this policy does to connections that are there when it comes: judge each again, let them run out, or end them. Default: revalidate",
            words(document::ESTABLISHED.map(|(word, _)| word)),
        ),
        "log-no-match" => about(
            "Log packets that no rule matches, in both directions or in one. Default: false",
            json!({"anyOf": [
                {"type": "boolean"},
                words(document::LOG_NO_MATCH.map(|(word, _)| word)),
            ]}),
        ),
        "timeouts" => about(
            "How long a flow without packets is remembered, by its state",
            json!({
                "type": "object",
                "additionalProperties": false,
                "properties": Timeout::ALL
                    .map(|timeout| (timeout.name().to_owned(), reference("duration")))
                    .into_iter()
                    .collect::<Map<String, Value>>(),
            }),
        ),
        "address-sets" => about(
            "Named lists of addresses, which rules and --set name",
            map_of("address-set"),
        ),
        "port-sets" => about(
            "Named lists of ports, which rules and --set name",
            map_of("port-set"),
        ),
        "guard" => about(
            "What must stay reachable from outside: a policy that drops any of it is refused",
            list_of("guard"),
        ),
        "inbound" => about(
            "Rules for packets that arrive, in order",
            list_of("inbound-rule"),
        ),
        "outbound" => about(
            "Rules for packets that leave, in order",
            list_of("outbound-rule"),
        ),
        "groups" => about(
            "Several groups of rules, one after the other",
            list_of("group"),
        ),
        _ => return None,
    })
}

/// The keys of a rule, and of a guard.
fn of_rule(key: &str) -> Option<Value> {
    Some(match key {
        "protocol" => about(
            "The protocol, by name or number, or `all`",
            protocol_of(|_| true, true),
        ),
        "ports" => about(
            "Destination ports of the packet that opens the flow; absent means all",
            json!({
                "anyOf": [{"const": "all"}, {"$ref": "#/definitions/ports"}],
            }),
        ),
        "icmp" => about(
            "The ICMP message; absent means all",
            json!({"type": "object"}),
        ),
        "from" => about(
            "Who sends: addresses, CIDRs, ranges, names of address sets, or any",
            reference("addresses"),
        ),
        "to" => about(
            "Who receives: addresses, CIDRs, ranges, names of address sets, or any",
            reference("addresses"),
        ),
        "action" => about(
            "What happens to what matches",
            words(rules::ACTIONS.map(|(word, _)| word)),
        ),
        "audit" => about(
            "Let pass what this rule would drop, and count it",
            reference("yes-or-no"),
        ),
        "description" => about("What the rule is for", reference("text")),
        "log" => about(
            "Log each packet that the rule decides",
            reference("yes-or-no"),
        ),
        "name" => about("How the rule is shown", reference("name")),
        _ => return None,
    })
}

/// A rule whose remote end is under the key `right`.
fn rule(right: &str, wrong: &str) -> Value {
    let keys: Vec<&str> = rules::KEYS
        .iter()
        .copied()
        .filter(|key| *key != wrong)
        .collect();
    let is = |number: u8| protocol_of(|other| other == number, false);
    let with = |key: &str, value: Value| json!({"properties": {key: value}, "required": [key]});
    let icmp_is = |number: u8, message: &str| {
        json!({
            "if": {"allOf": [with("protocol", is(number)), {"required": ["icmp"]}]},
            "then": {"properties": {"icmp": {"$ref": format!("#/definitions/{message}")}}},
        })
    };
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties(&keys, of_rule),
        "required": ["protocol", right, "action"],
        "allOf": [
            ports_need_a_protocol_with_ports(),
            {
                "if": {"required": ["icmp"]},
                "then": with("protocol", protocol_of(|number| [IPPROTO_ICMP, IPPROTO_ICMPV6].contains(&number), false)),
            },
            icmp_is(IPPROTO_ICMP, "icmp-message"),
            icmp_is(IPPROTO_ICMPV6, "icmpv6-message"),
            {
                "if": with("audit", json!({"enum": [true, "true"]})),
                "then": with("action", json!({"const": "drop"})),
            },
        ],
    })
}

fn ports_need_a_protocol_with_ports() -> Value {
    json!({
        "if": {"properties": {"ports": {"not": {"const": "all"}}}, "required": ["ports"]},
        "then": {"properties": {"protocol": protocol_of(protocol::number_has_ports, false)}},
    })
}

/// The protocols with these numbers, by name and by number; or any number.
fn protocol_of(is_meant: impl Fn(u8) -> bool, any: bool) -> Value {
    let numbers: Vec<u8> = (0..=u8::MAX).filter(|number| is_meant(*number)).collect();
    let named = protocol::NAMES
        .iter()
        .filter(|(_, number)| numbers.contains(number));
    let mut names: Vec<String> = named.map(|(name, _)| (*name).to_owned()).collect();
    if any {
        names.insert(0, "all".to_owned());
        return json!({"anyOf": [
            {"enum": names},
            {"type": "integer", "minimum": 0, "maximum": u8::MAX},
            {"type": "string", "pattern": format!("^{BYTE}$")},
        ]});
    }
    let numbers_as_text = numbers.iter().map(u8::to_string);
    let words: Vec<String> = names.into_iter().chain(numbers_as_text).collect();
    json!({"anyOf": [{"enum": words}, {"enum": numbers}]})
}

/// An ICMP message whose type may have one of these names.
fn icmp(names: impl Iterator<Item = &'static str>) -> Value {
    let number = json!({"anyOf": [
        {"type": "integer", "minimum": 0, "maximum": u8::MAX},
        {"type": "string", "pattern": format!("^{BYTE}$")},
    ]});
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "type": {"anyOf": [words(names), number]},
            "code": number,
        },
        "required": ["type"],
    })
}

/// One line that is not empty, without `|`.
fn name() -> Value {
    const BAD: &str = r"|\u0000-\u001f\u007f-\u009f";
    let inner = NAME.saturating_sub(2);
    json!({"anyOf": [
        {"type": "string", "pattern": format!(r"^\s*[^ {BAD}]([^{BAD}]{{0,{inner}}}[^ {BAD}])?\s*$")},
        {"type": ["number", "boolean"]},
    ]})
}

/// A number from 0 to 255 without leading zeros.
const BYTE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
const PORT: &str =
    "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)";

/// The name of a set, which is no word that means something else.
fn set_name() -> String {
    let keywords = KEYWORDS.join("|");
    let rest = SET_NAME.saturating_sub(1);
    format!("(?!({keywords})(?![a-z0-9_-]))[a-z][a-z0-9_-]{{0,{rest}}}")
}

/// What one address, CIDR, range or name of a set looks like. Ports of it are not told from others
/// by it: whether there are eight groups, and whether a range runs backwards, is for `check`.
fn address() -> String {
    let v4 = format!(r"({BYTE}\.){{3}}{BYTE}");
    let v6 = r"(?=[^:\s,/-]*:[^:\s,/-]*:)[0-9A-Fa-f:.]+";
    let length4 = "(/(3[0-2]|[12]?[0-9]))?";
    let length6 = "(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?";
    format!(
        r"(any|{v4}{length4}|{v4}\s*-\s*{v4}|{v6}{length6}|{v6}\s*-\s*{v6}|{})",
        set_name()
    )
}

/// What one port, range of ports or name of a set looks like.
fn port() -> String {
    format!(r"({PORT}(\s*-\s*{PORT})?|{})", set_name())
}

/// Elements in one text, separated by commas, or in a list of at least `least` of such texts.
fn list(element: &str, least: usize) -> Value {
    let text = texts(element);
    json!({"anyOf": [text, {"type": "array", "items": text, "minItems": least}]})
}

fn texts(element: &str) -> Value {
    let text = json!({
        "type": "string",
        "pattern": format!(r"^\s*{element}\s*(,\s*{element}\s*)*$"),
    });
    match element.starts_with(&format!("({PORT}")) {
        true => json!({"anyOf": [text, {"type": "integer", "minimum": 0, "maximum": u16::MAX}]}),
        false => text,
    }
}

/// The schema of a named set: a list of such elements, or a file of them.
fn set(element: &str) -> Value {
    json!({"anyOf": [
        list(element, 0),
        {
            "type": "object",
            "additionalProperties": false,
            "properties": {"file": {
                "description": "A file with one entry to a line, beside the policy file",
                "type": ["string", "number", "boolean"],
            }},
            "required": ["file"],
        },
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever adds a key to the reader has to say here what it may hold.
    #[test]
    fn every_key_of_the_reader_is_described() {
        for key in [document::KEYS, document::GROUP_KEYS].concat() {
            let of = of_policy(key).unwrap_or_else(|| panic!("{key}"));
            assert!(of["description"].is_string(), "{key}: {of}");
        }
        for key in [rules::KEYS, guard::KEYS].concat() {
            let of = of_rule(key).unwrap_or_else(|| panic!("{key}"));
            assert!(of["description"].is_string(), "{key}: {of}");
        }
        assert_eq!(of_policy("no-key"), None);
        assert_eq!(of_rule("no-key"), None);
    }

    /// Every name in it leads to a definition, and every definition is used.
    #[test]
    fn references_lead_somewhere() {
        let schema = schema();
        let text = schema.to_string();
        let definitions = schema["definitions"].as_object().unwrap();
        let used: std::collections::BTreeSet<&str> = text
            .split("#/definitions/")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        let known: std::collections::BTreeSet<&str> =
            definitions.keys().map(String::as_str).collect();
        assert_eq!(used, known);
    }
}
