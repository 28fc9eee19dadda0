//! Standard output and standard error: whether they are terminals, how wide, and whether to use
//! colours and characters outside of ASCII. A failed write is an error and not a panic, so that a
//! closed pipe can be handled.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use sg_common::verdict::Action;
use sg_policy::policy::moves_text;
use textwrap::core::{Word, display_width};
use textwrap::{WordSeparator, WordSplitter};

use super::failure::Failure;
use super::locale;
use super::placed::placed;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

#[derive(Clone, Copy)]
pub(super) struct Screen {
    stream: Stream,
    pub(super) terminal: bool,
    pub(super) color: bool,
    /// Whether failures are written as JSON, one object on each line.
    pub(super) json: bool,
    /// The columns of the terminal, or `None` without one.
    pub(super) width: Option<usize>,
    /// Whether the locale has more characters than ASCII.
    pub(super) unicode: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Paint {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Magenta,
}

impl Screen {
    pub(super) fn stdout(choice: ColorChoice) -> Self {
        Screen::new(Stream::Out, io::stdout().is_terminal(), choice)
    }

    pub(super) fn stderr(choice: ColorChoice) -> Self {
        Screen::new(Stream::Err, io::stderr().is_terminal(), choice)
    }

    fn new(stream: Stream, terminal: bool, choice: ColorChoice) -> Self {
        let wanted = || {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            terminal && !no_color && !dumb
        };
        let mut screen = Screen {
            stream,
            terminal,
            color: match choice {
                ColorChoice::Auto => wanted(),
                ColorChoice::Always => true,
                ColorChoice::Never => false,
            },
            json: false,
            width: None,
            unicode: locale::is_unicode(),
        };
        screen.measure();
        screen
    }

    /// This screen, with failures in JSON or not.
    pub(super) fn with_json(self, json: bool) -> Self {
        Screen { json, ..self }
    }

    /// Reads the terminal's size again. Returns its number of lines.
    pub(super) fn measure(&mut self) -> Option<usize> {
        let size = match self.stream {
            Stream::Out => terminal_size::terminal_size_of(io::stdout()),
            Stream::Err => terminal_size::terminal_size_of(io::stderr()),
        };
        let size = size.filter(|_| self.terminal);
        self.width = size.map(|(width, _)| usize::from(width.0).max(20));
        size.map(|(_, height)| usize::from(height.0))
    }

    /// Like `measure`, but returns how many lines a block may have that is redrawn in place.
    pub(super) fn lines_for_frame(&mut self) -> Option<usize> {
        self.measure().map(|lines| lines.saturating_sub(2).max(1))
    }

    pub(super) fn paint(&self, paint: Paint, text: impl Display) -> String {
        let code = match paint {
            Paint::Bold => 1,
            Paint::Dim => 2,
            Paint::Red => 31,
            Paint::Green => 32,
            Paint::Yellow => 33,
            Paint::Magenta => 35,
        };
        match self.color {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_string(),
        }
    }

    /// Green if packets pass, red if not.
    pub(super) fn action(&self, action: Action) -> String {
        self.paint(paint_of(action), action.name())
    }

    /// Writes text as it is, for programs.
    pub(super) fn write(&self, text: &str) -> io::Result<()> {
        match self.stream {
            Stream::Out => write_to(io::stdout().lock(), text),
            Stream::Err => write_to(io::stderr().lock(), text),
        }
    }

    /// Prints text as it is.
    pub(super) fn print(&self, text: &str) -> Result<(), Failure> {
        self.write(text).map_err(|source| match source.kind() {
            ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::Io {
                what: "writing to standard output",
                source,
            },
        })
    }

    /// Prints text for people.
    pub(super) fn say(&self, text: &str) -> Result<(), Failure> {
        self.print(&self.for_people(text))
    }

    /// The same where nobody can be told that it failed, on standard error.
    pub(super) fn note(&self, text: &str) {
        let _ = self.write(&self.for_people(text));
    }

    /// Text as people read it here: commands have the options that they need, lines are wrapped
    /// between words, continued lines are indented, and there is no character that the locale does
    /// not have, nor one that would reorder a line: a name in a policy may hold such.
    pub(super) fn for_people(&self, text: &str) -> String {
        let text = placed(text);
        let text = text.replace(moves_text, " ");
        let text = self.plain(&text);
        match self.width {
            None => text.into_owned(),
            Some(width) => wrapped(&text, width),
        }
    }

    /// Text without characters that the locale does not have.
    pub(super) fn plain<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.unicode {
            true => Cow::Borrowed(text),
            false => Cow::Owned(locale::ascii(text)),
        }
    }

    /// Prints one JSON value, indented.
    pub(super) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.print(&(rendered(serde_json::to_string_pretty(value))? + "\n"))
    }

    /// Prints one JSON value on one line, for streams.
    pub(super) fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.print(&json_line(value)?)
    }
}

pub(super) fn paint_of(action: Action) -> Paint {
    match action {
        Action::Accept => Paint::Green,
        Action::Drop => Paint::Red,
        Action::Audit => Paint::Magenta,
    }
}

pub(super) fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let line = line.trim_end_matches('\n');
        let indent = line.len() - line.trim_start_matches(' ').len();
        let further = " ".repeat(indent + 2);
        // Words such as ranges and paths are never broken, so that they can be copied; but a list
        // that is longer than a line is, since the terminal would break it anywhere.
        let is_long = |word: &str| display_width(word) + further.len() > width;
        let separator = match line.split(' ').any(is_long) {
            true => WordSeparator::Custom(at_spaces_and_commas),
            false => WordSeparator::AsciiSpace,
        };
        let options = textwrap::Options::new(width)
            .word_separator(separator)
            .word_splitter(WordSplitter::NoHyphenation)
            .break_words(false)
            .subsequent_indent(&further);
        for part in textwrap::wrap(line, options) {
            out.push_str(&part);
            out.push('\n');
        }
    }
    out
}

/// The words of a line, and the entries of the lists in it.
fn at_spaces_and_commas(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    let words = line.split_inclusive(' ');
    // Several spaces belong to the word before them.
    let parts = words.flat_map(|word| word.split_inclusive(','));
    Box::new(parts.map(Word::from))
}

/// As much of a line as fits into `width`. Colours take no space.
pub(super) fn clip(line: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| display_width(line) > *width) else {
        return line.to_owned();
    };
    let mut out = String::new();
    let (mut taken, mut is_code, mut is_cut) = (0, false, false);
    let mut buffer = [0; 4];
    for c in line.chars() {
        is_code |= c == '\x1b';
        if is_code {
            out.push(c);
            is_code = !c.is_ascii_alphabetic();
            continue;
        }
        taken += display_width(c.encode_utf8(&mut buffer));
        // The last column is for the ellipsis.
        if taken < width {
            out.push(c);
        } else if !is_cut {
            is_cut = true;
            out.push('…');
        }
    }
    out
}

/// One JSON value on one line, with its end.
pub(super) fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    Ok(rendered(serde_json::to_string(value))? + "\n")
}

fn rendered(json: serde_json::Result<String>) -> Result<String, Failure> {
    json.map_err(|e| Failure::Io {
        what: "writing JSON",
        source: e.into(),
    })
}

fn write_to(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

/// A block of lines at the bottom of a terminal that is redrawn in place.
pub(super) struct Frame {
    screen: Screen,
    /// How many of its lines are above the cursor.
    drawn: usize,
    last: String,
}

impl Frame {
    pub(super) fn new(screen: Screen) -> Self {
        Frame {
            screen,
            drawn: 0,
            last: String::new(),
        }
    }

    /// Whether a block is above the cursor.
    pub(super) fn is_drawn(&self) -> bool {
        self.drawn > 0
    }

    /// The screen with the terminal's current width, and how many lines a block may have.
    pub(super) fn screen(&mut self) -> (Screen, Option<usize>) {
        let lines = self.screen.lines_for_frame();
        (self.screen, lines)
    }

    /// Draws `text` over the block before. What does not fit is left out, because lines that were
    /// wrapped or scrolled away cannot be redrawn.
    pub(super) fn draw(&mut self, text: &str) -> Result<(), Failure> {
        let room = self.screen.lines_for_frame().unwrap_or(22);
        let count = text.lines().count();
        let mut out = self.home();
        let shown = if count > room { room - 1 } else { count };
        for line in text.lines().take(shown) {
            out.push_str(&clip(line, self.screen.width));
            out.push_str("\x1b[K\n");
        }
        self.drawn = shown;
        if shown < count {
            let more = format!("{} more lines: the terminal is too low", count - shown);
            let more = clip(&more, self.screen.width);
            out.push_str(&self.screen.paint(Paint::Dim, more));
            out.push_str("\x1b[K\n");
            self.drawn += 1;
        }
        out.push_str("\x1b[J");
        text.clone_into(&mut self.last);
        self.screen.print(&self.screen.plain(&out))
    }

    /// Draws the block again after something was written in its place.
    pub(super) fn redraw(&mut self) -> Result<(), Failure> {
        let last = std::mem::take(&mut self.last);
        self.draw(&last)
    }

    /// Leaves the block as it is. Further output comes below it.
    pub(super) fn leave(&mut self) {
        self.drawn = 0;
        self.last.clear();
    }

    /// Removes the block, so that something can be written in its place.
    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        let out = format!("{}\x1b[J", self.home());
        self.drawn = 0;
        self.screen.print(&out)
    }

    fn home(&self) -> String {
        match self.drawn {
            0 => String::new(),
            n => format!("\x1b[{n}A\r"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ColorChoice, Screen, clip, wrapped};

    #[test]
    fn a_name_in_a_policy_cannot_reorder_or_end_a_line() {
        let screen = Screen::stdout(ColorChoice::Never);
        let text = "rule 1 of a\u{202e}b\u{2028}c\nby\u{2067}d\n";
        assert_eq!(screen.for_people(text), "rule 1 of a b c\nby d\n");
    }

    #[test]
    fn a_line_is_cut_where_the_terminal_ends_and_colours_stay() {
        assert_eq!(clip("short", Some(5)), "short");
        assert_eq!(clip("longer", None), "longer");
        assert_eq!(clip("longer", Some(5)), "long…");
        let painted = "\u{1b}[31mred\u{1b}[0m and more";
        assert_eq!(clip(painted, Some(6)), "\u{1b}[31mred\u{1b}[0m a…");
        assert_eq!(clip(painted, Some(3)), "\u{1b}[31mre…\u{1b}[0m");
        assert_eq!(clip(painted, Some(12)), painted);
    }

    #[test]
    fn long_lines_are_broken_between_words_and_short_ones_stay() {
        let text = "short  line\n\n  help: one two three four\n\u{1b}[2mdim\u{1b}[0m and plain\n";
        let expected = "short  line\n\n  help: one\n    two three\n    four\n\u{1b}[2mdim\u{1b}[0m and plain\n";
        assert_eq!(wrapped(text, 13), expected);
        assert_eq!(wrapped("", 13), "");
        assert_eq!(wrapped("tcp 30000-32768", 13), "tcp\n  30000-32768\n");
        // Of a list each entry stays whole.
        let list = "  from 10.0.0.0/8,192.0.2.0/25,80 now\n";
        let broken = "  from\n    10.0.0.0/8,\n    192.0.2.0/25,\n    80 now\n";
        assert_eq!(wrapped(list, 17), broken);
        let path = "/a/path/of/many/parts";
        assert_eq!(
            wrapped(&format!("in {path} now"), 13),
            format!("in\n  {path}\n  now\n")
        );
    }
}
