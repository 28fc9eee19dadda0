//! `audit: true` and `--audit`: what is checked, said and kept apart from enforcing (C9).

use nix::sys::signal::Signal;
use serde_json::json;

use super::run::Running;
use super::world::{World, file, run};

const PINGS: &str = "\
name: pings
inbound:
  - {protocol: icmp, from: 192.0.2.0/24, action: drop, audit: true, description: no echo}
  - {protocol: icmp, from: any, action: accept}
";

/// Proves C9 and P8: `audit` on a rule that accepts is an error with its place, whose remedy does
/// not widen access; `check` lists audited rules.
#[test]
fn check_lists_audited_rules_and_refuses_what_cannot_be_audited() {
    let dir = tempfile::tempdir().expect("a folder");
    let policy = file(dir.path(), "pings.yaml", PINGS);
    let checked = run(&["check", &policy]).ok().out;
    assert!(checked.contains("[audited-rule]"), "{checked}");
    assert!(checked.contains("what it would drop passes"), "{checked}");
    let json = run(&["check", &policy, "--json"]).ok().json();
    let findings = json["findings"].as_array().expect("a list");
    let audited: Vec<_> = findings
        .iter()
        .filter(|f| f["code"] == "audited-rule")
        .collect();
    assert_eq!(audited.len(), 1, "{json}");
    assert_eq!(audited[0]["location"]["line"], 3, "{json}");
    assert_eq!(audited[0]["severity"], "warning", "{json}");
    let denied = run(&["check", &policy, "--deny", "audited-rule"]);
    assert_eq!(denied.code, 1, "{}", denied.all());
    assert!(
        denied.out.contains("1 error by --strict or --deny"),
        "{}",
        denied.all()
    );

    let wrong = PINGS.replace("action: drop", "action: accept");
    let wrong = file(dir.path(), "wrong.yaml", &wrong);
    let refused = run(&["check", &wrong]);
    let refused = refused.fails(1, "`audit` on a rule that accepts");
    assert!(refused.err.contains("wrong.yaml:3:"), "{}", refused.err);
    assert!(refused.err.contains("leave `audit` out"), "{}", refused.err);
    for not_audited in ["audit: false", "log: true"] {
        let text = PINGS.replace("audit: true", not_audited);
        let path = file(dir.path(), "not.yaml", &text);
        let checked = run(&["check", &path]).ok().out;
        assert!(!checked.contains("audited-rule"), "{checked}");
    }
    let explained = run(&["explain", &policy, "in", "icmp", "192.0.2.2", "192.0.2.1"])
        .ok()
        .out;
    assert!(explained.starts_with("audit "), "{explained}");
}

/// Proves C2, C9 and C12: an audit never looks like enforcing, and with other options the same
/// policy is another generation.
#[test]
fn an_audit_never_looks_like_enforcing() {
    let world = World::new();
    let plain = file(
        world.dir.path(),
        "plain.yaml",
        &PINGS.replace(", audit: true", ""),
    );
    let audited = file(world.dir.path(), "audited.yaml", PINGS);
    let apply = |policy: &str, more: &[&str]| {
        let words = [&["apply", policy, "--iface", "nic"], more].concat();
        world.run(&words).ok().out
    };
    let scope = || {
        let status = world.run(&["status", "--json"]).json();
        let row = &status[0];
        let words = [&row["health"], &row["policy"]["audit"]];
        (
            words.map(Clone::clone),
            row["policy"]["generation"].as_u64(),
        )
    };
    for (policy, more, audit, generation, what) in [
        (&plain, &[][..], None, 1, ""),
        (
            &plain,
            &["--audit"],
            Some("policy"),
            2,
            "but for malformed packets",
        ),
        (
            &plain,
            &["--audit"],
            Some("policy"),
            2,
            "but for malformed packets",
        ),
        (
            &plain,
            &["--audit=all"],
            Some("all"),
            3,
            "malformed packets too",
        ),
        (&plain, &[], None, 4, ""),
        (
            &audited,
            &[],
            Some("rules"),
            5,
            "what 1 of its rules would drop passes",
        ),
        (
            &audited,
            &[],
            Some("rules"),
            5,
            "what 1 of its rules would drop passes",
        ),
        (
            &audited,
            &["--audit"],
            Some("policy"),
            6,
            "but for malformed packets",
        ),
    ] {
        let before = scope().1;
        let said = apply(policy, more);
        let is_unchanged = before == Some(generation);
        assert_eq!(said.starts_with("unchanged"), is_unchanged, "{said}");
        let health = if audit.is_some() {
            "auditing"
        } else {
            "enforcing"
        };
        assert_eq!(scope(), ([json!(health), json!(audit)], Some(generation)));
        let status = world.run(&["status"]);
        assert_eq!(status.code, i32::from(audit.is_some()), "{}", status.all());
        assert!(status.out.contains(health), "{}", status.out);
        for said in [&said, &status.out] {
            assert_eq!(said.contains("auditing: "), audit.is_some(), "{said}");
            assert!(said.replace("\n  ", " ").contains(what), "{said}");
        }
    }
    world
        .run(&["apply", &plain, "--iface", "nic", "--audit=none"])
        .fails(2, "possible values");

    world.ping_node(3);
    let counters = world.run(&["counters", "--json"]).ok().json();
    let rule = &counters[0]["rules"][0];
    assert_eq!(
        (&rule["action"], &rule["packets"]),
        (&json!("audit"), &json!(3)),
        "{counters}"
    );
    assert_eq!(
        rule["reply_packets"], 3,
        "what answers passes with it: {counters}"
    );
    for total in counters[0]["totals"].as_array().expect("a list") {
        assert_eq!(total["dropped"], 0, "{counters}");
        assert!(total["audited"].as_u64() >= Some(3), "{counters}");
    }
    let explain = [
        "explain",
        "--iface",
        "nic",
        "in",
        "icmp",
        "192.0.2.2",
        "192.0.2.1",
    ];
    for words in [&["counters"][..], &["flows"], &explain] {
        let said = world.run(words).ok().out;
        assert!(said.contains("nic is auditing"), "{said}");
    }
    let explained = world.run(&explain).ok().out;
    assert!(explained.contains("\naudit  inbound icmp"), "{explained}");
}

/// Proves C9, C11 and O2: `run` says what is audited, packet by packet and with its counters.
#[test]
fn run_shows_what_is_audited() {
    let world = World::new();
    let path = file(world.dir.path(), "p.yaml", "name: p\ninbound: []\n");
    let running = Running::start(&world, &[&path, "--audit"]);
    running.says("applied p on nic");
    running.says("auditing: what the policy would drop passes");
    world.ping_node(1);
    let asked = running.line("audit in  icmp 192.0.2.2");
    assert!(asked.ends_with("no-match"), "{asked}");
    assert!(!asked.contains("reply"), "{asked}");
    let answered = running.line("audit out icmp 192.0.2.1");
    assert!(answered.contains(" reply "), "{answered}");
    assert!(answered.ends_with("no-match"), "{answered}");
    running.says("; auditing");
    // A reload audits too.
    let other = "name: q\ninbound: [{protocol: tcp, ports: 22, from: any, action: accept}]\n";
    std::fs::write(&path, other).expect("the file is writable");
    running.says("reloaded q on nic");
    running.says("auditing: ");
    let (code, err) = running.end(Signal::SIGINT);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    world.assert_untouched();
}

/// `apply --self-check` says what it tried. A mistake in the tables is refused before anything
/// changes, and what was in force goes on; `run` looks by itself.
#[test]
fn a_wrong_table_is_refused() {
    let world = World::new();
    let path = file(world.dir.path(), "pings.yaml", PINGS);
    let other = file(
        world.dir.path(),
        "other.yaml",
        &PINGS.replace("any", "0.0.0.0/0"),
    );
    let applied = world
        .run(&["apply", &path, "--iface", "nic", "--self-check"])
        .ok()
        .out;
    assert!(applied.contains("self-check: "), "{applied}");
    assert!(applied.contains(" packets agree ("), "{applied}");
    let json = [
        "apply",
        &path,
        "--iface",
        "nic",
        "--audit",
        "--self-check",
        "--json",
    ];
    let json = world.run(&json).ok().json();
    assert!(json["self_check"]["packets"].as_u64() > Some(10), "{json}");
    let mut refused = 0;
    // Words of the tables behind their description; some of them decide nothing.
    for word in (64..160).step_by(3) {
        let fault = format!("flip:{word}");
        let mut command = world.command(&["apply", &other, "--iface", "nic", "--self-check"]);
        let output = command
            .env("SG_FAULT", fault)
            .output()
            .expect("sgctl starts");
        let ran = super::world::Ran::of(&output);
        if ran.code == 0 {
            world
                .run(&["apply", &path, "--iface", "nic", "--audit"])
                .ok();
            continue;
        }
        refused += 1;
        ran.fails(3, "the self-check found a difference");
        let status = world.run(&["status", "--json"]).json();
        assert_eq!(status[0]["health"], "auditing", "{status}");
        assert_eq!(status[0]["policy"]["audit"], "policy", "{status}");
    }
    assert!(refused > 0, "no flipped word was found");
}

/// Proves C3 and C9: a policy that was audited is audited again after a rollback, and not enforced.
#[test]
fn a_rollback_audits_what_was_audited() {
    let world = World::new();
    let plain = PINGS.replace(", audit: true", "");
    let other = file(
        world.dir.path(),
        "other.yaml",
        &plain.replace("name: pings", "name: other"),
    );
    let plain = file(world.dir.path(), "plain.yaml", &plain);
    let audit = || world.run(&["status", "--json"]).json()[0]["policy"]["audit"].clone();
    world
        .run(&["apply", &plain, "--iface", "nic", "--audit"])
        .ok();
    assert_eq!(audit(), "policy");
    world.run(&["apply", &other, "--iface", "nic"]).ok();
    assert_eq!(audit(), json!(null));
    world.run(&["rollback", "--iface", "nic"]).ok();
    assert_eq!(audit(), "policy");
    let history = world.run(&["history", "--json"]).ok().json();
    let kept = history[0]["policies"].as_array().expect("a list");
    let audits: Vec<_> = kept
        .iter()
        .map(|one| (one["name"].clone(), one["audit"].clone()))
        .collect();
    let expected = [
        (json!("pings"), json!("policy")),
        (json!("other"), json!(null)),
        (json!("pings"), json!("policy")),
    ];
    assert_eq!(audits, expected);
    let shown = world.run(&["history"]).ok().out;
    assert_eq!(shown.matches("pings, auditing").count(), 2, "{shown}");
}
