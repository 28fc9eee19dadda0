//! What a command prints, compared with what a page shows.

use regex::Regex;

/// What stands for any lines of an output.
const ANY: &str = "…";

/// The text with names in the place of what is another each time: times, durations, digests, and
/// numbers that the kernel gives. Spaces count as one, since columns are as wide as what is in
/// them.
pub(super) fn normal(text: &str) -> Vec<String> {
    const KINDS: [(&str, &str); 17] = [
        (r"\b\d\d:\d\d:\d\d\.\d{3}\b", "TIME"),
        // Of an answer of Prometheus.
        (r"@\[[\d.]+\]", "TIME"),
        (r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)", "TIME"),
        (r"\(pid \d+\)", "(pid N)"),
        (r"\bmysqld \d+", "mysqld N"),
        (r"\b\d+ (d|h)\b", "DURATION"),
        (r"\b[0-9a-f]{64}\b", "DIGEST"),
        (r"\b[0-9a-f]{12}\b", "DIGEST"),
        (r"just now|\d+ (s|min|h) ago", "AGO"),
        (r"evaluated (from now on|for \d+ (s|min))", "evaluated AGO"),
        (r"\d+(\.\d+)? ?(ms|µs)\b", "DURATION"),
        (r"\b\d+(\.\d+)? (s|min|seconds)\b", "DURATION"),
        (r"[\d.]+ [KM]iB\b", "SIZE"),
        (r"\bid \d+", "id N"),
        (r"time=[\d.]+", "time=N"),
        // Of those that the kernel gives out.
        (r":[3-6]\d{4}\b", ":PORT"),
        (r"\s+", " "),
    ];
    let mut text: Vec<String> = text
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    // A page cannot show them.
    while text.last().is_some_and(String::is_empty) {
        text.pop();
    }
    for (pattern, name) in KINDS {
        let kind = Regex::new(pattern).expect("a pattern");
        for line in &mut text {
            *line = kind.replace_all(line, name).into_owned();
        }
    }
    text
}

/// Whether an output is what the page shows.
pub(super) fn is_shown(shown: &[String], printed: &[String]) -> bool {
    match shown.iter().position(|line| line.trim() == ANY) {
        None => shown == printed,
        Some(any) => {
            let rest = &shown[any + 1..];
            shown[..any] == printed[..any.min(printed.len())]
                && (any..=printed.len()).any(|from| is_shown(rest, &printed[from..]))
        }
    }
}

/// A difference that matters is seen, and one of the moment is not.
#[test]
fn what_is_compared_is_what_stays() {
    let is_same = |shown: &str, printed: &str| is_shown(&normal(shown), &normal(printed));
    assert!(is_same(
        "applied 3 s ago, 1.20 ms",
        "applied just now,  13.4 ms"
    ));
    assert!(!is_same("generation 2", "generation 3"));
    assert!(!is_same("22 packets", "23 packets"));
    assert!(is_same("a\n…\nd", "a\nb\nc\nd"));
    assert!(is_same("a\n…", "a"));
    assert!(!is_same("a\n…\nd", "a\nb"));
    assert!(!is_same("a", "a\nb"));
    assert!(!is_same("", "an error"));
}
