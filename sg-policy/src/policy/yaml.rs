//! YAML text → a tree in which every node knows its place. No meaning is given to scalars here.
//! Nesting, size and what aliases expand to are bounded, and nothing recurses.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{ErrorKind, Event, Parser, ScanError, Span};

use super::clip::clip;
use super::dialect;
use super::errors::{At, Problem};
use super::source::Source;

/// The deepest nesting. A policy nests six deep.
const DEPTH: usize = 24;
/// The most nodes of one file, with every alias counted as what it stands for.
const NODES: usize = 4_000_000;

#[derive(Debug)]
pub(crate) struct Node<'t> {
    pub(crate) at: At,
    pub(crate) value: Value<'t>,
    /// Nodes in this subtree, aliases expanded.
    weight: usize,
}

#[derive(Debug)]
pub(crate) enum Value<'t> {
    /// `quoted` tells `"null"` from `null`.
    Scalar {
        text: Cow<'t, str>,
        quoted: bool,
    },
    List(Vec<Rc<Node<'t>>>),
    Map(Vec<(Rc<Node<'t>>, Rc<Node<'t>>)>),
}

impl Node<'_> {
    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// True for a value that was left out: `key:` with nothing behind it, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, quoted: false }
            if matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What the node is, for errors.
    pub(crate) fn kind(&self) -> String {
        match &self.value {
            _ if self.is_null() => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("`{}`", clip(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// A list or mapping whose end has not been read yet.
struct Open<'t> {
    at: At,
    anchor: usize,
    is_map: bool,
    children: Vec<Rc<Node<'t>>>,
    weight: usize,
}

/// Reads exactly one document.
pub(crate) fn parse(source: &Source) -> Result<Rc<Node<'_>>, (At, Problem)> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH,
        block_nesting_limit: DEPTH,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(&source.text, options) {
        let (event, span) = event.map_err(|e| syntax(source, &e))?;
        builder.event(event, place(&span))?;
    }
    let empty = || {
        let problem = Problem::new(
            "empty-policy",
            "the file holds no policy, only comments or blank lines",
        )
        .expected("a mapping with `inbound`, `outbound` or `groups`")
        .help("a policy that denies everything is `inbound: []`");
        (At::FIRST, problem)
    };
    let root = builder.root.ok_or_else(empty)?;
    match root.is_null() {
        true => Err(empty()),
        false => Ok(root),
    }
}

#[derive(Default)]
struct Builder<'t> {
    root: Option<Rc<Node<'t>>>,
    open: Vec<Open<'t>>,
    anchors: HashMap<usize, Rc<Node<'t>>>,
    nodes: usize,
}

impl<'t> Builder<'t> {
    fn event(&mut self, event: Event<'t>, at: At) -> Result<(), (At, Problem)> {
        if let Some(tag) = event.tag() {
            let written = tag.to_string();
            if let Some(negated) = written.strip_prefix('!')
                && !negated.is_empty()
                && !negated.starts_with(['!', '<'])
            {
                return Err((at, dialect::negation(&clip(&written))));
            }
            let problem = Problem::new("yaml", "a YAML tag (`!...`) has no meaning in a policy")
                .help("remove the tag; quote the value if it has to be text");
            return Err((at, problem));
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let quoted = style != granit_parser::ScalarStyle::Plain;
                // A scalar may be a list with commas, and costs what a list would.
                let weight = 1 + text.len() / 256 + text.matches(',').count();
                let value = Value::Scalar { text, quoted };
                self.complete(at, value, weight, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.start(at, anchor, false),
            Event::MappingStart(_, anchor, _) => self.start(at, anchor, true),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let node = Rc::clone(node);
                    self.place(at, node)
                }
                None => Err((
                    at,
                    Problem::new(
                        "yaml",
                        "this alias stands inside the very node that it names",
                    )
                    .help("write the value out"),
                )),
            },
            Event::DocumentStart(..) if self.root.is_some() => Err((
                at,
                Problem::new("yaml", "a second YAML document starts here")
                    .expected("one document in a file")
                    .help("put the second policy in a file of its own and name both"),
            )),
            _ => Ok(()),
        }
    }

    fn start(&mut self, at: At, anchor: usize, is_map: bool) -> Result<(), (At, Problem)> {
        if self.open.len() >= DEPTH {
            return Err((at, too_deep()));
        }
        self.open.push(Open {
            at,
            anchor,
            is_map,
            children: Vec::new(),
            weight: 1,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), (At, Problem)> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = if open.is_map {
            let mut pairs = Vec::with_capacity(open.children.len() / 2);
            let mut children = open.children.into_iter();
            while let (Some(key), Some(value)) = (children.next(), children.next()) {
                pairs.push((key, value));
            }
            Value::Map(pairs)
        } else {
            Value::List(open.children)
        };
        self.complete(open.at, value, open.weight, open.anchor)
    }

    fn complete(
        &mut self,
        at: At,
        value: Value<'t>,
        weight: usize,
        anchor: usize,
    ) -> Result<(), (At, Problem)> {
        self.nodes += 1;
        let node = Rc::new(Node { at, value, weight });
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.place(at, node)
    }

    fn place(&mut self, at: At, node: Rc<Node<'t>>) -> Result<(), (At, Problem)> {
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.weight = parent.weight.saturating_add(node.weight);
        if parent.weight > NODES || self.nodes > NODES {
            let problem = Problem::new(
                "too-large",
                format!("the document has more than {NODES} values"),
            )
            .help("aliases count as what they stand for; move long lists to set files (`file:`)");
            return Err((at, problem));
        }
        parent.children.push(node);
        Ok(())
    }
}

fn too_deep() -> Problem {
    Problem::new(
        "too-large",
        format!("values are nested more than {DEPTH} deep"),
    )
    .help("a policy nests six deep at most; check the indentation and the brackets")
}

fn place(span: &Span) -> At {
    let byte = |marker: granit_parser::Marker| marker.byte_offset().unwrap_or_default() as u32;
    At {
        line: span.start.line() as u32,
        column: span.start.col() as u32 + 1,
        start: byte(span.start),
        end: byte(span.end),
    }
}

fn syntax(source: &Source, error: &ScanError) -> (At, Problem) {
    let mark = error.marker();
    let byte = mark
        .byte_offset()
        .or_else(|| source.text.char_indices().nth(mark.index()).map(|(i, _)| i))
        .unwrap_or(source.text.len()) as u32;
    let at = At {
        line: mark.line().max(1) as u32,
        column: mark.col() as u32 + 1,
        start: byte,
        end: byte,
    };
    let info = error.info();
    if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
        return (at, too_deep());
    }
    let problem = Problem::new("yaml", format!("not valid YAML: {info}"));
    let line = source.text.lines().nth(mark.line().saturating_sub(1));
    let rest = source.text.get(byte as usize..).unwrap_or_default();
    let word = rest
        .split([',', ']', '}', ' ', '\n', '\r'])
        .next()
        .unwrap_or_default();
    if let Some(name) = dialect::sigil(word) {
        let help = format!("a set is named by its name alone: write `{name}`");
        return (at, problem.help(help));
    }
    let help = match line {
        _ if word.starts_with('*') => "every address is `any`, every port and every protocol `all`",
        Some(line) if line.trim_start().starts_with('\t') || line.starts_with('\t') => {
            "indent with spaces, YAML allows no tabs there"
        }
        _ => "check the indentation, the brackets and the quotes on this line and the one before",
    };
    (at, problem.help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (At, Problem) {
        parse(&Source::of_text("p.yaml", text)).unwrap_err()
    }

    /// Proves P8.
    #[test]
    fn a_syntax_error_names_its_line_and_column() {
        let (at, problem) = error("name: a\ninbound: [1, 2\noutbound: []\n");
        assert!(at.line >= 2, "{at:?}");
        assert!(problem.message.starts_with("not valid YAML: "));
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        for text in [
            "[".repeat(1_000_000),
            "- ".repeat(1_000_000),
            "{a: ".repeat(100_000),
        ] {
            let (_, problem) = error(&text);
            assert!(problem.message.contains("deep"), "{}", problem.message);
        }
    }

    #[test]
    fn aliases_that_multiply_are_stopped() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let before = format!("*a{}, ", i - 1).repeat(10);
            text += &format!("a{i}: &a{i} [{before}]\n");
        }
        let (_, problem) = error(&text);
        assert!(problem.message.contains("values"), "{}", problem.message);
        let (_, problem) = error("a: &a [*a]");
        assert!(problem.message.contains("alias"), "{}", problem.message);
    }

    #[test]
    fn an_alias_stands_for_its_value() {
        let source = Source::of_text("p", "a: &x [1]\nb: *x\n");
        let root = parse(&source).unwrap();
        let Value::Map(pairs) = &root.value else {
            panic!("not a mapping");
        };
        assert!(matches!(&pairs[1].1.value, Value::List(l) if l.len() == 1));
    }

    #[test]
    fn tags_and_second_documents_are_refused() {
        assert!(error("a: !!int 3").1.message.contains("tag"));
        assert!(error("a: 1\n---\nb: 2\n").1.message.contains("second"));
        assert!(error("# nothing\n").1.message.contains("no policy"));
        assert!(error("---\n...\n").1.message.contains("no policy"));
    }
}
