//! What the task runner itself prints: aligned, short, on standard error.
//! Colours only on a terminal, and never where NO_COLOR is set.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _},
};

/// Wide enough for the longest label in use.
const LABEL: usize = 8;

#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

/// One line: a coloured label in its own column, then the text.
pub(crate) fn say(colour: Colour, label: &str, text: impl Display) {
    eprintln!("{} {text}", paint(colour, &format!("{label:>LABEL$}")));
}

/// One line that goes on with what the line above it says.
pub(crate) fn more(text: impl Display) {
    eprintln!("{:LABEL$} {text}", "");
}

/// The error and what led to it, causes indented below.
pub(crate) fn error(error: &anyhow::Error) {
    let mut causes = error.chain();
    if let Some(first) = causes.next() {
        lines(Colour::Red, "error", &first.to_string());
    }
    for cause in causes {
        lines(Colour::Red, "because", &cause.to_string());
    }
}

fn lines(colour: Colour, label: &str, text: &str) {
    let mut lines = text.lines();
    say(colour, label, lines.next().unwrap_or_default());
    lines.for_each(more);
}

fn paint(colour: Colour, text: &str) -> String {
    let wanted = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if wanted {
        format!("\x1b[1;{}m{text}\x1b[0m", colour as u8)
    } else {
        text.to_owned()
    }
}
