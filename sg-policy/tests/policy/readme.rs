//! What the README shows and says: its policies are valid as they stand, and its figures are
//! those of docs/performance.md.

use std::path::PathBuf;

use sg_policy::policy::*;

use crate::codes;

fn read(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(name)).unwrap()
}

/// The contents of the fenced blocks of one language, without their indentation.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != format!("```{language}") {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let block = lines.by_ref().take_while(|line| line.trim() != "```");
        let block = block.map(|line| line.get(indent..).unwrap_or_default());
        found.push(block.collect::<Vec<_>>().join("\n"));
    }
    found
}

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

/// The columns of a row of the tables.
fn row<'a>(performance: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let begin = format!("| `{name}` |");
    let line = performance.lines().find(|line| line.starts_with(&begin))?;
    Some(line.split('|').map(str::trim).collect())
}

/// Figures of time come from the measured rows, rounded as they are written; whoever measures
/// anew brings the README along.
#[test]
fn the_figures_of_the_readme_are_measured() {
    let (text, performance) = (prose(&read("README.md")), read("docs/performance.md"));
    let figures = figures(&text);
    assert!(figures.len() >= 5, "the figures are not found");
    for Figure {
        value,
        unit,
        row: from,
    } in figures
    {
        let from = from.unwrap_or_else(|| panic!("no row is named for {value} {unit}"));
        let row = row(&performance, &from).unwrap_or_else(|| panic!("no row `{from}`"));
        assert_eq!(row[3], unit, "{from}");
        let measured: f64 = row[2].parse().unwrap();
        let digits = value.split_once('.').map_or(0, |(_, digits)| digits.len());
        assert_eq!(value, format!("{measured:.digits$}"), "{from}");
    }
}

/// How many times as much nftables takes is the range of the rows that the sentence is about.
#[test]
fn what_the_readme_says_of_nftables_is_measured() {
    let (text, performance) = (prose(&read("README.md")), read("docs/performance.md"));
    let multiples = performance.lines().filter_map(|line| {
        let name = line.strip_prefix("| `live/")?;
        let of_rules = ["tke/", "rules/", "prefixes/"];
        if !of_rules.iter().any(|begin| name.starts_with(begin)) {
            return None;
        }
        line.split('|')
            .nth(8)?
            .trim()
            .strip_prefix('×')?
            .parse::<f64>()
            .ok()
    });
    let multiples: Vec<f64> = multiples.collect();
    let least = multiples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = multiples.iter().copied().fold(0.0, f64::max);
    let said = format!("takes {least:.0} to {most:.0} times as much of the core");
    assert!(text.contains(&said), "`{said}` is not what it says");
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
