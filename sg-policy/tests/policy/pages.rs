//! The policies in the documentation: each is valid as it stands. docs/policy.md has every key of
//! the language, and the limits of the reader; docs/migrating.md policies that decide what its text
//! says.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sg_common::flow::Timeout;
use sg_common::verdict::{Action, Direction};
use sg_policy::oracle::{Packet, first_match};
use sg_policy::policy::*;

use crate::{codes, load_text};

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
fn of_page(page: &str, text: &str) -> Loaded {
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

/// Every key that a mapping of these may have, as the schema has it, which is made of the reader's
/// own tables.
fn keys() -> BTreeSet<String> {
    let schema = schema();
    let of = |at: &serde_json::Value| -> Vec<String> {
        let keys = at["properties"].as_object().expect("it has keys");
        keys.keys().cloned().collect()
    };
    let definitions = &schema["definitions"];
    let all = [
        &schema,
        &definitions["group"],
        &definitions["inbound-rule"],
        &definitions["outbound-rule"],
        &definitions["guard"],
        &definitions["icmp-message"],
        &schema["properties"]["timeouts"],
    ];
    all.into_iter().flat_map(of).collect()
}

/// Each key of the language stands in an example, and each of its words in the text.
#[test]
fn the_page_of_the_language_has_every_key_and_word() {
    let page = read("docs/policy.md");
    let examples = blocks(&page, "yaml").join("\n");
    let is_timeout = |key: &str| Timeout::ALL.iter().any(|timeout| timeout.name() == key);
    for key in keys() {
        let is_in_example =
            examples.contains(&format!("{key}: ")) || examples.contains(&format!("{key}:\n"));
        // Of the many timeouts some stand for the others.
        assert!(is_in_example || is_timeout(&key), "no example has `{key}`");
        assert!(
            page.contains(&format!("`{key}`")) || ["type", "code"].contains(&key.as_str()),
            "`{key}`"
        );
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

/// A packet that opens a connection over TCP, or of UDP, and whether it passes.
type Question = (Direction, u8, &'static str, u16, bool);

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What each policy of docs/migrating.md decides, by its name: what the rules of the other tool
/// decide beside it.
fn migrated() -> Vec<(&'static str, Vec<Question>)> {
    let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
    let office = "198.51.100.9";
    let stranger = "203.0.113.9";
    vec![
        (
            "from-iptables",
            vec![
                (inbound, TCP, office, 22, true),
                (inbound, TCP, stranger, 22, false),
                (inbound, TCP, stranger, 443, true),
                (inbound, TCP, "192.0.2.66", 443, false),
                (inbound, UDP, stranger, 443, false),
                (outbound, TCP, stranger, 25, true),
            ],
        ),
        (
            "from-nftables",
            vec![
                (inbound, TCP, office, 22, true),
                (inbound, TCP, "2001:db8:10::9", 22, true),
                (inbound, TCP, stranger, 22, false),
                (inbound, TCP, stranger, 8080, true),
                (inbound, TCP, stranger, 8100, false),
                (inbound, UDP, "192.0.2.66", 443, false),
                (inbound, UDP, stranger, 443, true),
                (outbound, TCP, stranger, 25, false),
                (outbound, TCP, stranger, 443, true),
                (outbound, UDP, "192.0.2.53", 53, true),
                (outbound, UDP, stranger, 53, false),
            ],
        ),
        (
            "from-ufw",
            vec![
                (inbound, TCP, office, 22, true),
                (inbound, TCP, stranger, 22, false),
                (inbound, TCP, stranger, 80, true),
                (inbound, TCP, "2001:db8::9", 443, true),
                (inbound, UDP, stranger, 60001, true),
                (inbound, TCP, "192.0.2.66", 80, false),
                (outbound, TCP, stranger, 25, true),
            ],
        ),
        (
            "from-ingress-node-firewall",
            vec![
                (inbound, TCP, "10.0.0.7", 6443, false),
                (inbound, TCP, "10.0.0.8", 6443, true),
                (inbound, TCP, "10.9.0.8", 80, false),
                (inbound, TCP, stranger, 80, true),
                (outbound, TCP, stranger, 25, true),
            ],
        ),
        (
            "from-a-cloud",
            vec![
                (inbound, TCP, stranger, 443, true),
                (inbound, TCP, "2001:db8::9", 443, true),
                (inbound, TCP, office, 22, true),
                (inbound, TCP, stranger, 22, false),
                (inbound, TCP, "10.0.1.9", 5432, true),
                (inbound, TCP, "10.0.2.9", 5432, false),
                (outbound, TCP, stranger, 25, true),
            ],
        ),
    ]
}

#[test]
fn what_was_migrated_decides_what_the_page_says() {
    let policies = blocks(&read("docs/migrating.md"), "yaml");
    let mut asked = BTreeSet::new();
    for text in &policies {
        let policy = of_page("docs/migrating.md", text).policy;
        let all = migrated();
        let (name, questions) = all
            .iter()
            .find(|(name, _)| *name == policy.name)
            .unwrap_or_else(|| panic!("nothing is asked of {}", policy.name));
        asked.insert(*name);
        for &(direction, protocol, remote, port, passes) in questions {
            let packet = Packet {
                direction,
                remote: remote.parse().unwrap(),
                protocol,
                port,
                icmp: (0, 0),
            };
            let rule = first_match(&policy, &packet);
            let action = rule.map_or(Action::Drop, |rule| policy.rules[rule].action);
            assert_eq!(action == Action::Accept, passes, "{name}: {packet:?}");
        }
    }
    assert_eq!(asked.len(), migrated().len(), "{asked:?}");
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
