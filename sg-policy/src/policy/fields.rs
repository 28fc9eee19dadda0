//! Reads mappings, lists and plain values off the tree: unknown and duplicate keys, wrong shapes.
//! Every reader reports what it finds and returns `None`, so that the walk goes on.

use std::collections::HashSet;
use std::rc::Rc;

use super::clip::clip;
use super::dialect::{self, Place};
use super::errors::{At, Problem};
use super::loading::Ctx;
use super::yaml::{Node, Value};

/// The longest name of a policy, group, rule or set, in characters.
pub(crate) const NAME: usize = 128;
/// The longest description, in characters.
pub(crate) const DESCRIPTION: usize = 1024;
/// How many candidates a misspelt word is compared with, at most.
const CANDIDATES: usize = 500;

/// The candidate that `word` is probably a misspelling or the beginning of.
pub fn suggest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let length = word.chars().count();
    if length > 40 {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .take(CANDIDATES)
        .filter_map(|c| {
            let begins = length >= 3 && c.starts_with(&lower);
            let distance = match c.chars().count().abs_diff(length) {
                0..=3 => strsim::osa_distance(&lower, c),
                _ => usize::MAX,
            };
            let is_close = distance <= 1 + c.len().min(length) / 4;
            (is_close || begins).then_some((distance, c))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// A list of words for an error: all of a short one, the beginning of a long one.
pub(crate) fn words<'c>(all: impl IntoIterator<Item = &'c str>) -> String {
    let mut all = all.into_iter();
    let mut out = String::new();
    for (i, word) in all.by_ref().take(20).enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(word);
    }
    match all.count() {
        0 => out,
        more => format!("{out} and {more} more"),
    }
}

/// The entries of a mapping with known keys.
pub(crate) struct Fields<'n, 't> {
    pub(crate) at: At,
    entries: Vec<(&'static str, At, &'n Rc<Node<'t>>)>,
}

impl<'n, 't> Fields<'n, 't> {
    /// Reads `node` as a mapping with no keys but `known`. `what` names it in errors, and `place`
    /// says what other words for its keys there are.
    pub(crate) fn read(
        ctx: &mut Ctx<'_>,
        node: &'n Node<'t>,
        what: &str,
        place: Place,
        known: &[&'static str],
    ) -> Option<Fields<'n, 't>> {
        let pairs = pairs(
            ctx,
            node,
            what,
            &format!("the keys {}", words(known.iter().copied())),
        )?;
        let mut entries = Vec::with_capacity(pairs.len());
        for (key, at, value) in pairs {
            match known.iter().find(|k| **k == key) {
                Some(known) => entries.push((*known, at, value)),
                // Only counted, since the report is full.
                None if ctx.loading.report.is_full() => ctx.error(
                    at,
                    Problem::new("unknown-key", "unknown key").help("mend the first errors"),
                ),
                None => {
                    let mut problem = Problem::new(
                        "unknown-key",
                        format!("unknown key `{}` in {what}", clip(key)),
                    )
                    .expected(format!("one of {}", words(known.iter().copied())));
                    if key == "<<" {
                        problem = problem.help("merge keys are not supported; use a named set");
                    } else if let Some(help) = dialect::key(place, key) {
                        problem = problem.help(help);
                    } else if let Some(close) = suggest(key, known.iter().copied()) {
                        problem = problem.help(format!("did you mean `{close}`?"));
                    } else {
                        problem = problem.help(dialect::unknown(place));
                    }
                    ctx.error(at, problem);
                }
            }
        }
        Some(Fields {
            at: node.at,
            entries,
        })
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node<'t>> {
        self.entry(key).map(|(_, node)| node)
    }

    /// The place of `key` and its value.
    pub(crate) fn entry(&self, key: &str) -> Option<(At, &'n Node<'t>)> {
        let (_, at, node) = self.entries.iter().find(|(k, ..)| *k == key)?;
        Some((*at, node))
    }
}

/// The entries of a mapping as key, place of the key, and value; duplicates are reported and left
/// out.
pub(crate) fn pairs<'n, 't>(
    ctx: &mut Ctx<'_>,
    node: &'n Node<'t>,
    what: &str,
    expected: &str,
) -> Option<Vec<(&'n str, At, &'n Rc<Node<'t>>)>> {
    let Value::Map(pairs) = &node.value else {
        let problem = Problem::new("wrong-shape", format!("{what} is {}", node.kind()))
            .expected(format!("a mapping with {expected}"))
            .help("write `key: value` lines, indented alike");
        ctx.error(node.at, problem);
        return None;
    };
    let mut seen = HashSet::with_capacity(pairs.len());
    let mut entries = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let Some(text) = key.text() else {
            let problem = Problem::new("wrong-shape", format!("a key of {what} is {}", key.kind()))
                .expected("a word")
                .help("brackets and braces cannot be keys");
            ctx.error(key.at, problem);
            continue;
        };
        if seen.insert(text) {
            entries.push((text, key.at, value));
        } else {
            let problem = Problem::new(
                "duplicate-key",
                format!("`{}` stands twice in {what}", clip(text)),
            )
            .expected("each key once")
            .help("join the two into one");
            ctx.error(key.at, problem);
        }
    }
    Some(entries)
}

/// The elements of a list.
pub(crate) fn list<'n, 't>(
    ctx: &mut Ctx<'_>,
    node: &'n Node<'t>,
    what: &str,
    empty: &str,
) -> Option<&'n [Rc<Node<'t>>]> {
    match &node.value {
        Value::List(list) => Some(list),
        _ => {
            let problem = Problem::new("wrong-shape", format!("{what} is {}", node.kind()))
                .expected("a list")
                .help(format!(
                    "start each element with `- `, or write `{empty}` for none"
                ));
            ctx.error(node.at, problem);
            None
        }
    }
}

/// A scalar that is not null.
pub(crate) fn scalar<'n>(
    ctx: &mut Ctx<'_>,
    node: &'n Node<'_>,
    what: &str,
    expected: &str,
) -> Option<&'n str> {
    match node.text() {
        Some(text) if !node.is_null() => Some(text),
        _ => {
            let problem = Problem::new("wrong-shape", format!("{what} is {}", node.kind()))
                .expected(expected)
                .help(format!("write {expected}"));
            ctx.error(node.at, problem);
            None
        }
    }
}

/// The name of a policy, group or rule: one line of printable text without `|`.
pub(crate) fn name(ctx: &mut Ctx<'_>, node: &Node<'_>, what: &str) -> Option<String> {
    let text = scalar(ctx, node, what, "a name")?.trim();
    let bad = |c: char| c.is_control() || c == '|';
    if text.is_empty() || text.chars().count() > NAME || text.contains(bad) {
        let problem = Problem::new(
            "bad-name",
            format!("{what} is not a name: `{}`", clip(text)),
        )
        .expected(format!(
            "1 to {NAME} printable characters, none of them `|`"
        ))
        .help("use letters, digits and dashes");
        ctx.error(node.at, problem);
        return None;
    }
    Some(text.to_owned())
}

/// A description: any text of reasonable length; line breaks become spaces.
pub(crate) fn description(ctx: &mut Ctx<'_>, node: &Node<'_>) -> Option<String> {
    let text = scalar(ctx, node, "`description`", "text")?.trim();
    if text.chars().count() > DESCRIPTION {
        let problem = Problem::new("too-large", "the description is too long")
            .expected(format!("at most {DESCRIPTION} characters"))
            .help("put the rest in a `#` comment");
        ctx.error(node.at, problem);
        return None;
    }
    Some(
        text.split(char::is_control)
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .collect::<Vec<_>>()
            .join(" "),
    )
}

/// `true` or `false`.
pub(crate) fn boolean(ctx: &mut Ctx<'_>, node: &Node<'_>, what: &str) -> Option<bool> {
    choice(ctx, node, what, &[("true", true), ("false", false)])
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(
    ctx: &mut Ctx<'_>,
    node: &Node<'_>,
    what: &str,
    known: &[(&str, T)],
) -> Option<T> {
    let all = || known.iter().map(|(word, _)| *word);
    let expected = format!("one of {}", words(all()));
    let text = scalar(ctx, node, what, &expected)?;
    if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let lower = text.to_lowercase();
    let meant = match lower.as_str() {
        "allow" | "allowed" | "permit" | "pass" => Some("accept"),
        "deny" | "denied" | "reject" | "block" | "discard" | "blackhole" => Some("drop"),
        "yes" | "on" | "1" => Some("true"),
        "no" | "off" | "0" => Some("false"),
        "honor" => Some("honour"),
        _ => suggest(&lower, all()),
    };
    let meant = meant.filter(|m| all().any(|word| word == *m));
    let problem =
        Problem::new("bad-value", format!("{what} cannot be `{}`", clip(text))).expected(expected);
    ctx.error(
        node.at,
        match meant {
            Some(meant) if lower == "reject" => problem.help(format!(
                "did you mean `{meant}`? Nobody is told that a packet was dropped"
            )),
            Some(meant) => problem.help(format!("did you mean `{meant}`?")),
            None if lower == "log" => problem.help("write `log: true` beside the action"),
            None => problem.help("write one of those words"),
        },
    );
    None
}
