//! Commands that print one value: what is attached, asked and changed.

use serde_json::{Value, json};

use super::assert_shape;
use super::shapes::{
    REASONS, applied_report, counters_of_one, explained, explained_rule, explained_there, fault,
    finding, flows_of_one, impact, kept_policy, location, policy_status, reasons, unconfirmed,
};
use crate::run::Running;
use crate::world::{Ran, World, file, run};

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
        assert_shape(&json!([counters_of_one(true)]), &counters);
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
    // The interface is named only where the command line does.
    let found = world.run(&["promote", "--dry-run", "--json"]).ok().json();
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
    world.run(&crate::world::APPLY).ok();
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
    world.run(&crate::world::APPLY).ok();
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

/// Proves A4: every command names the namespace that it is in, by whatever way it came into it.
#[test]
fn the_namespace_is_named_without_its_option() {
    let world = World::new();
    let named = |found: &Value| assert_eq!(found["netns"], *world.node, "{found:#}");
    let json = |words: &[&str]| -> Value {
        let output = world.entered(words).arg("--json").output().unwrap();
        Ran::of(&output).json()
    };
    let apply = ["apply", "builtin:tke", "--iface", "nic"];
    named(&json(&[&apply[..], &["--confirm-within", "1h"]].concat()));
    for list in [
        &["confirm"][..],
        &["status"],
        &["status", "--iface", "nic", "--live"],
        &["counters"],
        &["flows"],
        &["history"],
    ] {
        named(&json(list)[0]);
    }
    named(&json(&["show"]));
    let run = [
        "run",
        "builtin:tke-minimal",
        "--iface",
        "nic",
        "--json",
        "--interval",
        "0.2",
    ];
    let running = Running::of(&mut world.entered(&run));
    for event in ["applied", "counters"] {
        let line = running.line(&format!(r#""event":"{event}""#));
        named(&serde_json::from_str(&line).unwrap());
    }
    let (code, err) = running.end(nix::sys::signal::Signal::SIGINT);
    assert_eq!((code, err.as_str()), (Some(0), ""));
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
