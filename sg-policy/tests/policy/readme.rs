//! What the README shows and says: its policies are valid as they stand, and figures it leaves to
//! docs/performance.md.

use crate::pages::{blocks, read};
use crate::{codes, load_text};

/// The text outside of fenced blocks, as one line.
fn prose(text: &str) -> String {
    let mut inside = false;
    let mut out = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            out.push_str(line.trim());
            out.push(' ');
        }
    }
    out
}

/// Copied into an empty directory, each of them is a policy without errors or warnings but those
/// that it is to have.
#[test]
fn the_policies_of_the_readme_are_valid_as_they_stand() {
    let policies = blocks(&read("README.md"), "yaml");
    assert_eq!(policies.len(), 2);
    let dir = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for policy in &policies {
        let loaded = load_text("policy.yaml", policy, Some(dir.path()), &[])
            .unwrap_or_else(|errors| panic!("{errors}\n{policy}"));
        let found = codes(&loaded);
        // Of a set called `nodes` and `pods` the notes about clusters follow.
        let allowed = [
            "ping-closed",
            "shared-addresses-closed",
            "global-ipv6-closed",
        ];
        let unwanted = found.iter().find(|code| !allowed.contains(*code));
        assert_eq!(unwanted, None, "{policy}");
        names.push(loaded.policy.name);
    }
    assert_eq!(names, ["web", "nodeport"]);
}

/// A figure, and the row of docs/performance.md that it is said to come from.
#[derive(Debug)]
struct Figure {
    value: String,
    unit: &'static str,
    row: Option<String>,
}

/// Every number with a unit of time behind it.
fn figures(prose: &str) -> Vec<Figure> {
    const UNITS: [(&str, &str); 12] = [
        ("ns", "ns"),
        ("nanoseconds", "ns"),
        ("us", "us"),
        ("µs", "us"),
        ("microseconds", "us"),
        ("ms", "ms"),
        ("milliseconds", "ms"),
        ("s", "s"),
        ("second", "s"),
        ("seconds", "s"),
        ("minute", "min"),
        ("minutes", "min"),
    ];
    let words: Vec<&str> = prose.split_whitespace().collect();
    let mut found = Vec::new();
    for (i, pair) in words.windows(2).enumerate() {
        let is_number = pair[0].starts_with(|c: char| c.is_ascii_digit())
            && pair[0]
                .bytes()
                .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b','));
        let word = pair[1].trim_end_matches(['.', ',', ';', ':']);
        let Some((_, unit)) = UNITS.iter().find(|(name, _)| *name == word) else {
            continue;
        };
        if !is_number {
            continue;
        }
        // The row stands in brackets a few words on, before the next figure.
        let row = words[i + 2..]
            .iter()
            .take_while(|word| {
                !word.starts_with(|c: char| c.is_ascii_digit()) || word.contains('`')
            })
            .find_map(|word| word.strip_prefix("(`")?.split('`').next());
        found.push(Figure {
            value: pair[0].to_owned(),
            unit,
            row: row.map(str::to_owned),
        });
    }
    found
}

/// Measured figures stand in docs/performance.md alone, where one command writes them: the README
/// has none that could be out of date.
#[test]
fn the_readme_leaves_figures_to_the_measurements() {
    let text = prose(&read("README.md"));
    let figures = figures(&text);
    assert!(figures.is_empty(), "{figures:?}");
    assert!(
        text.contains("docs/performance.md"),
        "no way to the figures"
    );
}

/// What the README says of nftables holds for each row that compares rule sets with it.
#[test]
fn nftables_takes_several_times_as_much_of_a_core() {
    let (text, performance) = (prose(&read("README.md")), read("docs/performance.md"));
    assert!(text.contains("nftables takes several times as much of a core"));
    let multiples = performance.lines().filter_map(|line| {
        let name = line.strip_prefix("| `live/")?;
        let of_rules = ["tke/", "rules/", "prefixes/"];
        if !of_rules.iter().any(|begin| name.starts_with(begin)) {
            return None;
        }
        let multiple = line.split('|').nth(8)?.trim().strip_prefix('×')?;
        multiple.parse::<f64>().ok()
    });
    let multiples: Vec<f64> = multiples.collect();
    assert!(!multiples.is_empty(), "no row compares with nftables");
    assert!(multiples.iter().all(|m| *m >= 3.0), "{multiples:?}");
}

#[test]
fn figures_are_found_in_prose_only() {
    let text = "It takes 3 ns more (`a/b`). In 12 minutes, or 0.5 s (`c`).\n```\n7 ns\n```\n";
    let found = figures(&prose(text));
    let found: Vec<_> = found
        .iter()
        .map(|f| (f.value.as_str(), f.unit, f.row.as_deref()))
        .collect();
    let expected = [
        ("3", "ns", Some("a/b")),
        ("12", "min", None),
        ("0.5", "s", Some("c")),
    ];
    assert_eq!(found, expected);
}
