//! Errors, of commands and of the command line.

use serde_json::{Value, json};

use super::assert_shape;
use super::shapes::{change, finding, impact};
use crate::run::Running;
use crate::world::{World, file, run};

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
        let errors = match words[0] {
            // It has them in its report, and nowhere else.
            "apply" => {
                assert_eq!(ran.err, "", "{}", ran.all());
                ran.json()["errors"].as_array().unwrap().clone()
            }
            _ => lines(&ran.err),
        };
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
                assert_eq!(ran.err, "", "{words}");
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
