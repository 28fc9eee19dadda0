//! The alert rules and the dashboard in `deploy/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sg_userspace::observe::metrics::FAMILIES;

use crate::world::Ran;

pub(super) fn deployed(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name);
    path.canonicalize()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(deployed("grafana/sgctl.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The queries of all panels and variables, with what Grafana puts in place of its own variables:
/// the title of the panel, or the name of the variable, and the query.
pub(crate) fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for panel in list(&dashboard["panels"]) {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = list(&panel["targets"]);
        assert!(
            panel["type"] == "row" || !targets.is_empty(),
            "{title} shows nothing"
        );
        let queries = targets
            .iter()
            .map(|it| it["expr"].as_str().unwrap().to_owned());
        all.extend(queries.map(|query| (title.clone(), query)));
    }
    for variable in list(&dashboard["templating"]["list"]) {
        // `label_values(METRIC, LABEL)` is asked as METRIC.
        if let Some(query) = variable["query"]
            .as_str()
            .filter(|_| variable["type"] == "query")
        {
            let inner = query
                .strip_prefix("label_values(")
                .and_then(|it| it.strip_suffix(')'));
            let inner = inner
                .and_then(|it| it.rsplit_once(", "))
                .expect("a variable of labels");
            let name = variable["name"].as_str().unwrap().to_owned();
            all.push((name, format!("count by ({}) ({})", inner.1, inner.0)));
        }
    }
    for (_, query) in &mut all {
        for (variable, value) in [
            ("$__rate_interval", "1m"),
            ("$job", ".*"),
            ("$instance", ".*"),
            ("$interface", ".*"),
        ] {
            *query = query.replace(variable, value);
        }
        assert!(!query.contains('$'), "{query}");
    }
    all
}

fn promtool(words: &[&str], file: &str) -> Ran {
    let path = deployed(file);
    let ran = Command::new("promtool")
        .args(words)
        .arg(&path)
        .current_dir(path.parent().unwrap())
        .output();
    Ran::of(&ran.expect("the tests need promtool: `cargo xtask setup` installs it"))
}

/// Each alert comes where it has to, and not where it must not.
#[test]
fn promtool_accepts_and_tests_the_alert_rules() {
    let checked = promtool(&["check", "rules"], "prometheus/sgctl.rules.yml");
    assert_eq!(checked.code, 0, "{}", checked.all());
    let tested = promtool(&["test", "rules"], "prometheus/sgctl.test.yml");
    assert_eq!(tested.code, 0, "{}", tested.all());
    // Each alert has a case in which it comes, one in which it does not, and a runbook.
    let rules = std::fs::read_to_string(deployed("prometheus/sgctl.rules.yml")).unwrap();
    let cases = std::fs::read_to_string(deployed("prometheus/sgctl.test.yml")).unwrap();
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 7, "{alerts:?}");
    for alert in &alerts {
        let of_alert = cases.split("- alertname: ").skip(1);
        let of_alert: Vec<&str> = of_alert.filter(|case| case.starts_with(alert)).collect();
        assert!(
            of_alert.iter().any(|case| case.contains("exp_labels")),
            "{alert} never comes"
        );
        assert!(of_alert.len() >= 2, "{alert} has one case only");
    }
    assert_eq!(rules.matches("runbook: ").count(), alerts.len());
}

/// The rules and the dashboard ask for families that there are.
#[test]
fn deployed_queries_ask_for_what_there_is() {
    let rules = std::fs::read_to_string(deployed("prometheus/sgctl.rules.yml")).unwrap();
    let dashboard = dashboard().to_string();
    for text in [&rules, &dashboard] {
        let mut names = 0;
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if word.starts_with("sgctl_") && word.len() > "sgctl_".len() {
                assert!(FAMILIES.iter().any(|family| family.name == word), "{word}");
                names += 1;
            }
        }
        assert!(names > 5);
    }
}
