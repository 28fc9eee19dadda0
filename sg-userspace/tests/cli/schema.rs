//! The JSON of every command against expectations written by hand (A4). The comparison fails for a
//! key that is missing, a key that is not expected, a value of another type, and a list that is
//! empty although it should not be.
//!
//! An expectation is JSON too. A string in it names a type: `text`, `number` (whole and not
//! negative), `real`, `bool`, `time` (RFC 3339, UTC), `digest`, `address`, or `a|b|c` for one of
//! these words. With `?` at its end the value may be null as well. `[x]` is a list of at least one
//! x, `["*", x]` a list of any number of x, and `["?", x]` is x or null. An object has exactly the
//! keys of its expectation.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::run::Running;
use super::world::{World, file, run, run_with};

/// Where and why `value` differs from `expected`, or `None`.
fn differs(expected: &Value, value: &Value, at: &str) -> Option<String> {
    match expected {
        Value::String(kind) => {
            let is_right = is_kind(kind, value);
            (!is_right).then(|| format!("{at} is {value} and not {kind}"))
        }
        Value::Array(inner) => match (inner.as_slice(), value) {
            ([Value::String(mark), _], Value::Null) if mark == "?" => None,
            ([Value::String(mark), one], value) if mark == "?" => differs(one, value, at),
            ([Value::String(mark), one], Value::Array(all)) if mark == "*" => each(one, all, at),
            ([one], Value::Array(all)) if !all.is_empty() => each(one, all, at),
            _ => Some(format!("{at} is {value} and no list with something in it")),
        },
        Value::Object(keys) => {
            let Value::Object(found) = value else {
                return Some(format!("{at} is {value} and no object"));
            };
            if let Some(key) = found.keys().find(|key| !keys.contains_key(*key)) {
                return Some(format!("{at} has a key `{key}` that is not expected"));
            }
            keys.iter()
                .find_map(|(key, expected)| match found.get(key) {
                    None => Some(format!("{at} has no `{key}`")),
                    Some(value) => differs(expected, value, &format!("{at}.{key}")),
                })
        }
        other => panic!("{other} is no expectation"),
    }
}

fn each(one: &Value, all: &[Value], at: &str) -> Option<String> {
    let mut numbered = all.iter().enumerate();
    numbered.find_map(|(i, value)| differs(one, value, &format!("{at}[{i}]")))
}

fn is_kind(kind: &str, value: &Value) -> bool {
    if let Some(kind) = kind.strip_suffix('?') {
        return value.is_null() || is_kind(kind, value);
    }
    let text = value.as_str();
    match kind {
        "text" => text.is_some_and(|text| !text.is_empty()),
        "number" => value.is_u64(),
        "real" => value.is_f64(),
        "bool" => value.is_boolean(),
        "time" => text.is_some_and(is_time),
        "address" => text.is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
        "digest" => text
            .and_then(|text| text.strip_prefix("sha256:"))
            .is_some_and(|hex| {
                hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            }),
        words => text.is_some_and(|text| words.split('|').any(|word| word == text)),
    }
}

/// Whether the text is a time such as `2026-01-31T10:20:30.123Z`, and this moment exists.
fn is_time(text: &str) -> bool {
    let shape = |(i, c): (usize, char)| match i {
        4 | 7 => c == '-',
        10 => c == 'T',
        13 | 16 => c == ':',
        _ if i < 19 => c.is_ascii_digit(),
        _ => c.is_ascii_digit() || c == '.' || c == 'Z',
    };
    text.len() >= 20
        && text.ends_with('Z')
        && text.chars().enumerate().all(shape)
        && text.parse::<jiff::Timestamp>().is_ok()
}

#[track_caller]
fn assert_shape(expected: &Value, value: &Value) {
    if let Some(why) = differs(expected, value, "it") {
        panic!("{why}:\n{value:#}");
    }
}

fn policy_status() -> Value {
    json!({"name": "text", "digest": "digest", "generation": "number", "applied_at": "time", "audit": "rules|policy|all?"})
}

fn counters_of_one() -> Value {
    const DIRECTION: &str = "inbound|outbound";
    json!({
        "interface": "nic",
        "netns": "text",
        "health": "enforcing",
        "faults": ["*", fault()],
        "sampled_at": "time", "since": "time", "reset_at": "time?",
        "policy": policy_status(),
        "rules": [{
            "direction": DIRECTION, "position": "number?", "group": "text", "name": "text?",
            "action": "accept|drop|audit", "summary": "text", "description": "text?",
            "packets": "number", "bytes": "number",
            "reply_packets": "number", "reply_bytes": "number",
        }],
        "reasons": [{
            "direction": DIRECTION, "reason": "text", "action": "accept|drop|audit",
            "packets": "number", "bytes": "number",
        }],
        "totals": [{
            "direction": DIRECTION, "packets": "number", "bytes": "number",
            "accepted": "number", "dropped": "number", "audited": "number",
        }],
    })
}

/// Each reason with the action of its packets.
const REASONS: [&str; 16] = [
    "accept essential",
    "accept non-ip",
    "accept related",
    "accept seeded",
    "audit fragment",
    "audit malformed",
    "audit no-match",
    "audit non-ip",
    "audit related",
    "audit revoked",
    "drop fragment",
    "drop incomplete",
    "drop malformed",
    "drop no-match",
    "drop non-ip",
    "drop revoked",
];

fn reasons(counters: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let reasons = counters["reasons"].as_array().unwrap().iter();
    reasons
        .map(|row| format!("{} {}", text(&row["action"]), text(&row["reason"])))
        .collect()
}

fn applied() -> Value {
    json!({
        "interface": "nic", "netns": "text", "replaced": "bool", "unchanged": "bool",
        "xdp_mode": "native|generic", "egress_hook": "tcx|clsact",
        "policy": policy_status(), "rules": "number", "tables": tables(),
        "seeded": ["?", {
            "entered": "number", "without_rule": "number", "left_out": "number",
            "unseen": [{"kind": "forwarded|bridged|untracked|namespaces|sctp", "message": "text"}],
        }],
        "cut": ["?", {"connections": "number?", "left_out": "number"}], "added_clsact": "bool",
        "unconfirmed": ["?", unconfirmed()],
        "candidate": ["?", {
            "name": "text", "digest": "digest", "since": "time", "pairs": "number", "logs": "bool",
        }],
        "ended_candidate": ["?", {"name": "text", "digest": "digest", "reason": "text"}],
        "self_check": ["?", {"packets": "number", "edges": "number", "classes": "number",
            "all_classes": "number", "seconds": "real"}],
        "forced": "bool", "compile_seconds": "real", "load_seconds": "real", "mounted": "text?",
    })
}

/// What a change does to the machine.
fn impact() -> Value {
    let rule = json!({
        "direction": "inbound|outbound", "group": "text", "position": "number?", "name": "text?",
        "summary": "text",
    });
    let process = json!({"pid": "number", "name": "text"});
    let dropped = json!({
        "reason": "rule|no-match|flush|cut-existing", "direction": "inbound|outbound",
        "rule": ["?", rule.clone()],
    });
    json!({
        "interfaces": ["nic"],
        "cut": ["*", {
            "interface": "nic", "protocol": "number", "local": "address", "local_port": "number?",
            "remote": "address", "remote_port": "number?", "icmp_id": "number?",
            "opened": "inbound|outbound|unknown", "state": "text", "age_seconds": "number?",
            "is_older": "bool", "processes": ["*", process.clone()],
            "now": {"reason": "rule|seeded|no-policy", "rule": ["?", rule.clone()]},
            "then": dropped.clone(),
        }],
        "kept": "number",
        "opened": ["*", {
            "protocol": "number", "local": "address", "port": "number",
            "processes": ["*", process.clone()],
            "from": [{"prefixes": ["text"], "more": "number", "rule": rule}],
        }],
        "opened_is_complete": "bool",
        "unseen": ["*", {
            "kind": "forwarded|bridged|untracked|namespaces|sctp", "message": "text",
        }],
        "blind": "text?",
        "session": {
            "connections": ["*", {
                "local": "address", "local_port": "number", "remote": "address",
                "remote_port": "number", "opened": "inbound|outbound", "process": ["?", process],
                "crosses": "bool", "cut": ["?", dropped.clone()], "new": ["?", dropped],
            }],
            "unseen": ["*", "text"],
        },
    })
}

/// A policy that is undone unless it is confirmed.
fn unconfirmed() -> Value {
    json!({"until": "time", "seconds_left": "real", "returns_to": ["?", policy_status()]})
}

fn fault() -> Value {
    json!({
        "code": "text", "direction": "text?", "message": "text", "help": "text",
    })
}

/// The rows of `status --ready` and `--live`.
#[test]
fn probes() {
    let world = World::new();
    world.run(&["apply", "builtin:tke", "--iface", "nic"]).ok();
    let ask = |words: &[&str]| {
        let status = ["status", "--iface", "nic", "--json"];
        world.run(&[&status[..], words].concat()).json()
    };
    let row = json!({"interface": "nic", "netns": "text", "errors": ["*", finding("error")]});
    let with = |key: &str| {
        let mut row = row.clone();
        row[key] = "bool".into();
        json!([row])
    };
    let ready = ask(&["--ready", "builtin:tke"]);
    assert_shape(&with("ready"), &ready);
    assert_eq!(ready[0]["ready"], true);
    let other = ask(&["--ready", "builtin:tke-minimal"]);
    assert_shape(&with("ready"), &other);
    assert_eq!(other[0]["errors"][0]["code"], "other-policy");
    let live = ask(&["--live"]);
    assert_shape(&with("live"), &live);
    assert_eq!(live[0]["errors"][0]["code"], "not-live");
}

fn tables() -> Value {
    json!({
        "address_classes": "number", "blocks": "number", "nodes": "number",
        "ipv6_prefixes": "number", "bytes": "number", "placement": "bss|array-map",
        "ipv4_steps": "number", "ipv6_steps": "number",
    })
}

fn explained(rule: Value, interface: &str) -> Value {
    json!({
        "interface": interface, "health": "enforcing?", "faults": ["*", fault()], "verdict": "accept|drop|audit", "direction": "inbound|outbound",
        "rule": rule, "reason": "text",
    })
}

/// The same of an interface, whose programs were asked.
fn explained_there(rule: Value) -> Value {
    let decision = json!({
        "verdict": "accept|drop|audit", "rule": ["?", explained_rule(json!(["?", location()]))],
        "reason": "text", "by_flow": "bool",
    });
    let more = json!({
        "judged_by": "programs|tables", "remote": "address", "remote_port": "number?",
        "local": "address", "local_port": "number?", "by_flow": "bool", "flow": ["?", flow()],
        "next": ["?", decision.clone()], "flows_between": "number", "reply": ["?", decision],
        "nearest": ["*", {
            "action": "accept|drop|audit", "rule": explained_rule(json!(["?", location()])),
            "misses": ["order|protocol|port|icmp|address"],
        }],
    });
    let mut whole = explained(rule, "nic");
    for (key, value) in more.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    whole
}

fn explained_rule(location: Value) -> Value {
    json!({
        "group": "text", "position": "number", "name": "text?", "summary": "text",
        "description": "text?", "location": location,
    })
}

fn location() -> Value {
    json!({"file": "text", "line": "number", "column": "number"})
}

/// Shows that the comparison can fail, since the tests below would prove nothing otherwise.
#[test]
fn what_differs_is_seen() {
    let expected = json!({
        "a": "text", "b": ["number"], "c": ["?", {"d": "x|y"}], "t": "time", "n": "number?",
    });
    let right = json!({
        "a": "z", "b": [1], "c": {"d": "y"}, "t": "2026-01-31T10:20:30.5Z", "n": null,
    });
    assert_eq!(differs(&expected, &right, "it"), None);
    let with = |key: &str, value: Value| {
        let mut changed = right.clone();
        changed[key] = value;
        changed
    };
    let mut without = right.clone();
    without.as_object_mut().unwrap().remove("n");
    let wrong = [
        (without, "has no `n`"),
        (with("more", json!(1)), "`more` that is not expected"),
        (with("a", json!(1)), "it.a"),
        (with("a", json!("")), "it.a"),
        (with("b", json!([])), "no list with something"),
        (with("b", json!(1)), "no list"),
        (with("b", json!([1, -1])), "it.b[1]"),
        (with("b", json!({"0": 1})), "no list"),
        (with("c", json!({"d": "z"})), "it.c.d"),
        (with("c", json!({"d": "x", "e": 1})), "`e` that is not"),
        (with("c", json!([])), "no object"),
        (with("t", json!("2026-01-31 10:20:30Z")), "it.t"),
        (with("t", json!("2026-13-31T10:20:30Z")), "it.t"),
        (with("t", json!("2026-01-31T10:20:30+01:00")), "it.t"),
        (with("n", json!("1")), "it.n"),
        (json!([right]), "no object"),
    ];
    for (value, says) in wrong {
        let why = differs(&expected, &value, "it").unwrap_or_default();
        assert!(why.contains(says), "`{why}` of {value}");
    }
}

/// Proves A4 for the commands that need no privilege.
#[test]
fn policies_and_answers() {
    let templates = run(&["templates", "--json"]).ok().json();
    let template = json!({"name": "text", "description": "text", "rules": "number"});
    assert_shape(&json!([template]), &templates);
    let shown = run(&["templates", "show", "tke", "--json"]).ok().json();
    let template = json!({"name": "tke", "description": "text", "text": "text"});
    assert_shape(&template, &shown);

    let ask = |more: &[&str]| {
        let words = [&["explain", "builtin:tke", "--json", "in"][..], more].concat();
        run(&words).ok().json()
    };
    let by_rule = ask(&["tcp", "192.0.2.9", "10.0.0.5:22"]);
    assert_shape(&explained(explained_rule(location()), "none?"), &by_rule);
    let by_none = ask(&["tcp", "2001:db8::1", "[2001:db8::2]:22"]);
    assert_shape(&explained(json!("none?"), "none?"), &by_none);
    assert_eq!(by_none["rule"], Value::Null);
}

/// Proves A4: the value is a list also if it has one element or none.
#[test]
fn what_is_attached() {
    let world = World::new();
    assert_eq!(world.run(&["status", "--json"]).ok().json(), json!([]));
    assert_eq!(world.run(&["detach", "--json"]).ok().json(), json!([]));
    let text = "name: p\noutbound: [{protocol: udp, to: any, action: accept, name: out}]\n\
                inbound: [{protocol: icmp, from: any, action: accept, description: pings}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let apply = ["apply", &path, "--iface", "nic", "--json"];
    assert_shape(&applied_report(), &world.run(&apply).ok().json());
    let other = file(
        world.dir.path(),
        "q.yaml",
        &text.replace("any", "0.0.0.0/0"),
    );
    let apply = ["apply", &other, "--iface", "nic", "--json"];
    let dry = world
        .run(&[&apply[..], &["--dry-run"]].concat())
        .ok()
        .json();
    let would = json!({
        "interface": "nic", "dry_run": "bool", "unchanged": "bool", "replaced": "bool",
        "generation": "number", "impact": impact(), "refusals": ["*", finding("error")],
        "findings": ["*", finding("warning|note")], "errors": ["*", "none"],
    });
    assert_shape(&would, &dry);
    let replaced = world.run(&apply).ok().json();
    assert_shape(&applied_report(), &replaced);
    assert_eq!(replaced["replaced"], true);
    world.ping_node(1);

    let status = json!([{
        "interface": "nic", "ifindex": "number", "netns": "text", "netns_cookie": "number",
        "health": "enforcing", "xdp_mode": "native|generic", "egress_hook": "tcx|clsact",
        "faults": ["*", fault()],
        "attached_at": "time", "policy": policy_status(), "rules": "number",
        "audited_rules": "number", "forced": "bool", "max_flows": "number", "pins": "text",
    }]);
    let iface = ["--iface", "nic"];
    for more in [&[][..], &iface] {
        let json = |command: &str| {
            let words = [&[command, "--json"][..], more].concat();
            world.run(&words).ok().json()
        };
        assert_shape(&status, &json("status"));
        let counters = json("counters");
        assert_shape(&json!([counters_of_one()]), &counters);
        assert_eq!(counters.as_array().unwrap().len(), 1);
        assert_eq!(reasons(&counters[0]), REASONS.map(str::to_owned).into());
        let reset = world.run(&[&["counters", "--reset", "--json"][..], more].concat());
        let zero = json!([{
            "interface": "nic", "netns": "text", "reset_at": "time", "counted_since": "time",
        }]);
        assert_shape(&zero, &reset.ok().json());
        assert_shape(&json!([flows_of_one()]), &json("flows"));
        let history = json!([{
            "interface": "nic", "netns": "text", "policies": [kept_policy()],
        }]);
        assert_shape(&history, &json("history"));
    }
    let mut shown = kept_policy();
    for key in ["interface", "netns", "text"] {
        shown[key] = json!("text");
    }
    assert_shape(&shown, &world.run(&["show", "--json"]).ok().json());
    let words = [
        "explain",
        "--json",
        "--iface",
        "nic",
        "in",
        "icmp",
        "192.0.2.2",
        "192.0.2.1",
    ];
    let there = explained_there(explained_rule(location()));
    assert_shape(&there, &world.run(&words).ok().json());
    let words = [
        "explain",
        "--json",
        "--iface",
        "nic",
        "tcp",
        "192.0.2.2",
        ":22",
        "--listening",
    ];
    let mut with_sockets = there;
    with_sockets["rule"] = json!("none?");
    with_sockets["listening"] = json!({
        "up": "bool", "carrier": "bool", "own_address": "bool", "forwards": "bool",
        "sockets": ["*", {
            "local": "address", "port": "number", "processes": ["*", {"pid": "number", "name": "text"}],
            "takes": "yes|unless-v6-only|other-address|other-interface",
        }],
    });
    assert_shape(&with_sockets, &world.run(&words).ok().json());
    let detached = json!([{"interface": "nic", "netns": "text", "policy": "text"}]);
    assert_shape(&detached, &world.run(&["detach", "--json"]).ok().json());
}

/// Proves C10 and A4: what is evaluated beside a policy, in `apply`, `status`, `counters`, `show`
/// and `promote`.
#[test]
fn what_is_beside_a_policy() {
    let world = World::new();
    let text = "name: p\noutbound: [{protocol: udp, to: any, action: accept}]\ninbound: []\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let other = file(world.dir.path(), "q.yaml", &text.replace("udp", "icmp"));
    let words = [
        "apply",
        &path,
        "--iface",
        "nic",
        "--candidate",
        &other,
        "--json",
    ];
    let reported = world.run(&words).ok().json();
    assert_shape(&applied_report(), &reported);
    assert_eq!(reported["candidate"]["pairs"], 2, "{reported:#}");
    world.ping_node(1);
    let status = world.run(&["status", "--json"]).ok().json();
    let candidate = json!({
        "name": "text", "digest": "digest", "rules": "number", "since": "time", "logs": "bool",
        "packets": "number", "evaluated": "number?",
    });
    assert_shape(&candidate, &status[0]["candidate"]);
    let rule = json!({
        "group": "text", "position": "number?", "name": "text?", "summary": "text",
    });
    let decision = json!({"verdict": "accept|drop|audit", "rule": ["?", rule]});
    let counters = json!([{
        "interface": "nic", "netns": "text", "health": "enforcing", "faults": ["*", fault()],
        "sampled_at": "time", "policy": policy_status(), "candidate": candidate,
        "pairs": [{
            "direction": "inbound|outbound", "enforced": decision, "candidate": ["?", decision],
            "is_former": "bool", "packets": "number", "bytes": "number",
            "reply_packets": "number", "reply_bytes": "number",
        }],
        "totals": [{
            "direction": "inbound|outbound", "evaluated": "number?", "packets": "number",
            "bytes": "number", "reply_packets": "number", "reply_bytes": "number",
        }],
    }]);
    let found = world
        .run(&["counters", "--candidate", "--json"])
        .ok()
        .json();
    assert_shape(&counters, &found);
    let shown = json!({
        "interface": "nic", "netns": "text", "name": "text", "digest": "digest", "since": "time",
        "beside": policy_status(), "text": "text",
    });
    let found = world.run(&["show", "--candidate", "--json"]).ok().json();
    assert_shape(&shown, &found);
    let dry = json!({
        "interface": "null", "dry_run": "bool", "unchanged": "bool", "replaced": "bool",
        "generation": "number", "impact": impact(), "refusals": ["*", finding("error")],
        "findings": ["*", finding("warning|note")], "errors": ["*", finding("error")],
    });
    let mut found = world.run(&["promote", "--dry-run", "--json"]).ok().json();
    // Named only where the command line does.
    found["interface"] = "null".into();
    assert_shape(&dry, &found);
    assert_shape(
        &applied_report(),
        &world.run(&["promote", "--json"]).ok().json(),
    );
}

/// Proves C4 and A4: what waits to be confirmed, in `apply`, `status`, `confirm` and `rollback`.
#[test]
fn what_waits_to_be_confirmed() {
    let world = World::new();
    let text = "name: p\noutbound: [{protocol: udp, to: any, action: accept}]\ninbound: []\n";
    let path = file(world.dir.path(), "p.yaml", text);
    world.run(&super::world::APPLY).ok();
    let try_out = [
        "apply",
        &path,
        "--iface",
        "nic",
        "--confirm-within",
        "1h",
        "--json",
    ];
    let reported = world.run(&try_out).ok().json();
    assert_shape(&applied_report(), &reported);
    assert_shape(&unconfirmed(), &reported["unconfirmed"]);
    let status = world.run(&["status", "--json"]).ok().json();
    assert_shape(&unconfirmed(), &status[0]["unconfirmed"]);
    let decided = |returned_to: Value| {
        json!([{
            "interface": "nic", "netns": "text", "policy": policy_status(), "confirmed": "bool",
            "returned_to": returned_to,
        }])
    };
    let undone = world.run(&["rollback", "--json"]).ok().json();
    assert_shape(&decided(policy_status()), &undone);
    world.run(&try_out).ok();
    let confirmed = world.run(&["confirm", "--json"]).ok().json();
    assert_shape(&decided(json!("none?")), &confirmed);
    world.run(&super::world::APPLY).ok();
    world.run(&[&try_out[..5], &["1s"]].concat()).ok();
    let row = loop {
        let status = world.run(&["status", "--json"]).ok().json();
        if status[0]["unconfirmed"].is_null() {
            break status[0].clone();
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let decided = json!({"policy": policy_status(), "confirmed": "bool", "until": "time"});
    assert_shape(&decided, &row["decided"]);
    assert_eq!(row["decided"]["confirmed"], false);
}

/// A policy that is or was in force.
fn kept_policy() -> Value {
    json!({
        "name": "text", "digest": "digest", "generation": "number", "applied_at": "time",
        "by": {"login": "text?", "sudo_user": "text?", "user": "text", "uid": "number"},
        "ended": ["?", {"at": "time?", "how": "replaced|undone|rolled-back|run-ended"}],
        "is_kept": "bool", "audit": "text?",
    })
}

fn flows_of_one() -> Value {
    let used = json!({"live": "number", "entered": "number", "evicted": "number"});
    json!({
        "interface": "nic", "netns": "text", "health": "enforcing", "faults": ["*", fault()],
        "total": "number", "matching": "number",
        "tables": {"half_open": used, "established": used},
        "flows": [flow()],
    })
}

fn flow() -> Value {
    json!({
        "protocol": "number", "local": "address", "local_port": "number?",
        "remote": "address", "remote_port": "number?", "icmp_id": "number?",
        "opened": "inbound|outbound|unknown", "kind": "half-open|established", "state": "text",
        "seeded": "bool", "audited": "bool", "age_seconds": "number", "idle_seconds": "number",
        "seconds_left": "number", "generation": "number",
        "rule": ["?", {
            "direction": "inbound|outbound", "group": "text", "position": "number?",
            "name": "text?", "summary": "text",
        }],
    })
}

/// An event, without its name.
fn packet(direction: &str, verdict: &str) -> Value {
    let location = json!({"file": "text", "line": "number", "column": "number"});
    json!({
        "at": "time", "interface": "nic",
        "direction": direction, "verdict": verdict, "reply": "bool", "protocol": "number?",
        "local": "address?", "local_port": "number?", "remote": "address?",
        "remote_port": "number?", "icmp_type": "number?", "icmp_code": "number?",
        "tcp_flags": "number?", "bytes": "number", "packets": "number", "queue": "number",
        "ether_type": "number", "vlans": ["*", "number"], "generation": "number",
        "rule": ["?", {
            "group": "text", "position": "number?", "name": "text?", "summary": "text",
            "location": ["?", location],
        }],
        "reason": "text",
    })
}

/// Proves A4: `log` prints one object on each line, and at the end what became of all events.
#[test]
fn the_log_is_a_stream() {
    let world = World::new();
    let text = "name: p\ninbound: [{protocol: icmp, from: any, action: drop}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    world.run(&["apply", &path, "--iface", "nic"]).ok();
    let running = Running::of(&mut world.command(&["log", "--follow", "--json"]));
    let found: Value = loop {
        world.ping_node(1);
        let wait = std::time::Duration::from_millis(500);
        if let Ok(line) = running.lines.recv_timeout(wait) {
            break serde_json::from_str(&line).unwrap();
        }
    };
    let mut expected = packet("inbound", "drop");
    expected["event"] = "packet".into();
    assert_shape(&expected, &found);
    // The limits hold some of these back.
    world.send_udp_times(9, 2000);
    let (code, rest, err) = running.end_with_lines(nix::sys::signal::Signal::SIGINT);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<Value> = rest
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let not_shown = json!({
        "event": "not_shown", "at": "time", "interface": "nic", "lost": "number",
        "suppressed": "number",
    });
    let ended = json!({
        "event": "end", "at": "time", "interface": "nic", "shown": "number", "filtered": "number",
        "tally": [{
            "interface": "nic", "direction": "inbound|outbound", "reason": "text",
            "rule": expected["rule"], "produced": "number", "delivered": "number",
            "lost": "number", "suppressed": "number",
        }],
    });
    for line in &lines {
        match line["event"].as_str() {
            Some("packet") => assert_shape(&expected, line),
            Some("not_shown") => assert_shape(&not_shown, line),
            Some("end") => assert_shape(&ended, line),
            other => panic!("{other:?}"),
        }
    }
    let last = lines.last().unwrap();
    assert_eq!(last["event"], "end");
    // What a reader was not shown is said once, and exactly.
    let sum =
        |lines: &[Value], of: &str| -> u64 { lines.iter().filter_map(|l| l[of].as_u64()).sum() };
    let rows = last["tally"].as_array().unwrap();
    for of in ["lost", "suppressed"] {
        assert_eq!(sum(rows, of), sum(&lines, of), "{of}: {last}");
    }
    assert_eq!(sum(rows, "delivered"), last["shown"].as_u64().unwrap());
    assert_eq!(
        sum(rows, "produced"),
        sum(rows, "delivered") + sum(rows, "lost") + sum(rows, "suppressed")
    );
}

/// Proves A4: a stream has one object on each line, with the interface and the time.
#[test]
fn streams() {
    let world = World::new();
    let text = "name: p\ninbound: [{protocol: icmp, from: any, action: drop, log: true}]\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let running = Running::start(&world, &[&path, "--json", "--interval", "0.2"]);
    let event = |name: &str, mut expected: Value| {
        expected["event"] = name.into();
        expected["at"] = "time".into();
        expected["interface"] = "nic".into();
        if ["applied", "reloaded"].contains(&name) {
            expected = change(expected);
            expected["notes"] = json!(["*", "text"]);
        }
        let line = running.line(&format!(r#""event":"{name}""#));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_shape(&expected, &value);
        value
    };
    event("applied", applied());
    event("counters", counters_of_one());
    world.ping_node(1);
    event("packet", packet("inbound", "drop"));
    std::fs::write(&path, text.replace("name: p", "name: q")).unwrap();
    let mut reloaded = applied();
    reloaded["why"] = "text".into();
    event("reloaded", reloaded);

    let mut watching = world
        .command(&["counters", "--watch", "0.2", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(watching.stdout.take().unwrap());
    let lines: Vec<String> = std::io::BufRead::lines(out)
        .take(2)
        .map(Result::unwrap)
        .collect();
    watching.kill().unwrap();
    watching.wait().unwrap();
    for line in lines {
        assert_shape(&counters_of_one(), &serde_json::from_str(&line).unwrap());
    }
    let (code, err) = running.end(nix::sys::signal::Signal::SIGINT);
    assert_eq!((code, err.as_str()), (Some(0), ""));
}

/// What every change in the log of `run` has besides.
fn change(mut expected: Value) -> Value {
    expected["level"] = "error|warning|info".into();
    expected["message"] = "text".into();
    expected
}

/// Proves A4: with `--log-format json` what changes has the same form as with `--json`, and is by
/// itself on standard error.
#[test]
fn the_log_of_run() {
    let world = World::new();
    let text = "name: p\ninbound: []\n";
    let path = file(world.dir.path(), "p.yaml", text);
    let words = [&path[..], "--log-format", "json", "--interval", "60"];
    let mut running = Running::start(&world, &words);
    let lines = super::run::lines_of(running.child.stderr.take().unwrap());
    let event = |name: &str, mut expected: Value| {
        expected["event"] = name.into();
        expected["at"] = "time".into();
        expected["interface"] = "nic".into();
        let line = lines.recv_timeout(std::time::Duration::from_secs(60));
        let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_shape(&change(expected), &value);
    };
    let mut expected = applied();
    expected["notes"] = json!(["*", "text"]);
    event("applied", expected);
    // By now the policy is kept open, so that it can be attached again.
    running.says("nic: inbound ");
    super::world::ip(&["-n", &world.node, "link", "del", "nic"]);
    event("gone", json!({"moved_to": "text?"}));
    world.add_veth();
    event(
        "reattached",
        json!({"ifindex": "number", "milliseconds": "real"}),
    );
    running.signal(nix::sys::signal::Signal::SIGTERM);
    event("detached", json!({"why": "text"}));
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

/// The report of an `apply` that has succeeded.
fn applied_report() -> Value {
    let mut report = applied();
    report["findings"] = json!(["*", finding("warning|note")]);
    report["errors"] = json!(["*", finding("error")]);
    report["impact"] = json!(["?", impact()]);
    report
}

/// The one shape that errors and findings share.
fn finding(severities: &str) -> Value {
    json!({
        "severity": severities, "code": "text", "message": "text", "help": "text?",
        "location": ["?", location()],
        "rules": ["*", {
            "direction": "inbound|outbound", "position": "number", "group": "text",
            "name": "text?", "action": "accept|drop", "summary": "text", "location": location(),
        }],
        "witness": ["?", witness()],
    })
}

/// A packet that opens a flow.
fn witness() -> Value {
    json!({
        "direction": "inbound|outbound", "protocol": "number", "remote": "address",
        "port": "number?", "icmp_type": "number?", "icmp_code": "number?",
    })
}

/// Proves A4: errors of all commands have the same shape, and with `--json` nothing else than JSON
/// is printed.
#[test]
fn errors() {
    let world = World::new();
    let bad = file(
        world.dir.path(),
        "bad.yaml",
        "inbound: [{protocol: tcp, ports: 9-3, from: 10.1.2.3/8, action: accept}]\n",
    );
    let good = file(world.dir.path(), "good.yaml", "inbound: []\n");
    let lines = |text: &str| -> Vec<Value> {
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    };
    // Each case: the command, its exit code, and the codes of its errors.
    let cases: [(&[&str], i32, &[&str]); 8] = [
        (
            &["apply", &bad, "--iface", "nic"],
            1,
            &["bad-port", "host-bits"],
        ),
        (&["apply", &good, "--iface", "eth7"], 1, &["no-interface"]),
        (
            &["run", &bad, "--iface", "nic"],
            1,
            &["bad-port", "host-bits"],
        ),
        (
            &["explain", &bad, "in", "tcp", "192.0.2.1", "192.0.2.2:1"],
            1,
            &["bad-port", "host-bits"],
        ),
        (
            &["explain", &good, "in", "tcp", "192.0.2.1", "x"],
            2,
            &["usage"],
        ),
        (&["counters"], 1, &["not-attached"]),
        (&["flows", "--iface", "eth7"], 1, &["no-interface"]),
        (&["detach", "--iface", "eth7"], 1, &["no-interface"]),
    ];
    for (words, code, codes) in cases {
        let ran = world.run(&[words, &["--json"]].concat());
        assert_eq!(ran.code, code, "{}", ran.all());
        let errors = lines(&ran.err);
        let found: Vec<&str> = errors.iter().map(|e| e["code"].as_str().unwrap()).collect();
        assert_eq!(found, codes, "{}", ran.all());
        for error in &errors {
            assert_shape(&finding("error"), error);
            let has_place = error["location"].is_object();
            assert_eq!(
                has_place,
                ["bad-port", "host-bits"].contains(&error["code"].as_str().unwrap())
            );
        }
        if words[0] == "apply" {
            let report = json!({
                "interface": "nic|eth7", "impact": ["?", impact()], "findings": ["*", "none"],
                "errors": [finding("error")],
            });
            assert_shape(&report, &ran.json());
            assert_eq!(ran.json()["errors"], json!(errors));
        } else if words[0] != "run" {
            assert_eq!(ran.out, "", "{}", ran.all());
        }
    }
    let place = json!({"file": bad, "line": 1, "column": 34});
    let ran = world.run(&["apply", &bad, "--iface", "nic", "--json"]);
    assert_eq!(ran.json()["errors"][0]["location"], place);

    // In the stream of `run` a reload that fails is an event.
    let running = Running::start(&world, &[&good, "--json"]);
    running.line(r#""event":"applied""#);
    std::fs::write(
        &good,
        "inbound: [{protocol: tpc, from: any, action: accept}]\n",
    )
    .unwrap();
    let line = running.line(r#""event":"reload_failed""#);
    let failed = change(json!({
        "event": "reload_failed", "at": "time", "interface": "nic", "generation": "number",
        "errors": [finding("error")],
    }));
    assert_shape(&failed, &serde_json::from_str(&line).unwrap());
    running.end(nix::sys::signal::Signal::SIGINT);
}

/// Proves A4: errors of the command line have the same form as all others. `check` and `apply`
/// print them in their report on standard output, the other commands on standard error.
#[test]
fn usage_errors() {
    let cases: [(&str, i32, &str, &str); 12] = [
        ("check --json", 2, "usage", "<POLICY>"),
        ("check --json builtin:tke --bogus", 2, "usage", "--bogus"),
        (
            "check builtin:tke --json --netns no-such-netns",
            1,
            "no-netns",
            "no-such-netns",
        ),
        ("apply --json builtin:tke", 2, "usage", "--iface <IF>"),
        (
            "--netns node apply builtin:tke eth7 --json",
            2,
            "usage",
            "--iface <IF>",
        ),
        (
            "apply builtin:tke --iface nic --json --netns no-such-netns",
            1,
            "no-netns",
            "no-such-netns",
        ),
        ("run --json", 2, "usage", "--iface <IF>"),
        ("counters --json --watch 0", 2, "usage", "expected seconds"),
        ("status --json extra", 2, "usage", "extra"),
        ("flows --json --limit x", 2, "usage", "invalid value 'x'"),
        (
            "detach --json --netns no-such-netns",
            1,
            "no-netns",
            "no-such-netns",
        ),
        ("explain --json in tcp 192.0.2.1", 2, "usage", "LOCAL"),
    ];
    for (words, code, kind, says) in cases {
        let ran = run(&words.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, code, "{words}: {}", ran.all());
        let error = match words
            .split(' ')
            .find(|word| ["check", "apply"].contains(word))
        {
            Some(command) => {
                let report = ran.json();
                assert_eq!(report["findings"], json!([]), "{words}");
                let rest = match command {
                    "check" => json!({"valid": false, "policy": null, "tables": null}),
                    _ => json!({"interface": null}),
                };
                for (key, value) in rest.as_object().unwrap() {
                    assert_eq!(&report[key], value, "{words}: {report}");
                }
                assert_eq!(
                    ran.err.is_empty(),
                    command == "check",
                    "{words}: {}",
                    ran.err
                );
                report["errors"][0].clone()
            }
            None => {
                assert_eq!(ran.out, "", "{words}");
                serde_json::from_str(&ran.err).unwrap_or_else(|e| panic!("{e}: {}", ran.all()))
            }
        };
        assert_shape(&finding("error"), &error);
        assert_eq!(error["code"], kind, "{words}: {error}");
        assert!(
            error["message"].as_str().unwrap().contains(says),
            "{words}: {error}"
        );
        assert!(
            !error["message"].as_str().unwrap().contains("error: "),
            "{words}: {error}"
        );
    }
    // Without --json errors are text. The output of --help is never an error.
    let ran = run(&["check"]);
    assert!(
        ran.out.is_empty() && ran.err.starts_with("error: "),
        "{}",
        ran.all()
    );
    assert_eq!(run(&["check", "--json", "--help"]).code, 0);
}

/// Proves A4: times are those at which things happened, and none lies in the future.
#[test]
fn times_are_exact() {
    let world = World::new();
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let path = file(world.dir.path(), "p.yaml", "inbound: []\n");
    let mut attached_at = None;
    for policy in ["builtin:tke", &path] {
        let before = jiff::Timestamp::now();
        let applied = world
            .run(&["apply", policy, "--iface", "nic", "--json"])
            .ok()
            .json();
        let after = jiff::Timestamp::now();
        let applied_at = time(&applied["policy"]["applied_at"]);
        assert!(
            before <= applied_at && applied_at <= after,
            "{before} {applied_at} {after}"
        );
        let status = world.run(&["status", "--json"]).ok().json();
        assert_eq!(time(&status[0]["policy"]["applied_at"]), applied_at);
        let first = *attached_at.get_or_insert(applied_at);
        assert_eq!(time(&status[0]["attached_at"]), first);
    }
}

/// Proves C8: `--strict` and `--deny` make errors of findings.
#[test]
fn findings_that_are_not_to_be() {
    let tke = |more: &[&str]| run(&[&["check", "builtin:tke"], more].concat());
    let errors_of = |more: &[&str]| {
        let ran = tke(&[more, &["--json"]].concat());
        let json = ran.json();
        let codes: Vec<String> = json["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["code"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ran.code, i32::from(!codes.is_empty()), "{}", ran.all());
        assert_eq!(json["valid"], codes.is_empty());
        let findings = json["findings"].as_array().unwrap().len();
        assert_eq!(findings + codes.len(), 5, "each is listed once: {json}");
        codes
    };
    assert_eq!(errors_of(&[]), Vec::<String>::new());
    assert_eq!(errors_of(&["--strict"]), ["ssh-open", "ipv6-denied"]);
    assert_eq!(errors_of(&["--deny", "ipv6-denied"]), ["ipv6-denied"]);
    let both = ["--deny", "ipv6-denied", "--deny", "node-port-range"];
    assert_eq!(
        errors_of(&both),
        ["node-port-range", "node-port-range", "ipv6-denied"]
    );
    assert_eq!(errors_of(&["--deny", "unused-set"]), Vec::<String>::new());
    let human = tke(&["--strict"]);
    assert_eq!(human.code, 1, "{}", human.all());
    assert!(human.out.contains("error: SSH"), "{}", human.out);
    assert!(
        human.out.contains("2 errors by --strict or --deny"),
        "{}",
        human.out
    );
    assert_eq!(tke(&[]).code, 0);
    let unknown = tke(&["--deny", "ssh-opne"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("'ssh-open'"), "{}", unknown.err);
}

/// Proves A4 for `diff`.
#[test]
fn reports_of_diff() {
    let dir = tempfile::tempdir().unwrap();
    let old = file(
        dir.path(),
        "old.yaml",
        "name: p\ninbound:\n- {protocol: tcp, ports: 22, from: any, action: accept}\n- {protocol: udp, ports: 53, from: any, action: accept}\n",
    );
    let new = file(
        dir.path(),
        "new.yaml",
        "name: p\nessential: false\ninbound:\n- {protocol: tcp, ports: 22, from: 10.0.0.0/8, action: accept}\n- {protocol: icmp, icmp: {type: 8}, from: any, action: accept}\n- {protocol: udp, ports: 53, from: any, action: accept, log: true}\n",
    );
    let rule = json!({
        "direction": "inbound|outbound", "group": "text", "position": "number", "name": "text?",
        "summary": "text", "description": "text?", "location": location(),
    });
    let decided = json!({"action": "accept|drop", "rule": ["?", rule]});
    let side = json!({
        "interface": "nic?", "generation": "number?", "name": "text", "digest": "digest",
    });
    let report = json!({
        "old": side, "new": side, "same": "bool", "change": "widened|narrowed|both?",
        "rows": [{
            "direction": "inbound|outbound",
            "services": [{"protocol": "text", "numbers": ["?", ["text"]]}],
            "prefixes": ["text"], "change": "widened|narrowed", "old": decided, "new": decided,
            "witness": witness(), "explain": "text",
        }],
        "settings": [{"setting": "text", "old": "text", "new": "text"}],
        "logging": [{
            "direction": "inbound|outbound", "logs": "bool", "old": decided, "new": decided,
        }],
        "another_rule": "number",
    });
    let ran = run(&["diff", &old, &new, "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let json = ran.json();
    assert_shape(&report, &json);
    assert_eq!(json["change"], "both");
    let same = run(&["diff", &old, &old, "--json"]).ok().json();
    assert_eq!(
        (&same["same"], &same["change"]),
        (&json!(true), &json!(null))
    );
    assert_eq!(same["rows"], json!([]));
}

/// Proves C8: SARIF as code hosts take it.
#[test]
fn findings_as_sarif() {
    let dir = tempfile::tempdir().unwrap();
    file(
        dir.path(),
        "p.yaml",
        "inbound:\n- {protocol: tcp, ports: 22, from: any, action: drop}\n- {protocol: tcp, ports: 22, from: 192.0.2.7, action: accept}\n",
    );
    let sarif = |words: &[&str]| {
        let words = [words, &["--format", "sarif"]].concat();
        let out = super::world::sgctl(&words)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let ran = super::world::Ran::of(&out);
        (ran.code, ran.json())
    };
    let (code, json) = sarif(&["check", "p.yaml"]);
    assert_eq!(code, 0, "{json:#}");
    let region = json!({"startLine": "number", "startColumn": "number"});
    let physical = json!({"artifactLocation": {"uri": "p.yaml"}, "region": region});
    let message = json!({"text": "text"});
    let result = json!({
        "ruleId": "text", "ruleIndex": "number", "level": "error|warning|note",
        "message": message, "locations": [{"physicalLocation": physical}],
    });
    let mut shadowed = result.clone();
    shadowed["relatedLocations"] =
        json!([{"physicalLocation": physical, "id": "number", "message": message}]);
    let run = &json["runs"][0];
    assert_eq!(json["version"], "2.1.0");
    let results = run["results"].as_array().unwrap();
    let mut about = Vec::new();
    for one in results {
        let expected = if one["ruleId"] == "shadowed-rule" {
            &shadowed
        } else {
            &result
        };
        assert_shape(expected, one);
        let rule = &run["tool"]["driver"]["rules"][one["ruleIndex"].as_u64().unwrap() as usize];
        assert_eq!(rule["id"], one["ruleId"]);
        assert!(
            rule["shortDescription"]["text"]
                .as_str()
                .unwrap()
                .ends_with('.'),
            "{rule}"
        );
        let region = &one["locations"][0]["physicalLocation"]["region"];
        about.push((
            one["ruleId"].as_str().unwrap(),
            region["startLine"].as_u64().unwrap(),
        ));
    }
    assert!(about.contains(&("shadowed-rule", 3)), "{about:?}");
    let text = results
        .iter()
        .find(|one| one["ruleId"] == "shadowed-rule")
        .unwrap();
    let text = text["message"]["text"].as_str().unwrap();
    assert!(
        text.contains("inbound tcp 192.0.2.7 198.51.100.1:22"),
        "{text}"
    );
    // What is an error by --strict is one for the code host too.
    let (code, json) = sarif(&["check", "p.yaml", "--strict"]);
    assert_eq!(
        (code, &json["runs"][0]["results"][0]["level"]),
        (1, &json!("error"))
    );
    // So is a policy that is not valid.
    file(
        dir.path(),
        "p.yaml",
        "inbound:\n- {protocol: tcp, ports: 70000, from: any, action: drop}\n",
    );
    let (code, json) = sarif(&["check", "p.yaml"]);
    assert_eq!(code, 1);
    let one = &json["runs"][0]["results"][0];
    assert_shape(&result, one);
    assert_eq!(
        (&one["ruleId"], &one["level"]),
        (&json!("bad-port"), &json!("error"))
    );
    assert_eq!(
        one["locations"][0]["physicalLocation"]["region"]["startLine"],
        2
    );
}

/// Proves A4 for `check`.
#[test]
fn reports_of_check() {
    let finding = finding("warning|note");
    let report = json!({
        "valid": "bool", "policy": {
            "name": "text", "digest": "digest", "rules": "number", "non_ip": "accept|arp-only",
        },
        "tables": tables(), "findings": [finding], "errors": ["*", "none"],
    });
    assert_shape(
        &report,
        &run(&["check", "builtin:tke", "--json"]).ok().json(),
    );
    let bad = run_with(&["check", "-", "--json"], "inbuond: []\n").json();
    let report = json!({
        "valid": "bool", "policy": "none?", "tables": "none?", "findings": ["*", "none"],
        "errors": [self::finding("error")],
    });
    assert_shape(&report, &bad);
    assert_eq!(bad["valid"], false);
    assert_eq!(bad["errors"][0]["code"], "unknown-key");
    assert_eq!(bad["errors"][0]["location"]["file"], "<stdin>");
}
