//! Prints a failure: on a terminal with the lines of the policy drawn, otherwise as
//! `file:line:column: message`, and with --json as JSON.

use std::fmt;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};
use sg_policy::policy::{PRINTED, PolicyError, PolicyErrors};

use super::failure::Failure;
use super::journal::{Journal, Priority, with_priority};
use super::placed::placed;
use super::screen::{Screen, clip};

/// The maximum width of a drawn error, however wide the terminal is.
const WIDEST: usize = 100;

impl Failure {
    /// Prints the failure to standard error.
    pub(super) fn report(&self, screen: &Screen) {
        let text = self.shown(screen);
        // If standard error cannot be written, the error cannot be reported.
        let _ = screen.write(&match Journal::find().err {
            true => with_priority(&text, Priority::Error),
            false => text,
        });
    }

    /// The failure as `report` prints it.
    pub(super) fn shown(&self, screen: &Screen) -> String {
        if !screen.json {
            return screen.for_people(&self.text(screen));
        }
        let findings = self.findings();
        let lines = findings
            .iter()
            .filter_map(|finding| serde_json::to_string(finding).ok());
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// The failure as text.
    fn text(&self, screen: &Screen) -> String {
        match self {
            Failure::Policy(errors) if screen.terminal => drawn(errors, screen),
            Failure::Policy(errors) => format!("{errors}\n"),
            Failure::Kernel(error) => diagnostic_text(error, screen),
            Failure::Lab(error) => diagnostic_text(error, screen),
            Failure::Guard(errors) => {
                let lines = errors.iter().map(|error| format!("{error}\n"));
                lines.collect::<String>() + super::guarded::OFF + "\n"
            }
            Failure::Usage(error) if screen.color => error.render().ansi().to_string(),
            Failure::Usage(error) => error.to_string(),
            Failure::Io { what, source } => format!("error: {what}: {source}\n"),
            Failure::IoAt(error) => diagnostic_text(error, screen),
            Failure::BrokenPipe | Failure::Told(_) => String::new(),
        }
    }
}

/// An error with its lines of the policy file. The heading of the lines has the place and the
/// remedy follows them, so the first line repeats neither.
#[derive(Debug)]
struct Drawn<'a> {
    error: &'a PolicyError,
    width: usize,
}

impl Drawn<'_> {
    /// Whether the marked text is visible although long lines of the file are cut.
    fn is_mark_within(&self) -> bool {
        /// The width of the line number and the frame.
        const FRAME: usize = 10;
        let (_, marked) = self.error.mark().unwrap_or_default();
        FRAME + self.error.column as usize + marked <= self.width
    }

    /// Whether the expected text fits beside the mark. miette never wraps such a label.
    fn has_room(&self) -> bool {
        /// The width of the line number, the frame and the hook that leads to the label.
        const FRAME: usize = 16;
        let expected = self.error.expected.as_ref();
        let length = expected.map_or(0, |text| text.chars().count());
        let (_, marked) = self.error.mark().unwrap_or_default();
        let column = self.error.column as usize + marked / 2;
        FRAME + column + "expected ".len() + length <= self.width
    }
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.error;
        if error.source_code().is_none() {
            write!(f, "{}: ", error.file)?;
        }
        f.write_str(&error.message)?;
        match (&error.expected, error.source_code()) {
            (Some(expected), None) => write!(f, "; expected {expected}"),
            (Some(expected), _) if !self.has_room() => write!(f, "; expected {expected}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Drawn<'_> {}

impl Diagnostic for Drawn<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.error.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.error.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        if self.has_room() {
            return self.error.labels();
        }
        let span = LabeledSpan::new_with_span(Some("here".to_owned()), self.error.mark()?);
        Some(Box::new(std::iter::once(span)))
    }
}

fn drawn(PolicyErrors(errors): &PolicyErrors, screen: &Screen) -> String {
    let handler = handler(screen);
    let width = width_of(screen);
    let mut out = String::new();
    for error in errors.iter().take(PRINTED) {
        let mut one = String::new();
        let drawn = Drawn { error, width };
        match handler.render_report(&mut one, &drawn) {
            Ok(()) if drawn.is_mark_within() => {
                for line in one.lines() {
                    out.push_str(&clip(line, screen.width));
                    out.push('\n');
                }
            }
            Ok(()) => out.push_str(&one),
            Err(fmt::Error) => out.push_str(&format!("{error}\n")),
        }
        out.push('\n');
    }
    if let more @ 1.. = errors.len().saturating_sub(PRINTED) {
        out.push_str(&format!("and {more} more\n"));
    }
    out
}

/// An error whose commands have the options that they need, before its lines are broken.
struct Placed<'a>(&'a dyn Diagnostic);

impl fmt::Debug for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&placed(&self.0.to_string()))
    }
}

impl std::error::Error for Placed<'_> {}

impl Diagnostic for Placed<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.0.help()?.to_string();
        Some(Box::new(placed(&help).into_owned()))
    }
}

fn diagnostic_text(error: &dyn Diagnostic, screen: &Screen) -> String {
    if screen.terminal {
        let mut drawn = String::new();
        let placed = Placed(error);
        if handler(screen).render_report(&mut drawn, &placed).is_ok() {
            return drawn;
        }
    }
    let mut text = format!("error: {error}\n");
    if let Some(help) = error.help() {
        text.push_str(&format!("  help: {help}\n"));
    }
    text
}

fn width_of(screen: &Screen) -> usize {
    screen.width.unwrap_or(WIDEST).min(WIDEST)
}

fn handler(screen: &Screen) -> GraphicalReportHandler {
    let theme = match (screen.unicode, screen.color) {
        (true, true) => GraphicalTheme::unicode(),
        (true, false) => GraphicalTheme::unicode_nocolor(),
        (false, true) => GraphicalTheme::ascii(),
        (false, false) => GraphicalTheme::none(),
    };
    GraphicalReportHandler::new_themed(theme)
        .with_width(width_of(screen))
        .with_links(false)
        .with_word_separator(textwrap::WordSeparator::AsciiSpace)
        .with_word_splitter(textwrap::WordSplitter::NoHyphenation)
        .with_break_words(false)
}
