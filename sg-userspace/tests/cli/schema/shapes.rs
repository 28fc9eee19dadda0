//! The expected JSON of what several commands print.

use std::collections::BTreeSet;

use serde_json::{Value, json};

pub(super) fn policy_status() -> Value {
    json!({"name": "text", "digest": "digest", "generation": "number", "applied_at": "time", "audit": "rules|policy|all?"})
}

/// The counters of an interface. Rates are null in the first reading and there in each one after.
pub(super) fn counters_of_one(is_first: bool) -> Value {
    let rate = if is_first { "null" } else { "real" };
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
            "packets_per_second": rate, "bits_per_second": rate,
        }],
        "reasons": [{
            "direction": DIRECTION, "reason": "text", "action": "accept|drop|audit",
            "packets": "number", "bytes": "number",
            "packets_per_second": rate, "bits_per_second": rate,
        }],
        "totals": [{
            "direction": DIRECTION, "packets": "number", "bytes": "number",
            "accepted": "number", "dropped": "number", "audited": "number",
            "packets_per_second": rate, "bits_per_second": rate,
        }],
    })
}

/// Each reason with the action of its packets.
pub(super) const REASONS: [&str; 16] = [
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

pub(super) fn reasons(counters: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let reasons = counters["reasons"].as_array().unwrap().iter();
    reasons
        .map(|row| format!("{} {}", text(&row["action"]), text(&row["reason"])))
        .collect()
}

pub(super) fn applied() -> Value {
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
pub(super) fn impact() -> Value {
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
pub(super) fn unconfirmed() -> Value {
    json!({"until": "time", "seconds_left": "real", "returns_to": ["?", policy_status()]})
}

pub(super) fn fault() -> Value {
    json!({
        "code": "text", "direction": "text?", "message": "text", "help": "text",
    })
}

pub(super) fn tables() -> Value {
    json!({
        "address_classes": "number", "blocks": "number", "nodes": "number",
        "ipv6_prefixes": "number", "bytes": "number", "placement": "bss|array-map",
        "ipv4_steps": "number", "ipv6_steps": "number",
    })
}

pub(super) fn explained(rule: Value, interface: &str) -> Value {
    json!({
        "interface": interface, "health": "enforcing?", "faults": ["*", fault()], "verdict": "accept|drop|audit", "direction": "inbound|outbound",
        "rule": rule, "reason": "text",
    })
}

/// The same of an interface, whose programs were asked.
pub(super) fn explained_there(rule: Value) -> Value {
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

pub(super) fn explained_rule(location: Value) -> Value {
    json!({
        "group": "text", "position": "number", "name": "text?", "summary": "text",
        "description": "text?", "location": location,
    })
}

pub(super) fn location() -> Value {
    json!({"file": "text", "line": "number", "column": "number"})
}

/// A policy that is or was in force.
pub(super) fn kept_policy() -> Value {
    json!({
        "name": "text", "digest": "digest", "generation": "number", "applied_at": "time",
        "by": {"login": "text?", "sudo_user": "text?", "user": "text", "uid": "number"},
        "ended": ["?", {"at": "time?", "how": "replaced|undone|rolled-back|run-ended"}],
        "is_kept": "bool", "audit": "text?",
    })
}

pub(super) fn flows_of_one() -> Value {
    let used = json!({"live": "number", "entered": "number", "evicted": "number"});
    json!({
        "interface": "nic", "netns": "text", "health": "enforcing", "faults": ["*", fault()],
        "interfaces": [{
            "interface": "text", "netns": "text?", "health": "enforcing", "faults": ["*", fault()],
        }],
        "total": "number", "matching": "number",
        "tables": {"half_open": used, "established": used},
        "flows": [flow()],
    })
}

pub(super) fn flow() -> Value {
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
pub(super) fn packet(direction: &str, verdict: &str) -> Value {
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

/// What every change in the log of `run` has besides.
pub(super) fn change(mut expected: Value) -> Value {
    expected["level"] = "error|warning|info".into();
    expected["message"] = "text".into();
    expected
}

/// The report of an `apply` that has succeeded.
pub(super) fn applied_report() -> Value {
    let mut report = applied();
    report["findings"] = json!(["*", finding("warning|note")]);
    report["errors"] = json!(["*", finding("error")]);
    report["impact"] = json!(["?", impact()]);
    report
}

/// The one shape that errors and findings share.
pub(super) fn finding(severities: &str) -> Value {
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
pub(super) fn witness() -> Value {
    json!({
        "direction": "inbound|outbound", "protocol": "number", "remote": "address",
        "port": "number?", "icmp_type": "number?", "icmp_code": "number?",
    })
}
