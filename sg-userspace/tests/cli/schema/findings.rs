//! Reports of `check` and `diff`.

use serde_json::json;

use super::assert_shape;
use super::shapes::{finding, location, tables, witness};
use crate::world::{file, run, run_with};

/// Proves C8: `--strict` and `--deny` make errors of findings.
#[test]
fn strict_and_deny_make_errors_of_findings() {
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
        let out = crate::world::sgctl(&words)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let ran = crate::world::Ran::of(&out);
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
