//! The policies in the documentation: each is valid as it stands. docs/policy.md has every key of
//! the language, and the limits of the reader.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;
use sg_policy::policy::*;

use crate::{codes, good, load_text};

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The contents of the fenced blocks of one language, without their indentation. A word behind the
/// language is a name of the block.
pub(crate) fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let info = line.trim().strip_prefix("```");
        if info.and_then(|info| info.split_whitespace().next()) != Some(language) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let block = lines.by_ref().take_while(|line| line.trim() != "```");
        let block = block.map(|line| line.get(indent..).unwrap_or_default());
        found.push(block.collect::<Vec<_>>().join("\n"));
    }
    found
}

/// A policy of a page, which may name a set file.
#[track_caller]
pub(crate) fn of_page(page: &str, text: &str) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("block-list.txt"), "203.0.113.0/24\n").unwrap();
    let loaded = load_text("policy.yaml", text, Some(dir.path()), &[]);
    loaded.unwrap_or_else(|errors| panic!("{page}: {errors}\n{text}"))
}

/// What an example may be told because it is one.
const OF_EXAMPLES: [&str; 12] = [
    "audited-rule",
    "denies-inbound",
    "denies-outbound",
    "empty-set",
    "ipv4-denied",
    "ipv6-denied",
    "ping-closed",
    "redundant-rule",
    "ssh-closed",
    "ssh-open",
    "trailing-deny-deferred",
    "inbound-open",
];

#[test]
fn the_policies_of_the_pages_are_valid_as_they_stand() {
    for (page, least) in [
        ("docs/policy.md", 14),
        ("docs/migrating.md", 5),
        ("docs/quick-start.md", 1),
    ] {
        let policies = blocks(&read(page), "yaml");
        assert!(policies.len() >= least, "{page}: {}", policies.len());
        for policy in policies {
            let loaded = of_page(page, &policy);
            let found = codes(&loaded);
            let unwanted = found.iter().find(|code| !OF_EXAMPLES.contains(*code));
            assert_eq!(unwanted, None, "{page}: {policy}");
        }
    }
}

/// A kind of mapping of the language, as the schema calls it, and a key that it may have.
type Key = (String, String);

/// Every key of every kind of mapping, as the schema has it, which is made of the reader's own
/// tables.
fn keys() -> BTreeSet<Key> {
    let schema = schema();
    let mut all = BTreeSet::new();
    let mut add = |kind: &str, at: &Value| {
        if let Some(keys) = at["properties"].as_object() {
            all.extend(keys.keys().map(|key| (kind.to_owned(), key.clone())));
        }
    };
    add("policy", &schema);
    add("timeouts", &schema["properties"]["timeouts"]);
    let definitions = schema["definitions"].as_object().expect("it has some");
    for (kind, definition) in definitions {
        add(kind, definition);
    }
    all
}

/// The keys of one mapping of an example, and of those in it.
fn collect(kind: &str, mapping: &Value, found: &mut BTreeSet<Key>) {
    let protocol = mapping["protocol"].as_str().unwrap_or_default();
    for (key, value) in mapping.as_object().into_iter().flatten() {
        found.insert((kind.to_owned(), key.clone()));
        let inner = match key.as_str() {
            "groups" => "group",
            "inbound" => "inbound-rule",
            "outbound" => "outbound-rule",
            "guard" => "guard",
            "timeouts" => "timeouts",
            "icmp" if protocol == "icmpv6" => "icmpv6-message",
            "icmp" => "icmp-message",
            _ => continue,
        };
        match value {
            Value::Array(all) => all.iter().for_each(|one| collect(inner, one, found)),
            one => collect(inner, one, found),
        }
    }
}

/// Each key of the language stands in an example, at each place where it may be, and in the text;
/// so does each of its words.
#[test]
fn the_page_of_the_language_has_every_key_and_word() {
    let page = read("docs/policy.md");
    let mut used = BTreeSet::new();
    for example in blocks(&page, "yaml") {
        let example = serde_saphyr::from_str(&example).expect("it is YAML");
        collect("policy", &example, &mut used);
    }
    let keys = keys();
    assert!(keys.len() > 50, "{keys:?}");
    let missing: Vec<&Key> = keys.difference(&used).collect();
    assert!(missing.is_empty(), "no example has {missing:?}");
    // The states are in an example that has them all.
    for (_, key) in keys.iter().filter(|(kind, _)| kind != "timeouts") {
        assert!(page.contains(&format!("`{key}`")), "`{key}`");
    }
    let words = [
        "revalidate",
        "keep",
        "flush",
        "defer",
        "honour",
        "arp-only",
        "all",
        "tcp",
        "udp",
        "sctp",
        "icmp",
        "icmpv6",
        "gre",
        "esp",
        "ah",
        "any",
        "accept",
        "drop",
    ];
    for word in words {
        assert!(page.contains(&format!("`{word}`")), "{word}");
    }
}

/// The example that has all timeouts has those that hold without it.
#[test]
fn the_timeouts_of_the_page_are_the_defaults() {
    let examples = blocks(&read("docs/policy.md"), "yaml");
    let mut of_timeouts = examples
        .iter()
        .filter(|example| example.starts_with("name: timeouts\n"));
    let example = of_timeouts.next().expect("there is one");
    let policy = of_page("docs/policy.md", example).policy;
    assert_eq!(policy.timeouts, good("name: none\n").policy.timeouts);
}

/// Proves P12: the limits that the pages name are those that the reader has.
#[test]
fn the_limits_of_the_pages_are_those_of_the_reader() {
    let page = read("docs/policy.md");
    let rows = [
        format!(
            "| a policy file, also on standard input | {} MiB |",
            POLICY_BYTES >> 20
        ),
        format!("| a set file | {} MiB |", SET_BYTES >> 20),
        format!(
            "| all set files of a policy | {} MiB, in {SET_FILES} files |",
            ALL_SET_BYTES >> 20
        ),
        format!("| rules of all files and groups | {RULES} |"),
        format!("| prefixes of all sets and rules | {PREFIXES} |"),
        format!("| ranges of ports of all sets and rules | {PORT_RANGES} |"),
    ];
    for row in rows {
        assert!(page.contains(&row), "{row}");
    }
    let spec = read("docs/spec.md");
    let (_, clause) = spec.split_once("### P12").expect("the clause is there");
    let clause = clause.split("\n#").next().unwrap_or_default();
    let clause = clause
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace(',', "");
    for said in [
        format!(
            "has at most {} MiB one on standard input",
            POLICY_BYTES >> 20
        ),
        format!("A set file has at most {} MiB", SET_BYTES >> 20),
        format!(
            "all of them together {} MiB and there are at most {SET_FILES}",
            ALL_SET_BYTES >> 20
        ),
        format!("at most {RULES} rules {PREFIXES} prefixes and {PORT_RANGES} port ranges"),
    ] {
        assert!(clause.contains(&said), "{said}\n{clause}");
    }
}

/// The tests that docs/security.md names: file and function.
fn tests_named(page: &str) -> Vec<(String, String)> {
    let parts: Vec<&str> = page.split('`').collect();
    let mut found = Vec::new();
    let mut file = None;
    for (index, part) in parts.iter().enumerate() {
        let before = index
            .checked_sub(1)
            .map_or("", |before| parts[before])
            .trim();
        let is_code = index % 2 == 1;
        if !is_code {
            continue;
        }
        if part.ends_with(".rs") {
            file = Some(*part);
        } else if let Some(file) = file.filter(|_| [":", ","].contains(&before)) {
            found.push((file.to_owned(), (*part).to_owned()));
        } else {
            file = None;
        }
    }
    found
}

#[test]
fn the_tests_that_the_page_about_security_names_are_there() {
    let named = tests_named(&read("docs/security.md"));
    assert!(named.len() > 30, "{named:?}");
    for (file, test) in named {
        let text = read(&file);
        let (before, _) = text
            .split_once(&format!("fn {test}("))
            .unwrap_or_else(|| panic!("{file} has no {test}"));
        let attributes = before.rsplit("\n\n").next().unwrap_or_default();
        assert!(attributes.contains("#[test]"), "{test} is no test");
    }
    let shown = tests_named("a `x.rs`: `one`, `two`; and `three` in `y.rs`: `four` `five`");
    let shown: Vec<_> = shown
        .iter()
        .map(|(file, test)| (file.as_str(), test.as_str()))
        .collect();
    assert_eq!(shown, [("x.rs", "one"), ("x.rs", "two"), ("y.rs", "four")]);
}
