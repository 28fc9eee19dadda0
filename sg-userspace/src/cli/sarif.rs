//! Findings as SARIF 2.1.0 (OASIS), which code hosts show beside the lines that they are about.
//!
//! Code hosts take at most 25,000 results of a run and 10 MB of compressed text. More is cut off,
//! the least important first, and the run says so.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value, json};
use sg_policy::policy::{Finding, Lint, Location, Severity};

/// The most results of a run.
const RESULTS: usize = 25_000;
/// The most bytes of all results, as they are printed: compressed they are fewer.
const BYTES: usize = 9_500_000;
/// The most rules that one result refers to.
const RELATED: usize = 20;

/// A log of one run over `findings`. Those without a place are shown at the first line of `whole`.
/// `directory` is what paths are relative to.
pub(super) fn log(findings: &[Finding], whole: Option<&Path>, directory: &Path) -> Value {
    let mut ordered: Vec<&Finding> = findings.iter().collect();
    ordered.sort_by_key(|finding| finding.severity);
    // By code: the worst severity comes first.
    let mut rules: BTreeMap<&str, Severity> = BTreeMap::new();
    for finding in &ordered {
        rules.entry(finding.code).or_insert(finding.severity);
    }
    let numbers: BTreeMap<&str, usize> = rules.keys().copied().zip(0..).collect();
    let mut results = Vec::new();
    let mut bytes = 0;
    for finding in ordered.iter().take(RESULTS) {
        let result = result(
            finding,
            numbers.get(finding.code).copied(),
            whole,
            directory,
        );
        bytes += result.to_string().len() + 1;
        if bytes > BYTES {
            break;
        }
        results.push(result);
    }
    let left_out = findings.len() - results.len();
    let notes = match left_out {
        0 => json!([]),
        n => json!([{
            "level": "warning",
            "message": {"text": format!(
                "{n} findings are left out, the least important ones: code hosts take at most \
                 {RESULTS} results and 10 MB; `sgctl check --json` lists all"
            )},
        }]),
    };
    let rules: Vec<Value> = rules
        .iter()
        .map(|(code, severity)| rule(code, *severity))
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "sgctl",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{"executionSuccessful": true, "toolExecutionNotifications": notes}],
            "results": results,
        }],
    })
}

fn rule(code: &str, severity: Severity) -> Value {
    let lint = Lint::ALL.iter().find(|lint| lint.code() == code);
    let about = match lint {
        Some(lint) => lint.about().to_owned(),
        None => format!("The policy is not valid: {}.", code.replace('-', " ")),
    };
    json!({
        "id": code,
        "name": code,
        "shortDescription": {"text": about},
        "defaultConfiguration": {"level": severity.name()},
        "properties": {"tags": ["security"]},
    })
}

fn result(finding: &Finding, rule: Option<usize>, whole: Option<&Path>, directory: &Path) -> Value {
    let mut text = finding.message.clone();
    if let Some(witness) = &finding.witness {
        text.push_str(&format!(" (such as {witness})"));
    }
    if let Some(help) = &finding.help {
        text.push_str(&format!("\nHelp: {help}"));
    }
    let mut result = Map::new();
    result.insert("ruleId".into(), finding.code.into());
    result.insert("ruleIndex".into(), json!(rule));
    result.insert("level".into(), finding.severity.name().into());
    result.insert("message".into(), json!({"text": text}));
    let place = match (&finding.location, whole) {
        (Some(location), _) => Some(physical(location, directory)),
        (None, Some(path)) => Some(physical(
            &Location {
                file: path.display().to_string(),
                line: 1,
                column: 1,
            },
            directory,
        )),
        (None, None) => None,
    };
    let places: Vec<Value> = place.into_iter().collect();
    result.insert("locations".into(), places.into());
    if !finding.rules.is_empty() {
        let related = finding.rules.iter().take(RELATED).zip(1..);
        let related = related.map(|(rule, id): (_, u32)| {
            let mut place = physical(&rule.location, directory);
            let text = format!(
                "{} rule {}: {} {}",
                rule.direction.name(),
                rule.position,
                rule.summary,
                rule.action.name()
            );
            place["id"] = id.into();
            place["message"] = json!({"text": text});
            place
        });
        result.insert("relatedLocations".into(), related.collect());
    }
    Value::Object(result)
}

/// A place in a file; in what is no file, its name.
fn physical(location: &Location, directory: &Path) -> Value {
    let is_file = !location.file.starts_with(['<', '-']) && !location.file.starts_with("builtin:");
    if !is_file {
        let name = location.to_string();
        return json!({"logicalLocations": [{"fullyQualifiedName": name}]});
    }
    json!({"physicalLocation": {
        "artifactLocation": {"uri": uri(Path::new(&location.file), directory)},
        // Neither counts from 0; an error about a file as a whole is at its beginning.
        "region": {"startLine": location.line.max(1), "startColumn": location.column.max(1)},
    }})
}

/// A path as a URI (RFC 3986): relative where it is below `directory`, else absolute.
fn uri(path: &Path, directory: &Path) -> String {
    let path = resolved(&directory.join(path));
    let (prefix, path) = match path.strip_prefix(resolved(directory)) {
        Ok(below) => ("", below.to_owned()),
        Err(_) => ("file://", path),
    };
    let mut out = prefix.to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(*byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The path without its `.` and `..`, taken out by its text: symbolic links are not followed.
fn resolved(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(line: u32, severity: Severity) -> Finding {
        Finding {
            severity,
            location: Some(Location {
                file: "policies/a b.yaml".into(),
                line,
                column: 5,
            }),
            ..Finding::error("shadowed-rule", "a".repeat(300))
        }
    }

    #[test]
    fn what_code_hosts_do_not_take_is_cut_off_and_said() {
        let mut many: Vec<Finding> = (1..40_000)
            .map(|line| finding(line, Severity::Note))
            .collect();
        many.push(finding(7, Severity::Warning));
        let log = log(&many, None, Path::new("/work"));
        let run = &log["runs"][0];
        let results = run["results"].as_array().unwrap();
        assert!(
            results.len() <= RESULTS && results.len() > 10_000,
            "{}",
            results.len()
        );
        assert!(log.to_string().len() < 10_000_000);
        assert_eq!(
            results[0]["level"], "warning",
            "the most important ones stay"
        );
        let notes = &run["invocations"][0]["toolExecutionNotifications"];
        let left_out = (many.len() - results.len()).to_string();
        let text = notes[0]["message"]["text"].as_str().unwrap();
        assert!(text.starts_with(&left_out), "{text}");
        assert_eq!(
            run["tool"]["driver"]["rules"][0]["defaultConfiguration"]["level"],
            "warning"
        );
    }

    #[test]
    fn paths_are_relative_uris_where_they_can_be() {
        let of = |path: &str| uri(Path::new(path), Path::new("/srv/repo"));
        assert_eq!(of("policies/a b.yaml"), "policies/a%20b.yaml");
        assert_eq!(of("./p.yaml"), "p.yaml");
        assert_eq!(of("/srv/repo/x/../p.yaml"), "p.yaml");
        assert_eq!(of("../other.yaml"), "file:///srv/other.yaml");
        assert_eq!(of("ü.yaml"), "%C3%BC.yaml");
    }
}
