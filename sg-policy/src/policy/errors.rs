//! What is wrong with a policy: every error with its place, what was expected and a remedy.
//! Errors are collected in a [`Report`] so that one reading finds all of them.

use std::collections::{HashMap, HashSet};
use std::fmt;

use miette::{
    Diagnostic, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents,
};

use super::clip::is_obeyed;
use super::finding::{Finding, Location};
use super::source::Source;

/// How many errors are printed; the rest is counted.
pub const PRINTED: usize = 50;
/// How many errors are kept; the rest is counted. Bounds memory on a hopeless file.
const KEPT: usize = 1000;
/// How much of a long line is quoted on either side of an error, in bytes.
const QUOTED: usize = 160;

/// A place in a text: 1-based line and column (in characters), and the byte range it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl At {
    /// The beginning of a text.
    pub(crate) const FIRST: At = At {
        line: 1,
        column: 1,
        start: 0,
        end: 0,
    };
    /// The place of an error about a file as a whole, such as one that cannot be read.
    pub(crate) const WHOLE: At = At {
        line: 0,
        column: 0,
        start: 0,
        end: 0,
    };
}

/// What is wrong, before it is known where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// What kind of thing is wrong, for programs: kebab-case and stable.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) expected: Option<String>,
    pub(crate) help: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Problem {
        Problem {
            code,
            message: message.into(),
            expected: None,
            help: None,
        }
    }

    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Problem {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// What is wrong, without a word of the text that it is about.
    fn without_text(self) -> Problem {
        let code = self.code;
        let message =
            format!("`{code}`, and the text is not shown: not everybody may read the file");
        Problem::new(code, message)
            .help("look at that place of the file as somebody who may read it")
    }
}

/// One error of a policy. It prints as `FILE:LINE:COLUMN: MESSAGE; expected …`, and the remedy on a
/// line of its own; as a [`Diagnostic`] it quotes the line it is about.
#[derive(Clone, Debug)]
pub struct PolicyError {
    /// What kind of thing is wrong: words joined by hyphens, and stable.
    pub code: &'static str,
    /// The path as it was given, `<stdin>`, `builtin:NAME`, or `--set` for an argument of that.
    pub file: String,
    /// Counts from 1; 0 where the error is about the file as a whole.
    pub line: u32,
    /// Counts characters from 1, of an argument of `--set` within `NAME=VALUE`; 0 where the error
    /// is about the file as a whole.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What may stand there instead.
    pub expected: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
    excerpt: Option<Excerpt>,
}

impl PolicyError {
    /// `None` where it is about the file as a whole.
    fn location(&self) -> Option<Location> {
        (self.line > 0).then(|| Location {
            file: self.file.clone(),
            line: self.line,
            column: self.column,
        })
    }

    /// What the error is about, within the lines that it quotes: first byte and length in bytes.
    /// `None` where it quotes none.
    pub fn mark(&self) -> Option<(usize, usize)> {
        let marked = self.excerpt.as_ref()?.marked;
        Some((marked.offset(), marked.len()))
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location() {
            Some(location) => write!(f, "{location}: {}", self.message)?,
            None => write!(f, "{}: {}", self.file, self.message)?,
        }
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyError {}

/// The shape that errors share with findings.
impl From<&PolicyError> for Finding {
    fn from(error: &PolicyError) -> Finding {
        let location = error.location();
        let mut message = match &error.expected {
            Some(expected) => format!("{}; expected {expected}", error.message),
            None => error.message.clone(),
        };
        if location.is_none() {
            // Without a location, the message alone can name the file.
            message.insert_str(0, &format!("{}: ", error.file));
        }
        Finding {
            help: error.help.clone(),
            location,
            ..Finding::error(error.code, message)
        }
    }
}

impl Diagnostic for PolicyError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        let excerpt = self.excerpt.as_ref()?;
        Some(excerpt)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let excerpt = self.excerpt.as_ref()?;
        let label = match &self.expected {
            Some(expected) => format!("expected {expected}"),
            None => "here".to_owned(),
        };
        let span = LabeledSpan::new_with_span(Some(label), excerpt.marked);
        Some(Box::new(std::iter::once(span)))
    }
}

/// Every error that was found, in the order of the files and of the places in each. The first
/// [`PRINTED`] are printed, and the others counted.
#[derive(Clone, Debug)]
pub struct PolicyErrors(pub Vec<PolicyError>);

impl PolicyErrors {
    /// In the shape that errors share with findings.
    pub fn findings(&self) -> Vec<Finding> {
        self.0.iter().map(Finding::from).collect()
    }

    fn more(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        match self.0.len().saturating_sub(PRINTED) {
            0 => Ok(()),
            more => writeln!(f, "and {more} more"),
        }
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().take(PRINTED).enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        if self.0.len() > PRINTED {
            writeln!(f)?;
        }
        self.more(f)
    }
}

impl std::error::Error for PolicyErrors {}

impl Diagnostic for PolicyErrors {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(
            self.0.iter().take(PRINTED).map(|e| e as &dyn Diagnostic),
        ))
    }
}

/// Collects errors.
#[derive(Debug, Default)]
pub(crate) struct Report {
    errors: Vec<PolicyError>,
    omitted: usize,
    seen: HashSet<(String, u32, u32, String)>,
}

impl Report {
    /// True when further errors are only counted, so that no effort need go into their wording.
    pub(crate) fn is_full(&self) -> bool {
        self.errors.len() >= KEPT
    }

    /// The number of errors so far; two equal numbers mean that nothing went wrong between them.
    pub(crate) fn count(&self) -> usize {
        self.errors.len() + self.omitted
    }

    /// Adds an error, unless there is the same one at the same place: an alias is read repeatedly.
    pub(crate) fn push(&mut self, source: &Source, at: At, problem: Problem) {
        if self.is_full() {
            self.omitted += 1;
            return;
        }
        let problem = match source.is_hidden && at != At::WHOLE {
            true => problem.without_text(),
            false => problem,
        };
        let key = (
            source.name.clone(),
            at.line,
            at.column,
            problem.message.clone(),
        );
        if !self.seen.insert(key) {
            return;
        }
        self.errors.push(PolicyError {
            code: problem.code,
            file: source.name.clone(),
            line: at.line,
            column: at.column,
            message: problem.message,
            expected: problem.expected,
            help: problem.help,
            excerpt: Excerpt::around(source, at),
        });
    }

    /// The collected errors, or `Ok` when there are none.
    pub(crate) fn finish(mut self) -> Result<(), PolicyErrors> {
        let mut files: HashMap<String, usize> = HashMap::new();
        self.errors.sort_by_cached_key(|error| {
            let next = files.len();
            let file = *files.entry(error.file.clone()).or_insert(next);
            (file, error.line, error.column)
        });
        if let (Some(last), 1..) = (self.errors.last(), self.omitted) {
            let mut last = last.clone();
            last.code = "more";
            last.message = format!("{} more errors are not listed", self.omitted);
            last.expected = None;
            last.help = Some("mend these first".to_owned());
            self.errors.push(last);
        }
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(PolicyErrors(self.errors)),
        }
    }
}

/// The line an error is about and its neighbours, cut out of the file.
#[derive(Clone, Debug)]
struct Excerpt {
    name: String,
    text: String,
    first_line: usize,
    /// What the error is about, in bytes of `text`.
    marked: SourceSpan,
}

impl Excerpt {
    fn around(source: &Source, at: At) -> Option<Excerpt> {
        let text = source.text.as_str();
        if text.is_empty() || source.is_hidden {
            return None;
        }
        let start = floor(text, (at.start as usize).min(text.len()));
        let line_start = text.get(..start)?.rfind('\n').map_or(0, |n| n + 1);
        let (mut from, mut first_line) = (line_start, at.line as usize);
        if let Some(before) = line_start.checked_sub(1) {
            let previous = text.get(..before)?.rfind('\n').map_or(0, |n| n + 1);
            if before - previous <= QUOTED {
                (from, first_line) = (previous, first_line.saturating_sub(1));
            }
        }
        if start - from > 2 * QUOTED {
            (from, first_line) = (floor(text, start - QUOTED), at.line as usize);
        }
        let end = text.get(start..)?;
        let line_end = start + end.find('\n').unwrap_or(end.len());
        let to = floor(text, line_end.min(start + QUOTED));
        let marked_end = floor(text, at.end as usize).clamp(start, to);
        Some(Excerpt {
            name: source.name.clone(),
            text: shown(text.get(from..to)?),
            first_line,
            marked: (start - from, marked_end - start).into(),
        })
    }
}

/// The text without characters that a terminal would obey. Each byte stays in its place, since the
/// mark below a line counts bytes.
fn shown(text: &str) -> String {
    let shown = |c: char| match (c, c.len_utf8()) {
        ('\n' | '\t', _) => c,
        _ if !is_obeyed(c) => c,
        (_, 1) => ' ',
        (_, 2) => '·',
        _ => '∙',
    };
    text.chars().map(shown).collect()
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0)
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let inner = self.text.as_str().read_span(span, before, after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            inner.data(),
            *inner.span(),
            inner.line() + self.first_line.saturating_sub(1),
            inner.column(),
            inner.line_count(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of_text("p.yaml", text)
    }

    /// Proves P8.
    #[test]
    fn an_error_prints_its_place_what_was_expected_and_a_remedy() {
        let mut report = Report::default();
        let at = At {
            line: 2,
            column: 3,
            start: 6,
            end: 9,
        };
        let problem = Problem::new("bad", "bad").expected("good").help("mend it");
        report.push(&source("abc\n  def\nghi"), at, problem);
        let errors = report.finish().unwrap_err();
        assert_eq!(
            errors.to_string(),
            "p.yaml:2:3: bad; expected good\n  help: mend it"
        );
    }

    /// Proves P8.
    #[test]
    fn a_flood_of_errors_is_counted_and_not_kept() {
        let mut report = Report::default();
        for line in 1..=5000 {
            let at = At { line, ..At::FIRST };
            report.push(&source("x"), at, Problem::new("bad", "bad"));
        }
        let errors = report.finish().unwrap_err();
        assert_eq!(errors.0.len(), KEPT + 1);
        assert!(errors.0[KEPT].message.starts_with("4000 more"));
        assert!(errors.to_string().ends_with("and 951 more\n"));
    }

    #[test]
    fn an_excerpt_of_a_huge_line_is_short_and_stays_on_character_boundaries() {
        let text = "é".repeat(100_000);
        let at = At {
            line: 1,
            column: 50_001,
            start: 100_001,
            end: 100_009,
        };
        let excerpt = Excerpt::around(&source(&text), at).unwrap();
        assert!(excerpt.text.len() < 1000);
    }
}
