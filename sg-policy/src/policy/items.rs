//! The elements of a list of addresses or ports: literals and the names of sets, with their
//! places. One scalar may hold several, separated by commas.

use super::clip::clip;
use super::errors::{At, Problem};
use super::fields;
use super::kind::Kind;
use super::loading::Ctx;
use super::other_format;
use super::set_name::{KEYWORDS, SET_NAME, is_set_name};
use super::yaml::{Node, Value};

/// Elements of one list.
const ITEMS: usize = 1 << 20;

/// One element: where it stands, how it is spelled, what it means.
#[derive(Debug)]
pub(crate) struct Item<'n, L> {
    pub(crate) at: At,
    pub(crate) text: &'n str,
    pub(crate) meaning: Meaning<L>,
}

#[derive(Clone, Debug)]
pub(crate) enum Meaning<L> {
    Literal(L),
    Named(String),
}

/// What is wrong with the name of a set.
pub(crate) fn bad_set_name(text: &str) -> Problem {
    let problem = Problem::new(
        "bad-set-name",
        format!("`{}` cannot name a set", clip(text)),
    );
    if KEYWORDS.contains(&text) {
        return problem
            .expected("a word that has no meaning of its own")
            .help("choose another name");
    }
    problem
        .expected(format!(
            "a lower-case letter, then lower-case letters, digits, `-` and `_`, at most {SET_NAME} in all"
        ))
        .help("choose such a name; sets are told from literals by it")
}

/// Reads one element: a literal starts with a digit, has a `:`, or is `any`; all else is a name.
pub(crate) fn meaning<K: Kind>(text: &str) -> Result<Meaning<K::Literal>, Problem> {
    if is_set_name(text) {
        return Ok(Meaning::Named(text.to_owned()));
    }
    K::parse(text).map(Meaning::Literal)
}

/// The elements of a scalar or of a list of scalars, and whether all of them could be read.
pub(crate) fn read<'n, K: Kind>(
    ctx: &mut Ctx<'_>,
    node: &'n Node<'_>,
    what: &str,
) -> (Vec<Item<'n, K::Literal>>, bool) {
    let mut items = Vec::new();
    let mut good = true;
    match &node.value {
        Value::List(list) => {
            items.reserve(list.len());
            for element in list {
                let what = format_args!("an element of {what}");
                good &= scalar::<K>(ctx, element, &what, &mut items);
            }
        }
        _ => good = scalar::<K>(ctx, node, &format_args!("{what}"), &mut items),
    }
    (items, good)
}

fn scalar<'n, K: Kind>(
    ctx: &mut Ctx<'_>,
    node: &'n Node<'_>,
    what: &std::fmt::Arguments<'_>,
    items: &mut Vec<Item<'n, K::Literal>>,
) -> bool {
    let Some(text) = node.text().filter(|_| !node.is_null()) else {
        if let Some(problem) = other_format::block(node) {
            ctx.error(node.at, problem);
            return false;
        }
        let expected = format!("a literal or the name of {} set", article::<K>());
        let what = what.to_string();
        // Reports the shape; lists in lists and mappings end here.
        fields::scalar(ctx, node, &what, &expected);
        return false;
    };
    let mut good = true;
    let mut place = Places::new(ctx, node, text);
    for part in text.split(',') {
        let word = part.trim();
        let at = place.next(part, word);
        if items.len() >= ITEMS {
            let problem = Problem::new("too-large", "the list is too long")
                .expected(format!("at most {ITEMS} elements"))
                .help("move it to a set file");
            ctx.error(at, problem);
            return false;
        }
        let read = match word {
            "" => Err(Problem::new("missing-value", "an element is missing here")
                .expected(format!("a literal or the name of {} set", article::<K>()))
                .help("remove the comma that is too many")),
            word => meaning::<K>(word),
        };
        match read {
            Ok(meaning) => {
                if let Meaning::Literal(literal) = &meaning {
                    ctx.odd::<K>(*literal, word, || at);
                }
                items.push(Item {
                    at,
                    text: word,
                    meaning,
                });
            }
            Err(problem) => {
                good = false;
                ctx.error(at, problem);
            }
        }
    }
    good
}

/// The elements as they are written, joined by commas.
pub(crate) fn joined<L>(items: &[Item<'_, L>]) -> String {
    let len = items.iter().map(|item| item.text.len() + 1).sum();
    let mut text = String::with_capacity(len);
    for item in items {
        if !text.is_empty() {
            text.push(',');
        }
        // A literal that was broken across lines is one line here.
        match item.text.contains(char::is_control) {
            true => text.extend(item.text.split_whitespace()),
            false => text.push_str(item.text),
        }
    }
    text
}

pub(crate) fn article<K: Kind>() -> String {
    match K::NOUN {
        "address" => "an address".to_owned(),
        noun => format!("a {noun}"),
    }
}

/// The places of the parts of a scalar, one after the other.
struct Places {
    scalar: At,
    /// Where the next part starts. `None` when the scalar is not written as it reads (escapes,
    /// line breaks): then every part stands where the scalar does.
    next: Option<(u32, u32)>,
}

impl Places {
    fn new(ctx: &Ctx<'_>, node: &Node<'_>, text: &str) -> Places {
        let quote = u32::from(matches!(node.value, Value::Scalar { quoted: true, .. }));
        let (start, column) = (node.at.start + quote, node.at.column + quote);
        let range = start as usize..start as usize + text.len();
        let as_written = ctx.source.text.get(range) == Some(text) && !text.contains('\n');
        Places {
            scalar: node.at,
            next: as_written.then_some((start, column)),
        }
    }

    /// The place of `word` in the next part.
    fn next(&mut self, part: &str, word: &str) -> At {
        let Some((start, column)) = self.next else {
            return self.scalar;
        };
        let characters = part.chars().count() as u32;
        self.next = Some((start + part.len() as u32 + 1, column + characters + 1));
        // Blanks in front of the word; all of one byte or not, they count as characters.
        let front = part.len() - part.trim_start().len();
        let blanks = part.chars().take_while(|c| c.is_whitespace()).count();
        let start = start + front as u32;
        At {
            line: self.scalar.line,
            column: column + blanks as u32,
            start,
            end: start + word.len() as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves P6.
    #[test]
    fn names_are_told_from_literals_by_their_spelling() {
        for name in ["pods", "node-ports", "a_1", "feed"] {
            assert!(is_set_name(name), "{name}");
        }
        for other in [
            "any", "all", "yes", "Pods", "1a", "a:b", "-a", "a.b", "", "é",
        ] {
            assert!(!is_set_name(other), "{other}");
        }
        assert!(!is_set_name(&"a".repeat(65)));
    }
}
